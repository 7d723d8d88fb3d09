"""Drain: turns the pending log, which triggers write, into stamped changes; one transaction a chunk.

All log records of a row become one change, made from the row's current state. The order of the logged operations does not matter,
and could not: an application's trigger can have an update logged before the insert that caused it.

Rows from before the mesh get stamps of the file's early site, whose clock begins at 0: so they lose to every write on the mesh,
also to one that is older than the day on which this file joined. ADR 0031.

Invariant: a change is stamped after every stamp that it overwrites. So a user always overwrites what he sees, even on a node
whose clock is slow. design.md section 3.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import apsw

from mycomesh.sync import codec
from mycomesh.sync.capture.stamps import Chunk, Stamper, Times, is_early_record
from mycomesh.sync.capture.table_scan import is_adopting
from mycomesh.sync.crdt.hlc import ms_from_hlc
from mycomesh.sync.crdt.lattice import EXISTENCE, join
from mycomesh.sync.merge import conflicts, records
from mycomesh.sync.merge.counters import hold_bases, hold_registers, unseen_values, update_registers
from mycomesh.sync.merge.keep_both import id_to_settle
from mycomesh.sync.merge.restored import note_restored
from mycomesh.sync.merge.work_budget import CHUNK_BYTES_MAX, CHUNK_ROWS_MAX, EDIT_WEIGHT
from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.sync.sqlite.raw_text import raw_select, restore
from mycomesh.sync.sqlite.table_spec import Column, KeyKind, Row, encode_key
from mycomesh.sync.storage.change_log import pack_mask
from mycomesh.sync.storage.large_rows import CHANGE_BYTES_MAX, oversized, portions
from mycomesh.sync.storage.pending_log import (
    OP_DELETE,
    OP_EVICT,
    OP_INSERT,
    WORD_BITS,
    key_names,
    pending_name,
    word_names,
)
from mycomesh.sync.storage.row_view import (
    RowView,
    differing,
    encode_prior,
    has_equal,
    prior_to_wire,
    priors_of,
    retyped,
    shrink,
)
from mycomesh.sync.storage.table import Table, insert_key
from mycomesh.sync.wire.bundle import Group, Kind, Section

__all__ = ["Drained", "drain_table"]

# The changes of a chunk, by the number of their site, their kind and their columns.
_Groups = dict[tuple[int, Kind, int], Group]


@dataclass(slots=True)
class Drained:
    """Result of draining one chunk.

    section: the changes to publish, None if nothing has changed.
    more: the pending log has more records.
    weight: the work done, in new rows (`EDIT_WEIGHT`).
    too_large: columns some of whose values are too large to send.
    """

    section: Section | None
    more: bool
    weight: int = 0
    too_large: tuple[str, ...] = ()


@dataclass(slots=True)
class _PendingRow:
    """All log records of one row, coalesced, and the row's current values (None if it is gone)."""

    at_ms: int
    early: bool  # logged by a backfill as a row from before the mesh
    inserted: bool
    deleted: bool
    silent: bool  # some UPDATE seems to have changed no column: see `_changed_columns`
    mask: int
    values: tuple[Any, ...] | None
    heavy: bool = False  # the row may be too large for one change


