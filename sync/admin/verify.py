"""Compare two database files, table by table and value by value, as any SQLite client reads them.

Both files are opened read-only. They need not be replicas, as the change log is not read. Each table is read from both files
in the same order and merged like two sorted lists. No table is held in memory, because SQLite sorts on disk where no index
gives the order. Values are compared by type and by their exact bytes, which needs no collation of an application. Implicit
rowids are not compared, nor generated columns that only the application's functions compute: they follow from the others.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from mycomesh.sync.errors import DatabaseError
from mycomesh.sync.schema.table_filter import owner_of
from mycomesh.sync.sqlite.definitions import accept_collations
from mycomesh.sync.sqlite.file_format import format_of
from mycomesh.sync.sqlite.identifiers import fold, quoted
from mycomesh.sync.sqlite.table_spec import COLLATIONS, user_tables

__all__ = ["Difference", "TableComparison", "compare_files"]

SHOWN_CHARS = 80  # characters of a value in a difference: enough to recognise it


@dataclass(frozen=True, slots=True)
class Difference:
    """One differing row. `where` is "first" or "second" if only that file has it, else "both"; values are text by column."""

    where: str
    first: dict[str, str] | None
    second: dict[str, str] | None


@dataclass(slots=True)
class TableComparison:
    """Comparison of one table.

    `note` says why its rows cannot be compared; `missing` names what of the definition only the application has; `shown` has
    the first differences.
    """

    table: str
    rows_first: int = 0
    rows_second: int = 0
    only_first: int = 0
    only_second: int = 0
    differing: int = 0
    note: str = ""
    missing: tuple[str, ...] = ()
    shown: list[Difference] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """True if the table holds the same rows in both files."""
        return not (self.only_first or self.only_second or self.differing or self.note)


# One value: its typeof(), and the value itself, text as bytes.
_Cell = tuple[str, Any]


@dataclass(frozen=True, slots=True)
class _Row:
    key: tuple[_Cell, ...]
    cells: tuple[_Cell, ...]


def compare_files(first: Path, second: Path, *, shown_max: int) -> Iterator[TableComparison]:
    """Yield one comparison for each user table of either file, by name.

    Raises:
        DatabaseError: a file is missing, is not an SQLite database, or cannot be read, or the encodings differ.
    """
    with contextlib.closing(_open(first)) as left, contextlib.closing(_open(second)) as right:
        try:
            for db in (left, right):
                db.execute("BEGIN")  # a snapshot of the whole file
            encodings = [db.execute("PRAGMA encoding").fetchone()[0] for db in (left, right)]
            if encodings[0] != encodings[1]:
                raise DatabaseError(
                    f"{first} encodes its text as {encodings[0]} and {second} as {encodings[1]}, which sort in another order;"
                    " compare the hashes of 'mycomesh tables'"
                )
            mine, theirs = _tables(left), _tables(right)
            for folded in sorted({*mine, *theirs}):
                yield _compare(left, right, mine.get(folded), theirs.get(folded), shown_max)
        except apsw.Error as error:
            raise DatabaseError(f"{first} or {second}: {error}; run PRAGMA integrity_check on both") from error


def _open(path: Path) -> Any:
    if not path.is_file():
        raise DatabaseError(f"{path}: there is no such file; check the path")
    uri = f"file:{path.absolute().as_posix().replace('%', '%25').replace('?', '%3f').replace('#', '%23')}?mode=ro"
    try:
        db = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        db.set_busy_timeout(2_000)
        db.execute("PRAGMA temp_store = FILE").fetchall()  # sort large tables on the disk
        accept_collations(db)
        db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    except UnicodeEncodeError as error:
        raise DatabaseError(f"{path}: its path is not UTF-8, and SQLite takes no other; rename the file") from error
    except apsw.Error as error:
        if isinstance(error, apsw.NotADBError) or "unsupported file format" in str(error):
            raise DatabaseError(f"{path}: {format_of(str(path))}") from error
        raise DatabaseError(f"{path}: cannot be read: {error}; check its permissions and those of its -wal") from error
    return db


def _tables(db: Any) -> dict[str, str]:
    """Return the user tables by folded name, without those that stay in their file: virtual ones and other programs' own."""
    return {fold(name): name for name in user_tables(db)[0] if not owner_of(name)}


