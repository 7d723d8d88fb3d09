"""Keeps capture, the registry of tables and the replicated schema in step with the tables of the file.

Every change of the file's schema leads to one pass over its tables (`table_pass`). A new table is registered, and its rows are
backfilled. A changed table gets triggers for its columns once all its writes have stamps. A table that was dropped by hand
stays on the mesh and is not replicated here; only a migration drops it for all nodes. A column that a program drops, or leaves
out of a rebuild, is dropped for all.
"""

from __future__ import annotations

import json
from collections.abc import Collection

from mycomesh.sync.capture import rebuild_mark, table_scan
from mycomesh.sync.schema.definition_changes import DefinitionChanges
from mycomesh.sync.schema.drift import DriftNotes
from mycomesh.sync.schema.facts import SCHEMA_ID, SCHEMA_TABLE, TABLE
from mycomesh.sync.schema.file_header import FileHeader
from mycomesh.sync.schema.follow_facts import FactFollower
from mycomesh.sync.schema.generated_facts import GeneratedFacts
from mycomesh.sync.schema.index_triggers import IndexTriggers
from mycomesh.sync.schema.interests import Interests
from mycomesh.sync.schema.ledgers import is_ledger
from mycomesh.sync.schema.migration import migrate
from mycomesh.sync.schema.migration_plan import Plan
from mycomesh.sync.schema.notes import Source
from mycomesh.sync.schema.own_ids import OwnIds
from mycomesh.sync.schema.pass_scope import FollowedFacts, Scope
from mycomesh.sync.schema.policy import floor_facts
from mycomesh.sync.schema.record_facts import record_facts
from mycomesh.sync.schema.registry import Registry, Snapshot, read_sums
from mycomesh.sync.schema.table_filter import TableFilter
from mycomesh.sync.schema.table_pass import Drain, TablePass
from mycomesh.sync.schema.view_facts import ViewFacts
from mycomesh.sync.schema.virtual_facts import VirtualFacts
from mycomesh.sync.sqlite.table_spec import read_table
from mycomesh.sync.sqlite.versions import Version
from mycomesh.sync.storage import internal_tables
from mycomesh.sync.storage.store import Store
from mycomesh.sync.wire.interest import Interest

__all__ = ["NEW_TABLES_MAX", "SCHEMA_TABLE", "Catalog"]

# New tables that one transaction registers, some 2 ms each: an application may create hundreds at once.
NEW_TABLES_MAX = 8
BEHIND_SHOWN_MAX = 4  # tables that a note names