def drain_table(
    table: Table, site: Stamper, early: Callable[[], Stamper], times: Times, budget: int = CHUNK_ROWS_MAX
) -> Drained:
    """Turn up to one chunk of the pending log into changes of this file. Runs inside a transaction.

    All records of a chunk are of rows from before the mesh, or none is.

    Args:
        table: the table whose log is drained.
        site: this site.
        early: returns the early site, which stamps rows from before the mesh.
        times: wall times for the stamps.
        budget: limit on the weight of the chunk.
    """
    chunk = Chunk(table, site, early)
    too_large: tuple[str, ...] = ()
    run = _drain_run(chunk, times, budget)
    if run is not None:
        groups, last, more = run
        taken = len(groups[0].hlcs)
    else:
        try:
            rows, last, more, taken = _read_pending(table, times, budget)
        except UnicodeDecodeError:
            # Some text is not UTF-8. Reading raw text is slower, so it is the exception.
            rows, last, more, taken = _read_pending(table, times, budget, raw=True)
        if not rows:
            table.pending.unread = False
            return Drained(None, more=False)
        if _all_new(table, rows):
            groups = _drain_inserts(chunk, rows)
        else:
            groups, mask = _drain_rows(chunk, rows)
            too_large = table.columns.names_of(mask)
    table.log.flush()
    log = pending_name(table.table_id)
    # A DELETE without a condition clears the table without reading its rows.
    if more:
        table.store.db.execute(f"DELETE FROM {log} WHERE rowid <= ?", (last,))
    else:
        table.store.db.execute(f"DELETE FROM {log}")
        table.pending.unread = False
    if not groups:
        return Drained(None, more, taken, too_large)
    return Drained(Section(table.spec.folded, chunk.cover(), groups), more, taken, too_large)


# ---- the common case: rows inserted one after the other and not changed since


def _drain_run(chunk: Chunk, times: Times, budget: int) -> tuple[list[Group], int, bool] | None:
    """Stamp a chunk that consists of inserts of consecutive rowids and nothing else.

    Returns (groups, last log rowid read, whether more follow), or None, with nothing done, if some record needs the general case.
    """
    table = chunk.table
    if table.spec.kind is KeyKind.KEYED:
        return None
    words = word_names(table.columns.captured)
    row_at = 2 + len(words)
    encode = codec.encode
    written: list[Any] = []
    values: list[tuple[Any, ...]] = []
    encoded: list[bytes] = []
    first = last = size = 0
    more = early = False
    try:
        for record in table.store.db.execute(_pending_sql(table, words, raw=False), (budget + 1,)):
            if len(values) == budget or size > CHUNK_BYTES_MAX:
                more = True
                break
            row = record[row_at]
            if not values:
                first, early = row, is_early_record(record[1])
            elif is_early_record(record[1]) is not early:
                more = True
                break
            if record[2] != OP_INSERT or row != first + len(values) or record[row_at + 1] is None:
                return None
            last = record[0]
            written.append(record[1])
            cells = record[row_at + 2 :]
            values.append(cells)
            encoded.append(encode(cells))
            size += len(encoded[-1])
    except UnicodeDecodeError:
        return None
    if not values or max(map(len, encoded)) > CHANGE_BYTES_MAX:
        return None
    # A rowid that the change log knows was used before: its insert overwrites older entries.
    if table.log.any_row_between(first, first + len(values) - 1):
        return None
    stamper = chunk.early() if early else chunk.site
    tick = stamper.clock.tick
    hlcs: list[int] = []
    # Rows written at one time follow the first by one tick each, which costs less than asking for the time again.
    for at, same in itertools.groupby(written):
        hlc = tick(times.of(at, OP_INSERT))
        hlcs.append(hlc)
        hlcs += [tick(0) for _ in itertools.islice(same, 1, None)]
    rows = range(first, first + len(values))
    return [_enter_inserts(table, stamper.site_number, hlcs, rows, values, encoded)], last, more


def _enter_inserts(
    table: Table, site_number: int, hlcs: list[int], rows: Sequence[Row], values: list[Any], encoded: list[bytes]
) -> Group:
    """Write inserts of all known columns into the change log; return them as a group."""
    mask = table.columns.local_mask | EXISTENCE
    keys: Sequence[Row | None] | None = None if table.spec.kind is KeyKind.KEYLESS else rows
    if table.spec.kind is KeyKind.KEYED:
        keys = [None if isinstance(row, int) else row for row in rows]  # a NULL in the key: the insert names the row
    digests = table.digests.inserts(site_number, mask, hlcs, keys, encoded)
    table.log.add_inserts(site_number, hlcs, rows, pack_mask(mask), digests, packed=not table.columns.counters)
    if table.columns.counters:
        hold_bases(table, site_number, hlcs, table.columns.local, values)
    site = table.store.site(site_number)
    return Group(site, Kind.INSERT, table.columns.local, hlcs, None, values, None, b"".join(encoded))