def _compare(left: Any, right: Any, mine: str | None, theirs: str | None, shown_max: int) -> TableComparison:
    result = TableComparison(mine or theirs or "")
    if mine is None or theirs is None:
        db, name = (left, mine) if mine is not None else (right, theirs)
        count = int(db.execute(f"SELECT count(*) FROM {quoted(name or '')}").fetchone()[0])
        result.note = f"only in the {'first' if mine is not None else 'second'} file"
        result.rows_first, result.rows_second = (count, 0) if mine is not None else (0, count)
        return result
    result.missing = tuple(sorted({*_missing(left, mine), *_missing(right, theirs)}))
    columns, other = _columns(left, mine), _columns(right, theirs)
    if [name for name, _ in columns] != [name for name, _ in other]:
        result.note = f"columns differ: {_names(columns)} in the first file, {_names(other)} in the second"
        return result
    keys = [number for number, (_, key) in enumerate(columns) if key]
    if keys != [number for number, (_, key) in enumerate(other) if key]:
        result.note = "primary keys differ"
        return result
    names = [name for name, _ in columns if _is_readable(left, mine, name) and _is_readable(right, theirs, name)]
    keys = [number for number, name in enumerate(names) if dict(columns)[name]]
    _merge(_rows(left, mine, names, keys), _rows(right, theirs, names, keys), names, result, shown_max)
    return result


def _names(columns: list[tuple[str, bool]]) -> str:
    return ", ".join(name for name, _ in columns)


def _columns(db: Any, table: str) -> list[tuple[str, bool]]:
    """Return (folded name, whether it is in the primary key), sorted by name: the order of added columns may differ."""
    listing = "SELECT name, pk FROM pragma_table_xinfo(?) WHERE hidden <> 1"
    return sorted((fold(name), pk > 0) for name, pk in db.execute(listing, (table,)).fetchall())


def _is_readable(db: Any, table: str, column: str) -> bool:
    """Return False for a generated column that only the application's functions compute."""
    try:
        db.execute(f"EXPLAIN SELECT {quoted(column)} FROM {quoted(table)}", can_cache=False).close()
    except apsw.SQLError:
        return False
    return True


def _missing(db: Any, table: str) -> Iterator[str]:
    """Yield what the definition of a table names and this process has not got: collations and functions."""
    names = [name for (name,) in db.execute("SELECT name FROM pragma_table_xinfo(?) ORDER BY cid", (table,)).fetchall()]
    listing = (
        "SELECT DISTINCT x.coll FROM pragma_index_list(?) l, pragma_index_xinfo(l.name) x WHERE x.coll IS NOT NULL"
    )
    used = [coll for (coll,) in db.execute(f"{listing} ORDER BY 1", (table,)).fetchall()]
    used += [db.column_metadata("main", table, name)[1] for name in names]
    yield from (f"collation {name}" for name in used if name.upper() not in COLLATIONS)
    yield from (f"function for column {name}" for name in names if not _is_readable(db, table, name))


