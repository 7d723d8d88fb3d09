"""The catalogue: which tables are replicated, and how this file's definitions and the mesh's facts are kept in line.

Owns `mycomesh_replicated` and the installation of capture. What always holds: nothing of the user's is dropped or renamed but
by what somebody has decided for the whole mesh (`following`, `migrating`). It must not know links.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

import apsw

from mycomesh.sync.capture import rebuild_mark, table_scan
from mycomesh.sync.capture.install import (
    ensure_pending_log,
    has_log_triggers,
    install_capture,
    is_captured,
    keep_both_key,
    keeps_rowids,
    remove_capture,
    remove_internal,
)
from mycomesh.sync.capture.rebuilt_columns import renamed_columns
from mycomesh.sync.capture.rebuilt_rows import match_rows
from mycomesh.sync.capture.triggers import is_current
from mycomesh.sync.merge.dropped_columns import drop_columns
from mycomesh.sync.merge.keep_both import convert
from mycomesh.sync.schema.drift import DriftNotes
from mycomesh.sync.schema.facts import SCHEMA_ID, SCHEMA_TABLE, Facts
from mycomesh.sync.schema.follow_facts import FactFollower
from mycomesh.sync.schema.generated_facts import GeneratedFacts
from mycomesh.sync.schema.index_triggers import IndexTriggers
from mycomesh.sync.schema.migration import migrate
from mycomesh.sync.schema.migration_plan import Plan
from mycomesh.sync.schema.names import Names
from mycomesh.sync.schema.policy import Policies, name_fact
from mycomesh.sync.schema.record_facts import record_facts
from mycomesh.sync.schema.table_filter import TableFilter
from mycomesh.sync.sqlite.definitions import read_definition
from mycomesh.sync.sqlite.generated_columns import compose
from mycomesh.sync.sqlite.identifiers import fold, quoted
from mycomesh.sync.sqlite.indexes import column_names
from mycomesh.sync.sqlite.table_spec import FileSchema, TableSpec, UnsupportedTable, read_table, user_tables
from mycomesh.sync.storage import internal_tables
from mycomesh.sync.storage.change_log import ChangeLog, changes_name
from mycomesh.sync.storage.column_bits import extended
from mycomesh.sync.storage.insert_runs import runs_name
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table

__all__ = ["ADOPTED_MAX", "SCHEMA_TABLE", "Catalog"]

# New tables that one transaction takes in, some 2 ms each: an application may make hundreds at once.
ADOPTED_MAX = 8
_BROUGHT_BACK = (
    "column(s) {} dropped or renamed here by hand: the mesh keeps them, so they are back, empty in every row;"
    " columns that are new here are on the mesh with their values"
)


class Catalog:
    """The replicated tables of one file."""

    def __init__(self, store: Store, mesh_key: bytes, tables: TableFilter) -> None:
        self._store = store
        self._mesh_key = mesh_key
        self._filter = tables
        self.tables: dict[str, Table] = {}
        self.notes: dict[str, str] = {}
        self.renewed: list[Table] = []  # tables that stand anew, whose parked rows nobody has tried again since
        # Tables that were made anew or had lost their triggers, until people have heard of it
        self.doubted: list[str] = []
        self.dropped: set[str] = set()  # tables that a person took away here, by DROP or RENAME; peers keep them
        self.facts = Facts(store)
        self.policies = Policies()
        self.names: Names
        self._file = FileSchema(store.db)
        self._differences = DriftNotes()
        self._kept_indexes: dict[int, tuple[str, ...]] = {}
        self._stood: dict[int, object] = {}  # what SQLite's catalogue said when the triggers were last found whole
        self.echoes = IndexTriggers(store, self, self._file, self._kept_indexes)
        self.generating = GeneratedFacts(store, self)
        # By the mesh's name: a table's fact, those of its generated columns, and what they define.
        self._defined: dict[str, tuple[str, dict[str, str], TableSpec | None]] = {}
        self._anew: frozenset[str] = frozenset()  # folded names of tables that were made since the last `refresh`
        self._version = -1
        # Tables and notes before the running transaction's refresh
        self._before: tuple[dict[str, Table], dict[str, str]] | None = None
        self._ours: dict[str, str] = {}  # our own tables, as they stood after the last `refresh`
        self._followed = False  # whether generated columns are as facts have them that came before this file was opened
        self._unfinished = False  # whether some table has writes to be stamped before its triggers change
        self._sums: dict[int, tuple[int, int, int]] = {}
        store.enlist(self)

    def committed(self) -> None:
        """The transaction stands, and with it what its refresh has read."""
        self._before = None

    def rolled_back(self) -> None:
        """The transaction is undone: what its refresh has read, and the tables hold, may not be so."""
        self._file.rolled_back()
        if self._before is not None:
            self._version = -1
            self._ours = {}
            self._followed = False
            self.notes = self._before[1]
            self._put_back(self._before[0])
            self._before = None

    def _put_back(self, tables: Mapping[str, Table]) -> None:
        """Has the tables of before a refresh that was undone: what it made is not in the file, and what it ended is."""
        for folded in [key for key, table in self.tables.items() if table is not tables.get(key)]:
            self.forget(folded)
        for table in [table for key, table in tables.items() if key not in self.tables]:
            table.restore()
            self.tables[table.spec.folded] = table

    def read_sums(self) -> None:
        """Read what the change logs sum up to, before any write lock is taken: only a node writes them."""
        db = self._store.db
        made = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE name GLOB 'mycomesh_*'")}
        if "mycomesh_replicated" not in made:
            return
        ids = [SCHEMA_ID, *(number for (number,) in db.execute("SELECT id FROM mycomesh_replicated ORDER BY id"))]
        for number in ids:
            if {changes_name(number), runs_name(number)} <= made:
                with contextlib.suppress(apsw.SQLError):  # altered by hand: the opening tells
                    self._sums[number] = ChangeLog(self._store, number).read_sums()

    def open(self, drain: Callable[[Table], bool]) -> None:
        """Load the schema table, then every user table; inside a transaction, after `read_sums`.

        `drain` stamps a part of one table's pending log, and says whether that was all.
        """
        self.read_decisions()
        self._load(SCHEMA_ID, read_table(self._store.db, SCHEMA_TABLE))
        self.refresh(drain, most=ADOPTED_MAX)

    def admits(self, name: str) -> bool:
        """Return True if a user table of that name is replicated, here or once it is made."""
        return self._filter.admits(name) and name not in self.dropped and (name,) not in self.policies.dropped

    def changed(self) -> bool:
        """Return True if some connection has changed the schema since the last `refresh`."""
        return self._file.version() != self._version

    def stands(self) -> bool:
        """Return True if every replicated table can be read as it is known here, whatever else has changed in the schema."""
        known = (table for name, table in self.tables.items() if name != SCHEMA_TABLE)
        return not self.changed() or all(
            self._file.catalogue_entries(table.spec.name) == self._stood.get(table.table_id) for table in known
        )

    def refresh(self, drain: Callable[[Table], bool], *, most: int | None = None) -> None:
        """Brings capture in line with the file's tables, and the facts with both; inside a transaction.

        A table with more in its pending log than `drain` stamps at a time keeps its triggers until the next call, and of new
        tables no more than `most` are taken in.
        """
        self._before = self._before or (dict(self.tables), dict(self.notes))
        self._unfinished = False
        if not self._ours.items() <= internal_tables.standing(self._store.db).items():
            self._store.check_whole()
        self.read_decisions()
        self._anew = rebuild_mark.rebuilt_tables(self._store.db)
        names, skipped = user_tables(self._store.db)
        for name, why in skipped:
            self.notes[fold(name)] = f"not replicated: {why}"
        dropped = self.policies.dropped
        present = {mesh: name for name in names if self._filter.admits(mesh := self.names.mesh(name, dropped))}
        for folded in [key for key in self.tables if key != SCHEMA_TABLE and key not in present]:
            self.forget(folded)
        self._note_dropped(present.keys())
        new = 0
        for mesh, spec in self._altered(present):
            record = self._registered(mesh)
            if record is not None:
                self._adopt(spec, record, drain)
            elif not self._fits(spec):
                self._park(spec)
            elif most is None or new < most:
                self._adopt_new(spec)
                new += 1
            else:
                self._unfinished = True
        for table in self.tables.values():
            table.columns.counters = self.policies.counters_of(table.spec)
            table.columns.dropped = self.policies.dropped_of(table.spec.folded)
        version = self._file.version()
        self._record_facts()
        for mesh, table in self.tables.items():
            self._differences.tell(table, self.defined(mesh), self.notes)
        self.echoes.renew()
        drain(self.tables[SCHEMA_TABLE])
        rebuild_mark.renew(self._store.db)
        self._ours = internal_tables.standing(self._store.db)
        self._version = -1 if self._unfinished else version

    def _record_facts(self) -> None:
        """Write down what the facts lack, and follows them where they say more together than they did alone."""
        before = self.facts.written
        record_facts(self._store.db, self)
        self.generating.record()
        if self.facts.written != before or not self._followed:  # a file may come from a version that knew none of them
            self._followed = True
            self.read_decisions()
            FactFollower(self._store, self).regenerate()

    def read_decisions(self) -> None:
        """Read what the mesh has decided about tables, and what this file calls them."""
        self.policies = Policies.read(self._store.db, SCHEMA_TABLE)
        self.names = Names(self._store.db)

    def apply_facts(self, drain: Callable[[Table], bool]) -> None:
        """Has the file follow what facts say: what is dropped, renamed, missing; inside a transaction."""
        self._before = self._before or (dict(self.tables), dict(self.notes))
        self.read_decisions()
        FactFollower(self._store, self).follow()
        self.refresh(drain)

    def migrate(self, script: str, drain: Callable[[Table], bool]) -> Plan:
        """Run a migration, and writes down what the mesh has to know of it; inside a transaction.

        Every captured write has its stamp.

        Raises:
            MigrationError: the caller undoes the transaction.
        """
        self._before = self._before or (dict(self.tables), dict(self.notes))
        self.read_decisions()
        plan = migrate(self._store, self, script)
        self.refresh(drain)
        return plan

    def decide(self, fact: tuple[str, str, str]) -> None:
        """Write a policy's fact (name, kind, sql), to take effect in the next `refresh`; inside a transaction."""
        self.facts.write(*fact)
        self._version = -1

    # ---- tables of the file

    def spec(self, mesh: str, name: str) -> TableSpec:
        """Return the table of that name as the mesh knows it; raises `UnsupportedTable`."""
        return self.policies.applied(self._undecided(mesh, name))

    def _undecided(self, mesh: str, name: str) -> TableSpec:
        """The same before the mesh decided how its rows are identified."""
        return self.names.spec(self._file.spec(name), mesh, self.policies.dropped_of(mesh))

    def _altered(self, present: Mapping[str, str]) -> list[tuple[str, TableSpec]]:
        """Return the tables that are not captured as they are; notes what cannot be replicated."""
        altered = []
        for mesh, name in present.items():
            try:
                spec = self.spec(mesh, name)
            except UnsupportedTable as reason:
                self.forget(mesh)
                self.notes[mesh] = f"not replicated: {reason}"
                continue
            known = self.tables.get(mesh)
            standing = known is not None and known.spec == spec and known.columns.installed and self._captured(known)
            if not standing or fold(name) in self._anew or not self._fits(spec):
                altered.append((mesh, spec))
        return altered

    def _registered(self, mesh: str) -> tuple[Any, ...] | None:
        """Return (id, shape, bits, known) of a table that is replicated, the last two as JSON."""
        listing = "SELECT id, shape, bits, known FROM mycomesh_replicated WHERE name = ?"
        return self._store.db.execute(listing, (mesh,)).fetchone()  # type: ignore[no-any-return]

    def _adopt(self, spec: TableSpec, record: tuple[Any, ...], drain: Callable[[Table], bool]) -> None:
        mesh, name = spec.folded, spec.name
        known = self.tables.get(mesh)
        table_id, shape = record[:2]
        bits, captured = map(json.loads, record[2:])
        spec = self._renamed(table_id, spec, captured)
        if not self._fits(spec):
            self._park(spec)
            return
        if shape != spec.identity:
            self._start_over(table_id, spec)
            return
        spec, vanished = self._vanished(table_id, spec, bits, captured)
        if vanished:
            if not self._bring_back(spec, vanished):
                self.forget(mesh)
                return
            spec = self.spec(mesh, name)
        if spec.id_column and self._store.meta(keep_both_key(table_id)) is None:
            # What was written while rows went by their ids is stamped so.
            known = self.reload(table_id, self._undecided(mesh, name), bits, known, captured)
            if not drain(known):
                self._unfinished = True
                return
            table = self.reload(table_id, spec, bits, known, captured)
            convert(table)
            self._store.meta_set(keep_both_key(table_id), 1)
        else:
            table = self.reload(table_id, spec, bits, known, captured)
        standing = self._file.catalogue_entries(spec.name)
        anew = fold(spec.name) in self._anew or not keeps_rowids(table, standing)
        if anew:
            match_rows(table)
        if anew or vanished or not self._captured(table):
            self.doubted += [spec.name] if table_scan.recheck_pending(table) else []
            # Columns that nobody logged may hold values.
            made = anew or vanished or not has_log_triggers(table, standing)
            table_scan.begin(
                table, written=[column for column in table.columns.local if made and column not in captured]
            )
        if not drain(table):
            self._unfinished = True
            return
        self.install(table)
        if vanished:
            self.notes[mesh] = _BROUGHT_BACK.format(", ".join(vanished))

    def _fits(self, spec: TableSpec) -> bool:
        """Return True if rows go by the same names as in the table of the mesh."""
        defined = self.defined(spec.folded)
        return defined is None or defined.identity == spec.identity

    def _park(self, spec: TableSpec) -> None:
        defined = self.defined(spec.folded)
        assert defined is not None, "what nobody has defined fits"
        self.notes[spec.folded] = (
            f"parked: it has {spec.identity} here and {defined.identity} on the mesh; rename one of them"
        )
        self.forget(spec.folded)

    def _renamed(self, table_id: int, spec: TableSpec, captured: dict[str, int]) -> TableSpec:
        """Tells the mesh of columns that a client has renamed; returns the table under the names that it has for them.

        A column's place tells which one it was: while the triggers stand, as SQLite rewrote them, none can have gone.
        """
        mesh = spec.folded
        known, names = spec.canonical_names, column_names(self._store.db, spec.name)
        if len(names) < len(captured) or any(fold(name) not in known for name in names):
            return spec
        renamed = {was: name for was, name in zip(captured, names, strict=False) if known[fold(name)] != was}
        if not renamed:
            return spec
        plain = self._file.spec(spec.name)
        here = dict(zip(map(fold, names), captured, strict=False))
        if not is_current(self._store.db, self.policies.applied(plain.known_as(mesh, here)), table_id, captured):
            return spec
        self.names.record(mesh, spec.name, dict(zip(captured, names, strict=False)))
        return self._rename(spec, renamed)

    def _rename(self, spec: TableSpec, renamed: Mapping[str, str]) -> TableSpec:
        self.names.record(spec.folded, spec.name, renamed)
        for column, name in renamed.items():
            self.facts.write(*name_fact((spec.folded, column), name))
        return self.spec(spec.folded, spec.name)

    def _vanished(self, table_id: int, spec: TableSpec, bits: Any, captured: Any) -> tuple[TableSpec, list[str]]:
        """Return the table, and the columns that it has lost though the mesh has them; what a rebuild renamed is none."""
        explained = {column.folded for column in spec.columns} | self.policies.dropped_of(spec.folded)
        vanished = [column for column in captured if column not in explained]
        renamed = renamed_columns(self._store, table_id, spec, bits, vanished, self._mesh_key) if vanished else {}
        return (self._rename(spec, renamed), []) if renamed else (spec, vanished)

    def _note_dropped(self, present: Collection[str]) -> None:
        """Note the tables that were here and are not, and takes off what capture has left on a renamed one."""
        db = self._store.db
        self.dropped = set()
        listing = "SELECT id, name, shape FROM mycomesh_replicated ORDER BY id"
        for table_id, folded, shape in db.execute(listing).fetchall():
            if folded in present or not self._filter.admits(folded):
                continue
            defined = self.defined(folded)
            if defined is not None and defined.identity != shape:  # it was parked: who has renamed it wants the mesh's
                self.uninstall(table_id)
                self._unfinished = FactFollower(self._store, self).make(folded)
                continue
            self.dropped.add(folded)
            self.notes[folded] = (
                "dropped or renamed here by hand: it stays on the other nodes, and is not replicated here;"
                " created here again, it deletes there the rows that it lacks ('mycomesh migrate' drops it everywhere)"
            )
            self.uninstall(table_id)  # RENAME has taken the triggers along

    def _bring_back(self, spec: TableSpec, vanished: list[str]) -> bool:
        """Add columns again that entries own and the file has lost; False, and a note, if that cannot be done."""
        FactFollower(self._store, self).add_columns(spec, vanished)
        have = {column.folded for column in self.spec(spec.folded, spec.name).columns}
        lost = [column for column in vanished if column not in have]
        if lost:
            self.notes[spec.folded] = (
                f"parked: the mesh has the column(s) {', '.join(lost)} and this file has not; add them"
            )
        return not lost

    def _adopt_new(self, spec: TableSpec) -> None:
        """Register a table, and has every row that it holds already logged as an insert of no particular time."""
        bits = extended({}, spec)
        db = self._store.db
        found = db.execute("SELECT max(id) FROM mycomesh_replicated").fetchone()
        table_id = max(found[0] or 0, SCHEMA_ID) + 1
        db.execute(
            "INSERT INTO mycomesh_replicated VALUES(?, ?, ?, ?, '{}')",
            (table_id, spec.folded, spec.identity, json.dumps(bits)),
        )
        self._begin(table_id, spec, bits)

    def _start_over(self, table_id: int, spec: TableSpec) -> None:
        """Has a table that was parked go on with the mesh's key: its rows get other names, and its log begins anew.

        Its site has nothing more to say of what it wrote under the old ones.
        """
        bits = extended({}, spec)
        self.forget(spec.folded)
        self._sums.pop(table_id, None)
        remove_internal(self._store.db, table_id)
        self._store.db.execute(
            "UPDATE mycomesh_replicated SET shape = ?, bits = ?, known = '{}' WHERE id = ?",
            (spec.identity, json.dumps(bits), table_id),
        )
        self._begin(table_id, spec, bits).coverage.give_up_others(keep=self._store.meta("site"))

    def _begin(self, table_id: int, spec: TableSpec, bits: dict[str, int]) -> Table:
        if spec.id_column:
            self._store.meta_set(keep_both_key(table_id), 1)
        table = self._load(table_id, spec, bits)
        self.install(table)
        if self._store.db.execute(f"SELECT 1 FROM {quoted(spec.name)} LIMIT 1").fetchone() is not None:
            table_scan.begin(table, backfill=True)
        return table

    def reload(
        self, table_id: int, spec: TableSpec, bits: dict[str, int], known: Table | None, captured: dict[str, int]
    ) -> Table:
        """Has a table stand for the file's as it is, with triggers that compare the columns in `captured`."""
        self.forget(spec.folded)
        table = self._load(table_id, spec, extended(bits, spec), known)
        table.columns.captured = captured
        return table

    def _load(
        self, table_id: int, spec: TableSpec, bits: dict[str, int] | None = None, before: Table | None = None
    ) -> Table:
        table = Table(self._store, table_id, spec, bits or extended({}, spec), self._mesh_key, self._kept_indexes)
        self._stood.pop(table_id, None)
        table.create()
        ensure_pending_log(table)
        table.columns.counters = self.policies.counters_of(spec)
        table.load(before, self._sums.pop(table_id, None))
        self.names.record(spec.folded, spec.name, {column.folded: column.name for column in spec.columns})
        self.shed(table)
        self.tables[spec.folded] = table
        self.renewed.append(table)
        self.notes.pop(spec.folded, None)
        return table

    def forget(self, folded: str) -> None:
        """End the life of a table in memory; its triggers go on."""
        table = self.tables.pop(folded, None)
        if table is not None:
            table.unload()

    def shed(self, table: Table, more: frozenset[str] = frozenset()) -> frozenset[str]:
        """Has the entries of a table give up the columns that the mesh has dropped since this was done last; returns these.

        `more` are columns that are being dropped, of which the mesh does not know yet.
        """
        dropped = table.columns.dropped = self.policies.dropped_of(table.spec.folded) | more
        name = f"shed/{table.table_id}"
        due = dropped - set(json.loads(self._store.meta(name) or "[]")) if dropped else dropped
        if due:
            drop_columns(table, due)
            self._store.meta_set(name, json.dumps(sorted(dropped)))
        return due

    def discard(self, mesh: str) -> None:
        """Take everything that is ours of a dropped table out of the file; the user's table is the caller's."""
        db = self._store.db
        self.forget(mesh)
        self.names.forget(mesh)
        self.generating.forget(mesh)
        self.notes.pop(mesh, None)
        found = db.execute("SELECT id FROM mycomesh_replicated WHERE name = ?", (mesh,)).fetchone()
        if found is None:
            return
        remove_internal(db, found[0])
        for name in ("vectors", "replicated"):
            db.execute(f"DELETE FROM mycomesh_{name} WHERE id = ?", found)

    def _captured(self, table: Table) -> bool:
        """Return True if the table's triggers stand."""
        standing = self._file.catalogue_entries(table.spec.name)
        if self._stood.get(table.table_id) != standing and is_captured(table, standing):
            self._stood[table.table_id] = standing
        return self._stood.get(table.table_id) == standing

    def uninstall(self, table_id: int) -> None:
        """Take off a table what refers to its columns; what is written then is found by a sweep alone."""
        remove_capture(self._store.db, table_id)

    def install(self, table: Table) -> None:
        """Has the table captured as it is."""
        install_capture(table)

    # ---- facts

    def defined(self, mesh: str) -> TableSpec | None:
        """Return what a table's facts define, None if it has none or that is anything else."""
        fact = self.facts.of(mesh)
        if fact is None:
            return None
        generated = self.policies.generated.get(mesh, {})
        known = self._defined.get(mesh)
        if known is None or known[:2] != (fact, generated):
            sql = compose(fact, generated) if generated else fact
            known = self._defined[mesh] = fact, generated, read_definition(sql)
        return known[2]
