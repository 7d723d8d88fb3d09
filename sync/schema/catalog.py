"""Keeps capture, the registry of tables and the replicated schema in step with the tables of the file.

Every change of the file's schema leads to one pass over its tables. A new table is registered, and its rows are backfilled. A
changed table gets triggers for its columns once all its writes have stamps. A table or column that was dropped by hand stays
on the mesh: the column comes back empty, the table is no longer replicated here. Only a migration drops for all nodes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping

from mycomesh.sync.capture import rebuild_mark, table_scan
from mycomesh.sync.capture.install import has_log_triggers, keep_both_key, keeps_rowids
from mycomesh.sync.capture.rebuilt_columns import renamed_columns
from mycomesh.sync.capture.rebuilt_rows import match_rows
from mycomesh.sync.capture.triggers import is_current
from mycomesh.sync.merge.keep_both import convert
from mycomesh.sync.schema.definition_changes import DefinitionChanges
from mycomesh.sync.schema.drift import DriftNotes
from mycomesh.sync.schema.facts import SCHEMA_ID, SCHEMA_TABLE
from mycomesh.sync.schema.follow_facts import FactFollower
from mycomesh.sync.schema.generated_facts import GeneratedFacts
from mycomesh.sync.schema.index_triggers import IndexTriggers
from mycomesh.sync.schema.migration import migrate
from mycomesh.sync.schema.migration_plan import Plan
from mycomesh.sync.schema.own_ids import OwnIds
from mycomesh.sync.schema.policy import dropped_fact, floor_fact, name_fact
from mycomesh.sync.schema.record_facts import drop_index_facts, record_definition, record_facts
from mycomesh.sync.schema.registry import Record, Registry, Snapshot, read_sums
from mycomesh.sync.schema.table_filter import TableFilter
from mycomesh.sync.schema.virtual_facts import VirtualFacts
from mycomesh.sync.sqlite.identifiers import fold, quoted
from mycomesh.sync.sqlite.indexes import column_names
from mycomesh.sync.sqlite.table_spec import TableSpec, UnsupportedTable, read_table, user_tables
from mycomesh.sync.sqlite.versions import Version
from mycomesh.sync.sqlite.virtual_tables import virtual_tables
from mycomesh.sync.storage import internal_tables
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table

__all__ = ["NEW_TABLES_MAX", "SCHEMA_TABLE", "Catalog"]

# New tables that one transaction registers, some 2 ms each: an application may create hundreds at once.
NEW_TABLES_MAX = 8
_BROUGHT_BACK = (
    "column(s) {} dropped or renamed here by hand: the mesh keeps them, so they are back, empty in every row;"
    " columns that are new here are on the mesh with their values"
)
_REMOVED = (
    "dropped or renamed here by hand: it stays on the other nodes, and is not replicated here;"
    " created here again, it deletes there the rows that it lacks ('mycomesh migrate' drops it everywhere)"
)

# Stamps a part of one table's pending log; returns whether that was all.
Drain = Callable[[Table], bool]


class Catalog:
    """The schema of one file: its registry of tables, and the state between two passes."""

    def __init__(self, store: Store, mesh_key: bytes, tables: TableFilter) -> None:
        """Read the sums of the change logs, which takes long; best outside of a transaction."""
        self._store = store
        indexes: dict[int, tuple[str, ...]] = {}
        self.registry = Registry(store, mesh_key, tables, read_sums(store), indexes)
        self._rebuilt: list[str] = []  # for `take_rebuilt`
        self._doubling: list[str] = []  # for `take_doubling`
        self._version = -1  # SQLite's number for the schema that the last pass has seen
        self._internal: dict[str, str] = {}  # definitions of the internal tables after the last pass
        self._before: Snapshot | None = None  # the registry before the running transaction
        # Whether generated columns were compared with facts since the file was opened: they may be older than this version.
        self._compared_generated = False
        self._made: frozenset[str] = frozenset()  # tables made on the mesh that the last pass has left to the next one
        self._definitions = DefinitionChanges(store)
        self._drift = DriftNotes()
        self._generated = GeneratedFacts(store, self.registry)
        self.own_ids = OwnIds(store, self.registry)
        store.enlist(self)
        self._virtual = VirtualFacts(store, self.registry)
        self._index_triggers = IndexTriggers(store, self.registry, indexes)  # enlisted behind the catalog, see there

    def committed(self) -> None:
        """Keep what the transaction changed."""
        self._before = None

    def rolled_back(self) -> None:
        """Go back to the tables of before the transaction, and look at the schema again."""
        self.registry.file.rolled_back()
        if self._before is not None:
            self._version = -1
            self._internal = {}
            self._compared_generated = False
            self.registry.restore(self._before)
            self._before = None

    def open(self, drain: Drain, floor: Version | None = None) -> None:
        """Load the schema table, then every user table; inside a transaction.

        `floor` is the oldest SQLite beside this node, if its settings state it.
        """
        self.registry.read_decisions()
        self.registry.load(SCHEMA_ID, read_table(self._store.db, SCHEMA_TABLE))
        self._state_floor(floor)
        self.refresh(drain, most=NEW_TABLES_MAX)

    def take_rebuilt(self) -> list[str]:
        """Return the names of tables found rebuilt or without their triggers since the last call."""
        found, self._rebuilt = self._rebuilt, []
        return found

    def take_doubling(self) -> list[str]:
        """Return the names of tables adopted since the last call whose rows are doubled if another file has them too.

        Each of these rows is named by its insert, and two files never have the same one.
        """
        found, self._doubling = self._doubling, []
        return found

    def _state_floor(self, floor: Version | None) -> None:
        """Take the oldest SQLite beside this node from its settings, and state it to the mesh if the setting has changed."""
        self.registry.own_floor = floor
        stated = json.dumps(floor)
        if floor is not None and self._store.meta("floor") != stated:
            self._store.meta_set("floor", stated)
            self.decide(floor_fact(floor))

    def changed(self) -> bool:
        """Return True if some connection has changed the schema since the last pass."""
        return self.registry.file.version() != self._version or self.own_ids.stale

    def is_readable(self) -> bool:
        """Return True if no replicated table has changed since the last pass, whatever else has changed in the schema."""
        tables = (table for name, table in self.registry.tables.items() if name != SCHEMA_TABLE)
        return not self.changed() or all(map(self.registry.is_unchanged, tables))

    def refresh(self, drain: Drain, *, most: int | None = None, followed: bool = False) -> None:
        """Bring capture in step with the file's tables, and the facts with both; inside a transaction.

        A table with more in its pending log than `drain` stamps at a time keeps its triggers until the next call. At most
        `most` new tables are registered. `followed` if the node itself has changed the tables since the last pass.
        """
        self._begin()
        if not self._internal.items() <= internal_tables.definitions(self._store.db).items():
            self._store.check_whole()
        registry = self.registry
        registry.read_decisions()
        changed = _Pass(self._store, registry, self._follower(), drain, self._made)
        changed.run(most)
        self._made = changed.made if changed.unfinished else frozenset()
        self._rebuilt += changed.rebuilt
        self._doubling += changed.doubling
        for table in registry.tables.values():
            table.columns.counters = registry.policies.counters_of(table.spec)
            table.columns.dropped = registry.policies.dropped_of(table.spec.folded)
        version = registry.file.version()
        self._record_facts(changed.adopted, self._definitions.take(registry.tables.values(), followed=followed))
        for name, table in registry.tables.items():
            self._drift.update(table, registry.defined(name), registry.notes)
        self._index_triggers.renew()
        self._virtual.record(self._index_triggers.kept())
        self.own_ids.renew()
        drain(registry.tables[SCHEMA_TABLE])
        seen = registry.file.version() == version
        rebuild_mark.renew(self._store.db)
        self._internal = internal_tables.definitions(self._store.db)
        # The mark changes the schema too, which the next pass does not have to look at.
        self._version = -1 if changed.unfinished else registry.file.version() if seen else version

    def _begin(self) -> None:
        """Note the registry as it is before the first change of a transaction."""
        self._before = self._before or self.registry.snapshot()

    def _follower(self) -> FactFollower:
        return FactFollower(self._store, self.registry, self._generated)

    def _record_facts(self, adopted: Collection[str], redefined: Collection[str]) -> None:
        """Write the facts that are missing, and follow them where the file's and the mesh's differ once both are known.

        `adopted` are the tables that this pass has found in the file as they were before the mesh, `redefined` those that a
        program has rebuilt with another definition.
        """
        facts = self.registry.facts
        before = facts.written
        record_facts(self._store.db, self.registry, adopted, redefined)
        self._generated.record()
        if facts.written != before or not self._compared_generated:
            self._compared_generated = True
            self.registry.read_decisions()
            self._follower().regenerate()

    def apply_facts(self, drain: Drain) -> None:
        """Change the file's schema as the facts say: drop, rename, then add; inside a transaction."""
        self._begin()
        self.registry.read_decisions()
        for name in self._follower().follow():
            self._generated.forget(name)
        self._virtual.follow()
        self.refresh(drain, followed=True)

    def migrate(self, script: str, drain: Drain) -> Plan:
        """Run a migration and write its facts; inside a transaction in which every captured write has its stamp.

        Raises:
            MigrationError: the caller rolls the transaction back.
        """
        self._begin()
        self.registry.read_decisions()
        # Else the TEMP triggers would write the indexes beside the user's own triggers, which run during a migration.
        self._index_triggers.take_off()
        before = list(self.registry.tables)
        plan = migrate(self._store, self.registry, script)
        for name in before:
            if name not in self.registry.tables:
                self._generated.forget(name)
        self.refresh(drain, followed=True)
        return plan

    def decide(self, fact: tuple[str, str, str]) -> None:
        """Write the fact (name, kind, sql) of a policy, which takes effect in the next pass; inside a transaction."""
        self.registry.facts.write(*fact)
        self._version = -1


