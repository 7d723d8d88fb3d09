"""Indexes that virtual tables keep, as facts: the CREATE VIRTUAL TABLE of an R-tree or FTS index with the triggers that keep it.

A file that a node began empty gets them with its tables: a GeoPackage without its R-tree answers each map by a scan. A file
that an application has brought keeps its own: triggers of another node could make its writes fail. For the same reason,
triggers that call functions of GIS programs come only into a GeoPackage or a SpatiaLite file, whose programs have them.

A fact comes from a peer, and its triggers run in the user's programs. So they are tried in a scratch database first, where SQLite
reports what they do: they write this index and nothing else, read only the row, and call only functions of a short list.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apsw

from mycomesh.sync.schema.facts import VIRTUAL
from mycomesh.sync.schema.index_copies import plain_trigger
from mycomesh.sync.schema.index_refill import FILLED_ROWS_MAX, fill, rows_to_fill
from mycomesh.sync.schema.index_remedies import content_of
from mycomesh.sync.schema.registry import Registry
from mycomesh.sync.sqlite import geometry
from mycomesh.sync.sqlite.create_table import definition_of
from mycomesh.sync.sqlite.definitions import execute_one, scratch
from mycomesh.sync.sqlite.identifiers import INTERNAL_PREFIX, fold, quoted
from mycomesh.sync.sqlite.refusals import FILE_ERRORS
from mycomesh.sync.sqlite.table_spec import SQL_MAX
from mycomesh.sync.sqlite.tokens import TOKEN
from mycomesh.sync.sqlite.virtual_tables import VirtualTable, module_of, virtual_tables
from mycomesh.sync.storage.store import Store

__all__ = ["IndexFact", "VirtualFacts", "index_refusal"]

INDEXES_MAX = 64  # facts of this kind that have effect: each is tried under the file's lock, some 3 ms
TRIGGERS_MAX = 16  # of one index; a GeoPackage's R-tree has seven
_MODULES = frozenset(("fts4", "fts5", "rtree", "rtree_i32"))
_FUNCTIONS = frozenset(f"{geometry.PREFIX}{name}" for name in geometry.FUNCTIONS) | frozenset(
    (
        *("abs", "coalesce", "ifnull", "json_extract", "length", "lower", "ltrim", "max", "min"),
        *("nullif", "round", "rtrim", "substr", "trim", "typeof", "upper", "->", "->>"),
    )
)
_FORBIDDEN = frozenset(("select", "with", "raise", "pragma", "attach"))
_WRITES = (apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE)
_MAP_TABLES = ("gpkg_geometry_columns", "geometry_columns")  # of a GeoPackage, and of SpatiaLite
_TABLE = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name = ? COLLATE NOCASE"
_SAVEPOINT = "mycomesh_virtual"
_OWN, _BEFORE = "own", 1  # what `made/KEY` may say; an earlier version wrote 1


@dataclass(frozen=True, slots=True)
class IndexFact:
    """One index: the folded name of its table, its own CREATE VIRTUAL TABLE and those of its triggers."""

    table: str
    sql: str
    triggers: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> IndexFact | None:
        """Read the SQL of a fact; None if it has another form."""
        try:
            parts = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if type(parts) is not list or not 3 <= len(parts) <= 2 + TRIGGERS_MAX:
            return None
        return cls(parts[0], parts[1], tuple(parts[2:])) if all(type(part) is str for part in parts) else None

    def extends(self, other: IndexFact | None) -> bool:
        """Return True if this is the other index with more triggers: a program may commit them one by one."""
        return (
            other is not None
            and (self.table, self.sql) == (other.table, other.sql)
            and {*other.triggers} < {*self.triggers}
        )

    def text(self) -> str:
        """Return the SQL of the fact."""
        return json.dumps([self.table, self.sql, *self.triggers], ensure_ascii=False)


class VirtualFacts:
    """Writes and follows the facts of the indexes of one file."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self.unfinished = False  # whether the next pass has to follow more of them

    def record(self, kept: Sequence[tuple[str, VirtualTable, Sequence[str]]]) -> None:
        """Write a fact for each index that the mesh does not know, or knows with fewer triggers.

        Each has its table by canonical name, and the SQL of its triggers.
        """
        for table, index, triggers in kept:
            key = f"{VIRTUAL}:{fold(index.name)}"
            fact = IndexFact(table, index.sql, tuple(triggers))
            known = self._registry.facts.of(key)
            if known is not None and not fact.extends(IndexFact.parse(known)):
                continue
            spec = self._registry.tables[table].spec
            plain = not spec.canonical and not any(column.canonical for column in spec.columns)
            text = fact.text()
            if (
                plain
                and self._has_functions(fact)
                and len(text) <= SQL_MAX
                and not index_refusal(spec.sql, fact, index.name)
            ):
                self._registry.facts.write(key, VIRTUAL, text)
                if self._store.meta(f"made/{key}") is None:  # so that `follow` makes none that a program has dropped
                    self._store.meta_set(f"made/{key}", _OWN)

    def follow(self) -> None:
        """Create the indexes that this file lacks, once, and triggers that come to one later, if a node began the file.

        No more rows are filled at a time than the limit. `made/KEY` in `mycomesh_meta` has a digest of the fact that was
        followed, or `_OWN` for an index that a program has made here.
        """
        self.unfinished = False
        if not self._store.meta("began_empty"):
            return
        filled = 0
        for key, text in self._registry.facts.all(VIRTUAL)[:INDEXES_MAX]:
            fact, name = IndexFact.parse(text), key[len(VIRTUAL) + 1 :]
            made, digest = f"made/{key}", hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
            followed = self._store.meta(made)
            if fact is None or followed in (_OWN, digest):
                continue
            there = any(fold(each.name) == name for each in virtual_tables(self._store.db))
            if there and followed in (None, _BEFORE):
                self._store.meta_set(made, _OWN if followed is None else digest)
                continue
            if not there and followed is not None:  # a program has dropped it
                continue
            if filled > FILLED_ROWS_MAX // 2:
                self.unfinished = True
                return
            filled += 0 if there else self._rows(fact)
            refused = self._create(fact, name, there=there)
            if refused is not None:
                self._registry.notes.put(f"index {name}", refused)
            if not refused and refused is not None:
                self._store.meta_set(made, digest)

    def _has_functions(self, fact: IndexFact) -> bool:
        """Return True if the programs of this file can be expected to have the functions that the triggers call."""
        plain = all(geometry.with_private_names(plain_trigger(sql)) == sql for sql in fact.triggers)
        return plain or any(self._registry.defined(name) is not None for name in _MAP_TABLES)

    def _rows(self, fact: IndexFact) -> int:
        """Return how many rows the table of an index has, 0 if it is not here or has more than are filled."""
        here = self._store.db.execute(_TABLE, (fact.table,)).fetchone()
        rows = rows_to_fill(self._store.db, here[0]) if here else 0
        return rows if rows <= FILLED_ROWS_MAX else 0

    def _create(self, fact: IndexFact, name: str, *, there: bool) -> str | None:
        """Create an index, fill it and create its triggers; return why not, "" if done, None if its table is not here.

        Of an index that is `there` already, only triggers are created.
        """
        db, registry = self._store.db, self._registry
        found = db.execute(_TABLE, (fact.table,)).fetchone()
        renamed = fold(registry.names.table(fact.table)) != fact.table
        if found is None or renamed or not registry.admits(fact.table) or not self._has_functions(fact):
            return None
        # Tried on the table of this file: a trigger that names a column which it lacks would make each write fail.
        refused = index_refusal(definition_of(db, found[0]), fact, name)
        if refused:
            return f"not created: {refused}"
        db.execute(f"SAVEPOINT {_SAVEPOINT}")
        try:
            if not there:
                db.execute(fact.sql)
                self._fill(fact, found[0])
            for sql in fact.triggers:
                if (
                    db.execute("SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND sql = ?", (sql,)).fetchone()
                    is None
                ):
                    db.execute(sql)
        except FILE_ERRORS:
            raise
        except apsw.Error as error:
            db.execute(f"ROLLBACK TO {_SAVEPOINT}")
            refused = f"not created: {error}"
        db.execute(f"RELEASE {_SAVEPOINT}")
        return refused

    def _fill(self, fact: IndexFact, table: str) -> None:
        """Enter the rows that the table has; the triggers of an index that starts empty enter the later ones."""
        (index,) = [each for each in virtual_tables(self._store.db) if each.sql == fact.sql]
        refused = fill(self._store.db, index, table, fact.triggers, empty=False)
        if refused:
            raise apsw.SQLError(f"{refused}; a node that begins with an empty file gets it before them")


