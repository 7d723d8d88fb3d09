"""Drain: turns the pending log, which triggers write, into stamped changes; one transaction a chunk.

All log records of a row become one change, made from the row's current state. The order of the logged operations does not matter,
and could not: an application's trigger can have an update logged before the insert that caused it.

Rows from before the mesh get stamps of the file's early site, whose clock begins at 0: so they lose to every write on the mesh,
also to one that is older than the day on which this file joined. ADR 0031.

Invariant: a change is stamped after every stamp that it overwrites. So a user always overwrites what he sees, even on a node
whose clock is slow. design.md section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import apsw

from mycomesh.sync.capture.drain_areas import by_stamper, has_moved, moved_area, sections, stamper_of
from mycomesh.sync.capture.drain_edits import Groups, PlainEdit, find_plain_edits, stamp_edits
from mycomesh.sync.capture.drain_uniform import stamp_uniform
from mycomesh.sync.capture.pending_rows import PendingRow, pending_sql, read_pending
from mycomesh.sync.capture.stamps import Chunk, Stamper, Times, is_early_record, stamps_of
from mycomesh.sync.capture.table_scan import is_adopting
from mycomesh.sync.crdt.hlc import ms_from_hlc
from mycomesh.sync.crdt.lattice import EXISTENCE, join
from mycomesh.sync.merge import conflicts, records
from mycomesh.sync.merge.counters import hold_bases, hold_registers, unseen_values, update_registers
from mycomesh.sync.merge.keep_both import id_to_settle
from mycomesh.sync.merge.restored import note_restored
from mycomesh.sync.merge.work_budget import CHUNK_BYTES_MAX, CHUNK_ROWS_MAX, EDIT_WEIGHT, PLAIN_EDIT_WEIGHT
from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.sync.sqlite.table_spec import Column, KeyKind, Row
from mycomesh.sync.storage.change_log import pack_mask
from mycomesh.sync.storage.large_rows import CHANGE_BYTES_MAX, large_keys, oversized, portions
from mycomesh.sync.storage.pending_log import (
    OP_INSERT,
    pending_name,
    word_names,
)
from mycomesh.sync.storage.row_codec import encode_row, encode_rows
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

# Rows that need a look each are stamped after the others of their chunk. Where its writes are further apart than this, all are
# stamped in the order of the log: a stamp that is late would win over writes that other nodes made meanwhile.
SPREAD_MS = 100


@dataclass(slots=True)
class Drained:
    """Result of draining one chunk.

    sections: the changes to publish, one section for each unit of the table that has changed.
    more: the pending log has more records.
    weight: the work done, in new rows (`EDIT_WEIGHT`).
    too_large: columns some of whose values are too large to send.
    large_keys: rows that stay on this node, because their keys are too large.
    """

    sections: Sequence[Section]
    more: bool
    weight: int = 0
    too_large: tuple[str, ...] = ()
    large_keys: int = 0


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
    groups: Groups = {}
    too_large = kept = 0
    done = None
    if table.areas is None:
        done = _drain_run(chunk, times, budget, groups)
        if done is None and not table.pending.special:
            done = stamp_uniform(chunk, times, budget, groups)
    if done is None:
        sorted_rows, last, more, weight = _read_sorted(chunk, times, budget)
        kept = sorted_rows.kept
        if not last:
            table.pending.unread = False
            return Drained((), more=False)
        done = last, more, weight
        sorted_rows.tick(chunk)
        # Deletes and updates first: the new rows may have taken UNIQUE values that these gave up.
        stamp_edits(chunk, sorted_rows.plain, groups)
        too_large = _drain_rows(chunk, sorted_rows.other, groups)
        for stamper, rows in by_stamper(chunk, sorted_rows.new):
            _drain_inserts(table, stamper, rows, groups)
    last, more, weight = done
    table.log.flush()
    log = pending_name(table.table_id)
    # A DELETE without a condition clears the table without reading its rows.
    if more:
        table.store.db.execute(f"DELETE FROM {log} WHERE rowid <= ?", (last,))
    else:
        table.store.db.execute(f"DELETE FROM {log}")
        table.pending.unread = False
    names = table.columns.names_of(too_large)
    if not groups:
        return Drained((), more, weight, names, kept)
    return Drained(sections(chunk, groups), more, weight, names, kept)


# ---- the common case: rows inserted one after the other and not changed since


def _drain_run(chunk: Chunk, times: Times, budget: int, groups: Groups) -> tuple[int, bool, int] | None:
    """Stamp a chunk that consists of inserts of consecutive rowids and nothing else; add its group to `groups`.

    Returns (last log rowid read, whether more follow, weight), or None, with nothing done, if some record needs another path.
    """
    table = chunk.table
    if table.spec.kind is KeyKind.KEYED:
        return None
    words = word_names(table.columns.captured)
    row_at = 2 + len(words)
    written: list[Any] = []
    values: list[tuple[Any, ...]] = []
    encoded: list[bytes] = []
    first = last = size = 0
    more = early = False
    try:
        for record in table.store.db.execute(pending_sql(table, words, raw=False), (budget + 1,)):
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
            encoded.append(encode_row(cells))
            size += len(encoded[-1])
    except UnicodeDecodeError:
        return None
    if not values or max(map(len, encoded)) > CHANGE_BYTES_MAX:
        return None
    # A rowid that the change log knows was used before: its insert overwrites older entries.
    if table.log.any_row_between(first, first + len(values) - 1):
        return None
    stamper = chunk.early() if early else chunk.site
    hlcs = stamps_of(stamper, times, written, OP_INSERT)
    rows = range(first, first + len(values))
    mask = table.columns.local_mask | EXISTENCE
    groups[stamper.site_number, Kind.INSERT, mask] = _enter_inserts(
        table, stamper.site_number, hlcs, rows, values, encoded
    )
    return last, more, len(values)


def _enter_inserts(
    table: Table, site_number: int, hlcs: list[int], rows: Sequence[Row], values: list[Any], encoded: list[bytes]
) -> Group:
    """Write inserts of all known columns into the change log; return them as a group."""
    mask = table.columns.local_mask | EXISTENCE
    keys: Sequence[Row | None] | None = None if table.spec.kind is KeyKind.KEYLESS else rows
    if table.spec.kind is KeyKind.KEYED:
        keys = [None if isinstance(row, int) else row for row in rows]  # a NULL in the key: the insert names the row
    digests = table.digests.many(site_number, mask, hlcs, keys, encoded)
    table.log.add_inserts(site_number, hlcs, rows, pack_mask(mask), digests, packed=not table.columns.counters)
    if table.columns.counters:
        hold_bases(table, site_number, hlcs, table.columns.local, values)
    site = table.store.site(site_number)
    return Group(site, Kind.INSERT, table.columns.local, hlcs, None, values, None, b"".join(encoded))


# ---- the general case: each row against its entries


@dataclass(slots=True)
class _Sorted:
    """The rows of a chunk by what they need."""

    rows: dict[Row, PendingRow]  # all of them
    new: dict[Row, PendingRow]  # inserted, still there, and unknown to the change log
    plain: dict[int, list[PlainEdit]]  # by the cells that they take
    other: dict[Row, PendingRow]  # a look each
    kept: int = 0  # rows of the chunk besides: their keys are too large

    def tick(self, chunk: Chunk) -> None:
        """Give the new rows and the plain edits their clocks, in the order of the log.

        A later write must not postpone an earlier one.
        """
        plain = {edit[0] for edits in self.plain.values() for edit in edits}
        early = self.new and next(iter(self.new.values())).early
        tick = (chunk.early_clock if early else chunk.site.clock).tick
        for row, pending in self.rows.items():
            if row in plain or row in self.new:
                pending.hlc = tick(pending.at_ms, pending.top)  # the user saw these values and overwrote them


def _read_sorted(chunk: Chunk, times: Times, budget: int) -> tuple[_Sorted, int, bool, int]:
    """Return (rows, last log rowid read, whether more follow, weight)."""
    table = chunk.table
    try:
        # Most edits are plain. If these are not, fewer of them are a chunk.
        for edit_weight in (EDIT_WEIGHT,) if table.pending.special else (PLAIN_EDIT_WEIGHT, EDIT_WEIGHT):
            rows, last, more, taken = read_pending(table, times, budget, edit_weight=edit_weight)
            kept = _remove_kept(table, rows)
            found = _sort(table, rows)
            in_order = not found.other or _spread_ms(rows) <= SPREAD_MS
            if in_order and len(found.other) * EDIT_WEIGHT <= budget:
                break
        if not in_order:
            found = _Sorted(rows, {}, {}, rows)
        table.pending.special = edit_weight == EDIT_WEIGHT and len(found.other) > len(rows) // 2
    except UnicodeDecodeError:
        # Some text is not UTF-8. Reading raw text is slower, so it is the exception.
        rows, last, more, taken = read_pending(table, times, budget, raw=True)
        kept = _remove_kept(table, rows)
        found = _Sorted(rows, {}, {}, rows)
        edit_weight = EDIT_WEIGHT
    found.kept = kept
    return found, last, more, taken + len(found.other) * (EDIT_WEIGHT - edit_weight)


def _remove_kept(table: Table, rows: dict[Row, PendingRow]) -> int:
    """Remove the rows that stay on this node because of their keys; return how many of them are there."""
    if table.spec.kind is not KeyKind.KEYED:
        return 0
    gone = [rows.pop(key) for key in large_keys(table, rows)]
    return sum(pending.values is not None for pending in gone)


def _spread_ms(rows: Mapping[Row, PendingRow]) -> int:
    """Return the milliseconds from the first write of some rows to the last."""
    times = [pending.at_ms for pending in rows.values()]
    return max(times, default=0) - min(times, default=0)


def _sort(table: Table, rows: dict[Row, PendingRow]) -> _Sorted:
    new = {row: pending for row, pending in rows.items() if pending.inserted or pending.early}
    new = {row: pending for row, pending in new.items() if _may_be_new(pending)}
    if new:
        known = _known(table, list(new))
        new = {row: pending for row, pending in new.items() if row not in known} if known else new
    if len(new) == len(rows):
        return _Sorted(rows, new, {}, {})
    plain = find_plain_edits(table, rows) if table.areas is None else {}
    done = {edit[0] for edits in plain.values() for edit in edits}
    other = {}
    if len(new) + len(done) < len(rows):
        other = {row: pending for row, pending in rows.items() if row not in new and row not in done}
    return _Sorted(rows, new, plain, other)


def _may_be_new(pending: PendingRow) -> bool:
    return not pending.deleted and pending.values is not None and not pending.heavy


def _known(table: Table, rows: list[Row]) -> set[Row]:
    """Return those of some rows that the change log knows."""
    numbers = [row for row in rows if isinstance(row, int)]
    if len(numbers) == len(rows) and not table.log.any_row_between(min(numbers), max(numbers)):
        return set()
    return table.log.rows_with_entries(rows)


def _drain_inserts(table: Table, stamper: Stamper, rows: dict[Row, PendingRow], groups: Groups) -> None:
    """Stamp new rows, in any order of their rowids or keys, without reading the change log."""
    hlcs = [pending.hlc for pending in rows.values()]
    values = [pending.values or () for pending in rows.values()]
    encoded = encode_rows(values)
    mask = table.columns.local_mask | EXISTENCE
    group = _enter_inserts(table, stamper.site_number, hlcs, list(rows), values, encoded)
    earlier = groups.setdefault((stamper.site_number, Kind.INSERT, mask), group)
    if earlier is not group:
        earlier.hlcs[:0] = group.hlcs
        earlier.rows[:0] = group.rows
        earlier.encoded = None
        if earlier.priors is not None:
            earlier.priors[:0] = [[] for _ in group.hlcs]


def _drain_rows(chunk: Chunk, rows: dict[Row, PendingRow], groups: Groups) -> int:
    """Stamp one change for each row that changed, and two for a row that was replaced or edited before it was adopted.

    Appends the changes to their groups. Returns the mask of columns some of whose values are too large to send.
    """
    table = chunk.table
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
        replaced = by_insert and view.visible and (pending.inserted or has_moved(view, pending))
        stamper = stamper_of(chunk, view)
        if view.visible and (present is None or replaced):
            _change(table, stamper, view, pending, Kind.DELETE, EXISTENCE, groups)
            if not replaced:
                continue
            view = RowView(table, row, present, (), holds=False)
            stamper = stamper_of(chunk, view)
        if present is None:
            continue
        # A deleted row, or one whose insert has not arrived, does not exist for the user. So his write is an insert.
        if pending.inserted or not view.visible:
            mask = (columns.local_mask | EXISTENCE) & ~too_large
            _change_in_portions(table, stamper, view, pending, mask, groups)
            continue
        mask = _changed_columns(view, pending, stamper.site_number, too_large)
        if mask:
            _change_in_portions(table, stamper, view, pending, mask, groups)
    for group in groups.values():
        if group.priors is not None and not any(group.priors):
            group.priors = None
    return all_too_large


def _adopt(chunk: Chunk, view: RowView, pending: PendingRow, mask: int, groups: Groups) -> RowView | None:
    """Stamp a row from before the mesh that the change log does not know; return its view if a program has updated it since.

    A program that updates such a row has written some columns on the mesh, and no others. One that deletes it has deleted the
    row on the mesh, so the delete needs a stamp although the row has none.
    """
    table = chunk.table
    if view.present is None:
        if pending.deleted and not (isinstance(view.row, int) and table.spec.kind is not KeyKind.ROWID):
            _change(table, stamper_of(chunk, view), view, pending, Kind.DELETE, EXISTENCE, groups)
        return None
    area = moved_area(table, view.row)
    _change_in_portions(table, chunk.early(area), view, _early(pending), mask | EXISTENCE, groups)
    if not pending.mask:
        return None
    chunk.cover_early(area)
    return RowView.read(table, view.row)


def _early(pending: PendingRow) -> PendingRow:
    """Return the record of a row without a time: the clock of the early site has none."""
    return replace(pending, at_ms=0)


def _changed_columns(view: RowView, pending: PendingRow, site_number: int, too_large: int) -> int:
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


def _too_large(view: RowView, pending: PendingRow) -> int:
    """Return the columns whose values are too large to send.

    If an entry owns one of them, peers have an older value of it. Then the row is stamped as an insert without that column.
    """
    if view.present is None or not pending.heavy:
        return 0
    too_large = oversized(view.table, view.present)
    pending.inserted = pending.inserted or any(entry.mask & too_large for entry in view.entries)
    return too_large


def _change_in_portions(
    table: Table, stamper: Stamper, view: RowView, pending: PendingRow, mask: int, groups: Groups
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
    table: Table, stamper: Stamper, view: RowView, pending: PendingRow, kind: Kind, mask: int, groups: Groups
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
    group.encoded = None
    if group.priors is None:  # of new rows or plain edits, which overwrote nothing of another site
        group.priors = [[] for _ in group.hlcs]
    group.hlcs.append(hlc)
    group.rows.append(values)
    if group.keys is not None:
        group.keys.append(key)
    group.priors.append(prior_to_wire(table, prior, mask) if prior else [])
