"""Counters: columns whose concurrent changes are added up, where another column keeps the latest write alone.

A counter cell is several registers of the lattice, each an ordinary column to it: the base, which is the column itself (what
the row's birth or a plain write said), and a share for each site that has counted, a column named by the counter, a NUL (no
column of SQLite's can be named so) and the site, which holds the sum of that site's differences. Only its own site writes a
share, so shares never conflict; the birth or the end of a row takes them along like any cell (ADR 0005).

Owns this arithmetic. What always holds: the registers of a counter cell are held values, and the user's cell shows their
total; so what an application did to the cell is the difference between the two, whatever was logged and in what order. It
must not know peers or the wire.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mycomesh.sync.merge.conflicts import same
from mycomesh.sync.storage.row_view import RowView
from mycomesh.sync.storage.table import Table

__all__ = ["hold_bases", "hold_registers", "share_column", "share_name", "totals", "unseen_values", "update_registers"]

_NUL = "\0"
# Totals are taken modulo 2^64: only so is adding exact, and the same in every order, at the ends of SQLite's integers.
_MODULUS = 1 << 64
_INTEGER = re.compile(r"\(*([+-]?[0-9]{1,18})\)*")


def share_name(column: str, site: bytes) -> str:
    """Return the name of the register in which a site sums up what it did to a counter."""
    return f"{column}{_NUL}{site.hex()}"


def share_column(name: str) -> str | None:
    """Return the counter that a share belongs to, None for any other column."""
    column, nul, _ = name.partition(_NUL)
    return column if nul else None


def totals(table: Table, registers: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the user's cells show, for the counters of a row with these registers that somebody has counted."""
    shares: dict[str, list[Any]] = {}
    for name, value in registers.items():
        column = share_column(name)
        if column in table.counters:
            shares.setdefault(column, []).append(value)
    return {
        column: _total(registers[column] if column in registers else _default(table, column), values)
        for column, values in shares.items()
    }


def update_registers(view: RowView, site_number: int, mask: int, *, silent: bool) -> int:
    """Turn what a local update did to the counters of a row into registers.

    Args:
        view: the row, shown; its `present` becomes what the registers hold.
        site_number: this site.
        mask: the columns that the update changed.
        silent: what the row shows has been compared with what its entries were digested with: `mask` is all that differs.

    Returns:
        The mask of the registers and the other columns that the update owns.
    """
    table = view.table
    present = dict(view.present or {})
    held = {name: value for leaf in view.leaves for name, value in view.held(leaf).items()}
    owned = 0
    for entry in view.entries:
        owned |= entry.mask
    for column in sorted(table.counters):
        bit = 1 << table.bits[column]
        if column not in held and owned & bit:
            # Not looked at since it was declared a counter: the base is in the user's row, unless that has changed.
            if silent and not mask & bit:
                _hold_base(view, column, bit)
            continue
        base = held[column] if column in held else _default(table, column)
        shares = {name: value for name, value in held.items() if share_column(name) == column}
        before, now = _total(base, shares.values()), present[column]
        mask &= ~bit
        if same(now, before):
            continue
        if type(now) is int and type(before) is int:
            name = share_name(column, table.store.site(site_number))
            table.learn([name])
            present[name] = _wrapped(_number(shares.get(name)) + now - before)
            mask |= 1 << table.bits[name]
        else:  # not a difference of integers: a plain write, of the value that shows as what was written
            present[column] = _wrapped(now - sum(map(_number, shares.values()))) if type(now) is int else now
            mask |= bit
    view.present = present
    return mask


def hold_registers(table: Table, site_number: int, hlc: int, values: Mapping[str, Any]) -> None:
    """Hold the registers of counters among what a local entry owns."""
    held = {name: value for name, value in values.items() if name in table.counters or share_column(name) is not None}
    if held:
        table.hold(site_number, hlc, held)


def hold_bases(
    table: Table, site_number: int, hlcs: Sequence[int], columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Hold the bases of a run of births, whose values come in the order of `columns`."""
    positions = [number for number, column in enumerate(columns) if column in table.counters]
    if positions:
        names = [columns[number] for number in positions]
        table.hold_many(
            names, [(site_number, hlc, [row[n] for n in positions]) for hlc, row in zip(hlcs, rows, strict=True)]
        )


def unseen_values(view: RowView, held: Mapping[str, Any]) -> dict[str, Any]:
    """Return those held values of an entry that no user saw: of a row that is shown, not the registers of its counters."""
    counters = view.table.counters
    if not counters or any(
        name in view.table.known and name not in counters for leaf in view.leaves for name in view.held(leaf)
    ):
        return dict(held)
    return {name: value for name, value in held.items() if name not in counters and share_column(name) not in counters}


def _hold_base(view: RowView, column: str, bit: int) -> None:
    present = view.present or {}
    for leaf, entry in zip(view.leaves, view.entries, strict=True):
        if entry.mask & bit:
            view.table.hold(leaf[0], leaf[1], view.held(leaf) | {column: present[column]})


def _total(base: Any, shares: Iterable[Any]) -> Any:
    """A base that is no integer shows as it is: nothing can be added to it."""
    return _wrapped(base + sum(map(_number, shares))) if type(base) is int else base


def _number(share: Any) -> int:
    return share if type(share) is int else 0  # a peer may send anything


def _wrapped(number: int) -> int:
    return (number + (_MODULUS >> 1)) % _MODULUS - (_MODULUS >> 1)


def _default(table: Table, column: str) -> Any:
    """The base of a column that no entry owns: ADD COLUMN gave every row its default, and writes nothing."""
    for spec in table.spec.columns:
        if spec.folded == column:
            found = _INTEGER.fullmatch(spec.default or "")
            return int(found[1]) if found else None
    return None
