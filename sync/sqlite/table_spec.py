"""Read the definition of a user table from SQLite's catalogue: its columns, its key and how its rows are identified.

Peers may know a table or a column by another name than this file. The name that peers know is canonical. It is in lower case,
as SQLite compares names without regard to ASCII case.

Invariant: `TableSpec.columns` is sorted by canonical name, the order that the wire format and the digests use.

design.md section 3.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import apsw

from mycomesh.sync import codec
from mycomesh.sync.sqlite.identifiers import INTERNAL_PREFIX, NAME_MAX, fold, is_internal, is_reserved, quoted
from mycomesh.sync.sqlite.indexes import UniqueIndex, key_terms, unique_indexes
from mycomesh.sync.sqlite.raw_text import is_raw, lenient_text, raw_select, restore
from mycomesh.sync.sqlite.refusals import FILE_ERRORS
from mycomesh.sync.sqlite.tokens import readable_sql
from mycomesh.sync.sqlite.virtual_tables import CACHES, VirtualTable, virtual_tables

__all__ = [
    "COLLATIONS",
    "Column",
    "FileSchema",
    "KeyKind",
    "Row",
    "TableSpec",
    "UnsupportedTable",
    "affinity",
    "encode_key",
    "read_table",
    "user_tables",
]

# SQLite returns at most 2,000 columns; `raw_select` takes two for each column, and a read selects key columns twice.
COLUMNS_READ_MAX = 900
# Tables that are looked up one by one after a change of the schema, before the whole catalogue is read: a pass that makes
# tables changes the schema for each of them.
TABLES_READ_SINGLY_MAX = 4
# The node has several entries in the catalogue for each table of the user's, which no pass asks for.
_NOT_INTERNAL = f"NOT LIKE '{INTERNAL_PREFIX.replace('_', '!_')}%' ESCAPE '!'"
SQL_MAX = 65_536  # characters of one definition; a table of fifty columns has a tenth of that
Row = int | bytes  # the name of a row in this file: its rowid, or its encoded key
CONTENT_SHOWN_MAX = 12  # shadow tables that a note names; sqlite-vec has four, and one for each further column
_ROWID_NAMES = ("rowid", "_rowid_", "oid")
COLLATIONS = ("BINARY", "NOCASE", "RTRIM")  # those of SQLite itself


class KeyKind(enum.Enum):
    """How a row is identified across replicas."""

    ROWID = "rowid"  # INTEGER PRIMARY KEY: the integer itself
    KEYED = "keyed"  # any other primary key: the canonical encoding of its columns
    KEYLESS = "keyless"  # no primary key, or one that may repeat: the stamp of the row's insert


class UnsupportedTable(Exception):  # noqa: N818 -- not a failure: the caller reports it once and goes on
    """The table cannot be replicated. The text is the reason, as `status` shows it."""


@dataclass(frozen=True, slots=True)
class Column:
    """One stored column. `default` is SQL text or None; `key` is its 1-based position in the primary key, or 0.

    `canonical` is the name that peers know, "" where that is the folded name of this file.
    """

    name: str
    affinity: str
    collation: str
    not_null: bool
    default: str | None
    key: int
    canonical: str = ""
    folded: str = field(
        init=False, repr=False, compare=False
    )  # the canonical name, by which the column is compared and sent

    def __post_init__(self) -> None:
        object.__setattr__(self, "folded", self.canonical or fold(self.name))

    @property
    def keyed(self) -> str:
        """SQL for this key column of a table `t`, with the collation of the primary key, which may differ from the column's."""
        return f"t.{quoted(self.name)} COLLATE {self.collation}"


