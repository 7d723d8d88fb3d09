"""Reads ranges of the change log, with the values that its entries own, as groups of changes for the wire.

The caller drains first, in the same transaction. So a row of the user's table has the values that its entries own, unless they
are held.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.crdt.version_vector import Range
from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.sync.sqlite.table_spec import KeyKind, Row
from mycomesh.sync.storage.change_log import StoredEntry, unpack_mask
from mycomesh.sync.storage.insert_runs import InsertRun
from mycomesh.sync.storage.large_rows import CHANGE_BYTES_MAX, bytes_of
from mycomesh.sync.storage.row_view import RowView, prior_to_wire
from mycomesh.sync.storage.table import Table
from mycomesh.sync.wire.bundle import Group, Kind

__all__ = ["FEED_BYTES_MAX", "FEED_ROWS_MAX", "changes_in", "entries_in", "read_range", "read_rows"]

# One chunk of a catch-up stream: some milliseconds of reading, and one frame that a slow radio can send in time.
FEED_ROWS_MAX = 1_024
FEED_BYTES_MAX = 256 << 10
# Changes that the receiver merges on its own, which are all but plain inserts: so many fill a chunk of any size, and take 4 to 15
# ms of its write lock (ADR 0012).
EDITS_A_CHUNK = 128

# Groups in one bundle of whole rows: each may have a site of its own, and a counter has a share of each.
PART_GROUPS_MAX = 1_024

# (site, kind, mask) -> (clock, stored entry, row, values) of the entries that become one group
_Found = dict[tuple[bytes, Kind, int], list[tuple[int, StoredEntry, RowView, list[Any]]]]


def read_range(
    table: Table,
    site: bytes,
    after: int,
    upto: int,
    *,
    rows_max: int,
    bytes_max: int,
    chunk_bytes: int = FEED_BYTES_MAX,
) -> tuple[list[Group], int, int, int]:
    """Return (groups, clock reached, rows, weight) of the site's entries in `(after, upto]`, lowest first.

    The clock reached is `upto` when nothing is left in the range. `bytes_max` is what is left of a chunk of `chunk_bytes`, of
    which an edit weighs `EDITS_A_CHUNK` parts of one, however few bytes it has.
    """
    site_number = table.store.site_number(site)
    if site_number is None:
        return [], upto, 0, 0
    groups: dict[tuple[Kind, int], Group] = {}
    holds = table.held.any()
    rows = size = 0
    reached = after
    for hlc, row, packed_mask, prior, values in entries_in(table, site_number, after, upto, rows_max):
        if rows and size >= bytes_max:
            return list(groups.values()), reached, rows, size
        rows += 1
        reached = hlc
        stored = (site_number, hlc, row, packed_mask, prior)
        size += _append(table, groups, site, stored, values, holds=holds, edit_bytes=chunk_bytes // EDITS_A_CHUNK)
    return list(groups.values()), upto if rows < rows_max else reached, rows, size


def changes_in(table: Table, site: bytes, window: Range) -> int:
    """Return about how many entries of the site lie in `(after, upto]`."""
    site_number = table.store.site_number(site)
    if site_number is None:
        return 0
    after, upto = window
    plain = table.store.db.execute(
        f"SELECT count(*) FROM {table.log.name} WHERE place = ? AND hlc > ? AND hlc <= ?", (site_number, after, upto)
    ).fetchone()[0]
    return int(plain) + sum(run.n for run in table.log.runs.after(site_number, after, upto))


def read_rows(table: Table, rows: Sequence[Row], *, bytes_max: int) -> tuple[list[list[Group]], int]:
    """Return every entry of the first of some rows, as groups by site, and how many rows that are: at least one.

    A repair sends them. The groups come in lists, each of which fits one message; a large row takes several.
    """
    parts: list[_Found] = [{}]
    count = size = 0
    for row in rows:
        if size >= bytes_max:
            break
        count += 1
        view = RowView.read(table, row)
        for stored, entry in zip(view.stored, view.entries, strict=True):
            kind = Kind.DELETE if entry.dead else Kind.INSERT if entry.mask & EXISTENCE else Kind.UPDATE
            values = list(view.values(stored, entry.mask & ~EXISTENCE).values())
            weight = 16 + sum(map(bytes_of, values))
            if parts[-1] and (size + weight > CHANGE_BYTES_MAX or len(parts[-1]) == PART_GROUPS_MAX):
                parts.append({})
                size = 0
            size += weight
            parts[-1].setdefault((entry.stamp[1], kind, entry.mask), []).append((stored[1], stored, view, values))
    return [_groups(table, found) for found in parts], count


def _groups(table: Table, found: _Found) -> list[Group]:
    groups = []
    for (site, kind, mask), items in sorted(found.items(), key=lambda item: item[0]):
        items.sort(key=lambda item: item[0])
        # None if nothing was overwritten: an insert with priors would name its row in another form (`has_other_key_form`).
        priors = [prior_to_wire(table, stored[5], mask) for _, stored, _, _ in items]
        groups.append(
            Group(
                site,
                kind,
                () if kind is Kind.DELETE else table.columns.names_of(mask),
                [hlc for hlc, _, _, _ in items],
                [table.key(view.row, view.stored) for _, _, view, _ in items],
                [values for _, _, _, values in items],
                priors if any(priors) else None,
            )
        )
    return groups


def entries_in(table: Table, site_number: int, after: int, upto: int, limit: int) -> Iterator[tuple[Any, ...]]:
    """Yield up to `limit` (hlc, row, stored mask, prior, the user's row as a tuple or None) in clock order."""
    runs = table.log.runs.after(site_number, after, upto)
    first = next(runs, None)
    if first is None:
        yield from _entries_plain(table, site_number, after, upto, limit)
        return
    for run in itertools.chain([first], runs, [None]):
        # First the plain entries before the run, then the run: their clocks do not interleave.
        bound = upto if run is None else run.hlc
        for entry in _entries_plain(table, site_number, after, bound, limit):
            yield entry
            limit -= 1
        if run is None:
            return
        for entry in _entries_packed(table, run, max(after + 1, run.hlc), upto, limit):
            yield entry
            limit -= 1
        if limit <= 0:
            return
        after = run.hlc + run.n - 1


def _entries_packed(table: Table, run: InsertRun, first: int, upto: int, limit: int) -> Iterator[tuple[Any, ...]]:
    """Yield the entries of a run from the clock `first` on, without rows that the user's table has lost."""
    shift = run.hlc - run.row
    row, last = first - shift, min(upto, run.hlc + run.n - 1) - shift
    rowid = f"t.{quoted(table.spec.rowid)}"
    listing = (
        f"SELECT {rowid}, {table.rows.select_list} FROM {quoted(table.spec.name)} t"
        f" WHERE {rowid} BETWEEN ? AND ? ORDER BY {rowid} LIMIT ?"
    )
    try:
        for record in table.store.db.execute(listing, (row, last, limit)):
            yield record[0] + shift, record[0], run.mask, None, record[1:]
            row = record[0] + 1
            limit -= 1
    except UnicodeDecodeError:
        for number in range(row, min(row + limit, last + 1)):
            found = table.rows.read(number)
            yield number + shift, number, run.mask, None, None if found is None else tuple(found.values())


def _entries_plain(table: Table, site_number: int, after: int, upto: int, limit: int) -> Iterator[tuple[Any, ...]]:
    spec = table.spec
    bounds = (site_number, after, upto, limit)
    window = "WHERE c.place = ? AND c.hlc > ? AND c.hlc <= ? ORDER BY c.hlc LIMIT ?"
    if spec.kind is KeyKind.KEYED:
        yield from _entries_one_by_one(table, site_number, after, upto, limit)
        return
    rowid = f"t.{quoted(spec.rowid)}"
    listing = (
        f"SELECT c.hlc, c.row, c.mask, c.prior, {rowid}, {table.rows.select_list} FROM {table.log.name} c"
        f" LEFT JOIN {quoted(spec.name)} t ON {rowid} = c.row {window}"
    )
    try:
        for record in table.store.db.execute(listing, bounds):
            after = record[0]
            yield after, record[1], record[2], record[3], None if record[4] is None else record[5:]
            limit -= 1
    except UnicodeDecodeError:
        yield from _entries_one_by_one(table, site_number, after, upto, limit)


def _entries_one_by_one(table: Table, site_number: int, after: int, upto: int, limit: int) -> Iterator[tuple[Any, ...]]:
    listing = (
        f"SELECT c.hlc, c.row, c.mask, c.prior FROM {table.log.name} c"
        " WHERE c.place = ? AND c.hlc > ? AND c.hlc <= ? ORDER BY c.hlc LIMIT ?"
    )
    for hlc, row, packed_mask, prior in table.store.db.execute(listing, (site_number, after, upto, limit)).fetchall():
        found = table.rows.read(row)
        yield hlc, row, packed_mask, prior, None if found is None else tuple(found.values())


def _append(
    table: Table,
    groups: dict[tuple[Kind, int], Group],
    site: bytes,
    stored: tuple[int, int, Row, Any, bytes | None],
    values: tuple[Any, ...] | None,
    *,
    holds: bool,
    edit_bytes: int = FEED_BYTES_MAX // EDITS_A_CHUNK,
) -> int:
    """Append one entry to the group of its kind and columns; return its weight: about its bytes, and `edit_bytes` for an edit."""
    site_number, hlc, row, packed_mask, prior = stored
    mask, dead = unpack_mask(packed_mask)
    kind = Kind.DELETE if dead else Kind.INSERT if mask & EXISTENCE else Kind.UPDATE
    group = groups.get((kind, mask))
    if group is None:
        columns = () if dead else table.columns.names_of(mask)
        keyless = kind is Kind.INSERT and {column.folded for column in table.spec.key} <= set(columns)
        group = groups[kind, mask] = Group(site, kind, columns, [], None if keyless else [], [], None)
    if holds or (values is None and group.columns):
        held = table.held.read((site_number, hlc, row, packed_mask, 0, prior))
        present = {} if values is None else dict(zip(table.columns.local, values, strict=True))
        cells = [held[name] if name in held else present.get(name) for name in group.columns]
    elif group.columns == table.columns.local:
        cells = list(values or ())
    else:
        present = dict(zip(table.columns.local, values or (), strict=True)) if group.columns else {}
        cells = [present[name] for name in group.columns]
    group.hlcs.append(hlc)
    group.rows.append(cells)
    sized = cells
    if group.keys is not None:
        group.keys.append(_key(table, row))
        sized = [*cells, group.keys[-1]]
    if prior is not None and group.priors is None:
        group.priors = [[] for _ in group.hlcs[:-1]]
    if group.priors is not None:
        group.priors.append(prior_to_wire(table, prior, mask))
    plain = kind is Kind.INSERT and prior is None
    return sum([len(cell) if isinstance(cell, (str, bytes)) else 8 for cell in sized], 16 if plain else edit_bytes)


def _key(table: Table, row: Row) -> Any:
    if isinstance(row, bytes) or table.spec.kind is KeyKind.ROWID:
        return row
    return table.key(row, RowView.read(table, row).stored)