# ---- the general case: each row against its entries


def _read_pending(
    table: Table, times: Times, budget: int, *, raw: bool = False
) -> tuple[dict[Row, _PendingRow], int, bool, int]:
    """Return (rows by name, last log rowid read, whether more follow, weight); `raw` reads text that is not UTF-8."""
    words = word_names(table.columns.captured)
    rows: dict[Row, _PendingRow] = {}
    last = size = 0
    keyed = table.spec.kind is KeyKind.KEYED
    keys = len(table.spec.key) if keyed else 0
    first_key = 2 + len(words)
    first_value = first_key + len(key_names(table.spec)) + 1
    more = early = False
    taken = 0
    for record in _pending_records(table, words, budget, raw=raw):
        if taken >= budget or size > CHUNK_BYTES_MAX or (taken and is_early_record(record[1]) is not early):
            more = True
            break
        last, at, what = record[0], record[1], record[2]
        early = is_early_record(at)
        if keyed:
            key = record[first_key : first_key + keys]
            row: Row = record[first_key + keys] if None in key else encode_key(table.spec, key)
        else:
            row = record[first_key]
        values = record[first_value:] if record[first_value - 1] is not None else None
        if keyed and values is None and isinstance(row, int):
            found = table.rows.read(row)  # the join on key columns does not find a key with a NULL
            values = None if found is None else tuple(found.values())
        taken += 1 if what == OP_INSERT else EDIT_WEIGHT
        pending = rows.get(row)
        if pending is None:
            pending = rows[row] = _PendingRow(0, early, False, False, False, 0, values)
            if values is not None:
                weight = _weight(values)
                size += weight
                pending.heavy = 4 * weight > CHANGE_BYTES_MAX  # `_weight` counts characters; each may take four bytes
        pending.at_ms = max(pending.at_ms, times.of(at, what))
        if what == OP_INSERT and early:
            pending.silent = True  # if the change log knows the row already, it is compared
        elif what == OP_INSERT:
            pending.inserted = True
        elif what == OP_DELETE:
            pending.deleted = True
        elif what != OP_EVICT:  # an eviction says nothing: the row's current state shows whether it is gone
            mask = what
            for number in range(1, len(words)):
                mask |= (record[2 + number] or 0) << (WORD_BITS * number)  # NULL in records that no trigger wrote
            pending.mask |= mask
            pending.silent |= not mask
    return rows, last, more, taken


def _pending_records(table: Table, words: list[str], budget: int, *, raw: bool) -> Iterator[tuple[Any, ...]]:
    """Return log records: rowid, at, mask words, key columns, 1 if the row is there (else None), the row's columns."""
    found: Iterator[tuple[Any, ...]] = table.store.db.execute(_pending_sql(table, words, raw=raw), (budget + 1,))
    if not raw:
        return found
    first = 2 + len(words)
    middle = first + 2 * len(key_names(table.spec))
    return (
        (*record[:first], *restore(record[first:middle]), record[middle], *restore(record[middle + 1 :]))
        for record in found
    )


def _pending_sql(table: Table, words: list[str], *, raw: bool) -> str:
    spec = table.spec
    keys = key_names(spec)
    if spec.kind is KeyKind.KEYED:
        join_on = " AND ".join(f"{column.keyed} = p.k{position}" for position, column in enumerate(spec.key))
        present = f"t.{quoted(spec.key[0].name)}"
    else:
        join_on = f"t.{quoted(spec.rowid)} = p.r"
        present = f"t.{quoted(spec.rowid)}"
    key_list = ", ".join(raw_select(f"p.{name}") if raw else f"p.{name}" for name in keys)
    columns = ", ".join(
        [*(f"p.{name}" for name in ("rowid", "at", *words)), key_list, f"nullif({present} IS NOT NULL, 0)"]
    )
    return (
        f"SELECT {columns}, {table.rows.raw_list if raw else table.rows.select_list} FROM {pending_name(table.table_id)} p"
        f" LEFT JOIN {quoted(spec.name)} t ON {join_on} ORDER BY p.rowid LIMIT ?"
    )