class Catalog:
    """The schema of one file: its registry of tables, and the state between two passes."""

    def __init__(self, store: Store, mesh_key: bytes, tables: TableFilter, interest: Interest | None = None) -> None:
        """Read the sums of the change logs, which takes long; best outside of a transaction."""
        self._store = store
        indexes: dict[int, tuple[str, ...]] = {}
        self.registry = Registry(store, mesh_key, tables, read_sums(store), indexes, interest)
        self._rebuilt: list[str] = []  # for `take_rebuilt`
        self._doubling: list[str] = []  # for `take_doubling`
        self._version = -1  # SQLite's number for the schema that the last pass has seen
        self._internal: dict[str, str] = {}  # definitions of the internal tables after the last pass
        self._whole_at = -1  # `FileSchema.changes` then
        self._before: Snapshot | None = None  # the registry before the running transaction
        # Whether generated columns were compared with facts since the file was opened: they may be older than this version.
        self._compared_generated = False
        self._learned = False  # whether the running transaction has changed what members keep
        self._leaving = False  # whether columns that rebuilds have left out wait for a scan
        self._made: frozenset[str] = frozenset()  # tables made on the mesh that the last pass has left to the next one
        self._definitions = DefinitionChanges(store)
        self._followed = FollowedFacts(store, self.registry)
        self._opened = False
        self._drift = DriftNotes()
        self._generated = GeneratedFacts(store, self.registry)
        self.own_ids = OwnIds(store, self.registry)
        self.interests = Interests(store, self.registry)
        self._header = FileHeader(store, self.registry)
        store.enlist(self)
        self._virtual = VirtualFacts(store, self.registry)
        self.views = ViewFacts(store, self.registry)
        self._index_triggers = IndexTriggers(store, self.registry, indexes)  # enlisted behind the catalog, see there

    def committed(self) -> None:
        """Keep what the transaction changed."""
        self._before = None
        self._learned = False

    def rolled_back(self) -> None:
        """Go back to the tables of before the transaction, and look at the schema again."""
        self.registry.file.rolled_back()
        if self._learned:
            self._learned = False
            self.interests.forget()
        if self._before is not None:
            self._version = -1
            self._internal = {}
            self._header.rolled_back()
            self._virtual.unfinished = True
            self._compared_generated = False
            self.interests.forget()
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
        self._opened = True
        # In the next pass: what an index refuses must not keep the file from being opened, and rights are not known yet.
        if self._index_triggers.filling or self.views.waiting:
            self._version = -1

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
            for name, kind, sql in floor_facts(floor):
                if self.registry.facts.kind(name) in (None, kind):
                    self.decide((name, kind, sql))

    def changed(self) -> bool:
        """Return True if some connection has changed the schema, or a number in the header, since the last pass."""
        stale = self.own_ids.stale or self._header.stale or self._index_triggers.unmarked
        stale = stale or (self._leaving and not table_scan.any_active(self._store.db))
        return stale or self.registry.file.version() != self._version

    def is_stating(self) -> bool:
        """Return True if the next passes have to state something about the schema to the mesh, or may have to."""
        return self._leaving or self.changed()

    def is_readable(self) -> bool:
        """Return True if no replicated table has changed since the last pass, whatever else has changed in the schema."""
        tables = (table for name, table in self.registry.tables.items() if name != SCHEMA_TABLE)
        return not self.changed() or all(map(self.registry.is_unchanged, tables))

    def refresh(
        self, drain: Drain, *, most: int | None = None, followed: bool = False, follower: FactFollower | None = None
    ) -> None:
        """Bring capture in step with the file's tables, and the facts with both; inside a transaction.

        A table with more in its pending log than `drain` stamps at a time keeps its triggers until the next call. At most
        `most` new tables are registered. `followed` if the node itself has changed the tables since the last pass, with
        this `follower` unless it was a migration.
        """
        with self.registry.facts.steady():
            self._followed.note_other()
            self._refresh(drain, most, followed=followed, follower=follower)

    def _refresh(
        self,
        drain: Drain,
        most: int | None,
        *,
        followed: bool,
        follower: FactFollower | None,
        scope: Scope | None = None,
    ) -> None:
        self._begin()
        registry = self.registry
        if registry.file.changes() != self._whole_at and self._is_altered():
            self._store.check_whole()
        if scope is None:
            registry.read_decisions()
        changed = TablePass(self._store, registry, follower or self._follower(), drain, self._made)
        only = None if scope is None or follower is None else scope.tables | follower.indexed
        if only is None:
            changed.run(most)
        else:
            changed.run_on(only)
        if registry.file.version() != self._version:
            registry.loaded[:] = registry.tables.values()  # each may have lost an index that refused rows
        self._made = changed.made if changed.unfinished else frozenset()
        self._leaving = bool(changed.leaving)
        self._rebuilt += changed.rebuilt
        self._doubling += changed.doubling
        due = {name: table for name, table in registry.tables.items() if only is None or name in only}
        for table in due.values():
            table.columns.counters = registry.policies.counters_of(table.spec)
            table.columns.dropped = registry.policies.dropped_of(table.spec.folded)
            registry.sign(table)
            registry.cut(table)
        version = registry.file.version()
        settled = [table for name, table in due.items() if name not in changed.leaving]
        self._record_facts(changed.adopted, self._definitions.take(settled, followed=followed), only)
        registry.behind = frozenset(
            name for name, table in due.items() if self._drift.update(table, registry.defined(name), registry.notes)
        ) | {name for name, _ in self._tables_stated(only) if registry.admits(name) and name not in registry.tables}
        self._note_waiting()
        if self._virtual.unfinished and not followed:
            self._virtual.follow()
        self._index_triggers.renew(filling=self._opened)
        self._virtual.record(self._index_triggers.kept())
        if not changed.unfinished:
            self.views.record(followed=followed and follower is not None)
            if self._opened:
                self.views.follow()
        self.own_ids.renew()
        self.interests.renew()
        if not changed.unfinished and not self._leaving:
            self._header.renew()
        drain(registry.tables[SCHEMA_TABLE])
        seen = registry.file.version() == version
        self._internal = self._read_internal(whole=only is None)
        with registry.file.altering():
            rebuild_mark.renew(self._store.db)
        self._whole_at = registry.file.changes()
        # The mark changes the schema too, which the next pass does not have to look at.
        unfinished = changed.unfinished or self._virtual.unfinished or self.views.unfinished
        self._version = -1 if unfinished else registry.file.version() if seen else version

    def _tables_stated(self, only: Collection[str] | None) -> list[tuple[str, str]]:
        """Return (name, sql) of the facts of tables, or of `only` these."""
        facts = self.registry.facts
        return facts.all(TABLE) if only is None else facts.some(TABLE, only)

    def _read_internal(self, *, whole: bool) -> dict[str, str]:
        """Return the definitions of the internal tables by now; unless `whole`, of which some were made since the last pass."""
        if whole:
            return internal_tables.definitions(self._store.db)
        return self._internal | internal_tables.definitions(self._store.db, rebuild_mark.LATER)

    def _is_altered(self) -> bool:
        """Return True if an internal table is not as the last pass has left it."""
        return not self._internal.items() <= internal_tables.definitions(self._store.db).items()

    def _note_waiting(self) -> None:
        """Note the ledgers that take in no rows of other nodes, since this file is behind the definitions of the mesh."""
        behind = sorted(self.registry.behind)
        line = behind and (
            f"its rows of other nodes wait: {', '.join(behind[:BEHIND_SHOWN_MAX])} is not as on the mesh; run the migration here"
        )
        for name in self.registry.tables:
            if is_ledger(name):
                self.registry.notes.put(name, line or "", Source.WAITS)

    def _begin(self) -> None:
        """Note the registry as it is before the first change of a transaction."""
        self._before = self._before or self.registry.snapshot()

    def _follower(self) -> FactFollower:
        return FactFollower(self._store, self.registry, self._generated)

    def _record_facts(self, adopted: Collection[str], redefined: Collection[str], only: Collection[str] | None) -> None:
        """Write the facts that are missing, and follow them where the file's and the mesh's differ once both are known.

        `adopted` are the tables that this pass has found in the file as they were before the mesh, `redefined` those that a
        program has rebuilt with another definition. With `only`, of these tables.
        """
        facts = self.registry.facts
        before = facts.written
        record_facts(self._store.db, self.registry, adopted, redefined, only)
        self._generated.record(only)
        if facts.written != before or not self._compared_generated:
            self._compared_generated = True
            self.registry.read_decisions()
            self._follower().regenerate()

    def apply_facts(self, drain: Drain) -> None:
        """Change the file's schema as the facts say: drop, rename, then add; inside a transaction."""
        self._begin()
        scope = self._followed.begin(unchanged=self._compared_generated and not self._leaving and not self.changed())
        with self.registry.facts.steady(few=scope is not None):
            if scope is None:
                self.registry.read_decisions()
            self._index_triggers.take_off()  # they name columns of tables that may be altered
            self.views.take_off()
            follower = self._follower()
            if scope is None:
                for name in follower.follow():
                    self._generated.forget(name)
            else:
                follower.follow_definitions(scope.tables, scope.indexes)
            self._virtual.follow()
            self._refresh(drain, None, followed=True, follower=follower, scope=scope)
            self._followed.end(scope, follower, finished=self._version != -1)

    def learn_interests(self, members: Collection[bytes]) -> bool:
        """Take what members state about what they keep, which changes no table; return False if a pass has to look at it."""
        self._learned = True
        return self.interests.learn(members)

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

    def set_interest(self, interest: Interest) -> None:
        """Keep other areas from here on; the next pass states them."""
        self.registry.interest = interest
        self.interests.forget()
        self._version = -1