@dataclass(frozen=True, slots=True)
class TableSpec:
    """A user table as replication sees it."""

    name: str
    kind: KeyKind
    columns: tuple[Column, ...]
    key: tuple[Column, ...]  # empty for KEYLESS
    rowid: str  # an unshadowed name of the rowid; "" for WITHOUT ROWID
    unique: tuple[UniqueIndex, ...]
    sql: str
    # Canonical name of the INTEGER PRIMARY KEY of a KEYLESS table that keeps both rows of one id; "" for other tables.
    id_column: str = ""
    canonical: str = ""  # the name that peers know, "" where that is the folded name of this file
    generated: tuple[str, ...] = ()  # names of generated columns, which each replica computes

    @property
    def folded(self) -> str:
        """The canonical name, by which peers know the table."""
        return self.canonical or fold(self.name)

    @property
    def lacks_primary_key(self) -> bool:
        """True if the table has no primary key; a KEYLESS table that keeps both rows of one id does have one."""
        return self.kind is KeyKind.KEYLESS and not self.id_column

    @property
    def canonical_names(self) -> dict[str, str]:
        """Canonical names of the columns, by their folded names in this file."""
        return {fold(column.name): column.folded for column in self.columns}

    def to_canonical(self, column: str) -> str:
        """Return the canonical name of a column of this file; its folded name if peers do not know the column."""
        return self.canonical_names.get(fold(column), fold(column))

    def known_as(self, canonical: str, columns: Mapping[str, str]) -> TableSpec:
        """Return this table with canonical names; `columns` maps folded names of this file to them, "" to leave one out."""

        def named(column: Column) -> Column:
            known = columns.get(fold(column.name), fold(column.name))
            return column if known == fold(column.name) else replace(column, canonical=known)

        kept = [named(column) for column in self.columns if columns.get(fold(column.name)) != ""]
        return replace(
            self,
            canonical="" if canonical == fold(self.name) else canonical,
            columns=tuple(sorted(kept, key=lambda column: column.folded)),
            key=tuple(map(named, self.key)),
        )

    @property
    def nullable_key(self) -> bool:
        """True if a row may have a NULL in its key. Such a row is identified like one of a KEYLESS table."""
        return self.kind is KeyKind.KEYED and bool(self.rowid) and any(not column.not_null for column in self.key)

    @property
    def identity(self) -> str:
        """How the table identifies rows, as text; replicas can exchange rows only if theirs is equal."""
        if self.kind is KeyKind.ROWID or self.id_column:
            return f"INTEGER PRIMARY KEY({self.id_column or self.key[0].folded})"
        if self.kind is KeyKind.KEYLESS:
            return "no primary key"
        terms = (f"{column.folded} {column.affinity} COLLATE {column.collation}" for column in self.key)
        return f"PRIMARY KEY({', '.join(terms)}){' that may be NULL' if self.nullable_key else ''}"

    def keeping_both(self) -> TableSpec:
        """Return a ROWID table as one that identifies rows by the stamp of their insert; other tables unchanged."""
        if self.kind is not KeyKind.ROWID:
            return self
        return replace(self, kind=KeyKind.KEYLESS, key=(), id_column=self.key[0].folded)


def user_tables(db: Any, only: Collection[str] | None = None) -> tuple[list[str], list[tuple[str, str]]]:
    """Return (names of ordinary tables, [(name of a skipped table, reason)]) of the main database, sorted by name.

    With `only`, of the tables of these names alone.
    """
    tables: list[str] = []
    skipped: list[tuple[str, str]] = []
    entries = _listed_tables(db) if only is None else _tables_called(db, only)
    # Of some tables alone, any may hold the content of a virtual table that is not among them.
    virtual = (
        {table.name: table for table in virtual_tables(db)}
        if only is not None or any(row[-1] == "virtual" for row in entries)
        else {}
    )
    content = {name for table in virtual.values() for name in table.content}
    for name, kind in entries:
        if is_raw(name):
            skipped.append((name[0].decode(errors="replace"), "its name is not UTF-8"))
            continue
        folded = fold(name)
        if is_reserved(folded):
            if folded.startswith(INTERNAL_PREFIX) and kind == "table" and not is_internal(folded):
                skipped.append((name, f"names that begin with {INTERNAL_PREFIX} are reserved for the node; rename it"))
            continue
        match kind:
            case "table" if folded in CACHES:
                skipped.append((name, CACHES[folded]))
            case "table" if name not in content:
                tables.append(name)
            case "virtual":
                skipped.append((name, _virtual_reason(virtual.get(name))))
            case _:  # views, and the shadow tables of virtual tables
                continue
    return tables, skipped


def _listed_tables(db: Any) -> list[tuple[Any, str]]:
    """Return (name, type) of each table and view of the main database, by name."""
    with contextlib.suppress(UnicodeDecodeError):  # the plain SELECT takes a quarter of the time
        plain = "SELECT name, type FROM pragma_table_list WHERE schema = 'main' ORDER BY name"
        found: list[tuple[Any, str]] = db.execute(plain).fetchall()
        if all(name.isascii() for name, _ in found):  # others may be UTF-16 that is not valid
            return found
    listing = f"SELECT {raw_select('name')}, type FROM pragma_table_list WHERE schema = 'main' ORDER BY name"
    return [(restore(cells)[0], kind) for *cells, kind in db.execute(listing).fetchall()]


def _tables_called(db: Any, names: Collection[str]) -> list[tuple[Any, str]]:
    """Return the same of the tables and views that have one of these names."""
    listing = "SELECT name, type FROM pragma_table_list(?) WHERE schema = 'main'"
    return sorted(itertools.chain.from_iterable(db.execute(listing, (name,)).fetchall() for name in names))