def _weight(values: tuple[Any, ...]) -> int:
    size = 8 * len(values)
    for value in values:
        if type(value) is str or type(value) is bytes:
            size += len(value)
        elif type(value) is list:  # as `is_raw` says, which would cost a call for each cell
            size += len(value[0])
    return size


def _all_new(table: Table, rows: dict[Row, _PendingRow]) -> bool:
    """Return True if every row was inserted, is still there, and is unknown to the change log."""
    for pending in rows.values():
        new = pending.inserted or pending.early
        if not new or pending.deleted or pending.values is None or pending.heavy:
            return False
    numbers = [row for row in rows if isinstance(row, int)]
    if len(numbers) == len(rows):
        return not table.log.any_row_between(min(numbers), max(numbers))
    return not any(table.log.knows(row) for row in rows)


def _drain_inserts(chunk: Chunk, rows: dict[Row, _PendingRow]) -> list[Group]:
    """Stamp new rows, in any order of their rowids or keys, without reading the change log."""
    stamper = chunk.early() if next(iter(rows.values())).early else chunk.site
    tick = stamper.clock.tick
    hlcs = [tick(pending.at_ms) for pending in rows.values()]
    values = [pending.values or () for pending in rows.values()]
    encoded = list(map(codec.encode, values))
    return [_enter_inserts(chunk.table, stamper.site_number, hlcs, list(rows), values, encoded)]


def _drain_rows(chunk: Chunk, rows: dict[Row, _PendingRow]) -> tuple[list[Group], int]:
    """Stamp one change for each row that changed, and two for a row that was replaced or edited before it was adopted.

    Returns the changes, and the mask of columns some of whose values are too large to send.
    """
    table = chunk.table
    groups: _Groups = {}
    columns, all_too_large = table.columns, 0
    holds = table.held.any()
    stored_entries = table.log.entries_of_rows(list(rows))
    adopting = is_adopting(table)
    for row, pending in rows.items():
        present = None if pending.values is None else dict(zip(columns.local, pending.values, strict=True))
        view = RowView(table, row, present, stored_entries[row], holds=holds)
        by_insert = isinstance(row, int) and table.spec.kind is not KeyKind.ROWID
        too_large = _too_large(view, pending)
        all_too_large |= too_large
        if (adopting or pending.early) and not view.entries and not pending.inserted:
            adopted = _adopt(chunk, view, pending, columns.local_mask & ~too_large, groups)
            if adopted is None:
                continue
            view = adopted
        # An insert under a rowid that has a visible row means that the old row is gone. REPLACE fires no delete trigger, so the
        # log may not say so. Where inserts name the rows these are two rows, and the old one needs a delete.
        replaced = by_insert and view.visible and pending.inserted
        if view.visible and (present is None or replaced):
            _change(table, chunk.site, view, pending, Kind.DELETE, EXISTENCE, groups)
            if not replaced:
                continue
            view = RowView(table, row, present, (), holds=False)
        if present is None:
            continue
        # A deleted row, or one whose insert has not arrived, does not exist for the user. So his write is an insert.
        if pending.inserted or not view.visible:
            mask = (columns.local_mask | EXISTENCE) & ~too_large
            _change_in_portions(table, chunk.site, view, pending, mask, groups)
            continue
        mask = _changed_columns(view, pending, chunk.site.site_number, too_large)
        if mask:
            _change_in_portions(table, chunk.site, view, pending, mask, groups)
    for group in groups.values():
        if group.priors is not None and not any(group.priors):
            group.priors = None
    return list(groups.values()), all_too_large


