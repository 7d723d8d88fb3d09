"""Order by score: the rows of a table whose score column has the greatest numbers, for a stream to send before the others.

A stream reads by site and clock, since its windows are what the receiver covers. Rows in the order of their scores go between
its chunks, as whole rows without a window, and the windows leave out what has gone so. Half of a slow link is theirs, so that a
stream that breaks off again and again still makes progress.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.sqlite.identifiers import fold, quoted
from mycomesh.sync.sqlite.table_spec import KeyKind, Row
from mycomesh.sync.storage.batch_join import join_numbers
from mycomesh.sync.storage.log_reader import read_rows
from mycomesh.sync.storage.table import Table
from mycomesh.sync.storage.unit import Unit
from mycomesh.sync.wire.bundle import Group, filtered

__all__ = ["ROWS_AT_ONCE", "WAITING_MAX", "ScoreOrder"]

# Entries looked at for one chunk, some milliseconds. Rows that wait in their order; the lowest beyond these go with the windows.
LOOKED_AT_MAX = 1_024
WAITING_MAX = 65_536
ROWS_AT_ONCE = 64

_Stamp = tuple[bytes, int]  # site, clock


@dataclass(slots=True)
class ScoreOrder:
    """The rows of one table that a stream has still to send, by the numbers in one column."""

    column: str  # its name here
    _seen: dict[int, int] = field(default_factory=dict)  # site number -> the clock up to which entries were looked at
    # A heap of (-score, count, row, stamp of the row's newest entry among those looked at).
    _waiting: list[tuple[float, int, Row, _Stamp]] = field(default_factory=list)
    _count: int = 0
    _sent: set[_Stamp] = field(default_factory=set)  # that no window has passed yet
    _is_due: bool = False  # the next chunk of the table is one of these rows

    def next(self, unit: Unit, have: Vector, bytes_max: int) -> list[Group]:
        """Return the entries of the next rows, at most so many bytes or one row.

        Empty at every second call, when the windows go on, and if no row with a score waits.
        """
        self._is_due = not self._is_due
        column = next((each for each in unit.table.spec.columns if each.folded == fold(self.column)), None)
        if column is None or not self._is_due:
            return []
        self._look(unit, have, quoted(column.name))
        first: dict[Row, tuple[float, int, Row, _Stamp]] = {}
        while self._waiting and len(first) < ROWS_AT_ONCE:
            item = heapq.heappop(self._waiting)
            if item[3] not in self._sent and not have.covers(*item[3]):
                first.setdefault(item[2], item)
        if not first:
            return []
        parts, count = read_rows(unit.table, list(first), bytes_max=bytes_max)
        for item in list(first.values())[count:]:
            heapq.heappush(self._waiting, item)
        groups = parts[0]
        self._sent.update((group.site, hlc) for group in groups for hlc in group.hlcs)
        return groups

    def rest(self, groups: list[Group]) -> list[Group]:
        """Return the groups of a window without the changes that have gone before."""
        if not self._sent:
            return groups
        left = [filtered(group, [(group.site, hlc) not in self._sent for hlc in group.hlcs]) for group in groups]
        self._sent.difference_update((group.site, hlc) for group in groups for hlc in group.hlcs)
        return [group for group in left if group.hlcs]

    def _wait(self, score: float, row: Row, stamp: _Stamp) -> None:
        self._count += 1
        heapq.heappush(self._waiting, (-score, self._count, row, stamp))
        if len(self._waiting) > WAITING_MAX:
            self._waiting = heapq.nsmallest(WAITING_MAX // 2, self._waiting)  # sorted, so still a heap

    def _look(self, unit: Unit, have: Vector, column: str) -> None:
        """Look at the next entries that the peer lacks."""
        table, room = unit.table, LOOKED_AT_MAX
        for site, (after, upto) in unit.vouched.missing_from(have):
            number = table.store.site_number(site)
            if number is None or room <= 0:
                continue
            first = max(after, self._seen.get(number, 0))
            found = [each for each in table.log.scan(number, first, room) if each[0] == number and each[1] <= upto]
            room -= len(found)
            if found:
                self._seen[number] = found[-1][1]
                newest = {each[2]: each[1] for each in found}
                for row, score in _scores(table, column, list(newest)):
                    self._wait(score, row, (site, newest[row]))


def _scores(table: Table, column: str, rows: list[Row]) -> list[tuple[Row, float]]:
    """Return the rows that have a number in a column, with it."""
    spec, db = table.spec, table.store.db
    if spec.kind is not KeyKind.KEYED:
        rowid = quoted(spec.rowid)
        numbers = [row for row in rows if isinstance(row, int)]
        is_number = f"typeof(t.{column}) IN ('integer', 'real')"
        listing = join_numbers(db, f"t.{rowid}, t.{column}", quoted(spec.name), rowid, numbers, is_number)
        return [(row, float(score)) for row, score in listing]
    found = []
    for row in rows:
        where = table.rows.condition(row) if isinstance(row, bytes) else None
        if where is not None:
            query = f"SELECT t.{column} FROM {quoted(spec.name)} t WHERE {where[0]} AND typeof(t.{column}) IN ('integer', 'real')"
            score = db.execute(query, where[1]).fetchone()
            found += [(row, float(score[0]))] if score is not None else []
    return found