def _rows(db: Any, table: str, names: list[str], keys: list[int]) -> Iterator[_Row]:
    """Yield the rows, ordered by key or, without a key, by all values: by type, then as bytes or numbers compare."""
    selected, order = [], []
    for name in names:
        column = quoted(name)
        value = f"iif(typeof({column}) = 'text', CAST({column} AS BLOB), {column})"
        selected += [f"typeof({column})", value]
        order.append((f"typeof({column})", f"{value} COLLATE BINARY"))
    rest = [number for number in range(len(names)) if number not in keys]  # keys with NULLs are not unique
    terms = [term for number in [*keys, *rest] for term in order[number]]
    if _is_rowid(db, table, [names[number] for number in keys]):
        terms = [quoted(names[keys[0]])]  # SQLite stores the rows in this order
    listing = f"SELECT {', '.join(selected)} FROM {quoted(table)} ORDER BY {', '.join(terms)}"
    rows = (tuple(zip(record[::2], record[1::2], strict=True)) for record in db.execute(listing))
    for cells in rows if keys else _order_zeros(rows):
        yield _Row(tuple(cells[number] for number in keys) if keys else cells, cells)


def _order_zeros(rows: Iterable[tuple[_Cell, ...]]) -> Iterator[tuple[_Cell, ...]]:
    """Yield sorted rows with those in a fixed order that differ only in the sign of a zero, which SQLite calls equal."""
    for cells, equals in itertools.groupby(rows):
        if ("real", 0.0) not in cells:
            yield from equals
            continue
        counts: dict[str, tuple[tuple[_Cell, ...], int]] = {}
        for row in equals:
            counts[repr(row)] = row, counts.get(repr(row), (row, 0))[1] + 1
        for _, (row, count) in sorted(counts.items()):
            yield from itertools.repeat(row, count)


def _is_rowid(db: Any, table: str, keys: list[str]) -> bool:
    """Return True if the key is one column that is an alias of the rowid."""
    if len(keys) != 1:
        return False
    declared, rowid = db.execute(
        "SELECT x.type, NOT l.wr FROM pragma_table_xinfo(?1) x, pragma_table_list(?1) l"
        " WHERE l.schema = 'main' AND lower(x.name) = ?2",
        (table, keys[0]),
    ).fetchone()
    return bool(rowid) and declared.upper() == "INTEGER"


def _merge(
    left: Iterator[_Row], right: Iterator[_Row], names: list[str], result: TableComparison, shown_max: int
) -> None:
    mine, theirs = next(left, None), next(right, None)
    while mine is not None or theirs is not None:
        ahead = 0 if mine is None or theirs is None else (mine.key > theirs.key) - (mine.key < theirs.key)
        here = mine if theirs is None or ahead <= 0 else None
        there = theirs if mine is None or ahead >= 0 else None
        result.rows_first += here is not None
        result.rows_second += there is not None
        if here is None or there is None or not _same(here, there):
            result.only_first += there is None
            result.only_second += here is None
            result.differing += here is not None and there is not None
            if len(result.shown) < shown_max:
                result.shown.append(_difference(here, there, names))
        if here is not None:
            mine = next(left, None)
        if there is not None:
            theirs = next(right, None)


def _same(here: _Row, there: _Row) -> bool:
    """Return True if two rows are stored alike. 0.0 and -0.0 compare equal, but are not stored alike."""
    return here.cells == there.cells and (("real", 0.0) not in here.cells or repr(here.cells) == repr(there.cells))


def _difference(here: _Row | None, there: _Row | None, names: list[str]) -> Difference:
    where = "second" if here is None else "first" if there is None else "both"
    return Difference(where, _texts(here, names), _texts(there, names))


def _texts(row: _Row | None, names: list[str]) -> dict[str, str] | None:
    return None if row is None else {name: _text(*cell) for name, cell in zip(names, row.cells, strict=True)}


def _text(kind: str, value: Any) -> str:
    """Return a value as an SQL literal, shortened if it is long."""
    match kind:
        case "null":
            text = "NULL"
        case "text":
            text = "'" + value[:SHOWN_CHARS].decode(errors="replace").replace("'", "''") + "'"
        case "blob":
            text = f"x'{value[: SHOWN_CHARS // 2].hex()}'"
        case _:
            text = repr(value)
    long = kind in ("text", "blob") and len(value) > (SHOWN_CHARS if kind == "text" else SHOWN_CHARS // 2)
    return f"{text}... ({len(value)} bytes)" if long else text