def _adopt(chunk: Chunk, view: RowView, pending: _PendingRow, mask: int, groups: _Groups) -> RowView | None:
    """Stamp a row from before the mesh that the change log does not know; return its view if a program has updated it since.

    A program that updates such a row has written some columns on the mesh, and no others. One that deletes it has deleted the
    row on the mesh, so the delete needs a stamp although the row has none.
    """
    table = chunk.table
    if view.present is None:
        if pending.deleted and not (isinstance(view.row, int) and table.spec.kind is not KeyKind.ROWID):
            _change(table, chunk.site, view, pending, Kind.DELETE, EXISTENCE, groups)
        return None
    _change_in_portions(table, chunk.early(), view, _early(pending), mask | EXISTENCE, groups)
    if not pending.mask:
        return None
    chunk.cover_early()
    return RowView.read(table, view.row)


def _early(pending: _PendingRow) -> _PendingRow:
    """Return the record of a row without a time: the clock of the early site has none."""
    return replace(pending, at_ms=0)


def _changed_columns(view: RowView, pending: _PendingRow, site_number: int, too_large: int) -> int:
    """Return the columns of an update that its change owns.

    The triggers compare old and new values in SQL, which has three blind spots: SQL calls 1 and 1.0 equal, the triggers do not
    compare a column that was added after them, and a record may only ask for a look at the row (`LOOK_AGAIN`). Where a column
    may have changed unseen, the row is compared with the digests of its entries.
    """
    table = view.table
    mask = pending.mask & table.columns.local_mask
    uncaptured = table.columns.local_mask & ~table.columns.captured_mask
    if pending.silent:
        # No trigger saw a difference, so any column may have changed.
        mask |= differing(view) | _unowned_written(view, 0) | uncaptured
    elif mask or uncaptured:
        # The triggers saw these columns change. In others only the type of a number may have changed.
        mask |= retyped(view, mask) | _unowned_written(view, uncaptured)
        if uncaptured:
            mask |= differing(view) & uncaptured
    mask &= ~too_large
    if table.columns.counters:
        mask = update_registers(view, site_number, mask, silent=pending.silent)
    if table.spec.id_column:
        mask |= id_to_settle(view, site_number)
    return mask


def _unowned_written(view: RowView, uncaptured: int) -> int:
    """Return the columns that no entry owns, that no trigger has compared, and that have another value than their default.

    There is no digest to compare such a column with. An application that adds a column can fill it in a statement that also
    updates captured columns. A trigger does not see a default number replaced by an equal number of another type.
    """
    table = view.table
    unowned = table.columns.loose_mask | uncaptured
    for entry in view.entries:
        unowned &= ~entry.mask
    if not unowned:
        return 0
    present = view.present or {}
    columns = []
    for column in table.spec.columns:
        bit = unowned & 1 << table.columns.bits[column.folded]
        if bit & uncaptured or (bit and column.default is not None and has_equal(present[column.folded])):
            columns.append(column)
    found = table.rows.condition(view.row)
    if not columns or found is None:
        return unowned & uncaptured
    terms = ", ".join(map(_default_terms, columns))
    listing = f"SELECT {terms} FROM {quoted(table.spec.name)} t WHERE {found[0]}"
    try:
        result = table.store.db.execute(listing, found[1]).fetchone()
    except apsw.SQLError:  # a default that is not a valid expression outside of its column definition
        return unowned & uncaptured
    tests = zip(columns, result[::3], result[1::3], result[2::3], strict=True)
    return table.columns.mask_of(
        [column.folded for column, plain, value, default in tests if not (plain and conflicts.same(value, default))]
    )


def _default_terms(column: Column) -> str:
    """Return three SQL terms: whether row `t` has the column's default, its value and the default.

    The last two are NULL unless they are numbers that the column stores without a change of type.
    """
    value, default = f"t.{quoted(column.name)}", f"({column.default or 'NULL'}\n)"
    number = f"typeof({value}) IN ('integer', 'real')" if column.affinity == "BLOB" else "0"
    return f"{value} IS {default}, iif({number}, {value}, NULL), iif({number}, {default}, NULL)"