@functools.lru_cache(maxsize=2 * INDEXES_MAX)
def index_refusal(table: str, fact: IndexFact, name: str) -> str:
    """Return why an index must not enter a user's file, "" if it may; `table` is the definition of its table."""
    if fold(name).startswith((INTERNAL_PREFIX, "sqlite_")) or module_of(fact.sql) not in _MODULES:
        return "it is no R-tree or FTS index"
    triggers = [geometry.with_private_names(plain_trigger(sql)) for sql in fact.triggers]
    if any(word in _FORBIDDEN for sql in (fact.sql, *triggers) for word in map(fold, TOKEN.findall(sql))):
        return "its triggers do more than write it"
    try:
        with scratch(table) as db:
            geometry.register(db)
            execute_one(db, fact.sql, _authorize_index)
            (index,) = virtual_tables(db)
            content = content_of(index)
            if fold(index.name) != fold(name) or (content and fold(content) != fact.table):
                return "it is an index of another table"
            for sql in triggers:
                execute_one(db, sql, _authorize_trigger)
            return _effects(db, fact.table, index.name)
    except (apsw.Error, ValueError) as error:
        return str(error)


def _authorize_index(operation: int, *_names: str | None) -> int:
    """Allow what the module itself does: the statement has no expression."""
    denied = (apsw.SQLITE_ATTACH, apsw.SQLITE_CREATE_TRIGGER, apsw.SQLITE_CREATE_VIEW)
    return apsw.SQLITE_DENY if operation in denied else apsw.SQLITE_OK


