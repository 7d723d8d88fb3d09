"""The intake of one replica: local writes that wait for their stamps, taken in by chunks that are short for the write lock.

Owns what has to be stamped before anything remote is merged: the pending logs, the sweeps that fill them, a changed schema,
and the parked rows that a write may have made room for. What always holds: one transaction takes in at most one chunk, over
all tables (ADR 0012); whatever is returned for publishing has been committed. It must not know peers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from mycomesh.sync.capture import table_scan
from mycomesh.sync.capture.drain import CHUNK_ROWS_MAX, EDIT_WEIGHT, Drained, Times, captured_ms, drain_table
from mycomesh.sync.merge.keep_both import without_other_key_form
from mycomesh.sync.merge.retry import RetryQueue
from mycomesh.sync.replication.priority import Priority
from mycomesh.sync.replication.site import Site
from mycomesh.sync.schema.catalog import ADOPTED_MAX, SCHEMA_TABLE, Catalog
from mycomesh.sync.storage.large_rows import CHANGE_BYTES_MAX
from mycomesh.sync.storage.pending_log import pending_name
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table
from mycomesh.sync.wire.bundle import Section

__all__ = ["SHOWN_MAX", "Outbox"]

# Rows that are tried again, or merged one by one, in one transaction: as many as changes of one row each.
SHOWN_MAX = CHUNK_ROWS_MAX // EDIT_WEIGHT
# Reads of a settled state are tried this often without the write lock.
SETTLE_TRIES = 3
# Tables that one statement asks for their pending logs: apsw keeps statements of up to 16 KiB prepared.
ASKED_MAX = 256


class Outbox:
    """What waits in one file, and how it gets its stamps."""

    def __init__(self, store: Store, catalog: Catalog, site: Site, priority: Priority) -> None:
        self._store = store
        self._catalog = catalog
        self._site = site
        self._priority = priority
        self._retries = RetryQueue(store)
        # The table and its counters for which held values were last looked at, by table id; a reload makes another table.
        self._settled: dict[int, tuple[Table, frozenset[str]]] = {}
        store.enlist(self)
        self._data_version = -1
        self._stamped: list[bytes] = []  # stamped already, to be published by the next drain
        self.pause_between: Callable[[], None] = lambda: None  # between two transactions
        self.publish_early: Callable[[list[bytes]], None] | None = (
            None  # takes at once what the first of several have stamped
        )
        self._untimed_ms: int | None = None  # what waits was written before this node: by then; None once it is stamped
        self._rotation = 0  # whose pending log is read first: a table that is written all the time is not always first

    def committed(self) -> None:
        """Keep what the transaction settled."""

    def rolled_back(self) -> None:
        """Look at the held values of every table again."""
        self._settled.clear()

    def stale(self) -> bool:
        """Return True if another connection has committed since the last `drain` that found nothing more, or something waits."""
        known = self._store.data_version() == self._data_version and not self._catalog.changed()
        return self._retries.has_work or not known

    def schema_change(self) -> int | None:
        """Return a number that changes with each commit of others, if one has changed the schema, else None."""
        return self._store.data_version() if self._catalog.changed() else None

    def invalidate(self) -> None:
        """Has the next `stale` be true."""
        self._data_version = -1

    def publish_later(self, batches: list[bytes]) -> None:
        """Has the next drain return these batches first."""
        self._stamped += batches
        self.invalidate()

    def record_last_write(self, written_ms: int) -> None:
        """Note that what waits now was written before this replica was opened, the last of it at `written_ms`.

        An insert that was logged without its time gets that one, or that of the first write that waits with its own if it
        is earlier: it would push that on, and have it win over what others wrote later.
        """
        due = self.pending_ids(self._catalog.tables.values())
        logs = [f"SELECT at FROM {pending_name(table_id)} WHERE at IS NOT NULL LIMIT 1" for table_id in sorted(due)]
        firsts = (self._store.db.execute(log).fetchone() for log in logs)
        times = [captured_ms(first[0]) for first in firsts if first is not None]
        self._untimed_ms = min([written_ms, *times]) if due else None

    def has_unstamped(self) -> bool:
        """Return True if some write has no stamp yet."""
        return (
            self._is_restamping()
            or table_scan.any_active(self._store.db)
            or bool(self.pending_ids(self._catalog.tables.values()))
        )

    def _is_restamping(self) -> bool:
        return self._site.restamp is not None

    def pending_ids(self, tables: Iterable[Table]) -> set[int]:
        """Return the ids of those tables of which writes wait in the pending log."""
        ids = sorted(table.table_id for table in tables)
        found: set[int] = set()
        for at in range(0, len(ids), ASKED_MAX):
            asked = ids[at : at + ASKED_MAX]
            terms = ", ".join(f"EXISTS(SELECT 1 FROM {pending_name(table_id)})" for table_id in asked)
            answers = self._store.db.execute(f"SELECT {terms}").fetchone()
            found.update(table_id for table_id, waits in zip(asked, answers, strict=True) if waits)
        return found

    def drain(self, wall_ms: int) -> tuple[list[bytes], bool]:
        """Stamps up to one chunk of captured writes; returns (batches to publish, whether more are waiting)."""
        version = self._store.data_version()
        bundle: list[bytes] = []
        more = False
        if self._catalog.changed() or self.has_unstamped() or self._retries.has_work:
            with self._store.transaction():
                bundle, more = self.drain_chunk(wall_ms)
            more = more or self._retries.has_work
        if not more:
            self._data_version = version
            self._untimed_ms = None
        stamped, self._stamped = self._stamped, []
        return stamped + bundle, more

    def write_drained(self, wall_ms: int, change: Callable[[], None]) -> list[bytes]:
        """Run `change` in a write transaction in which no captured write is without its stamp; returns what to publish."""
        batches: list[bytes] = []
        more = True
        while more:  # local writes have no stamps yet: all of them first, a chunk a transaction
            with self._store.transaction():
                published, more = (
                    self.drain_chunk(wall_ms) if self._catalog.changed() or self.has_unstamped() else ([], False)
                )
                if not more:
                    change()
            batches += published
            if more:
                batches = self._between(batches)
        return batches

    def _between(self, batches: list[bytes]) -> list[bytes]:
        """Lets others have the file between two transactions of one call; returns what is still to be published."""
        if self.publish_early is not None and batches:
            self.publish_early(batches)
            batches = []
        self.pause_between()
        return batches

    def read_drained(
        self, wall_ms: int, read: Callable[[], None], *, locked: Callable[[], None] | None = None
    ) -> list[bytes]:
        """Run `read` in a transaction in which no captured write is without its stamp; returns batches to publish.

        Where the application writes faster than we look, that is under the write lock, and `locked` is run in its place.
        """
        published: list[bytes] = []
        for _ in range(SETTLE_TRIES):
            with self._store.reading():
                if not self.has_unstamped() and self._catalog.stands():
                    read()
                    return published
            published += self.drain(wall_ms)[0]
        more = True
        while more:  # the application writes faster than we look: take the write lock for one chunk
            with self._store.transaction():
                batches, more = self.drain_chunk(wall_ms)
                published += batches
                if not more:
                    (locked or read)()
            if more:
                published = self._between(published)
        return published

    # ---- inside a transaction

    def drain_chunk(self, wall_ms: int) -> tuple[list[bytes], bool]:
        """Stamps one chunk over all tables, schema and urgent ones first; returns its batches and whether more wait."""
        if self._is_restamping():  # before anything is stamped, which would come after stamps that are to go
            self._site.restamp_some(self._catalog.tables.values(), SHOWN_MAX)
            return [], True
        sections: list[Section] = []
        if self._catalog.changed():
            self._catalog.refresh(self.table_drainer(wall_ms, sections), most=ADOPTED_MAX)
            sections = without_other_key_form(self._catalog.tables, sections)
        self.retry_rebuilt()
        room, more = CHUNK_ROWS_MAX, self._catalog.changed()
        facts, *tables = sorted(self._catalog.tables.values(), key=lambda table: table.table_id)
        going = table_scan.active_ids(self._store.db)
        due = self.pending_ids((facts, *tables)) | going
        self._rotation = (self._rotation + 1) % max(len(tables), 1)
        tables = [*tables[self._rotation :], *tables[: self._rotation]]
        tables.sort(key=lambda table: not self._priority.is_urgent(table.spec.folded))
        for table in (facts, *tables):  # definitions before rows
            if table.table_id not in due:
                table.pending.unread = False
                continue
            if room <= 0:
                more = True
                continue
            drained = drain_table(table, self._site.site_number, self._times(table, wall_ms), room)
            room -= self._record_drained(table, drained, sections)
            if not drained.more and table.columns.installed and table.table_id in going:
                more = True
                if room >= CHUNK_ROWS_MAX // 2:  # else the rows of a small remainder would cost a transaction each
                    table_scan.advance(table, room // 2)  # to find a row and log it takes as long as to stamp it
                    drained = drain_table(table, self._site.site_number, self._times(table, wall_ms), room)
                    room -= self._record_drained(table, drained, sections)
            more = more or drained.more
        if not more:
            more = self.run_retries()
        sections.sort(key=lambda section: section.table != SCHEMA_TABLE)  # definitions before rows
        if sections:
            self._store.durable()
        return self._priority.batches(sections), more

    def _times(self, table: Table, wall_ms: int) -> Times:
        untimed_ms = self._untimed_ms if table.spec.lacks_primary_key else None
        return Times(wall_ms, wall_ms if untimed_ms is None else min(untimed_ms, wall_ms))

    def _record_drained(self, table: Table, drained: Drained, sections: list[Section]) -> int:
        if drained.section is not None:
            sections.append(drained.section)
            self._retries.add(table)
        for column in drained.too_large:
            note = f"column {column!r} has values of more than {CHANGE_BYTES_MAX >> 20} MiB: they stay on this node"
            self._catalog.notes.setdefault(table.spec.folded, note)
        return drained.weight

    def table_drainer(self, wall_ms: int, sections: list[Section]) -> Callable[[Table], bool]:
        """Return a function that stamps one chunk of one table, keeps the section, and says whether that was all."""

        def drain(table: Table) -> bool:
            drained = drain_table(table, self._site.site_number, self._times(table, wall_ms))
            if drained.section is not None:
                sections.append(drained.section)
            return not drained.more

        return drain

    @property
    def has_retries(self) -> bool:
        """True if rows wait that may find their place: the next drain tries them."""
        return self._retries.has_work

    def retry(self, table: Table) -> None:
        """Has the rows of a table that could not be shown tried again: something changed."""
        self._retries.add(table)

    def retry_rebuilt(self) -> None:
        """Has the parked rows of tables that stand anew tried again: what refused them may be gone."""
        tables = self._catalog.tables
        for table in self._catalog.renewed:
            if tables.get(table.spec.folded) is table:
                self._retries.add(table)
        self._catalog.renewed.clear()

    def run_retries(self) -> bool:
        """Try rows again, shows what was held for columns that a table has got, and looks at cells that became counters.

        Every local write has its stamp: what is shown must not take the place of what nobody has read yet. As much as one
        transaction may do. Returns whether there are rows for the next drain to stamp.
        """
        room = self._retries.step(self._catalog.tables.values(), SHOWN_MAX)
        looked = any(table.pending.unread for table in self._catalog.tables.values())
        for table in self._catalog.tables.values():
            counters = table.columns.counters
            if self._settled.get(table.table_id) == (table, counters):
                continue
            name = f"settled/{table.table_id}"
            state = json.dumps([table.columns.local, sorted(counters)])
            before = self._store.meta(name)
            if before != state:
                if table.held.any():
                    room = self._retries.retry_held(table, state, max(room, 1))
                    if room <= 0:
                        break
                self._store.meta_set(name, state)
                if not counters <= set(json.loads(before or "[[], []]")[1]):
                    table_scan.begin(table)
                    table.pending.unread = looked = True
            self._settled[table.table_id] = table, counters
        return looked