def _virtual_reason(table: VirtualTable | None) -> str:
    """Return why a virtual table is not replicated, and which ordinary tables stay here with it."""
    reason = "it is a virtual table, whose module owns its content"
    if table is None or not table.content:
        return reason
    names = ", ".join(table.content[:CONTENT_SHOWN_MAX]) + (", ..." if len(table.content) > CONTENT_SHOWN_MAX else "")
    return (
        f"{reason}; {names} seem to hold that content and stay here too: if one of them is yours, rename it so that it does"
        f" not begin with {table.name}_"
    )


def read_table(db: Any, name: str) -> TableSpec:
    """Return the spec of one ordinary table.

    Raises:
        UnsupportedTable: the table is missing, or its rows cannot be identified, compared or written.
    """
    try:
        return _read_table(db, name)
    except UnicodeDecodeError:
        raise UnsupportedTable("part of its definition, or of an index on it, is not UTF-8") from None


def _read_table(db: Any, name: str) -> TableSpec:
    # The pragma with an argument looks at that table alone. In a join, SQLite would run it for each entry of the catalogue.
    found = db.execute("SELECT wr, strict FROM pragma_table_list(?) WHERE schema = 'main'", (name,)).fetchone()
    listing = f"SELECT {raw_select('sql')} FROM sqlite_schema WHERE type = 'table' AND name = ?"
    text = db.execute(listing, (name,)).fetchone()
    if found is None or text is None:
        raise UnsupportedTable("no such table")
    without_rowid, strict = bool(found[0]), bool(found[1])
    sql = readable_sql(restore(text)[0])
    if sql is None:
        raise UnsupportedTable("its definition is not UTF-8")
    if len(sql) > SQL_MAX:
        raise UnsupportedTable(f"its definition has {len(sql)} characters; the limit is {SQL_MAX}")
    key_collation = key_terms(db, name)
    columns, generated = _read_columns(db, name, key_collation or {}, strict=strict)
    _check_names(name, columns)
    key = tuple(sorted((column for column in columns if column.key), key=lambda column: column.key))
    if len(columns) + len(key) > COLUMNS_READ_MAX:
        raise UnsupportedTable(
            f"it has {len(columns)} columns; the limit is {COLUMNS_READ_MAX}, and key columns count twice"
        )
    _check_writable(db, name)
    kind = _key_kind(key, without_rowid=without_rowid, indexed=key_collation is not None)
    names = {column.folded for column in columns}
    rowid = "" if without_rowid else next((alias for alias in _ROWID_NAMES if alias not in names), "")
    if kind is KeyKind.ROWID:
        rowid = key[0].name
    elif not without_rowid and not rowid:
        raise UnsupportedTable("its columns hide all three names of the rowid and it has no INTEGER PRIMARY KEY")
    ordered = tuple(sorted(columns, key=lambda column: column.folded))
    return TableSpec(name, kind, ordered, key, rowid, unique_indexes(db, name), sql, generated=generated)


