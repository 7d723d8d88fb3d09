"""Decisions of a person about the tables of one file: counters, and policies.

A decision writes a schema fact. The next drain stamps and publishes it like any local write. A refused decision changes nothing.
"""

from __future__ import annotations

from mycomesh.sync.admin.conflicts import find_table
from mycomesh.sync.errors import PolicyError
from mycomesh.sync.replication.site_limit import NODE_AREA_SITES_MAX
from mycomesh.sync.schema.catalog import Catalog
from mycomesh.sync.schema.ledgers import is_ledger
from mycomesh.sync.schema.own_ids import Room, is_automatic
from mycomesh.sync.schema.policy import (
    KEEP_BOTH,
    OWN_IDS,
    SAME_ROW,
    SHARED_IDS,
    SIGNED,
    area_fact,
    area_refusal,
    counter_fact,
    counter_refusal,
    keep_both_fact,
    keep_both_refusal,
    moving_refusal,
    new_cut_refusal,
    own_ids_fact,
    own_ids_refusal,
    signed_fact,
    signed_refusal,
)
from mycomesh.sync.sqlite.identifiers import fold, quoted
from mycomesh.sync.sqlite.table_spec import TableSpec
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table

__all__ = ["Decisions"]


class Decisions:
    """Makes decisions for one file, each in one transaction."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self._store = store
        self._catalog = catalog
        self._registry = catalog.registry

    def declare_counter(self, table: str, column: str) -> None:
        """Declare a column a counter on every replica.

        Raises:
            PolicyError: there is no such column here, or it cannot be a counter.
        """
        spec = find_table(self._store, self._registry, table).spec
        refusal = counter_refusal(spec, column)
        if spec.folded in self._registry.policies.signed:
            refusal = f"{spec.name} is {SIGNED}, and no single writer can sign a sum; create another table"
        if refusal:
            raise PolicyError(f"not a counter: {refusal}")
        with self._store.transaction():
            self._catalog.decide(counter_fact(spec.folded, spec.to_canonical(column)))

    def decide_area(self, table: str, column: str) -> None:
        """Cut a table into areas by a column, on every replica.

        Raises:
            PolicyError: there is no such table or column; the column cannot cut it; or it is cut already.
        """
        found = find_table(self._store, self._registry, table)
        spec, now = found.spec, self._registry.policies.areas.get(found.spec.folded)
        canonical = spec.to_canonical(column)
        if now == canonical:
            return
        if now is not None:
            raise PolicyError(f"{spec.name} is cut by {now}, which cannot be undone; create another table")
        with self._store.transaction():
            refusal = area_refusal(spec, canonical, self._registry.policies)
            used = not spec.lacks_primary_key and (found.log.count > 0 or found.coverage.vector.count > 0)
            if used and not refusal:
                refusal = moving_refusal(spec, canonical) or self._too_many_areas(found, column)
            refusal = refusal or new_cut_refusal(spec, canonical)
            if is_ledger(fold(spec.name)):
                refusal = f"{spec.name} is what a migration tool has done, and has to be everywhere"
            if refusal:
                raise PolicyError(f"not cut: {refusal}")
            self._catalog.decide(area_fact(spec.folded, canonical, rows=used))

    def _too_many_areas(self, table: Table, column: str) -> str:
        """Return why the rows that are there are of too many areas, "" if they are not."""
        name, most = quoted(table.spec.name), NODE_AREA_SITES_MAX
        listing = f"SELECT count(*) FROM (SELECT DISTINCT {quoted(column)} FROM {name} LIMIT {most + 1})"
        if self._store.db.execute(listing).fetchone()[0] <= most:
            return ""
        return f"{table.spec.name}.{column} has more than {most:,} values, more areas than nodes write to; take another column"

    def area_column(self, table: str) -> str:
        """Return the column of this file that cuts a table into areas, "" if it is not cut."""
        return find_table(self._store, self._registry, table).areas_by

    def policy(self, table: str) -> str:
        """Return the policy of a table: `same-row` or `keep-both` for two nodes that insert one id, or `signed`."""
        if find_table(self._store, self._registry, table).seals is not None:
            return SIGNED
        return KEEP_BOTH if find_table(self._store, self._registry, table).spec.id_column else SAME_ROW

    def ids(self, table: str) -> str:
        """Return whether each node numbers the rows of a table from blocks of its own: `own-ids`, or `shared-ids`."""
        own = find_table(self._store, self._registry, table).spec.folded in self._registry.policies.own_ids
        return OWN_IDS if own else SHARED_IDS

    def room(self, table: str) -> Room | None:
        """Return the next own id of this node in a table, None if it numbers the rows like any other."""
        return self._catalog.own_ids.room(find_table(self._store, self._registry, table))

    def decide_policy(self, table: str, policy: str) -> None:
        """Set the policy of a table, or which ids its nodes give out, on every replica.

        Raises:
            PolicyError: there is no such policy; the table cannot have it; or its policy is keep-both or signed, which are
                final.
        """
        found = find_table(self._store, self._registry, table)
        if policy not in (SAME_ROW, KEEP_BOTH, OWN_IDS, SHARED_IDS, SIGNED):
            raise PolicyError(
                f"no policy {policy!r}; there are {SAME_ROW} or {KEEP_BOTH}, {OWN_IDS} or {SHARED_IDS}, and {SIGNED}"
            )
        if policy in (OWN_IDS, SHARED_IDS):
            self._decide_ids(found.spec, policy)
            return
        now = self.policy(table)
        if policy == now:
            return
        if found.spec.folded in self._registry.policies.areas and policy in (KEEP_BOTH, SIGNED):
            raise PolicyError(
                f"{found.spec.name} is cut into areas, which a {policy} table cannot be; create another table"
            )
        if policy == SAME_ROW or now == SIGNED:
            raise PolicyError(f"{found.spec.name} is {now}, which cannot be undone; create another table")
        if policy == SIGNED:
            self._decide_signed(found)
            return
        with self._store.transaction() as db:
            rows = db.execute(f"SELECT count(*) FROM {quoted(found.spec.name)}").fetchone()[0]
            refusal = keep_both_refusal(found.spec, rows)
            if refusal:
                raise PolicyError(f"not {KEEP_BOTH}: {refusal}")
            self._catalog.decide(keep_both_fact(found.spec.folded))

    def _decide_ids(self, spec: TableSpec, policy: str) -> None:
        if policy == self.ids(spec.name):
            return
        with self._store.transaction() as db:
            refusal = own_ids_refusal(spec, automatic=is_automatic(db, spec)) if policy == OWN_IDS else ""
            if refusal:
                raise PolicyError(f"not {OWN_IDS}: {refusal}")
            self._catalog.decide(own_ids_fact(spec.folded, own=policy == OWN_IDS))

    def _decide_signed(self, table: Table) -> None:
        with self._store.transaction() as db:
            rows = db.execute(f"SELECT 1 FROM {quoted(table.spec.name)} LIMIT 1").fetchone()
            used = rows is not None or table.log.count > 0
            refusal = signed_refusal(table.spec, self._registry.policies, used=used)
            if refusal:
                raise PolicyError(f"not {SIGNED}: {refusal}")
            self._catalog.decide(signed_fact(table.spec.folded))
