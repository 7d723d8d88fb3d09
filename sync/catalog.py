"""The catalogue: which tables are replicated, and table definitions as facts that replicate like rows.

Owns `mycomesh_replicated`, the installation of capture, and `mycomesh_schema`, a table that is itself replicated. What
always holds: a definition from a peer only ever adds (a table, a column, an index); nothing of the user's is dropped or
rewritten. It must not know links.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import apsw

from sync import sweep
from sync.capture import (
    OP_INSERT,
    create_statements,
    drop_statements,
    key_names,
    pending_name,
    trigger_names,
    word_names,
)
from sync.changelog import ChangeLog, changes_name
from sync.keep_both import convert
from sync.policy import Policies
from sync.runs import runs_name
from sync.schema import (
    KeyKind,
    TableSpec,
    UnsupportedTable,
    fold,
    quoted,
    read_table,
    user_tables,
)
from sync.store import Store
from sync.table import Table

__all__ = ["SCHEMA_TABLE", "Catalog", "TableFilter"]

SCHEMA_TABLE = "mycomesh_schema"
_SCHEMA_ID = 1
SQL_MAX = 65_536
_BROUGHT_BACK = (
    "column(s) {} dropped or renamed here by hand: the mesh keeps them, so they are back, empty in every row;"
    " columns that are new here are on the mesh with their values"
)


@dataclass(frozen=True, slots=True)
class TableFilter:
    """Which user tables are replicated: shell patterns over folded names; empty `only` means all."""

    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def admits(self, name: str) -> bool:
        """True if the table is replicated."""
        folded = fold(name)
        if any(fnmatch.fnmatchcase(folded, fold(pattern)) for pattern in self.exclude):
            return False
        return not self.only or any(fnmatch.fnmatchcase(folded, fold(pattern)) for pattern in self.only)


class Catalog:
    """The replicated tables of one file."""

    def __init__(self, store: Store, mesh_key: bytes, tables: TableFilter) -> None:
        self._store = store
        self._mesh_key = mesh_key
        self._filter = tables
        self.tables: dict[str, Table] = {}
        self.notes: dict[str, str] = {}
        self.dropped: set[str] = set()  # tables that a person took away here, by DROP or RENAME; peers keep them
        self._policies = Policies()
        self._version = -1
        self._refreshed = False  # in the running transaction
        self._unfinished = False  # whether some table has writes to be stamped before its triggers change
        self._sums: dict[int, tuple[int, int, int]] = {}
        store.enlist(self)

    def committed(self) -> None:
        """The transaction stands, and with it what its refresh has read."""
        self._refreshed = False

    def rolled_back(self) -> None:
        """The transaction is undone: what its refresh has read, and the tables hold, may not be so."""
        if self._refreshed:
            self._version = -1
            self._refreshed = False

    def read_sums(self) -> None:
        """Reads what the change logs sum up to, before any write lock is taken: only a node writes them."""
        db = self._store.db
        made = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        if "mycomesh_replicated" not in made:
            return
        ids = [_SCHEMA_ID, *(number for (number,) in db.execute("SELECT id FROM mycomesh_replicated ORDER BY id"))]
        for number in ids:
            if {changes_name(number), runs_name(number)} <= made:
                self._sums[number] = ChangeLog(self._store, number).read_sums()

    def open(self, drain: Callable[[Table], bool]) -> None:
        """Loads the schema table, then every user table; inside a transaction, after `read_sums`.

        `drain` stamps a part of one table's pending log, and says whether that was all.
        """
        spec = read_table(self._store.db, SCHEMA_TABLE)
        self._load(_SCHEMA_ID, spec)
        self.refresh(drain)

    def admits(self, name: str) -> bool:
        """True if a user table of that name is replicated, here or once it is made."""
        return self._filter.admits(name) and name not in self.dropped

    def changed(self) -> bool:
        """True if some connection has changed the schema since the last `refresh`."""
        return self._schema_version() != self._version

    def refresh(self, drain: Callable[[Table], bool]) -> None:
        """Brings capture in line with the file's tables, and the facts with both; inside a transaction.

        A table with more in its pending log than `drain` stamps at a time keeps its triggers until the next call.
        """
        self._refreshed = True
        self._unfinished = False
        self._policies = Policies.read(self._store.db, SCHEMA_TABLE)
        names, skipped = user_tables(self._store.db)
        for name, why in skipped:
            self.notes[fold(name)] = f"not replicated: {why}"
        present = [name for name in names if self._filter.admits(name)]
        for folded in [key for key in self.tables if key != SCHEMA_TABLE]:
            if folded not in {fold(name) for name in present}:
                self._forget(folded)
        self._note_dropped({fold(name) for name in present})
        for name in present:
            self._adopt(name, drain)
        for table in self.tables.values():
            table.count(self._policies.counters_of(table.spec))
        self._record_facts()
        drain(self.tables[SCHEMA_TABLE])
        self._version = -1 if self._unfinished else self._schema_version()

    def apply_facts(self, drain: Callable[[Table], bool]) -> None:
        """Makes what the facts define and the file lacks: tables, columns, indexes; inside a transaction."""
        facts = self._store.db.execute(
            f"SELECT name, kind, sql FROM {SCHEMA_TABLE} ORDER BY kind DESC, name"
        ).fetchall()
        for name, kind, sql in facts:
            if type(sql) is not str or len(sql) > SQL_MAX or type(name) is not str:
                continue
            if kind == "table" and self._filter.admits(name) and name not in self.dropped:
                self._apply_table(name, sql)
            elif kind == "index":
                self._apply_index(sql)
        self.refresh(drain)

    def decide(self, fact: tuple[str, str, str]) -> None:
        """Writes a policy's fact (name, kind, sql), to take effect in the next `refresh`; inside a transaction."""
        self._write_fact(*fact)
        self._version = -1

    # ---- tables of the file

    def _schema_version(self) -> int:
        return int(self._store.db.execute("PRAGMA schema_version").fetchone()[0])

    def _adopt(self, name: str, drain: Callable[[Table], bool]) -> None:
        folded = fold(name)
        try:
            plain = read_table(self._store.db, name)
        except UnsupportedTable as reason:
            self.notes[folded] = f"not replicated: {reason}"
            return
        spec = self._policies.applied(plain)
        known = self.tables.get(folded)
        if known is not None and known.spec == spec and known.installed and self._captured(known):
            return
        record = self._store.db.execute(
            "SELECT id, shape, bits, known FROM mycomesh_replicated WHERE name = ?", (folded,)
        ).fetchone()
        if record is None:
            self._adopt_new(spec)
            return
        table_id, shape, bits_text, captured = record
        if shape != spec.shape:
            self.notes[folded] = f"parked: its key was {shape!r} on the mesh and is {spec.shape!r} here; rename it"
            self._forget(folded)
            return
        vanished = [column for column in json.loads(captured) if column not in {c.folded for c in spec.columns}]
        if vanished:
            if not self._bring_back(plain, vanished):
                self._forget(folded)
                return
            plain = read_table(self._store.db, name)
            spec = self._policies.applied(plain)
        bits = _extended(json.loads(bits_text), spec)
        if spec.id_column and self._store.meta(_births(table_id)) is None:
            # What was written while rows went by their ids is stamped so.
            known = self._reload(table_id, plain, bits, known, json.loads(captured))
            if not drain(known):
                self._unfinished = True
                return
            table = self._reload(table_id, spec, bits, known, json.loads(captured))
            convert(table)
            self._store.meta_set(_births(table_id), 1)
        else:
            table = self._reload(table_id, spec, bits, known, json.loads(captured))
        if vanished or not self._captured(table):  # a column that such a rebuild or rename has made may hold values
            sweep.begin(table, written=[column for column in table.known if column not in json.loads(captured)])
        if not drain(table):
            self._unfinished = True
            return
        self._install(table)
        if vanished:
            self.notes[folded] = _BROUGHT_BACK.format(", ".join(vanished))

    def _note_dropped(self, present: set[str]) -> None:
        """Notes the tables that were here and are not, and takes off what capture has left on a renamed one."""
        db = self._store.db
        self.dropped = set()
        for table_id, folded in db.execute("SELECT id, name FROM mycomesh_replicated ORDER BY id").fetchall():
            if folded in present or not self._filter.admits(folded):
                continue
            self.dropped.add(folded)
            self.notes[folded] = (
                "dropped or renamed here by hand: it stays on the other nodes, and is not replicated here;"
                " created here again, it deletes there the rows that it lacks"
            )
            for statement in drop_statements(table_id):  # RENAME has taken the triggers along
                db.execute(statement)
            db.execute(f"DROP INDEX IF EXISTS mycomesh_{table_id}_keep")

    def _bring_back(self, spec: TableSpec, vanished: list[str]) -> bool:
        """Adds columns again that entries own and the file has lost; False, and a note, if that cannot be done."""
        fact = self._fact(spec.folded)
        described = _described(fact) if fact is not None else None
        if fact is not None and described is not None:
            scratch = _scratch(fact)
            for column in described.columns:
                if column.folded in vanished:
                    self._add_column(replace(spec, name=described.name), scratch, column.name)
            scratch.close()
        have = {column.folded for column in read_table(self._store.db, spec.name).columns}
        lost = [column for column in vanished if column not in have]
        if lost:
            self.notes[spec.folded] = (
                f"parked: the mesh has the column(s) {', '.join(lost)} and this file has not; add them"
            )
        return not lost

    def _adopt_new(self, spec: TableSpec) -> None:
        """Registers a table, and has every row that it holds already logged as an insert of no particular time."""
        bits = _extended({}, spec)
        db = self._store.db
        found = db.execute("SELECT max(id) FROM mycomesh_replicated").fetchone()
        table_id = max(found[0] or 0, _SCHEMA_ID) + 1
        db.execute(
            "INSERT INTO mycomesh_replicated VALUES(?, ?, ?, ?, '{}')",
            (table_id, spec.folded, spec.shape, json.dumps(bits)),
        )
        if spec.id_column:
            self._store.meta_set(_births(table_id), 1)
        table = self._load(table_id, spec, bits)
        self._install(table)
        if db.execute(f"SELECT 1 FROM {quoted(spec.name)} LIMIT 1").fetchone() is not None:
            sweep.begin(table, adopting=True)

    def _reload(
        self, table_id: int, spec: TableSpec, bits: dict[str, int], known: Table | None, captured: dict[str, int]
    ) -> Table:
        """Has a table stand for the file's as it is, with triggers that compare the columns in `captured`."""
        self._forget(spec.folded)
        table = self._load(table_id, spec, bits, known)
        table.bits_captured = captured
        return table

    def _load(
        self, table_id: int, spec: TableSpec, bits: dict[str, int] | None = None, before: Table | None = None
    ) -> Table:
        table = Table(self._store, table_id, spec, bits or _extended({}, spec), self._mesh_key)
        table.create()
        if table_id == _SCHEMA_ID:
            self._store.db.execute(create_statements(spec, table_id, table.bits)[0])
        table.count(self._policies.counters_of(spec))
        table.load(before, self._sums.pop(table_id, None))
        self.tables[spec.folded] = table
        self.notes.pop(spec.folded, None)
        return table

    def _forget(self, folded: str) -> None:
        table = self.tables.pop(folded, None)
        if table is not None:
            table.unload()

    def _captured(self, table: Table) -> bool:
        """True if the table's triggers stand."""
        names = trigger_names(table.table_id)
        marks = ", ".join("?" * len(names))
        found = self._store.db.execute(
            f"SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND lower(tbl_name) = lower(?) AND name IN ({marks})",
            (table.spec.name, *names),
        ).fetchone()
        wanted = len(create_statements(table.spec, table.table_id, table.bits)) - 1
        return bool(found[0] == wanted)

    def _install(self, table: Table) -> None:
        db = self._store.db
        captured = {name: table.bits[name] for name in table.known}
        for statement in drop_statements(table.table_id):
            db.execute(statement)
        wide = create_statements(table.spec, table.table_id, captured)
        held = {row[0] for row in db.execute("SELECT name FROM pragma_table_info(?)", (pending_name(table.table_id),))}
        if held and not set(key_names(table.spec)) <= held:
            db.execute(f"DROP TABLE {pending_name(table.table_id)}")
        db.execute(wide[0])
        for word in _missing_words(db, table.table_id, captured):
            db.execute(f"ALTER TABLE {pending_name(table.table_id)} ADD COLUMN {word}")
        for statement in wide[1:]:
            db.execute(statement)
        if table.spec.kind is KeyKind.BAG and not table.spec.id_column:
            # VACUUM renumbers the rowids of a table that has no index at all; an index of no rows prevents it.
            name = quoted(f"mycomesh_{table.table_id}_keep")
            column = quoted(table.spec.columns[0].name)
            db.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {quoted(table.spec.name)}({column}) WHERE 0")
        table.bits_captured = captured
        db.execute(
            "UPDATE mycomesh_replicated SET bits = ?, known = ? WHERE id = ?",
            (json.dumps(table.bits), json.dumps(captured), table.table_id),
        )

    # ---- facts

    def _record_facts(self) -> None:
        """Writes a fact for every table that the facts do not fully define, and for every index of those."""
        for folded in [key for key in self.tables if key != SCHEMA_TABLE]:
            spec = self.tables[folded].spec
            fact = self._fact(folded)
            described = _described(fact) if fact else None
            if described is None or not {c.folded for c in spec.columns} <= {c.folded for c in described.columns}:
                if described is not None and described.shape != spec.shape:
                    self.notes[folded] = (
                        f"parked: its key is {spec.shape!r} here and {described.shape!r} on the mesh; rename one of them"
                    )
                    self._forget(folded)
                    continue
                self._write_fact(folded, "table", spec.sql)
        listing = (
            "SELECT name, tbl_name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
            " AND name NOT LIKE 'mycomesh\\_%' ESCAPE '\\' ORDER BY name"
        )
        for name, table, sql in self._store.db.execute(listing).fetchall():
            key = f"index:{fold(name)}"
            if fold(table) in self.tables and self._fact(key) is None:
                self._write_fact(key, "index", sql)

    def _fact(self, name: str) -> str | None:
        found = self._store.db.execute(f"SELECT sql FROM {SCHEMA_TABLE} WHERE name = ?", (name,)).fetchone()
        return found[0] if found else None

    def _write_fact(self, name: str, kind: str, sql: str) -> None:
        self._store.db.execute(
            f"INSERT INTO {SCHEMA_TABLE} VALUES(?, ?, ?) ON CONFLICT(name) DO UPDATE SET sql = excluded.sql",
            (name, kind, sql),
        )
        self._store.db.execute(
            f"INSERT INTO {pending_name(_SCHEMA_ID)}(what, at, k0) VALUES({OP_INSERT}, NULL, ?)", (name,)
        )

    def _apply_table(self, name: str, sql: str) -> None:
        described = _described(sql)
        if described is None or described.folded != name:
            self.notes[name] = "not created: its definition on the mesh is not one plain CREATE TABLE"
            return
        present = {
            fold(taken): kind
            for taken, kind in self._store.db.execute("SELECT name, type FROM sqlite_schema ORDER BY 1")
        }
        if name not in present:
            self._store.db.execute(sql)
            return
        if present[name] != "table":
            self.notes[name] = f"not created: this file has a {present[name]} of that name; rename it"
            return
        table = self.tables.get(name)
        if table is None or table.spec.shape != described.shape:
            return
        have = {column.folded for column in table.spec.columns}
        scratch = _scratch(sql)
        for column in described.columns:
            if column.folded not in have:
                self._add_column(table.spec, scratch, column.name)
        scratch.close()

    def _add_column(self, spec: TableSpec, scratch: Any, column: str) -> None:
        declared, collation, not_null, _key, _auto = scratch.column_metadata("main", spec.name, column)
        default = scratch.execute(
            "SELECT dflt_value FROM pragma_table_info(?) WHERE name = ?", (spec.name, column)
        ).fetchone()[0]
        parts = [quoted(column), declared or "", f"COLLATE {quoted(collation)}" if collation else ""]
        if default is not None:
            parts.append(f"DEFAULT ({default})" if not_null else f"DEFAULT {default}")
        if not_null and default is not None:
            parts.append("NOT NULL")
        try:
            self._store.db.execute(f"ALTER TABLE {quoted(spec.name)} ADD COLUMN {' '.join(parts)}")
        except apsw.SQLError as error:
            self.notes[spec.folded] = f"column {column!r} of the mesh cannot be added here: {error}"

    def _apply_index(self, sql: str) -> None:
        db = self._store.db
        db.authorizer = _only(apsw.SQLITE_CREATE_INDEX)
        try:
            db.execute(sql)
        except apsw.ConstraintError as error:
            self.notes[f"index {sql[:60]}"] = f"not created: {error}"
        except (apsw.SQLError, apsw.AuthError):
            return  # it exists, its table is not here, or it is more than one CREATE INDEX
        finally:
            db.authorizer = None


