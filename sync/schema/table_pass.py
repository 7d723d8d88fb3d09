"""One pass over the tables of a changed file: registers, captures, renames and drops what programs did to them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from mycomesh.sync.capture import rebuild_mark, table_scan
from mycomesh.sync.capture.install import has_log_triggers, keep_both_key, keeps_rowids
from mycomesh.sync.capture.rebuilt_columns import renamed_columns
from mycomesh.sync.capture.rebuilt_rows import match_rows
from mycomesh.sync.capture.triggers import is_current, trigger_names
from mycomesh.sync.schema.facts import KINDS, SCHEMA_TABLE
from mycomesh.sync.schema.follow_facts import FactFollower
from mycomesh.sync.schema.ledgers import is_ledger
from mycomesh.sync.schema.left_out_columns import LeftOutColumns
from mycomesh.sync.schema.notes import Source
from mycomesh.sync.schema.policy import dropped_fact, name_fact
from mycomesh.sync.schema.record_facts import drop_index_facts, record_definition
from mycomesh.sync.schema.registry import Record, Registry
from mycomesh.sync.sqlite.definitions import definition_refusal
from mycomesh.sync.sqlite.identifiers import fold, quoted
from mycomesh.sync.sqlite.indexes import column_names
from mycomesh.sync.sqlite.raw_text import lenient_text, raw_select, restore
from mycomesh.sync.sqlite.table_spec import TableSpec, UnsupportedTable, user_tables
from mycomesh.sync.sqlite.virtual_tables import CACHES
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table

__all__ = ["Drain", "TablePass"]

_BROUGHT_BACK = (
    "column(s) {} missing in a table that was created again: the mesh keeps them, so they are back, empty in every row;"
    " columns that are new here are on the mesh with their values; ALTER TABLE .. DROP COLUMN drops a column everywhere"
)
_OF_OTHERS = (
    "not replicated: {} keeps its own state about this file in it; name it in 'only' to replicate it:"
    ' only = ["*", "{}"]'
)
_REMOVED = (
    "dropped or renamed here by hand: it stays on the other nodes, and is not replicated here;"
    " created here again, it deletes there the rows that it lacks ('mycomesh migrate' drops it everywhere)"
)

# Stamps a part of one table's pending log; returns whether that was all.
Drain = Callable[[Table], bool]


class TablePass:
    """One pass over the tables of the file; `unfinished` if it leaves something for the next one.

    `made` are the tables that were created on the mesh, because this file was a replica already: since the last pass, or since
    an earlier one that has not registered them yet. The rows of others are from before the mesh.
    """

    def __init__(
        self, store: Store, registry: Registry, follower: FactFollower, drain: Drain, made: frozenset[str]
    ) -> None:
        self._store = store
        self._registry = registry
        self._follower = follower
        self._drain = drain
        # Folded names of the tables that programs have created since the last pass.
        self._created = rebuild_mark.rebuilt_tables(store.db) - follower.rebuilt
        self.made = made | self._created
        self._left_out = LeftOutColumns(store)
        self.leaving: set[str] = (
            set()
        )  # tables whose left out columns wait for a scan, after which the next pass is due
        self.adopted: set[str] = set()
        self.rebuilt: list[str] = []
        self.doubling: list[str] = []
        self.unfinished = False

    def run_on(self, only: Collection[str]) -> None:
        """Look at those of these tables that are here; nothing else has changed since the last pass."""
        registry = self._registry
        names, skipped = user_tables(self._store.db, sorted(only))
        stays = {fold(name): f"not replicated: {why}" for name, why in skipped}
        for name in names:
            owner = registry.owner(name)
            stays[fold(name)] = _OF_OTHERS.format(owner, fold(name)) if owner else ""
        for name, line in stays.items():
            registry.notes.put(name, line, Source.STAYS)
        names.sort(key=lambda name: is_ledger(fold(name)))
        self._capture(registry.canonical_names(names), None)

    def run(self, most: int | None) -> None:
        """Look at every table; register at most `most` new ones."""
        registry = self._registry
        names, skipped = user_tables(self._store.db)
        stays = {fold(name): f"not replicated: {why}" for name, why in skipped}
        for name in names:
            owner = registry.owner(name)
            if owner:
                stays[fold(name)] = _OF_OTHERS.format(owner, fold(name))
        registry.notes.replace(Source.STAYS, stays)
        names = sorted(names, key=lambda name: is_ledger(fold(name)))  # they speak of the others
        present = registry.canonical_names(names)
        for name in [name for name in registry.tables if name != SCHEMA_TABLE and name not in present]:
            registry.forget(name)
        self._find_removed(present)
        self._capture(present, most)
        self._drop_left_out()

    def _capture(self, present: Mapping[str, str], most: int | None) -> None:
        registry, new = self._registry, 0
        for name, spec in self._changed_specs(present, most):
            record = registry.record(name)
            if record is not None:
                self._update(spec, record)
            elif not self._key_matches(spec):
                self._park(spec)
            elif most is None or new < most:
                self._register(spec)
                new += 1
            else:
                self.unfinished = True

    def _changed_specs(self, present: Mapping[str, str], most: int | None) -> list[tuple[str, TableSpec]]:
        """Return the tables that are not captured as they are, and note those that cannot be replicated.

        Of those without a record, no more than `most` and one are looked at: reading each of hundreds of new tables in each of
        as many passes would be quadratic.
        """
        registry, changed, new = self._registry, [], 0
        recorded = registry.recorded([name for name in present if name not in registry.tables]) | registry.tables.keys()
        with registry.file.steady():
            for name, here in present.items():
                if name not in recorded and most is not None and new > most:
                    continue
                try:
                    spec = registry.spec(name, here)
                except UnsupportedTable as reason:
                    self._leave_out(name, reason)
                    continue
                refused = ""
                if name not in recorded and registry.defined(name) is None:
                    refused = registry.too_new(spec.sql) or definition_refusal(spec.sql) or _like_a_fact(name)
                if refused:
                    registry.notes.put(name, f"not replicated: {refused}", Source.STAYS)
                    continue
                known = registry.tables.get(name)
                captured = known is not None and registry.is_captured_as(known, spec)
                if not captured or fold(here) in self._created or not self._key_matches(spec):
                    changed.append((name, spec))
                    new += name not in recorded and self._key_matches(spec)
        return changed

    def _leave_out(self, name: str, reason: UnsupportedTable) -> None:
        self._registry.forget(name)
        self._registry.notes.put(name, f"not replicated: {reason}", Source.STAYS)

    def _find_removed(self, present: Mapping[str, str]) -> None:
        """Note the registered tables that the file has not, and remove the capture that a renamed one still has.

        A table that has become a shadow table, or was replicated by an earlier version that did not know it for one, loses its
        capture too. Its record stays, as it may be the user's and come back under another name.
        """
        registry = self._registry
        shadows = [*CACHES, *(name for table in registry.file.virtual_tables() for name in table.content)]
        registry.removed = set(registry.canonical_names(shadows))
        listing = "SELECT id, name, shape FROM mycomesh_replicated ORDER BY id"
        for table_id, name, identity in self._store.db.execute(listing).fetchall():
            if registry.owner(name):  # an earlier version replicated it
                registry.uninstall(table_id)
            if name in present or not registry.selects(name):
                continue
            holder = self._holder(table_id)
            registry.uninstall(table_id)  # RENAME has taken the triggers along
            self._left_out.mark_missing(table_id)
            if name in registry.removed:
                continue
            replaced = next((registry.record(other) for other, here in present.items() if fold(here) == holder), None)
            if replaced is not None:
                self._left_out.record_present(replaced.table_id)  # rebuilt, though it was missing for a while
                self._drop_copy(name, table_id)
                continue
            defined = registry.defined(name)
            if defined is not None and defined.identity != identity:
                # It was parked. The user has renamed it, as its note asks, to make room for the table of the mesh.
                self.unfinished |= self._follower.make(name)
                continue
            registry.removed.add(name)
            registry.notes.put(name, _REMOVED)

    def _holder(self, table_id: int) -> str:
        """Return the folded name of the table that has the triggers of a registered one, "" if none has."""
        listing = f"SELECT {raw_select('tbl_name')} FROM sqlite_schema WHERE type = 'trigger' AND name = ?"
        found = self._store.db.execute(listing, (trigger_names(table_id)[0],)).fetchone()
        return "" if found is None else fold(lenient_text(restore(found)[0]))

    def _drop_copy(self, name: str, table_id: int) -> None:
        """Drop a table on the mesh that a program made, in a transaction of its own, to put it in the place of another one.

        Its rows are in that one. The table stays on the mesh, with the note of one that was removed, if other nodes wrote to it.
        """
        registry = self._registry
        written = (
            "SELECT 1 FROM mycomesh_vectors v JOIN mycomesh_sites s USING(place) WHERE v.id = ? AND s.site <> ? LIMIT 1"
        )
        if self._store.db.execute(written, (table_id, self._store.meta("site"))).fetchone() is None:
            registry.discard(name)
            registry.facts.write(*dropped_fact((name,)))
        else:
            registry.removed.add(name)
            registry.notes.put(name, _REMOVED)

    def _key_matches(self, spec: TableSpec) -> bool:
        """Return True if rows are identified as in the canonical definition of the table, if it has one."""
        defined = self._registry.defined(spec.folded)
        return defined is None or defined.identity == spec.identity

    def _park(self, spec: TableSpec) -> None:
        defined = self._registry.defined(spec.folded)
        assert defined is not None, "a table without a definition on the mesh has no other key than that"
        line = f"parked: it has {spec.identity} here and {defined.identity} on the mesh; rename one of them"
        self._registry.notes.put(spec.folded, line)
        self._registry.forget(spec.folded)

    # ---- a new table

    def _register(self, spec: TableSpec) -> None:
        """Register a table; a scan logs the rows that it has already."""
        self._start(self._registry.register(spec))

    def _start_over(self, table_id: int, spec: TableSpec) -> None:
        """Replicate a table that was parked, now that it has the key of the mesh: its rows get other names, in an empty log.

        This site has nothing to say about its earlier writes, so the coverage of the others is given up.
        """
        table = self._registry.start_over(table_id, spec)
        self._start(table)
        table.coverage.give_up_others(keep=self._store.meta("site"))

    def _start(self, table: Table) -> None:
        if table.spec.id_column:
            self._store.meta_set(keep_both_key(table.table_id), 1)
        self._registry.install(table)
        new = fold(table.spec.name) in self.made
        if not new:
            self.adopted.add(table.spec.folded)
        if self._store.db.execute(f"SELECT 1 FROM {quoted(table.spec.name)} LIMIT 1").fetchone() is not None:
            table_scan.begin(table, backfill=table_scan.Backfill.NEW if new else table_scan.Backfill.EARLY)
            if not new and (table.spec.lacks_primary_key or table.spec.id_column):
                self.doubling.append(table.spec.name)

    # ---- a table that has changed

    def _update(self, spec: TableSpec, record: Record) -> None:
        """Capture a registered table as it is by now."""
        registry, name = self._registry, spec.folded
        try:
            spec = self._follow_renames(spec, record)
        except UnsupportedTable as reason:
            self._leave_out(name, reason)
            return
        if not self._key_matches(spec):
            self._park(spec)
            return
        if record.identity != spec.identity:
            self._start_over(record.table_id, spec)
            return
        spec, lost = self._lost_columns(spec, record)
        dropped = bool(lost) and self._are_dropped(spec, record)
        if dropped and record.table_id not in table_scan.active_ids(self._store.db):
            self._follow_drops(spec, record, lost)
            return
        table = self._reload(spec, record)
        if table is None:
            self.unfinished = True
            return
        leaving = (
            bool(lost) and name not in registry.policies.signed and self._left_out.leaves(table, lost, dropped=dropped)
        )
        self._left_out.record_present(record.table_id)
        if lost and not leaving:
            if not self._bring_back(spec, lost):
                registry.forget(name)
                return
            table = self._reload(registry.spec(name, spec.name), record)
            assert table is not None, "the first reload has made room for both rows of one id"
        self._find_unlogged_writes(table, record, lost)
        if not self._drain(table):
            self.unfinished = True
            return
        registry.install(table)
        if lost and not leaving:
            registry.notes.put(name, _BROUGHT_BACK.format(", ".join(lost)))

    def _reload(self, spec: TableSpec, record: Record) -> Table | None:
        """Load the table as it is by now; None if it has to keep both rows of one id and writes from before have no stamps."""
        registry = self._registry
        table_id, bits, captured = record.table_id, record.bits, record.captured
        known = registry.tables.get(spec.folded)
        if not spec.id_column or self._store.meta(keep_both_key(table_id)) is not None:
            return registry.reload(table_id, spec, bits, known, captured)
        # Writes from before that decision are stamped under the keys of before it.
        known = registry.reload(table_id, registry.undecided_spec(spec.folded, spec.name), bits, known, captured)
        if not self._drain(known):
            return None
        return registry.reload_stamped(known, spec, captured)

    def _find_unlogged_writes(self, table: Table, record: Record, lost: Collection[str]) -> None:
        """Have a scan find the writes that no trigger has logged."""
        registry, here = self._registry, table.spec.name
        entries = registry.file.catalogue_entries(here)
        renumbered = fold(here) in self._created or not keeps_rowids(table, entries)
        if renumbered:
            match_rows(table)
        if renumbered or lost or not registry.is_captured(table):
            # Without log triggers, a column that was added since may have values that nobody logged. With them, a UNIQUE index
            # is there since the last pass, and only rows that REPLACE evicted are not logged.
            unlogged = renumbered or bool(lost) or not has_log_triggers(table.table_id, entries)
            if table_scan.recheck_pending(table) and unlogged:
                self.rebuilt.append(here)
            columns = [column for column in table.columns.local if unlogged and column not in record.captured]
            table_scan.begin(table, written=columns)

    def _follow_renames(self, spec: TableSpec, record: Record) -> TableSpec:
        """Tell the mesh of columns that a client has renamed; return the table under their canonical names.

        A column is known by its position: none can have gone while the triggers are there, whose text SQLite has rewritten.
        One that the mesh has dropped while the table was parked is left in the file. A fact about it would say nothing, and
        every pass would write it again.

        Raises:
            UnsupportedTable: the mesh has dropped all of its columns.
        """
        registry, db = self._registry, self._store.db
        canonical, dropped = spec.canonical_names, registry.policies.dropped_of(spec.folded)
        left = self._left_columns(spec, dropped)
        names = [name for name in column_names(db, spec.name) if fold(name) in canonical]
        captured = [column for column in record.captured if column not in left.values()]
        if len(names) < len(captured):
            return spec
        renamed = {was: name for was, name in zip(captured, names, strict=False) if canonical[fold(name)] != was}
        if not renamed:
            return spec
        here = {name: column if column in record.captured else "" for name, column in left.items()}
        here |= zip(map(fold, names), captured, strict=False)
        under_old_names = registry.policies.applied(registry.file.spec(spec.name).known_as(spec.folded, here))
        if not is_current(db, under_old_names, record.table_id, record.captured):
            return spec
        present = {was: name for was, name in zip(captured, names, strict=False) if was not in dropped}
        registry.names.record(spec.folded, spec.name, present)
        for was in [was for was in renamed if was in dropped]:
            registry.names.leave(spec.folded, was, renamed.pop(was))
        return self._record_renames(spec, renamed)

    def _left_columns(self, spec: TableSpec, dropped: Collection[str]) -> dict[str, str]:
        """Return the canonical names of columns that the mesh has dropped and this file still has, by their folded names here.

        One that has gone from the file since is forgotten: the next column of that name is another one.
        """
        names = self._registry.names
        left = {here: column for here, column in names.columns(spec.folded).items() if column in dropped}
        present = set(map(fold, column_names(self._store.db, spec.name))) if left else set()
        names.forget(spec.folded, [column for here, column in left.items() if here not in present])
        return {here: column for here, column in left.items() if here in present}

    def _record_renames(self, spec: TableSpec, renamed: Mapping[str, str]) -> TableSpec:
        registry = self._registry
        registry.names.record(spec.folded, spec.name, renamed)
        for column, name in renamed.items():
            registry.facts.write(*name_fact((spec.folded, column), name))
        return registry.spec(spec.folded, spec.name)

    def _lost_columns(self, spec: TableSpec, record: Record) -> tuple[TableSpec, list[str]]:
        """Return the table and the columns that the file has lost and the mesh has; a rebuild may have renamed them instead."""
        explained = {column.folded for column in spec.columns} | self._registry.policies.dropped_of(spec.folded)
        lost = [column for column in record.captured if column not in explained]
        if not lost:
            return spec, []
        renamed = renamed_columns(self._store, record.table_id, spec, record.bits, lost, self._registry.mesh_key)
        return (self._record_renames(spec, renamed), []) if renamed else (spec, lost)

    def _are_dropped(self, spec: TableSpec, record: Record) -> bool:
        """Return True if a program has dropped the columns that the file has lost, rather than rebuilt the table without them."""
        entries = self._registry.file.catalogue_entries(spec.name)
        return fold(spec.name) not in self._created and has_log_triggers(record.table_id, entries)

    def _follow_drops(self, spec: TableSpec, record: Record, lost: list[str]) -> None:
        """Tell the mesh of columns that a program has dropped, once every write of before has its stamp."""
        table = self._reload(spec, record)
        if table is not None and any(column.folded not in record.captured for column in spec.columns):
            self._find_unlogged_writes(table, record, lost)  # one of them may have been renamed too
        if table is None or not self._drain(table):
            self.unfinished = True
            return
        self._drop_columns(table, record, lost)

    def _drop_left_out(self) -> None:
        """Tell the mesh of columns that rebuilds have left out, once scans have stamped what else has changed."""
        registry = self._registry
        leaving = self._left_out.leaving()
        scanned = table_scan.active_ids(self._store.db) if leaving else set()
        for name, table in [(name, table) for name, table in registry.tables.items() if table.table_id in leaving]:
            if table.table_id in scanned or not table.columns.installed or not self._drain(table):
                self.leaving.add(name)
                continue
            gone = registry.policies.dropped_of(name) | table.columns.local_names
            lost = [
                column for column in leaving[table.table_id] if column not in gone
            ]  # a program may have added it again
            record = registry.record(name)
            assert record is not None, "the table is loaded"
            if lost:
                self._drop_columns(table, record, lost)
            self._left_out.settle(table.table_id)

    def _drop_columns(self, table: Table, record: Record, lost: list[str]) -> None:
        """Drop columns that the file has lost on the mesh; every write has its stamp."""
        registry, canonical, here = self._registry, table.spec.folded, table.spec.name
        registry.drop_columns(table, frozenset(lost))
        for column in lost:
            registry.facts.write(*dropped_fact((canonical, column)))
        registry.names.forget(canonical, lost)
        drop_index_facts(self._store.db, registry, table.spec, lost)
        registry.read_decisions()
        spec = registry.spec(canonical, here)
        captured = {column: bit for column, bit in record.captured.items() if column not in lost}
        registry.install(registry.reload_stamped(table, spec, captured))
        record_definition(self._store.db, registry, spec)

    def _bring_back(self, spec: TableSpec, lost: list[str]) -> bool:
        """Add columns again that entries own and the file has lost; return False, with a note, if that cannot be done.

        The program that dropped them leaves them out of its INSERTs, which must succeed.
        """
        self._follower.add_columns(spec, lost, bare=True)
        have = {column.folded for column in self._registry.spec(spec.folded, spec.name).columns}
        missing = [column for column in lost if column not in have]
        if missing:
            line = f"parked: the mesh has the column(s) {', '.join(missing)} and this file has not; add them"
            self._registry.notes.put(spec.folded, line)
        return not missing


def _like_a_fact(name: str) -> str:
    """Return why no fact can have the name of a table, "" if one can: facts of other kinds have theirs before a colon."""
    kind, colon, _ = name.partition(":")
    return f"its name begins with {kind}:, as other facts of the mesh do; rename it" if colon and kind in KINDS else ""
