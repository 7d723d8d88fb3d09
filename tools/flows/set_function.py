"""A flow's SQL as one statement for many changes: their rows are read where they are, by a join of the change log with the table.

The node says only which windows of the log are to be taken in (`sync.feed.windows`). The join runs in the transaction that
moves the cursor, so that log and rows belong together. It is done for statements that make at most one result of each row;
results and their keys are those of the statement for each change (`sql_function`), which does what fails here once more.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import apsw
import apsw.ext

from mycomesh.sync import codec
from mycomesh.sync.sqlite.identifiers import INTERNAL_PREFIX, fold, quoted
from mycomesh.sync.sqlite.raw_text import is_raw
from mycomesh.sync.storage.insert_runs import RUN_MAX
from mycomesh.tools.flows.row_wise import names_table, row_wise
from mycomesh.tools.flows.sql_function import DERIVED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mycomesh.tools.flows.settings import FlowSettings
    from mycomesh.tools.flows.sql_function import SqlFunction

__all__ = ["Bounds", "Join", "LogSet", "SetFunction", "UnfitError"]

_KEY, _PART = "mycomesh_flow_dot_key", "mycomesh_flow_part"
_MADE = "mycomesh_made_key"  # a column of `new` for the keys that the statement does not make
# As `hlc.time_text` writes it; the upper 48 bits are the milliseconds.
_TIME = "strftime('%Y-%m-%dT%H:%M:%f', (({hlc}) >> 16) / 1000.0, 'unixepoch') || '+00:00'"
_STATEFUL = frozenset({"changes", "last_insert_rowid", "total_changes"})


# (site number, after, reached) of entries; (first row, last row, what a clock is above its row) of packed inserts
Bounds = tuple[int, int, int]


class UnfitError(Exception):
    """These changes have to go in one by one."""


@dataclass(frozen=True, slots=True)
class LogSet:
    """Changes of one table as windows of its log; `sync.feed.windows.SetPage` says what each field is.

    windows: (site in hexadecimal, its number in the log, after, reached, count, name of its node).
    """

    table: str
    log: str
    runs: str
    pending: str
    rowid: str
    keyless: bool
    key: Sequence[tuple[str, str]]
    windows: Sequence[tuple[str, int, int, int, int, str]]
    count: int

    @property
    def shape(self) -> tuple[Any, ...]:
        """The names in the text of a statement."""
        return self.table, self.log, self.rowid, tuple(map(tuple, self.key))


@dataclass(frozen=True, slots=True)
class Join:
    """How entries of the log, or its packed inserts, are joined with the table `t`.

    hlc, row: SQL for the clock and the name of a row.
    source: FROM and WHERE; the first three parameters are `Bounds`.
    packed: whether they are packed inserts.
    """

    hlc: str
    row: str
    source: str
    packed: bool

    def narrow(self, bounds: Bounds, hlc: int) -> Bounds:
        """Return the bounds of one change."""
        return (hlc - bounds[2], hlc - bounds[2], bounds[2]) if self.packed else (bounds[0], hlc - 1, hlc)


class SetFunction:
    """The SQL of one flow for sets, on one connection."""

    def __init__(self, db: apsw.Connection, settings: FlowSettings, function: SqlFunction) -> None:
        """Take the function for one row, whose keys and conflicts these are too."""
        self._db = db
        self._settings = settings
        self._function = function
        self._texts: dict[tuple[Any, ...], tuple[str, str]] = {}  # shape -> statements over entries, and over runs
        db.create_scalar_function(_KEY, self._key, 1, deterministic=True)
        db.create_scalar_function(_PART, _key_part, 2, deterministic=True)

    def _key(self, *arguments: Any) -> Any:
        (dot,) = arguments
        return self._function.derive(self._settings.name, dot, 1)

    def forget(self) -> None:
        """Read the shapes of the tables again."""
        self._texts.clear()

    def fits(self, columns: Sequence[str]) -> bool:
        """Return whether the SQL may run for sets of rows with these columns; the function for one row is compiled."""
        settings, keyed = self._settings, self._is_keyed
        on = row_wise(settings.select, settings.table) if settings.select else None
        if settings.select and (on is None or names_table(settings.select, "new")):
            return False
        made = row_wise(settings.function.sql, "new")
        if (
            made is None
            or (made.star and keyed)
            or (settings.select and names_table(settings.function.sql, settings.table))
        ):
            return False
        values = ", ".join([*map(quoted, columns), *["''"] * (len(DERIVED) + keyed)])
        try:
            text = self._with_new(columns, f"SELECT {values} FROM main.{quoted(settings.table)}", inserts=False)
            actions = apsw.ext.query_info(self._db, text, actions=True).actions or []
        except apsw.Error:
            return False
        return all(map(self._is_plain, actions)) and not self._has_triggers()

    def _is_plain(self, action: Any) -> bool:
        """Return whether what SQLite does for a statement leaves each row to itself."""
        within = fold(action.trigger_or_view or "")
        if within.startswith(INTERNAL_PREFIX):  # capture
            return True
        if within not in ("", "new", fold(self._settings.table)):
            return False
        if action.action_name == "SQLITE_READ":
            return fold(action.table_name) != fold(self._settings.into)
        return action.action_name != "SQLITE_FUNCTION" or fold(action.function_name) not in self._strange

    @functools.cached_property
    def _strange(self) -> frozenset[str]:
        """Functions that look at several rows, or at the connection."""
        found = self._db.execute("SELECT lower(name) FROM pragma_function_list WHERE type IN ('a', 'w') ORDER BY 1")
        return _STATEFUL | {name for (name,) in found}

    def _has_triggers(self) -> bool:
        """Return whether the results start triggers of a program."""
        listing = "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND lower(tbl_name) = ? ORDER BY name"
        names = self._db.execute(listing, (fold(self._settings.into),)).fetchall()
        return not all(fold(name).startswith(INTERNAL_PREFIX) for (name,) in names)

    @property
    def _is_keyed(self) -> bool:
        """Whether keys of the results are derived."""
        insertion = self._function.insertion
        return insertion is not None and bool(insertion.missing)

    def run(self, page: LogSet, columns: Sequence[str], own: str) -> int:
        """Write the results of the windows of sites that begin with `own`; inside a transaction. Return how many changes went in.

        Raises:
            UnfitError: a row was written again meanwhile, or is known by a name that SQL cannot find.
            apsw.Error: the statement fails for one of the rows.
        """
        texts = self._texts.get(page.shape)
        if texts is None:
            texts = self._texts[page.shape] = self._compile(page, columns)
        count = 0
        for site, place, after, reached, entries, who in page.windows:
            if site.startswith(own):
                count += entries - self._deletes(page, place, after, reached)
                dots = f"{page.table}/{site}/"
                for join, bounds in self.stretches(page, place, after, reached):
                    self._db.execute(texts[join.packed], (*bounds, dots, who))
        return count

    def stretches(self, page: LogSet, place: int, after: int, reached: int) -> Iterator[tuple[Join, Bounds]]:
        """Yield what a window consists of, in the order of the clocks.

        Raises:
            UnfitError: as `run`.
        """
        self._check(page, place, after, reached)
        entries, runs = _joins(page)
        at = after
        for first, last, row in self._segments(page, place, after, reached):
            if first - 1 > at:
                yield entries, (place, at, first - 1)
            yield runs, (row, row + last - first, first - row)
            at = last
        if at < reached:
            yield entries, (place, at, reached)

    def _deletes(self, page: LogSet, place: int, after: int, reached: int) -> int:
        listing = f"SELECT count(*) FROM {page.log} WHERE place = ? AND hlc > ? AND hlc <= ? AND mask IS 0"
        found: Any = self._db.execute(listing, (place, after, reached)).fetchone()
        return int(found[0])

    def _check(self, page: LogSet, place: int, after: int, reached: int) -> None:
        """Raise `UnfitError` if the rows of a window may not be those that its entries mean."""
        window = "place = ? AND hlc > ? AND hlc <= ?"
        if page.key:  # a row with a NULL in its key has the rowid for a name
            found = f"SELECT 1 FROM {page.log} WHERE {window} AND typeof(row) = 'integer' LIMIT 1"
            if self._db.execute(found, (place, after, reached)).fetchone():
                raise UnfitError
        if page.keyless and self._db.execute(f"SELECT 1 FROM {page.pending} WHERE what <> -1 LIMIT 1").fetchone():
            raise UnfitError  # a rowid may have gone to another row

    def _segments(self, page: LogSet, place: int, after: int, reached: int) -> Iterator[tuple[int, int, int]]:
        """Yield (first clock, last clock, first row) of packed inserts whose clocks and rows go on together."""
        first = last = row = 0
        runs: Any = self._db.execute(
            f"SELECT hlc, n, row FROM {page.runs} WHERE place = ? AND hlc > ? - {RUN_MAX} AND hlc + n > ? + 1 AND hlc <= ?"
            " ORDER BY hlc",
            (place, after, after, reached),
        ).fetchall()
        for hlc, n, start in runs:
            skipped = max(0, after + 1 - hlc)
            begin, end = hlc + skipped, min(hlc + n - 1, reached)
            if last and begin == last + 1 and start + skipped == row + begin - first:
                last = end
                continue
            if last:
                yield first, last, row
            first, last, row = begin, end, start + skipped
        if last:
            yield first, last, row

    # ---- the statements

    def _compile(self, page: LogSet, columns: Sequence[str]) -> tuple[str, str]:
        values = ", ".join(f"t.{quoted(name)}" for name in columns)
        entries, runs = (
            self._with_new(columns, f"SELECT {values}, {self._derived(join.hlc)} {join.source}")
            for join in _joins(page)
        )
        return entries, runs

    def _derived(self, hlc: str) -> str:
        """Return the columns of `new` beside those of the table; ?4 is what the id has before the clock, ?5 the writer."""
        made = f"?4 || {hlc}", f"{_KEY}(?4 || {hlc})", "?5", f"{_TIME.format(hlc=hlc)}"
        return ", ".join([*made, *[f"{_KEY}(?4 || {hlc})"] * self._is_keyed])

    def _with_new(self, columns: Sequence[str], rows: str, *, inserts: bool = True) -> str:
        """Return the statement for the rows that a SELECT finds; it inserts, unless it is a SELECT that should not."""
        settings, insertion = self._settings, self._function.insertion
        keyed = [_MADE] * self._is_keyed
        names = ", ".join(map(quoted, [*columns, *DERIVED, *keyed]))
        tables, sql = f"new({names}) AS ({rows})", settings.function.sql
        if settings.select:
            select = _with_key(settings.select, settings.table, keyed)
            tables = f"{quoted(settings.table)}({names}) AS ({rows}), new AS ({select})"
        text = f"WITH {tables} {_with_key(sql, 'new', keyed)}"
        if insertion is None or not inserts:
            return text
        return insertion.text(f"SELECT * FROM ({text}) WHERE true")


def _joins(page: LogSet) -> tuple[Join, Join]:
    """Return how the log's entries, and its packed inserts, are joined with the table."""
    table = f"main.{quoted(page.table)} t"
    rowid = f"t.{quoted(page.rowid)}" if page.rowid else "0"
    found = f"{rowid} = c.row"
    if page.key:
        found = " AND ".join(
            f"t.{quoted(name)} COLLATE {quoted(collation)} = {_PART}(c.row, {number})"
            for number, (name, collation) in enumerate(page.key)
        )
    # Of the two tables, the log is read in the order of its clocks.
    entries = (
        f"FROM main.{page.log} c CROSS JOIN {table} ON {found}"
        " WHERE c.place = ?1 AND c.hlc > ?2 AND c.hlc <= ?3 AND c.mask IS NOT 0"
    )
    runs = f"FROM {table} WHERE {rowid} BETWEEN ?1 AND ?2"
    return Join("c.hlc", "c.row", entries, packed=False), Join(f"({rowid} + ?3)", rowid, runs, packed=True)


def _with_key(sql: str, source: str, keyed: Sequence[str]) -> str:
    """Return a SELECT with the key of the change behind its columns, unless `*` has it already."""
    found = row_wise(sql, source)
    assert found is not None, "it fits"
    if not keyed or found.star:
        return sql
    return f"{sql[: found.list_end]}, {_MADE}{sql[found.list_end :]}"


def _key_part(*arguments: Any) -> Any:
    """Return one value of the encoded key of a row, None for a name that no row of the table has."""
    row, number = arguments
    if not isinstance(row, bytes) or row[:1] == b"\x00":
        return None
    value = codec.decode(row, bytes_max=len(row))[number]
    if is_raw(value):
        raise UnfitError
    return value