def _authorize_trigger(operation: int, *_names: str | None) -> int:
    allowed = (apsw.SQLITE_CREATE_TRIGGER, apsw.SQLITE_INSERT, apsw.SQLITE_READ, apsw.SQLITE_UPDATE)  # of the catalogue
    return apsw.SQLITE_OK if operation in allowed else apsw.SQLITE_DENY


def _effects(db: Any, table: str, index: str) -> str:
    """Compile writes of the table; return what its triggers do beyond writing the index, "" for nothing."""
    beyond: list[str] = []

    def authorize(
        operation: int, first: str | None, second: str | None, _schema: str | None, trigger: str | None
    ) -> int:
        if trigger is None:
            return apsw.SQLITE_OK
        if operation in _WRITES and fold(first or "") != fold(index):
            beyond.append(f"trigger {trigger} writes {first}")
        elif operation == apsw.SQLITE_FUNCTION and fold(second or "") not in _FUNCTIONS:
            beyond.append(f"trigger {trigger} calls {second}")
        elif operation not in (*_WRITES, apsw.SQLITE_FUNCTION, apsw.SQLITE_READ):
            beyond.append(f"trigger {trigger} does more than write it")
        return apsw.SQLITE_OK

    names = [name for (name,) in db.execute("SELECT name FROM pragma_table_info(?) ORDER BY cid", (table,)).fetchall()]
    settings = ", ".join(f"{quoted(name)} = {quoted(name)}" for name in names)
    owners = db.execute("SELECT tbl_name FROM sqlite_schema WHERE type = 'trigger' ORDER BY name").fetchall()
    if any(fold(owner) != fold(table) for (owner,) in owners):
        return "it has a trigger of another table"
    with _authorized(db, authorize):
        for statement in (
            f"INSERT INTO {quoted(table)} DEFAULT VALUES",
            f"UPDATE {quoted(table)} SET {settings}",
            f"DELETE FROM {quoted(table)}",
        ):
            db.execute(f"EXPLAIN {statement}", can_cache=False).close()
    return beyond[0] if beyond else ""


@contextlib.contextmanager
def _authorized(db: Any, authorizer: Any) -> Iterator[None]:
    db.authorizer = authorizer
    try:
        yield
    finally:
        db.authorizer = None