class FileSchema:
    """Cache of the table specs of one file: reads a table again only if SQLite's catalogue has changed for it.

    Reading a table takes a dozen queries. An application that creates its hundredth table must not wait for all of them.
    """

    def __init__(self, db: Any) -> None:
        self._db = db
        self._version = -1
        self._steady = False  # inside `steady`
        # By folded name: the entries of the table, its indexes and its triggers, of all user tables if `_whole`.
        self._entries: dict[str, list[tuple[Any, ...]]] = {}
        self._internal: dict[str, list[tuple[Any, ...]]] = {}  # the same of internal tables
        self._whole = False
        self._extras: bool | None = None  # None: not known
        self._changes = 0
        self._last: dict[str, list[tuple[Any, ...]]] = {}  # as they were read last: equal entries stay one object
        # By folded name: the entries when a spec was last found current, those from which it was read, and the spec.
        self._read: dict[str, tuple[list[tuple[Any, ...]], list[tuple[Any, ...]], TableSpec]] = {}

    def rolled_back(self) -> None:
        """Forget the schema version: after a rollback SQLite may use the same number for another schema."""
        self._version = -1

    def version(self) -> int:
        """Return SQLite's version number of the schema, which each change of the schema increases."""
        return int(self._db.execute("PRAGMA schema_version").fetchone()[0])

    def tables_with_triggers(self) -> frozenset[str]:
        """Return the folded names of the tables that have triggers other than the node's.

        This takes a fraction of the time that the entries of all tables take, and few files have such triggers.
        """
        if not self.has_extras:
            return frozenset()
        users = _catalogue(self._db, f"WHERE type = 'trigger' AND name {_NOT_INTERNAL}", ())
        return frozenset(fold(table) for _, _, table, _ in users)

    def changes(self) -> int:
        """Return a number that grows whenever the schema is found changed, except by the blocks of `altering`."""
        self._renew()
        return self._changes

    @property
    def has_extras(self) -> bool:
        """True if the file has views, virtual tables, or triggers other than the node's: most files have none."""
        self._renew()
        if self._extras is None:
            self._extras = self._db.execute(_EXTRAS).fetchone() is not None
        return self._extras

    def virtual_tables(self) -> tuple[VirtualTable, ...]:
        """Return the virtual tables, by name."""
        return virtual_tables(self._db) if self.has_extras else ()

    @contextlib.contextmanager
    def altering(self, name: str = "") -> Iterator[None]:
        """Keep what is known of other tables while the node makes or captures one, or its own tables; inside a transaction.

        Statements of the block change ordinary tables only, and of these `name` and internal ones. Else each new table would have
        the catalogue read again for all the others.
        """
        known = self.version() == self._version
        try:
            yield
        finally:
            if known:
                self._version = self.version()
                folded = fold(name)
                self._internal = {}
                self._entries.pop(folded, None)
                if name and self._whole:
                    self._entries[folded] = self._listed("WHERE tbl_name = ? COLLATE NOCASE", name).get(folded, [])

    @contextlib.contextmanager
    def steady(self) -> Iterator[None]:
        """Look once whether the catalogue has changed, for all questions of the block, which changes no schema itself."""
        self._renew()
        self._steady = True
        try:
            yield
        finally:
            self._steady = False

    def _renew(self) -> None:
        version = self.version()
        if version != self._version:
            self._version, self._entries, self._whole, self._extras = version, {}, False, None
            self._internal = {}
            self._changes += 1

    def catalogue_entries(self, name: str) -> list[tuple[Any, ...]]:
        """Return (type, name, sql) of a table, its indexes and its triggers in SQLite's catalogue."""
        folded = fold(name)
        if not self._steady:
            self._renew()
        if folded.startswith(INTERNAL_PREFIX):
            if folded not in self._internal:
                self._internal[folded] = self._listed("WHERE tbl_name = ? COLLATE NOCASE", name).get(folded, [])
            return self._internal[folded]
        if folded not in self._entries and not self._whole:
            if len(self._entries) < TABLES_READ_SINGLY_MAX:
                self._entries[folded] = self._listed("WHERE tbl_name = ? COLLATE NOCASE", name).get(folded, [])
            else:
                self._entries, self._whole = self._listed(f"WHERE tbl_name {_NOT_INTERNAL}"), True
                self._read = {read: spec for read, spec in self._read.items() if read in self._entries}
                self._last = {read: entries for read, entries in self._last.items() if read in self._entries}
        return self._entries.get(folded, [])

    def _listed(self, condition: str = "", *values: str) -> dict[str, list[tuple[Any, ...]]]:
        listed: dict[str, list[tuple[Any, ...]]] = {}
        for kind, own, table, sql in _catalogue(self._db, condition, values):
            listed.setdefault(fold(table), []).append((kind, own, sql))
        for table, entries in listed.items():
            if self._last.get(table) == entries:
                listed[table] = self._last[table]
            else:
                self._last[table] = entries
        return listed

    def spec(self, name: str) -> TableSpec:
        """Return the spec of one ordinary table; raise `UnsupportedTable` as `read_table` does."""
        entries, known = self.catalogue_entries(name), self._read.get(fold(name))
        if known is not None and known[0] is entries:
            return known[2]
        own = [entry for entry in entries if entry[0] != "trigger" and not entry[1].startswith(INTERNAL_PREFIX)]
        spec = known[2] if known is not None and known[1] == own else read_table(self._db, name)
        self._read[fold(name)] = entries, own, spec
        return spec


_EXTRAS = (
    f"SELECT 1 FROM sqlite_schema WHERE type = 'view' OR (type = 'trigger' AND name NOT GLOB '{INTERNAL_PREFIX}*')"
    " OR (type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%') LIMIT 1"
)


