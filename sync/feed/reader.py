"""Reads one page of the feed: the changes of a table beyond a position, with the values that the rows have by now.

The caller reads in a transaction in which every captured write has its stamp (`Outbox.read_drained`). A row that is not in the
user's table is left out, unless it was deleted: a constraint refuses it for now, or its insert is still to come.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from mycomesh.sync import codec
from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.errors import DecodeError
from mycomesh.sync.feed.change import DELETE, INSERT, UPDATE, Change
from mycomesh.sync.feed.position import Position
from mycomesh.sync.feed.touched import Touched
from mycomesh.sync.merge.records import key_text
from mycomesh.sync.sqlite.indexes import column_names
from mycomesh.sync.sqlite.table_spec import KeyKind, Row
from mycomesh.sync.storage.change_log import unpack_mask
from mycomesh.sync.storage.log_reader import entries_in
from mycomesh.sync.storage.table import Table, insert_key

__all__ = ["PAGE_BYTES_MAX", "PAGE_ROWS_MAX", "Page", "read_page"]

PAGE_ROWS_MAX = 1_024
PAGE_BYTES_MAX = 1 << 20  # and one change, which may have 20 MiB

_SIZED = frozenset((str, bytes))
# (site, after, reached): the part of a site's clock that a page has read
Window = tuple[bytes, int, int]


@dataclass(slots=True)
class Page:
    """Changes in the order of their clocks, and the position behind them.

    more: whether the table has further changes.
    """

    changes: list[Change]
    before: Position
    position: Position
    windows: list[Window]
    more: bool

    @property
    def count(self) -> int:
        """How many changes it has."""
        return len(self.changes)

    def after(self, count: int) -> Position:
        """Return the position behind the first `count` changes."""
        if count >= len(self.changes):
            return self.position.copy()
        done: dict[bytes, int] = {}
        position = self.before.copy()
        for change in self.changes[:count]:
            if change.touched:
                position.touched = max(position.touched, change.touched)
            else:
                done[change.site] = change.hlc
        left = {change.site for change in self.changes[count:] if not change.touched}
        for site, after, reached in self.windows:
            position.seen.add(site, after, done.get(site, after) if site in left else reached)
        position.settle()
        return position


def read_page(table: Table, touched: Touched | None, position: Position, *, rows_max: int, bytes_max: int) -> Page:
    """Return the next page of one table; inside a read transaction in which everything is stamped.

    Each window is read upwards, so that a page which is full leaves the rest of it to the next one.
    """
    rows, shape = 0, _Shape(table)
    page = Page([], position, position.copy(), [], more=False)
    size = 0
    for site, (after, upto) in table.coverage.vector.missing_from(position.seen):
        if rows >= rows_max or size >= bytes_max:
            page.more = True
            break
        site_number = table.store.site_number(site)
        reached = after
        if site_number is not None:
            for hlc, row, packed_mask, _, values in entries_in(table, site_number, after, upto, rows_max - rows):
                if size >= bytes_max:
                    break
                rows += 1
                reached = hlc
                change = shape.change(site, hlc, row, packed_mask, values, position.start)
                if change is not None:
                    page.changes.append(change)
                    size += _size(values)
            else:
                reached = upto if rows < rows_max else reached
        else:
            reached = upto
        page.windows.append((site, after, reached))
        page.position.seen.add(site, after, reached)
        page.more = page.more or reached < upto
    if touched is not None and not page.more:
        _read_touched(table, touched, shape, page, rows_max - rows)
    if len(page.windows) > 1:  # one site's changes are in order
        page.changes.sort(key=_clock)
    page.position.settle()
    return page


def _read_touched(table: Table, touched: Touched, shape: _Shape, page: Page, limit: int) -> None:
    """Append the rows that changed without a stamp, unless a stamp that this reader had not seen shows them too."""
    if limit <= 0:
        page.more = True
        return
    seen, site = page.before.seen, table.store.site
    found = touched.after(table, page.position.touched, limit)
    for seq, row, key, site_number, hlc in found:
        page.position.touched = seq
        entries = table.log.entries_of_row(row)
        values = table.rows.read(row)
        telling = [stored for stored in entries if stored[3] == 0 or values is not None]
        if any(not seen.covers(site(stored[0]), stored[1]) for stored in telling):
            continue
        if values is None:
            known = hlc and 0 <= site_number < len(table.store.sites)  # a program may have written the row
            writer = site(site_number) if known else bytes(16)
            page.changes.append(Change(table.spec.name, DELETE, key, shape.key_of(row), None, (), writer, hlc, seq))
            continue
        cells = tuple(values.values())
        newest = max(entries, key=lambda stored: (stored[1], stored[0]))
        page.changes.append(
            Change(
                table.spec.name,
                INSERT,
                key,
                shape.key_names,
                shape.values_of(cells),
                shape.names,
                site(newest[0]),
                newest[1],
                seq,
            )
        )
    page.more = len(found) == limit


def _clock(change: Change) -> tuple[bool, int, bytes]:
    return change.touched > 0, change.touched or change.hlc, change.site


def _size(values: tuple[Any, ...] | None) -> int:
    if values is None:
        return 32
    size = 32 + 8 * len(values)
    for value in values:  # runs for each change
        if type(value) in _SIZED:
            size += len(value)
    return size


class _Shape:
    """How the rows of one table look to a reader: columns in the order of the file, under the names of the file."""

    def __init__(self, table: Table) -> None:
        self._table = table
        spec = table.spec
        here = {column.name: number for number, column in enumerate(spec.columns)}
        order = [name for name in column_names(table.store.db, spec.name) if name in here]
        self.names = tuple(order)
        # Cells in the order of the file; `itemgetter` gives no tuple for a single column. None: they are in that order.
        places = [here[name] for name in order]
        self._cells = None if places == [*range(len(here))] else itemgetter(*places) if len(order) > 1 else tuple
        self.key_names = tuple(column.name for column in sorted(spec.key, key=lambda column: column.key))
        self._local = {column.folded: column.name for column in spec.columns}
        self._name = spec.name
        self._keyless = spec.kind is KeyKind.KEYLESS
        self._written: dict[int | bytes, tuple[str, tuple[str, ...]]] = {}  # stored mask -> operation, columns

    def values_of(self, values: tuple[Any, ...]) -> dict[str, Any]:
        """Return the values by the file's names."""
        return dict(zip(self.names, values if self._cells is None else self._cells(values), strict=True))

    def key_of(self, row: Row) -> dict[str, Any]:
        """Return the key columns of a row that is gone, and their values."""
        if isinstance(row, int):
            return {self.key_names[0]: row} if self._table.spec.kind is KeyKind.ROWID else {}
        if row[:1] == b"\x00" or not self.key_names:
            return {}
        try:
            return dict(zip(self.key_names, codec.decode(row, bytes_max=len(row)), strict=True))
        except (DecodeError, TypeError, ValueError):  # of a touched row that a program has written
            return {}

    def change(
        self,
        site: bytes,
        hlc: int,
        row: Row,
        packed_mask: int | bytes,
        values: tuple[Any, ...] | None,
        start: Any,
    ) -> Change | None:
        """Return the change that an entry makes visible, None if it makes nothing visible."""
        # Runs for each change.
        if packed_mask == 0:
            if values is not None or (start is not None and start.covers(site, hlc)):
                return None
            return Change(self._name, DELETE, key_text(row), self.key_of(row), None, (), site, hlc)
        if values is None:
            return None
        written = self._written.get(packed_mask)
        if written is None:
            written = self._written[packed_mask] = self._op_and_columns(packed_mask)
        op, columns = written
        if not self._keyless:
            name = str(row) if type(row) is int else key_text(row)
        elif op is INSERT:
            name = key_text(insert_key(site, hlc))
        else:
            name = key_text(self._table.key(row, self._table.log.entries_of_row(row)))
        cells = dict(zip(self.names, values if self._cells is None else self._cells(values), strict=True))
        return Change(self._name, op, name, self.key_names, cells, columns, site, hlc)

    def _op_and_columns(self, packed_mask: int | bytes) -> tuple[str, tuple[str, ...]]:
        mask, _ = unpack_mask(packed_mask)
        written = self._table.columns.names_of(mask & ~EXISTENCE)
        columns = tuple(self._local[name] for name in written if name in self._local)
        return INSERT if mask & EXISTENCE else UPDATE, columns
