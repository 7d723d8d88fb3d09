"""Reads one page of the feed as windows of the change log: which changes there are, and not what their rows are by now.

A reader with a connection of its own to the file joins the log with the table in the transaction that moves its cursor
(`tools.flows.set_function`). So the rows are neither read here nor sent.
"""

from __future__ import annotations

from dataclasses import dataclass

from mycomesh.sync.feed.position import Position
from mycomesh.sync.feed.touched import Touched
from mycomesh.sync.sqlite.table_spec import KeyKind
from mycomesh.sync.storage.change_log import changes_name
from mycomesh.sync.storage.insert_runs import RUN_MAX, runs_name
from mycomesh.sync.storage.pending_log import pending_name
from mycomesh.sync.storage.table import Table

__all__ = ["SET_ROWS_MAX", "LogWindow", "SetPage", "read_windows"]

SET_ROWS_MAX = 16_384  # changes of a page; their reader holds the file while it writes their results


@dataclass(frozen=True, slots=True)
class LogWindow:
    """The changes of one site in `(after, reached]` of its clock.

    site: 16 bytes.
    place: the number by which this file's log knows the site.
    count: how many entries the log has there; deletes are among them.
    """

    site: bytes
    place: int
    after: int
    reached: int
    count: int


@dataclass(frozen=True, slots=True)
class SetPage:
    """Windows of one table's change log, and the position behind them.

    table: the table's name in this file.
    log, runs, pending: names of the tables with its entries, its packed inserts, and its writes without a stamp.
    rowid: a name of the rowid, "" for a table without one.
    keyless: whether the stamp of an insert names a row, which has a rowid only until it is deleted.
    key: (name, collation) of the columns that name a row; empty where the rowid does.
    more: whether the table has further changes.
    """

    table: str
    log: str
    runs: str
    pending: str
    rowid: str
    keyless: bool
    key: tuple[tuple[str, str], ...]
    windows: tuple[LogWindow, ...]
    before: Position
    position: Position
    more: bool

    @property
    def count(self) -> int:
        """How many changes it has."""
        return sum(window.count for window in self.windows)

    def after(self, count: int) -> Position:
        """Return the position behind the page if all of it is done with, else that before it."""
        return (self.position if count >= self.count else self.before).copy()


def read_windows(table: Table, touched: Touched | None, position: Position, *, rows_max: int) -> SetPage | None:
    """Return the next page of one table; inside a read transaction in which everything is stamped.

    None if the page would have rows that no stamp shows, or nothing: then `read_page` reads it.
    """
    rows, windows, more, behind = 0, list[LogWindow](), False, position.copy()
    for site, (after, upto) in table.coverage.vector.missing_from(position.seen):
        if rows >= rows_max:
            more = True
            break
        place = table.store.site_number(site)
        reached, count = (upto, 0) if place is None else _reach(table, place, after, upto, rows_max - rows)
        behind.seen.add(site, after, reached)
        rows += count
        more = more or reached < upto
        if place is not None and count:
            windows.append(LogWindow(site, place, after, reached, count))
    if not windows or (touched is not None and not more and touched.after(table, position.touched, 1)):
        return None
    behind.settle()
    spec, number = table.spec, table.table_id
    return SetPage(
        spec.name,
        changes_name(number),
        runs_name(number),
        pending_name(number),
        spec.rowid,
        spec.kind is KeyKind.KEYLESS,
        tuple((column.name, column.collation) for column in spec.key) if spec.kind is KeyKind.KEYED else (),
        tuple(windows),
        position,
        behind,
        more,
    )


def _reach(table: Table, place: int, after: int, upto: int, limit: int) -> tuple[int, int]:
    """Return the clock up to which a window has at most `limit` entries, and how many these are."""
    db, log = table.store.db, table.log
    count, at = 0, after
    runs = db.execute(
        f"SELECT hlc, n FROM {log.runs.name} WHERE place = ? AND hlc > ? - {RUN_MAX} AND hlc + n > ? + 1 AND hlc <= ?"
        " ORDER BY hlc",
        (place, after, after, upto),
    )
    for first, n in [*runs.fetchall(), (upto + 1, 0)]:
        # The plain entries before the run, then the run: their clocks do not interleave.
        if first - 1 > at:
            found, last = db.execute(
                f"SELECT count(*), max(hlc) FROM (SELECT hlc FROM {log.name} WHERE place = ? AND hlc > ? AND hlc <= ?"
                " ORDER BY hlc LIMIT ?)",
                (place, at, first - 1, limit - count),
            ).fetchone()
            count += found
            if count >= limit:
                return last, count
            at = first - 1
        taken = min(first + n - 1, upto) - at
        if first <= upto and count + taken >= limit:
            return at + limit - count, limit
        if first <= upto:
            count, at = count + taken, at + taken
    return upto, count
