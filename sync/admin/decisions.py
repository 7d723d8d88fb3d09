"""Decisions of a person about the tables of one file: counters, and the policy for equal ids.

A decision writes a schema fact. The next drain stamps and publishes it like any local write. A refused decision changes nothing.
"""

from __future__ import annotations

from mycomesh.sync.admin.conflicts import find_table
from mycomesh.sync.errors import PolicyError
from mycomesh.sync.schema.catalog import Catalog
from mycomesh.sync.schema.policy import (
    KEEP_BOTH,
    SAME_ROW,
    counter_fact,
    counter_refusal,
    keep_both_fact,
    keep_both_refusal,
)
from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.sync.storage.store import Store

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
        if refusal:
            raise PolicyError(f"not a counter: {refusal}")
        with self._store.transaction():
            self._catalog.decide(counter_fact(spec.folded, spec.to_canonical(column)))

    def policy(self, table: str) -> str:
        """Return the policy for two nodes that insert the same id: `same-row` or `keep-both`."""
        return KEEP_BOTH if find_table(self._store, self._registry, table).spec.id_column else SAME_ROW

    def decide_policy(self, table: str, policy: str) -> None:
        """Set the policy for two nodes that insert the same id, on every replica.

        Raises:
            PolicyError: there is no such policy; the table has no automatic ids, or too many rows; or its policy is
                keep-both, which is final.
        """
        found = find_table(self._store, self._registry, table)
        if policy not in (SAME_ROW, KEEP_BOTH):
            raise PolicyError(f"no policy {policy!r}; there are {SAME_ROW} and {KEEP_BOTH}")
        if policy == self.policy(table):
            return
        if policy == SAME_ROW:
            raise PolicyError(f"{found.spec.name} is {KEEP_BOTH}, which cannot be undone; create another table")
        with self._store.transaction() as db:
            rows = db.execute(f"SELECT count(*) FROM {quoted(found.spec.name)}").fetchone()[0]
            refusal = keep_both_refusal(found.spec, rows)
            if refusal:
                raise PolicyError(f"not {KEEP_BOTH}: {refusal}")
            self._catalog.decide(keep_both_fact(found.spec.folded))
