"""Fast path of the drain: stamps updates and deletes of many plain rows at once.

A plain row is one whose entries are all in the change log with integer masks and no held values, and of which the triggers say
what has changed. The entries of all rows are read in one statement, and their digests are computed by groups of equal columns.
Other rows are left to `drain`, one by one.

Invariant: the changes and the change log are the same as if each row had been stamped alone, in another order
(tests/sync/capture/test_drain_edits.py). ADR 0044.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mycomesh.sync.capture.pending_rows import PendingRow
from mycomesh.sync.capture.stamps import Chunk
from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.merge.restored import note_restored_many
from mycomesh.sync.sqlite.table_spec import KeyKind, Row
from mycomesh.sync.storage.change_log import pack_mask
from mycomesh.sync.storage.insert_runs import InsertRun, RunPart, StoredEntry
from mycomesh.sync.storage.row_batch import Lost, Record, Taken, cells_of, digests_of, encode_cells
from mycomesh.sync.storage.row_view import LEAST, Priors, has_equal, prior_to_wire
from mycomesh.sync.storage.table import Table, insert_key
from mycomesh.sync.wire.bundle import Group, Kind

__all__ = ["Edits", "Groups", "PlainEdit", "enter_edits", "find_plain_edits", "note_restored_by", "stamp_edits"]

# The changes of a chunk, by the number of their site, their kind and their columns.
Groups = dict[tuple[int, Kind, int], Group]


# An update or a delete of a plain row: the row, what is pending of it, the run with an entry of it, its entries in no run, and
# the stamp (site number, hlc) that owns its existence. A plain tuple, because one is made for each row.
PlainEdit = tuple[Row, PendingRow, InsertRun | None, Sequence[StoredEntry], tuple[int, int]]


def find_plain_edits(table: Table, rows: dict[Row, PendingRow]) -> dict[int, list[PlainEdit]]:
    """Return the plain updates and deletes among some pending rows, by the cells that they take (`EXISTENCE`: a delete)."""
    columns, spec = table.columns, table.spec
    if spec.id_column or columns.counters or columns.local_mask & ~columns.captured_mask:
        return {}
    wanted = {row: pending for row, pending in rows.items() if _is_edit(pending)}
    if spec.kind is KeyKind.KEYED:  # a row with a NULL in its key is named by its rowid
        wanted = {row: pending for row, pending in wanted.items() if isinstance(row, bytes)}
    if not wanted:
        return {}
    entries_of, runs = table.log.entries_and_runs(list(wanted))
    held = table.held.among(itertools.chain.from_iterable(entries_of.values()))
    loose, local, foreign = columns.loose_mask, columns.local_mask, ~(columns.local_mask | EXISTENCE)
    found: dict[int, list[PlainEdit]] = {}
    doubtful = False
    for (row, pending), run in zip(wanted.items(), runs, strict=True):
        stored_entries = entries_of.get(row, ())
        insert, top = None, 0
        if run is not None:
            if type(run.mask) is not int or run.mask & foreign:
                continue
            top = run.hlc + row - run.row  # type: ignore[operator]
            insert = run.site_number, top
        for stored in stored_entries:
            owned = stored[3]
            if type(owned) is not int or not owned or owned & foreign or (held and stored[:2] in held):
                break
            top = max(top, stored[1])
            if owned & EXISTENCE:
                insert = stored[:2]
        else:
            mask = EXISTENCE if pending.values is None else pending.mask & local
            if insert is not None and mask:
                pending.top = top
                found.setdefault(mask, []).append((row, pending, run, stored_entries, insert))
                doubtful = doubtful or (pending.values is not None and LEAST in pending.values)
    if loose or doubtful:
        return {mask: _without_retyped(table, edits, mask) for mask, edits in found.items()}
    return found


def _without_retyped(table: Table, edits: list[PlainEdit], mask: int) -> list[PlainEdit]:
    """Return the updates of `mask` beside which no number was replaced by an equal one of another type.

    Triggers miss that, as `row_view.retyped` says.
    """
    if mask == EXISTENCE:
        return edits
    columns = table.columns
    unsure: set[int] = set()
    doubts: list[Lost] = []
    for number, (row, pending, run, stored_entries, _) in enumerate(edits):
        values = pending.values or ()
        suspect = unowned = columns.local_mask if LEAST in values else columns.loose_mask
        for stored in [*([run.entry(row - run.row)] if run is not None else []), *stored_entries]:  # type: ignore[operator]
            unowned &= ~stored[3]
            if stored[3] & suspect and not stored[3] & mask and _any_has_equal(table, values, stored[3] & suspect):
                doubts.append((stored, stored[3], number))
        if unowned:
            unsure.add(number)
    records = [pending.values or () for _, pending, _, _, _ in edits]
    for items, digests in digests_of(table, doubts, _keys(table, edits), records):
        unsure.update(number for (stored, _, number), digest in zip(items, digests, strict=True) if digest != stored[4])
    return [edit for number, edit in enumerate(edits) if number not in unsure]


def _is_edit(pending: PendingRow) -> bool:
    if pending.inserted or pending.silent or pending.early or pending.heavy:
        return False
    return pending.values is None or (pending.mask != 0 and not pending.deleted)


def _any_has_equal(table: Table, values: Sequence[Any], mask: int) -> bool:
    bits = table.columns.bits
    return any(
        mask >> bits[name] & 1 and has_equal(value) for name, value in zip(table.columns.local, values, strict=True)
    )


def stamp_edits(chunk: Chunk, by_mask: Mapping[int, list[PlainEdit]], groups: Groups) -> None:
    """Stamp plain edits, write them into the change log and append them to the groups of their columns."""
    parts: list[tuple[InsertRun, RunPart]] = []
    for mask in sorted(mask for mask, edits in by_mask.items() if edits):  # deletes first
        parts += _stamp(chunk, mask, by_mask[mask], groups)
    chunk.table.log.reshape(parts)
    note_restored_by(chunk.table, groups)


def note_restored_by(table: Table, groups: Groups) -> None:
    """Note the conflicts that the edits in these groups have restored."""
    for (_, _, mask), group in groups.items():
        columns = table.columns.names_of(mask & ~EXISTENCE)
        note_restored_many(table, dict(zip(group.keys or (), group.hlcs, strict=False)), columns)


@dataclass(slots=True)
class Edits:
    """Edits of the same cells, `EXISTENCE` for deletes, column by column.

    `records` are the rows' values, and after them those of the columns `more`.
    """

    mask: int
    rows: Sequence[Row]
    keys: list[Any]
    hlcs: list[int]
    records: Sequence[Record]
    priors: Sequence[bytes | None]
    taken: Taken
    more: tuple[str, ...] = ()


def _stamp(chunk: Chunk, mask: int, edits: Sequence[PlainEdit], groups: Groups) -> list[tuple[InsertRun, RunPart]]:
    """Stamp edits of the same cells; return what becomes of the runs that they take cells from."""
    table, site_number = chunk.table, chunk.site.site_number
    dead = mask == EXISTENCE
    priors: list[bytes | None] = []
    taken, stamped = Taken(), Priors(table, site_number, mask)
    for number, edit in enumerate(edits):
        _, _, run, stored_entries, _ = edit
        seen = False
        if run is not None:
            cells = run.mask if dead else run.mask & mask  # type: ignore[operator]
            if cells:
                taken.take_packed(run, run.mask ^ cells, number)  # type: ignore[operator]
                seen = run.site_number != site_number
        for stored in stored_entries:
            owned = stored[3]
            cells = owned if dead else owned & mask
            if cells:
                taken.lost.append((stored, owned ^ cells, number))
                seen = seen or stored[0] != site_number or stored[5] is not None
        priors.append(stamped.of(edit[0], _entries(edit)) if seen else None)
    keys, rows = _keys(table, edits), [edit[0] for edit in edits]
    hlcs = [edit[1].hlc for edit in edits]
    records = [edit[1].values or () for edit in edits]
    return enter_edits(chunk, Edits(mask, rows, keys, hlcs, records, priors, taken), groups)


def enter_edits(chunk: Chunk, edits: Edits, groups: Groups) -> list[tuple[InsertRun, RunPart]]:
    """Write stamped edits into the change log and add their group; return what the caller passes to `ChangeLog.reshape`."""
    table, site_number, mask = chunk.table, chunk.site.site_number, edits.mask
    dead = mask == EXISTENCE
    keys, hlcs = edits.keys, edits.hlcs
    parts = edits.taken.supersede(table, keys, edits.rows, edits.records)
    columns = () if dead else table.columns.names_of(mask)
    cells_of_rows: list[Any] = [()] * len(keys) if dead else cells_of(table, mask, edits.records, edits.more)
    encoded = encode_cells(len(columns), cells_of_rows)
    # A deleted row of a table without a primary key has no rowid: its key names it.
    names = keys if dead else edits.rows
    digests = [0] * len(keys) if dead else table.digests.many(site_number, mask, hlcs, keys, encoded)
    packed = pack_mask(mask, dead=dead)
    table.log.add_many(
        list(zip(itertools.repeat(site_number), hlcs, names, itertools.repeat(packed), digests, edits.priors))
    )
    kind = Kind.DELETE if dead else Kind.UPDATE
    group = Group(table.store.site(site_number), kind, columns, hlcs, keys, cells_of_rows, None, b"".join(encoded))
    if any(edits.priors):
        group.priors = [prior_to_wire(table, prior, mask) if prior else [] for prior in edits.priors]
    assert (site_number, kind, mask) not in groups, "the plain edits of one mask come at once"
    groups[site_number, kind, mask] = group
    return parts


def _keys(table: Table, edits: Sequence[PlainEdit]) -> list[Any]:
    if table.spec.kind is not KeyKind.KEYLESS:
        return [edit[0] for edit in edits]
    site = table.store.site
    return [insert_key(site(place), hlc) for _, _, _, _, (place, hlc) in edits]


def _entries(edit: PlainEdit) -> Sequence[StoredEntry]:
    """Return all entries of the row, that of a run among them."""
    row, _, run, stored_entries, insert = edit
    return stored_entries if run is None else [(*insert, row, run.mask, 0, None), *stored_entries]