def _too_large(view: RowView, pending: _PendingRow) -> int:
    """Return the columns whose values are too large to send.

    If an entry owns one of them, peers have an older value of it. Then the row is stamped as an insert without that column.
    """
    if view.present is None or not pending.heavy:
        return 0
    too_large = oversized(view.table, view.present)
    pending.inserted = pending.inserted or any(entry.mask & too_large for entry in view.entries)
    return too_large


def _change_in_portions(
    table: Table, stamper: Stamper, view: RowView, pending: _PendingRow, mask: int, groups: _Groups
) -> None:
    """Stamp an insert or an update, as several changes if one would be too large to send."""
    kind = Kind.INSERT if mask & EXISTENCE else Kind.UPDATE
    if not pending.heavy:
        _change(table, stamper, view, pending, kind, mask, groups)
        return
    first, *more = portions(table, mask, view.present or {})
    _change(table, stamper, view, pending, kind, first, groups)
    # Each part joins the entries that the parts before it left, so the row is read again.
    for part in more:
        _change(table, stamper, RowView.read(table, view.row), pending, Kind.UPDATE, part, groups)


def _record_unseen(view: RowView, key: Any, stamp: tuple[int, bytes], masks: list[int]) -> None:
    """Record values that a local write supersedes and that its user never saw: they were parked, or hidden by a delete."""
    table = view.table
    for stored, entry, mask in zip(view.stored, view.entries, masks, strict=True):
        lost = table.columns.names_of(entry.mask & ~mask & ~EXISTENCE)
        held = unseen_values(view, {name: value for name, value in view.held(stored).items() if name in lost})
        if held:
            loser = records.Loser(key, held, entry.stamp, entry.dead)
            records.record_conflict(table, loser, stamp, view.present, ms_from_hlc(stamp[0]))


def _change(
    table: Table, stamper: Stamper, view: RowView, pending: _PendingRow, kind: Kind, mask: int, groups: _Groups
) -> None:
    """Stamp one change of a row, write it into the change log and append it to its group."""
    site_number = stamper.site_number
    site = table.store.site(site_number)
    # After every stamp of the row, also on a clock that is slow: the user saw these values and overwrote them.
    hlc = stamper.clock.tick(pending.at_ms, view.hlc)
    dead = kind is Kind.DELETE
    prior = encode_prior(priors_of(view, site_number, mask))
    by_insert = isinstance(view.row, int) and table.spec.kind is not KeyKind.ROWID
    is_insert = by_insert and not view.visible
    key = insert_key(site, hlc) if is_insert else view.key
    outcome = join(view.entries, (hlc, site), mask)
    assert outcome.gained == mask, "a local stamp is greater than everything that it overwrites"
    if not by_insert:
        _record_unseen(view, key, (hlc, site), outcome.masks)
    columns = () if dead else table.columns.names_of(mask)
    present = view.present or {}
    values = [present[name] for name in columns]
    shrink(view, outcome.masks, key)
    # A deleted row has no rowid. If its insert identifies it, its entries get the key of the insert.
    row = key if dead and by_insert else view.row
    digest = table.digests.entry(site_number, hlc, mask, key, values, dead=dead)
    table.log.add((site_number, hlc, row, pack_mask(mask, dead=dead), digest, prior))
    if table.columns.counters:
        hold_registers(table, site_number, hlc, dict(zip(columns, values, strict=True)))
    note_restored(table, key, columns, hlc)
    group = groups.get((site_number, kind, mask))
    if group is None:
        group = groups[site_number, kind, mask] = Group(
            site, kind, columns, [], None if kind is Kind.INSERT else [], [], []
        )
    group.hlcs.append(hlc)
    group.rows.append(values)
    if group.keys is not None:
        group.keys.append(key)
    if group.priors is not None:
        group.priors.append(prior_to_wire(table, prior, mask) if prior else [])
