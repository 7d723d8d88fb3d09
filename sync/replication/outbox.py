"""Outbox: stamp the local writes of one file and return them as batches to publish.

Triggers log local writes in pending logs. A drain reads these logs, the tables that a scan still has to log, and a changed
schema; then it retries rows that a write may have made room for. All of it has to happen before a remote change is merged, as
that change could otherwise overwrite a local write that has no stamp yet.

Invariant: one transaction drains at most one chunk over all tables, which keeps the write lock short (ADR 0012). Batches are
returned only after their transaction has committed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mycomesh.sync.capture import table_scan
from mycomesh.sync.capture.drain import Drained, drain_table
from mycomesh.sync.capture.stamps import Times, captured_ms
from mycomesh.sync.crdt.hlc import DRIFT_MS_MAX
from mycomesh.sync.merge.cut import note_written
from mycomesh.sync.merge.keep_both import without_other_key_form
from mycomesh.sync.merge.retry import RetryQueue
from mycomesh.sync.merge.work_budget import CHUNK_ROWS_MAX, EDIT_WEIGHT, PARK_WEIGHT, WorkBudget
from mycomesh.sync.replication.admission import future_bound
from mycomesh.sync.replication.area_moves import STEP_ENTRIES, are_moving, move_some
from mycomesh.sync.replication.priority import Priority
from mycomesh.sync.replication.site import Site
from mycomesh.sync.schema.catalog import NEW_TABLES_MAX, SCHEMA_TABLE, Catalog
from mycomesh.sync.schema.ledgers import is_ledger
from mycomesh.sync.schema.notes import Source
from mycomesh.sync.storage.authority import Authority
from mycomesh.sync.storage.large_rows import CHANGE_BYTES_MAX, KEY_BYTES_MAX
from mycomesh.sync.storage.pending_log import pending_name
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table
from mycomesh.sync.wire.bundle import Section

__all__ = ["FULL_SHOWN", "ROWS_TRIED_MAX", "Hooks", "Outbox"]

# Rows that one transaction retries: as many as it may drain where each change is of another row.
ROWS_TRIED_MAX = CHUNK_ROWS_MAX // EDIT_WEIGHT
_RETRY_WEIGHT = EDIT_WEIGHT + PARK_WEIGHT  # a retried row is most often refused again
_MOVE_WEIGHT = 12
# `read_drained` tries so often to read without the write lock.
READ_TRIES = 3
# Tables whose pending logs one statement checks: apsw caches prepared statements of up to 16 KiB.
TABLES_CHECKED_MAX = 256
FULL_SHOWN = 4  # nodes that a note names


@dataclass(frozen=True, slots=True)
class Hooks:
    """Functions that a replica calls during its own calls, on their thread.

    on_lock: called with True once the replica has the write lock of the file, and with False once the lock is free again.
    sleep: waits so many seconds, while another program has the file locked; without it SQLite waits by itself.
    pause: called between two transactions of one call, where other programs may use the file.
    publish: publishes at once the batches of the first transactions of a long call; without it, the call returns them all.
    authority: this node's keys; without them it can neither write signed tables nor take them in.
    """

    on_lock: Callable[[bool], None] = lambda _: None
    sleep: Callable[[float], None] | None = None
    pause: Callable[[], None] = lambda: None
    publish: Callable[[list[bytes]], None] | None = None
    authority: Authority | None = None


class Outbox:
    """Local writes of one file that wait for their stamps."""

    def __init__(self, store: Store, catalog: Catalog, site: Site, priority: Priority, hooks: Hooks) -> None:
        self._store = store
        self._catalog = catalog
        self._registry = catalog.registry
        self._site = site
        self._priority = priority
        self._hooks = hooks
        self._retries = RetryQueue(store)
        # By table id: the table and its counters when its held values were last tried. A reload creates another table.
        self._settled: dict[int, tuple[Table, frozenset[str]]] = {}
        store.enlist(self)
        self._data_version = -1
        self._stamped: list[bytes] = []  # batches that the next drain returns
        # Time for inserts that were logged without one before this node opened the file; None once they are stamped.
        self._untimed_ms: int | None = None
        self._rotation = 0  # the table to drain first, so that one which is written all the time is not always first

    def committed(self) -> None:
        """Keep what the transaction recorded."""

    def rolled_back(self) -> None:
        """Try the held values of every table again."""
        self._settled.clear()

    def stale(self) -> bool:
        """Return True if another connection has committed since the last `drain` that left nothing, or a retry waits."""
        known = self._store.data_version() == self._data_version and not self._catalog.changed()
        return self._retries.has_work or not known or self.is_moving

    def schema_change(self) -> int | None:
        """Return None if the schema is unchanged, else a number that changes with each commit of another connection."""
        return self._store.data_version() if self._catalog.changed() else None

    def invalidate(self) -> None:
        """Make the next `stale` return True."""
        self._data_version = -1

    def publish_later(self, batches: list[bytes]) -> None:
        """Let the next drain return these batches first."""
        self._stamped += batches
        self.invalidate()

    def record_last_write(self, written_ms: int) -> None:
        """Record that the waiting writes are from before this replica was opened, and the last of them from `written_ms`.

        An insert that was logged without a time gets this one, or the earliest time of the other waiting writes if that is
        earlier. A later stamp would push the stamps of the writes after it ahead, so that they would win over writes that
        other nodes made later.
        """
        due = self.pending_ids(self._registry.tables.values())
        logs = [f"SELECT at FROM {pending_name(table_id)} WHERE at IS NOT NULL LIMIT 1" for table_id in sorted(due)]
        firsts = (self._store.db.execute(log).fetchone() for log in logs)
        times = [captured_ms(first[0]) for first in firsts if first is not None]
        self._untimed_ms = min([written_ms, *times]) if due else None

    def has_unstamped(self) -> bool:
        """Return True if some write has no stamp yet."""
        return (
            self._is_restamping()
            or table_scan.any_active(self._store.db)
            or bool(self.pending_ids(self._registry.tables.values()))
        )

    @property
    def is_moving(self) -> bool:
        """True while entries of tables that were cut with their rows have still to move."""
        return are_moving(self._registry.tables.values())

    def _is_restamping(self) -> bool:
        return self._site.restamp is not None

    def pending_ids(self, tables: Iterable[Table]) -> set[int]:
        """Return the ids of those tables whose pending log holds writes."""
        ids = sorted(table.table_id for table in tables)
        found: set[int] = set()
        for at in range(0, len(ids), TABLES_CHECKED_MAX):
            checked = ids[at : at + TABLES_CHECKED_MAX]
            terms = ", ".join(f"EXISTS(SELECT 1 FROM {pending_name(table_id)})" for table_id in checked)
            results = self._store.db.execute(f"SELECT {terms}").fetchone()
            found.update(table_id for table_id, waits in zip(checked, results, strict=True) if waits)
        return found

    def drain(self, wall_ms: int) -> tuple[list[bytes], bool]:
        """Stamp up to one chunk of captured writes; return (batches to publish, whether more wait)."""
        version = self._store.data_version()
        bundle: list[bytes] = []
        more = False
        if self._catalog.changed() or self.has_unstamped() or self._retries.has_work or self.is_moving:
            with self._store.transaction():
                bundle, more = self.drain_chunk(wall_ms, WorkBudget(), moves=True)
            more = more or self._retries.has_work
        if not more:
            self._data_version = version
            self._untimed_ms = None
        stamped, self._stamped = self._stamped, []
        return stamped + bundle, more

    def write_drained(self, wall_ms: int, change: Callable[[], None]) -> list[bytes]:
        """Run `change` in a write transaction in which every captured write has its stamp; return batches to publish."""
        return self.write_within_budget(wall_ms, lambda _: change())

    def write_within_budget(self, wall_ms: int, change: Callable[[WorkBudget], None]) -> list[bytes]:
        """Run `change` as `write_drained` does.

        `change` gets the work that the transaction still has room for: at least one chunk.
        """
        batches: list[bytes] = []
        more = True
        while more:  # stamp all local writes first, one chunk in each transaction
            with self._store.transaction():
                budget = WorkBudget()
                published, more = (
                    self.drain_chunk(wall_ms, budget)
                    if self._catalog.changed() or self.has_unstamped()
                    else ([], False)
                )
                if not more:
                    change(budget)
            batches += published
            if more:
                batches = self.yield_file(batches)
        return batches

    def yield_file(self, batches: list[bytes]) -> list[bytes]:
        """Let other programs use the file between two transactions; return the batches that are still to be published."""
        if self._hooks.publish is not None and batches:
            self._hooks.publish(batches)
            batches = []
        self._hooks.pause()
        return batches

    def read_drained(
        self, wall_ms: int, read: Callable[[], None], *, locked: Callable[[], None] | None = None
    ) -> list[bytes]:
        """Run `read` in a read transaction in which every captured write has its stamp; return batches to publish.

        If the application writes too fast for that, run `locked` (by default `read`) under the write lock instead.
        """
        published: list[bytes] = []
        for _ in range(READ_TRIES):
            with self._store.reading():
                if not self.has_unstamped() and self._catalog.is_readable():
                    read()
                    return published
            published += self.drain(wall_ms)[0]
        more = True
        while more:  # take the write lock, one chunk in each transaction
            with self._store.transaction():
                batches, more = self.drain_chunk(wall_ms, WorkBudget())
                published += batches
                if not more:
                    (locked or read)()
            if more:
                published = self.yield_file(published)
        return published

    def advance_clock(self, names: Sequence[str], wall_ms: int) -> list[bytes]:
        """Cover this site's own clock up to now in some tables; return batches to publish.

        They tell every member that nothing older will come from this site: all its writes have stamps.
        """
        sections: list[Section] = []

        def cover() -> None:
            clock = self._store.clock.tick(wall_ms)
            site = self._site.id
            for name in names:
                coverage = self._registry.tables[name].coverage
                after = coverage.staged.top(site)
                coverage.cover(site, after, clock)
                sections.append(Section(name, [(site, after, clock)]))

        published = self.write_drained(wall_ms, cover)
        return [*published, *self._priority.batches(sections)]

    def is_ahead(self, wall_ms: int) -> bool:
        """Return True if every peer refuses the stamps of this replica as lying in the future.

        `wall_ms` is the right time, give or take `DRIFT_MS_MAX`. Stamps that are less far ahead are accepted by some peers, and
        by the others a minute or two later.
        """
        return self._site.restamp is None and self._store.clock.last > future_bound(wall_ms + DRIFT_MS_MAX)

    def set_clock_back(self, after: int, wall_ms: int) -> None:
        """Continue under a new site; drains give the entries with clocks past `after`, ahead of `wall_ms`, new stamps.

        Raises:
            DatabaseBusyError: nothing was changed.
        """
        with self._store.transaction():
            self._site.set_clock_back(self._registry.tables.values(), after, future_bound(wall_ms))
        self.invalidate()

    # ---- inside a transaction

    def drain_chunk(self, wall_ms: int, budget: WorkBudget, *, moves: bool = False) -> tuple[list[bytes], bool]:
        """Stamp one chunk over all tables, the schema and urgent tables first; return (batches, whether more wait).

        What it does is taken off the budget, of which it leaves at least one chunk. With `moves` it goes on to move entries of
        tables that were cut with their rows, for which no merge has to wait.
        """
        if self._is_restamping():  # first of all: a later write must not get a stamp before these entries have theirs
            self._site.restamp_some(self._registry.tables.values(), ROWS_TRIED_MAX)
            return [], True
        sections: list[Section] = []
        if self._catalog.changed():
            self._catalog.refresh(self.table_drainer(wall_ms, sections), most=NEW_TABLES_MAX)
            sections = without_other_key_form(self._registry.tables, sections)
        self.retry_rebuilt()
        room, more = CHUNK_ROWS_MAX, self._catalog.changed()
        facts, *tables = sorted(self._registry.tables.values(), key=lambda table: table.table_id)
        going = table_scan.active_ids(self._store.db)
        due = self.pending_ids((facts, *tables)) | going
        self._rotation = (self._rotation + 1) % max(len(tables), 1)
        tables = [*tables[self._rotation :], *tables[: self._rotation]]
        tables.sort(key=lambda table: self._priority.rank(table.spec.folded))
        for table in (facts, *tables):  # definitions before rows
            if table.table_id not in due:
                table.pending.unread = False
                continue
            if room <= 0 or (is_ledger(table.spec.folded) and self._catalog.is_stating()):
                more = True  # a ledger waits for the definitions that it speaks of
                continue
            drained = self._drain_table(table, wall_ms, room)
            room -= self._record_drained(table, drained, sections)
            if not drained.more and table.columns.installed and table.table_id in going:
                more = True
                if room >= CHUNK_ROWS_MAX // 2:  # with less room, small remainders would need many transactions
                    table_scan.advance(table, room // 2)  # finding and logging a row takes as long as stamping it
                    drained = self._drain_table(table, wall_ms, room)
                    room -= self._record_drained(table, drained, sections)
            more = more or drained.more
            if table is facts and drained.more:
                break
        budget.spend(min(CHUNK_ROWS_MAX - room, CHUNK_ROWS_MAX))
        if moves and not more:
            more = self._move_entries(budget)
        if not more:
            more = self.run_retries(budget, reserve=CHUNK_ROWS_MAX)
        sections.sort(key=lambda section: section.table != SCHEMA_TABLE)  # definitions before rows
        if sections:
            self._store.durable()
        return self._priority.batches(sections), more

    def _move_entries(self, budget: WorkBudget) -> bool:
        """Move some entries to the sites of their areas, once nothing waits for a stamp; return whether any moved."""
        tables = list(self._registry.tables.values())
        if not are_moving(tables):
            return False
        room = min(STEP_ENTRIES, budget.room // _MOVE_WEIGHT)
        for table in tables:
            room -= move_some(table, max(room, 0))
            moved = None if table.areas is None else table.areas.moved
            if moved is not None and moved.entries:
                text = f"it is being cut into areas: {moved.entries:,} of its changes are done" if moved.sources else ""
                self._registry.notes.put(table.spec.folded, text, Source.WAITS)
        return True  # the next transaction begins with a drain again

    def _drain_table(self, table: Table, wall_ms: int, budget: int) -> Drained:
        untimed_ms = self._untimed_ms if table.spec.lacks_primary_key else None
        times = Times(wall_ms, wall_ms if untimed_ms is None else min(untimed_ms, wall_ms))
        drained = drain_table(table, self._site.own(), self._site.early, times, budget)
        for section in drained.sections:
            note_written(table, section.groups)
        return drained

    def _record_drained(self, table: Table, drained: Drained, sections: list[Section]) -> int:
        if drained.sections:
            if table.areas is None or not table.areas.parked:  # cut by another column than the mesh has decided
                sections += drained.sections
            self._retries.add(table)
        self._note_too_large(table, drained)
        return drained.weight

    def _note_too_large(self, table: Table, drained: Drained) -> None:
        if drained.too_large:
            limit = f"{CHANGE_BYTES_MAX >> 20} MiB"
            note = f"column {drained.too_large[0]!r} has values of more than {limit}, which stay on this node"
            self._registry.notes.put(table.spec.folded, note, Source.SIZE)
        if drained.large_keys:
            note = f"rows whose primary key takes more than {KEY_BYTES_MAX >> 10} KiB stay on this node"
            self._registry.notes.put(table.spec.folded, note, Source.KEYS)

    def table_drainer(self, wall_ms: int, sections: list[Section]) -> Callable[[Table], bool]:
        """Return a function that stamps one chunk of a table, appends its section, and returns True if nothing is left."""

        def drain(table: Table) -> bool:
            drained = self._drain_table(table, wall_ms, CHUNK_ROWS_MAX)
            sections.extend(drained.sections)
            self._note_too_large(table, drained)
            return not drained.more

        return drain

    @property
    def has_retries(self) -> bool:
        """True if rows or held values wait to be retried by the next drain."""
        return self._retries.has_work

    def begin_retries(self) -> None:
        """Queue what waits since the file was opened; call it before rows are merged."""
        self._retries.begin(self._registry.tables.values())

    def retry(self, table: Table) -> None:
        """Queue the rows of a table that are parked, because something has changed."""
        self._retries.add(table)

    def look_for_twins(self, table: Table) -> None:
        """Compare a table's rows from before the mesh with those of another node, which have arrived."""
        self._retries.twins.add(table)

    def retry_rebuilt(self) -> None:
        """Queue the parked rows of tables of a changed schema: the constraint or index that refused them may be gone."""
        tables = self._registry.tables
        self._retries.add_all(table for table in self._registry.loaded if tables.get(table.spec.folded) is table)
        self._registry.loaded.clear()

    def note_full(self) -> None:
        """Note for `status` whose inserts tables leave out, because too many rows of theirs are parked."""
        full = self._store.parked_room.full
        names = {table.table_id: name for name, table in self._registry.tables.items()} if full else {}
        left_out: dict[str, list[str]] = {}
        for table_id, node in full:
            left_out.setdefault(names.get(table_id, ""), []).append(node.hex()[:8])
        lines = {
            name: f"inserts of {', '.join(nodes[:FULL_SHOWN])} are left out until parked rows fit: see 'mycomesh parked'"
            for name, nodes in left_out.items()
            if name
        }
        self._registry.notes.replace(Source.PARKED, lines)

    def run_retries(self, budget: WorkBudget, *, reserve: int = 0) -> bool:
        """Retry parked rows, show held values of new columns, and begin to scan tables with new counters.

        One call does as much as the budget allows without the `reserve`. The caller has stamped every local write, since a
        retried row could replace a write that the drain has not read yet. Return True if the next drain has rows to stamp.
        """
        most = min(ROWS_TRIED_MAX, max(budget.room - reserve, 0) // _RETRY_WEIGHT)
        room = self._retries.step(self._registry.tables.values(), most)
        budget.spend((most - room) * _RETRY_WEIGHT)
        if room > 0:  # counting takes some milliseconds: not after each of many steps
            self._store.parked_room.renew()
            self.note_full()
        more = any(table.pending.unread for table in self._registry.tables.values())
        for table in self._registry.tables.values():
            counters = table.columns.counters
            if self._settled.get(table.table_id) == (table, counters):
                continue
            name = f"settled/{table.table_id}"
            state = json.dumps([table.columns.local, sorted(counters)])
            before = self._store.meta(name)
            if before != state:
                if table.held.any():
                    budget.spend(max(room, 1) * EDIT_WEIGHT)
                    room = self._retries.retry_held(table, state, max(room, 1))
                    if room <= 0:
                        break
                self._store.meta_set(name, state)
                if not counters <= set(json.loads(before or "[[], []]")[1]):
                    table_scan.begin(table)
                    table.pending.unread = more = True
            self._settled[table.table_id] = table, counters
        return more