class _Pass:
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
        self._created = rebuild_mark.rebuilt_tables(store.db)  # folded names of tables created since the last pass
        self.made = made | self._created
        self.adopted: set[str] = set()
        self.rebuilt: list[str] = []
        self.doubling: list[str] = []
        self.unfinished = False

    def run(self, most: int | None) -> None:
        """Look at every table; register at most `most` new ones."""
        registry = self._registry
        names, skipped = user_tables(self._store.db)
        for name, why in skipped:
            registry.notes.put(fold(name), f"not replicated: {why}")
        present = registry.canonical_names(names)
        for name in [name for name in registry.tables if name != SCHEMA_TABLE and name not in present]:
            registry.forget(name)
        self._find_removed(present.keys())
        new = 0
        for name, spec in self._changed_specs(present):
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

    def _changed_specs(self, present: Mapping[str, str]) -> list[tuple[str, TableSpec]]:
        """Return the tables that are not captured as they are, and note those that cannot be replicated."""
        registry = self._registry
        changed = []
        for name, here in present.items():
            try:
                spec = registry.spec(name, here)
            except UnsupportedTable as reason:
                registry.forget(name)
                registry.notes.put(name, f"not replicated: {reason}")
                continue
            too_new = (
                registry.too_new(spec.sql) if registry.record(name) is None and registry.defined(name) is None else ""
            )
            if too_new:
                registry.notes.put(name, f"not replicated: {too_new}")
                continue
            known = registry.tables.get(name)
            captured = (
                known is not None
                and known.spec == spec
                and known.columns.installed
                and registry.is_captured(known)
                and not registry.is_outdated(known)
            )
            if not captured or fold(here) in self._created or not self._key_matches(spec):
                changed.append((name, spec))
        return changed

    def _find_removed(self, present: Collection[str]) -> None:
        """Note the registered tables that the file has not, and remove the capture that a renamed one still has.

        A table that has become a shadow table, or was replicated by an earlier version that did not know it for one, loses its
        capture too. Its record stays, as it may be the user's and come back under another name.
        """
        registry = self._registry
        shadows = [name for table in virtual_tables(self._store.db) for name in table.content]
        registry.removed = set(registry.canonical_names(shadows))
        listing = "SELECT id, name, shape FROM mycomesh_replicated ORDER BY id"
        for table_id, name, identity in self._store.db.execute(listing).fetchall():
            if name in present or not registry.selects(name):
                continue
            registry.uninstall(table_id)  # RENAME has taken the triggers along
            if name in registry.removed:
                continue
            defined = registry.defined(name)
            if defined is not None and defined.identity != identity:
                # It was parked. The user has renamed it, as its note asks, to make room for the table of the mesh.
                self.unfinished |= self._follower.make(name)
                continue
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
        spec = self._follow_renames(spec, record)
        if not self._key_matches(spec):
            self._park(spec)
            return
        if record.identity != spec.identity:
            self._start_over(record.table_id, spec)
            return
        spec, lost = self._lost_columns(spec, record)
        if lost and self._are_dropped(spec, record):
            self._follow_drops(spec, record, lost)
            return
        if lost:
            if not self._bring_back(spec, lost):
                registry.forget(name)
                return
            spec = registry.spec(name, spec.name)
        table = self._reload(spec, record)
        if table is None:
            self.unfinished = True
            return
        self._find_unlogged_writes(table, record, lost)
        if not self._drain(table):
            self.unfinished = True
            return
        registry.install(table)
        if lost:
            registry.notes.put(name, _BROUGHT_BACK.format(", ".join(lost)))

    def _reload(self, spec: TableSpec, record: Record) -> Table | None:
        """Load the table as it is by now; None if it has to keep both rows of one id and writes from before have no stamps."""
        registry = self._registry
        table_id, bits, captured = record.table_id, record.bits, record.captured
        known = registry.tables.get(spec.folded)
        key = keep_both_key(table_id)
        if not spec.id_column or self._store.meta(key) is not None:
            return registry.reload(table_id, spec, bits, known, captured)
        # Writes from before that decision are stamped under the keys of before it.
        known = registry.reload(table_id, registry.undecided_spec(spec.folded, spec.name), bits, known, captured)
        if not self._drain(known):
            return None
        table = registry.reload(table_id, spec, bits, known, captured)
        convert(table)
        self._store.meta_set(key, 1)
        return table

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
        """
        registry, db = self._registry, self._store.db
        captured, canonical = record.captured, spec.canonical_names
        names = column_names(db, spec.name)
        if len(names) < len(captured) or any(fold(name) not in canonical for name in names):
            return spec
        renamed = {was: name for was, name in zip(captured, names, strict=False) if canonical[fold(name)] != was}
        if not renamed:
            return spec
        here = dict(zip(map(fold, names), captured, strict=False))
        under_old_names = registry.policies.applied(registry.file.spec(spec.name).known_as(spec.folded, here))
        if not is_current(db, under_old_names, record.table_id, captured):
            return spec
        registry.names.record(spec.folded, spec.name, dict(zip(captured, names, strict=False)))
        return self._record_renames(spec, renamed)

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
        registry, canonical = self._registry, spec.folded
        table = self._reload(spec, record)
        if table is not None and any(column.folded not in record.captured for column in spec.columns):
            self._find_unlogged_writes(table, record, lost)  # one of them may have been renamed too
        if table is None or not self._drain(table):
            self.unfinished = True
            return
        registry.drop_columns(table, frozenset(lost))
        for column in lost:
            registry.facts.write(*dropped_fact((canonical, column)))
        registry.names.forget(canonical, lost)
        drop_index_facts(self._store.db, registry, spec, lost)
        registry.read_decisions()
        spec = registry.spec(canonical, spec.name)
        captured = {column: bit for column, bit in record.captured.items() if column not in lost}
        registry.install(registry.reload(record.table_id, spec, table.columns.bits, table, captured))
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