def _catalogue(db: Any, condition: str, values: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Return (type, name, table, sql) of entries of SQLite's catalogue."""
    try:  # the plain SELECT takes a quarter of the time
        listing = f"SELECT type, name, tbl_name, coalesce(sql, 'None') FROM sqlite_schema {condition}"
        found: list[tuple[str, str, str, str]] = db.execute(listing, values).fetchall()
    except UnicodeDecodeError:
        columns = ", ".join(map(raw_select, ("name", "tbl_name", "sql")))
        raw = db.execute(f"SELECT type, {columns} FROM sqlite_schema {condition}", values).fetchall()
        return [(kind, *map(lenient_text, restore(cells))) for kind, *cells in raw]
    return found


def _check_names(table: str, columns: Sequence[Column]) -> None:
    if not columns:
        raise UnsupportedTable("it has no stored columns")
    for name in (table, *(column.name for column in columns)):
        if not name:
            raise UnsupportedTable("a name in it is empty")
        if len(name) > NAME_MAX:
            raise UnsupportedTable(f"a name in it has {len(name)} characters; the limit is {NAME_MAX}")


def _check_writable(db: Any, table: str) -> None:
    """Compile a write, for which SQLite needs every function and collation of the table's indexes and constraints."""
    try:  # not cached: SQLite has crashed when it compiled a cached EXPLAIN again after a change of the schema
        db.execute(f"EXPLAIN INSERT INTO {quoted(table)} DEFAULT VALUES", can_cache=False).close()
    except FILE_ERRORS:
        raise  # of this moment, while what follows is about the table
    except apsw.Error as error:
        raise UnsupportedTable(f"this node cannot write it: {error}") from error


def _key_kind(key: tuple[Column, ...], *, without_rowid: bool, indexed: bool) -> KeyKind:
    if not key:
        return KeyKind.KEYLESS
    # An INTEGER PRIMARY KEY is the rowid itself, and the only primary key without an index of its own.
    if not without_rowid and not indexed:
        return KeyKind.ROWID
    return KeyKind.KEYED


def _read_columns(
    db: Any, table: str, key_collation: Mapping[str, str], *, strict: bool
) -> tuple[list[Column], tuple[str, ...]]:
    """Return the stored columns, and the names of the generated columns."""
    columns, generated = [], []
    listing = 'SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?) ORDER BY cid'
    for name, declared, not_null, default, key, hidden in db.execute(listing, (table,)).fetchall():
        if hidden:
            generated.append(name)
            continue
        collation = key_collation.get(name, "BINARY")
        if collation not in COLLATIONS:
            raise UnsupportedTable(
                f"its key column {name!r} uses the collation {collation}, which only the application defines"
            )
        columns.append(Column(name, affinity(declared, strict=strict), collation, bool(not_null), default, key))
    return columns, tuple(generated)


def affinity(declared: str, *, strict: bool = False) -> str:
    """Return the type affinity of a declared type.

    SQLite documentation, "Determination Of Column Affinity".
    """
    text = declared.upper()
    if "INT" in text:
        return "INTEGER"
    if any(word in text for word in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if not text or "BLOB" in text or (strict and text == "ANY"):
        return "BLOB"
    if any(word in text for word in ("REAL", "FLOA", "DOUB")):
        return "REAL"
    return "NUMERIC"


# Types of key values that are equal only where their encodings are, under the collation BINARY.
_AS_THEY_ARE = frozenset({int, str, bytes})


def encode_key(spec: TableSpec, values: tuple[Any, ...]) -> bytes:
    """Return the row key of a KEYED row: the bytes are equal exactly where SQLite's unique index sees equal keys."""
    return codec.encode([_comparable(value, column.collation) for value, column in zip(values, spec.key, strict=True)])


def encode_keys(spec: TableSpec, keys: Sequence[tuple[Any, ...]]) -> list[bytes]:
    """Return the row keys of many rows, as `encode_key` does for one."""
    kinds = set(map(type, itertools.chain.from_iterable(keys)))
    if kinds <= _AS_THEY_ARE and all(column.collation == "BINARY" for column in spec.key):
        return list(map(codec.encode, keys))
    return [encode_key(spec, key) for key in keys]


def _comparable(value: Any, collation: str) -> Any:
    if type(value) is float and value.is_integer() and -(2.0**63) <= value < 2.0**63:
        return int(value)
    if type(value) is str:
        return _collated(value.encode(), collation).decode() if collation != "BINARY" else value
    return [_collated(value[0], collation)] if is_raw(value) else value


def _collated(text: bytes, collation: str) -> bytes:
    """Return the form that all texts which are equal under one of SQLite's collations share."""
    if collation == "RTRIM":
        return text.rstrip(b" ")
    if collation == "NOCASE":  # NOCASE compares up to a NUL, and then the lengths
        head, nul, tail = text.lower().partition(b"\0")
        return head + nul + b"\0" * len(tail)
    return text
