"""Counters: columns whose concurrent changes are added up, where any other column keeps only the latest write.

Each cell of a counter column is several registers (compare the PN-counter), and the lattice treats each register as an ordinary
column:

- The base is the column itself. It has the value of the row's insert, or of the last plain write.
- Each site that has counted has a share: the sum of its own differences. The share's column is named by the counter, a NUL
  (SQLite allows no column of that name) and the site.

Only its own site writes a share, so shares never conflict. An insert or a delete of the row supersedes them like any cell.

Invariant: the registers of a counter cell are held values, and the user's cell shows their total. So the difference between
the two is what the application did to the cell, whatever the triggers logged and in what order. ADR 0005.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mycomesh.sync.merge.conflicts import same
from mycomesh.sync.storage.row_view import RowView
from mycomesh.sync.storage.table import Table

__all__ = [
    "default_base",
    "hold_bases",
    "hold_registers",
    "number_of",
    "share_column",
    "share_name",
    "totals",
    "unseen_values",
    "update_registers",
    "wrapped",
]

_NUL = "\0"
# Totals wrap modulo 2^64. Otherwise sums near the ends of SQLite's integers would depend on the order of addition.
_MODULUS = 1 << 64
_INTEGER = re.compile(r"\(*([+-]?[0-9]{1,18})\)*")


def share_name(column: str, site: bytes) -> str:
    """Return the name of the register that sums up one site's changes to a counter."""
    return f"{column}{_NUL}{site.hex()}"


def share_column(name: str) -> str | None:
    """Return the counter that a share belongs to, None for any other column."""
    column, nul, _ = name.partition(_NUL)
    return column if nul else None


def totals(table: Table, registers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the totals that the user's cells show, for those counters of a row with these registers that have a share."""
    shares: dict[str, list[Any]] = {}
    for name, value in registers.items():
        column = share_column(name)
        if column in table.columns.counters:
            shares.setdefault(column, []).append(value)
    return {
        column: _total(registers[column] if column in registers else default_base(table, column), values)
        for column, values in shares.items()
    }


def update_registers(view: RowView, site_number: int, mask: int, *, silent: bool) -> int:
    """Turn a local update of the counters of a row into registers.

    Args:
        view: a visible row. Its `present` is changed from the cells to the values of the registers.
        site_number: this site.
        mask: the columns that the update changed.
        silent: the caller has compared the row with the digests of its entries, so `mask` names every column that differs.

    Returns:
        The mask of the registers and the other columns that the update owns.
    """
    table = view.table
    present = dict(view.present or {})
    held = {name: value for stored in view.stored for name, value in view.held(stored).items()}
    owned = 0
    for entry in view.entries:
        owned |= entry.mask
    for column in sorted(table.columns.counters):
        bit = 1 << table.columns.bits[column]
        if column not in held and owned & bit:
            # First look since the column was declared a counter: its base is in the user's row, unless the update changed it.
            if silent and not mask & bit:
                _hold_base(view, column, bit)
            continue
        base = held[column] if column in held else default_base(table, column)
        shares = {name: value for name, value in held.items() if share_column(name) == column}
        before, now = _total(base, shares.values()), present[column]
        mask &= ~bit
        if same(now, before):
            continue
        if type(now) is int and type(before) is int:
            name = share_name(column, table.store.site(site_number))
            table.columns.learn([name])
            present[name] = wrapped(number_of(shares.get(name)) + now - before)
            mask |= 1 << table.columns.bits[name]
        else:
            # Not a difference of integers, so this is a plain write of the base. The base plus all shares is the new value.
            present[column] = wrapped(now - sum(map(number_of, shares.values()))) if type(now) is int else now
            mask |= bit
    view.present = present
    return mask


def hold_registers(table: Table, site_number: int, hlc: int, values: Mapping[str, Any]) -> None:
    """Hold those values of a local entry that are registers of counters."""
    held = {
        name: value
        for name, value in values.items()
        if name in table.columns.counters or share_column(name) is not None
    }
    if held:
        table.held.write(site_number, hlc, held)


def hold_bases(
    table: Table, site_number: int, hlcs: Sequence[int], columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Hold the bases of many inserts of one site, whose values are in the order of `columns`."""
    positions = [number for number, column in enumerate(columns) if column in table.columns.counters]
    if positions:
        names = [columns[number] for number in positions]
        table.held.write_many(
            names, [(site_number, hlc, [row[n] for n in positions]) for hlc, row in zip(hlcs, rows, strict=True)]
        )


def unseen_values(view: RowView, held: Mapping[str, Any]) -> dict[str, Any]:
    """Return those held values of an entry that no user saw.

    The registers of a visible row do not count: its cells show their totals. A row that holds values of other known columns
    is not visible, so no user saw its registers either.
    """
    counters = view.table.columns.counters
    if not counters or any(
        name in view.table.columns.local_names and name not in counters
        for stored in view.stored
        for name in view.held(stored)
    ):
        return dict(held)
    return {name: value for name, value in held.items() if name not in counters and share_column(name) not in counters}


def _hold_base(view: RowView, column: str, bit: int) -> None:
    present = view.present or {}
    for stored, entry in zip(view.stored, view.entries, strict=True):
        if entry.mask & bit:
            view.table.held.write(stored[0], stored[1], view.held(stored) | {column: present[column]})


def _total(base: Any, shares: Iterable[Any]) -> Any:
    """Return the base plus the shares. A base that is not an integer shows as it is: nothing can be added to it."""
    return wrapped(base + sum(map(number_of, shares))) if type(base) is int else base


def number_of(share: Any) -> int:
    """Return what a share adds to its counter."""
    return share if type(share) is int else 0  # a peer may send any value


def wrapped(number: int) -> int:
    """Return a total modulo 2^64, as a signed number."""
    return (number + (_MODULUS >> 1)) % _MODULUS - (_MODULUS >> 1)


def default_base(table: Table, column: str) -> Any:
    """Return the base of a column that no entry owns: ADD COLUMN gave every row the default, and no trigger logged it."""
    for spec in table.spec.columns:
        if spec.folded == column:
            found = _INTEGER.fullmatch(spec.default or "")
            return int(found[1]) if found else None
    return None
