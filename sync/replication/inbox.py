"""Arrivals: what a peer has sent enters the tables, and with it what it has to say of tables.

Owns the merging of one bundle into one file, in the caller's transaction. What always holds: local writes have their stamps
before; definitions take effect before the rows that follow them in the bundle. It must not know links.
"""

from __future__ import annotations

from mycomesh.sync.errors import BatchRefusedError, DecodeError
from mycomesh.sync.merge.keep_both import has_other_key_form
from mycomesh.sync.merge.merge import Merged, RowBudget, merge_section
from mycomesh.sync.replication.admission import last_hlcs
from mycomesh.sync.replication.applied import Applied
from mycomesh.sync.replication.outbox import SHOWN_MAX, Outbox
from mycomesh.sync.replication.priority import Priority
from mycomesh.sync.replication.site import Site
from mycomesh.sync.schema.catalog import SCHEMA_TABLE, Catalog
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table
from mycomesh.sync.wire.bundle import Bundle, Section

__all__ = ["Inbox"]

MISSED_MAX = 4_096  # names that are remembered; the digests tell of more


class Inbox:
    """What others bring into one file."""

    def __init__(self, store: Store, catalog: Catalog, site: Site, outbox: Outbox, priority: Priority) -> None:
        self._store = store
        self._catalog = catalog
        self._site = site
        self._outbox = outbox
        self._priority = priority
        self.missed: set[str] = set()  # tables that were not here when a round brought them; none was begun since

    def merge(self, bundle: Bundle, applied: Applied, wall_ms: int, *, live: bool, repair: bool) -> None:
        """Merge one bundle and notes in `applied` what became of it; `live` and `repair` as in `Replica.apply`.

        The sections that are left in the bundle are for a transaction each: of what a round brings, no more is looked at row
        by row in one than is short for the write lock (ADR 0012). A live batch is taken in whole.

        Raises:
            DecodeError: a value that SQLite cannot store.
            BatchRefusedError: a live batch that names rows by another policy.
        """
        if self._site.renew_if_behind(self._catalog.tables, last_hlcs(bundle, self._site.id)):
            applied.renewed = True
        budget = None if live or repair else RowBudget(SHOWN_MAX)
        sections, bundle.sections = bundle.sections, []
        settled = False  # which is work for one transaction, once
        for section in sections:
            table = self._catalog.tables.get(section.table)
            if table is None:
                self._record_missed(section.table, applied, live=live)
                continue
            if has_other_key_form(table, section):
                if live:
                    raise BatchRefusedError(f"{section.table}: names rows by another policy than this node's yet")
                applied.withheld = True
                continue
            merged = self._merge_section(table, section, wall_ms, repair=repair, budget=budget)
            applied.merged.add(merged)
            if budget is not None:
                bundle.sections += [Section(section.table, [], [group]) for group in budget.left]
                budget.left = []
            if merged.changes and section.table == SCHEMA_TABLE:
                self._apply_facts(applied, wall_ms)
                settled = True
            elif merged.changes:
                self._outbox.retry(table)
            if any(table.coverage.has_gap(site) for site, _, _ in section.ranges):
                applied.gaps.append(section.table)
        if self._outbox.has_retries and not settled:
            self._outbox.run_retries()

    def _merge_section(
        self, table: Table, section: Section, wall_ms: int, *, repair: bool, budget: RowBudget | None
    ) -> Merged:
        try:
            merged = merge_section(table, section, wall_ms, repair=repair, budget=budget)
        except (TypeError, OverflowError) as error:
            raise DecodeError(f"{section.table}: a value that SQLite cannot store: {error}") from error
        for group in section.groups:
            self._store.clock.witness(group.hlcs[-1])
        for _, _, upto in section.ranges:
            self._store.clock.witness(upto)
        return merged

    def _record_missed(self, name: str, applied: Applied, *, live: bool) -> None:
        applied.unknown.append(name)
        if not live and len(self.missed) < MISSED_MAX:  # a live batch is no part of what a round brings
            self.missed.add(name)

    def _apply_facts(self, applied: Applied, wall_ms: int) -> None:
        """Brings the file in line with definitions and decisions that a merge has brought."""
        sections: list[Section] = []
        self._catalog.apply_facts(self._outbox.table_drainer(wall_ms, sections))
        self._outbox.retry_rebuilt()
        self._outbox.run_retries()
        if sections:
            self._store.durable()
            applied.published += self._priority.batches(sections)