def _births(table_id: int) -> str:
    """The name of the persisted fact that rows of a keep-both table go by their births."""
    return f"births/{table_id}"


def _extended(bits: dict[str, int], spec: TableSpec) -> dict[str, int]:
    """Gives every column without a bit the next one; bits are never used again for another name."""
    bits = dict(bits)
    for column in spec.columns:
        if column.folded not in bits:
            bits[column.folded] = max(bits.values(), default=0) + 1
    return bits


def _missing_words(db: Any, table_id: int, bits: dict[str, int]) -> list[str]:
    held = {row[0] for row in db.execute("SELECT name FROM pragma_table_info(?)", (pending_name(table_id),))}
    return [word for word in word_names(bits) if word not in held]


def _scratch(sql: str) -> Any:
    """Returns an empty in-memory database with that one table; raises apsw.Error if the SQL does more than make it."""
    db: Any = apsw.Connection(":memory:")
    db.authorizer = _only(apsw.SQLITE_CREATE_TABLE)
    try:
        db.execute(sql)
    except BaseException:
        db.close()
        raise
    db.authorizer = None
    return db


def _described(sql: str) -> TableSpec | None:
    """Returns what a CREATE TABLE from a fact defines, None if it is anything else."""
    try:
        db = _scratch(sql)
    except apsw.Error:
        return None
    try:
        names, _ = user_tables(db)
        return read_table(db, names[0]) if len(names) == 1 else None
    except UnsupportedTable:
        return None
    finally:
        db.close()


def _only(action: int) -> Callable[[int, str | None, str | None, str | None, str | None], int]:
    """An authorizer that lets SQL make one thing: no other statement, no ATTACH, no pragma, no reading of tables."""
    allowed = {
        action,
        apsw.SQLITE_CREATE_INDEX,  # a UNIQUE or PRIMARY KEY of the table itself
        apsw.SQLITE_SELECT,
        apsw.SQLITE_INSERT,
        apsw.SQLITE_UPDATE,
        apsw.SQLITE_READ,
        apsw.SQLITE_FUNCTION,
        apsw.SQLITE_REINDEX,
    }

    def authorize(
        operation: int, first: str | None, _second: str | None, _third: str | None, _fourth: str | None
    ) -> int:
        if operation not in allowed:
            return apsw.SQLITE_DENY
        if operation in (apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE) and first not in ("sqlite_master", "sqlite_schema"):
            return apsw.SQLITE_DENY
        return apsw.SQLITE_OK

    return authorize
