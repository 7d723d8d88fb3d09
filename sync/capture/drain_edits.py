"""Fast path of the drain: stamps updates and deletes of many plain rows at once.

A plain row is one whose entries are all in the change log with integer masks and no held values, and of which the triggers say
what has changed. The entries of all rows are read in one statement, and their digests are computed by groups of equal columns.
Other rows are left to `drain`, one by one.

Invariant: the changes and the change log are the same as if each row had been stamped alone, in another order
(tests/sync/capture/test_drain_edits.py). ADR 0044.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mycomesh.sync.capture.pending_rows import PendingRow
from mycomesh.sync.capture.stamps import Chunk
from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.merge.restored import note_restored, recorded_keys
from mycomesh.sync.sqlite.table_spec import KeyKind, Row
from mycomesh.sync.storage.change_log import StoredEntry, pack_mask
from mycomesh.sync.storage.row_batch import Lost, cells_of, digests_of, encode_cells, supersede
from mycomesh.sync.storage.row_view import LEAST, RowView, encode_prior, has_equal, prior_to_wire, priors_of
from mycomesh.sync.storage.table import Table, insert_key
from mycomesh.sync.wire.bundle import Group, Kind

__all__ = ["Groups", "PlainEdit", "find_plain_edits", "stamp_edits"]

# The changes of a chunk, by the number of their site, their kind and their columns.
Groups = dict[tuple[int, Kind, int], Group]


@dataclass(slots=True)
class PlainEdit:
    """An update or a delete of a plain row: the cells it takes (`EXISTENCE` for a delete), and from which entries."""

    row: Row
    pending: PendingRow
    mask: int
    stored: list[StoredEntry]
    insert: StoredEntry  # the entry that owns the row's existence


def find_plain_edits(table: Table, rows: dict[Row, PendingRow]) -> list[PlainEdit]:
    """Return the plain updates and deletes among some pending rows."""
    columns, spec = table.columns, table.spec
    if spec.id_column or columns.counters or columns.local_mask & ~columns.captured_mask:
        return []
    wanted = {row: pending for row, pending in rows.items() if _is_edit(pending) and _is_named(table, row)}
    if not wanted:
        return []
    entries_of = table.log.entries_of_rows(list(wanted))
    held = table.held.among(itertools.chain.from_iterable(entries_of.values()))
    loose, local, foreign = columns.loose_mask, columns.local_mask, ~(columns.local_mask | EXISTENCE)
    found: list[PlainEdit] = []
    suspects: list[Lost] = []  # entries of which only the digest tells whether a number was replaced by an equal one
    for row, pending in wanted.items():
        values = pending.values
        mask = EXISTENCE if values is None else pending.mask & local
        suspect = local if values is not None and LEAST in values else loose
        insert, unowned = None, suspect
        stored_entries = entries_of[row]
        for stored in stored_entries:
            owned = stored[3]
            if type(owned) is not int or not owned or (held and stored[:2] in held):
                break
            if owned & foreign and values is not None:
                break
            if owned & EXISTENCE:
                insert = stored
            if suspect and values is not None:
                unowned &= ~owned
                if owned & suspect and not owned & mask and _any_has_equal(table, values, owned & suspect):
                    suspects.append((stored, owned, len(found)))
        else:
            if insert is not None and mask and (values is None or not unowned):
                found.append(PlainEdit(row, pending, mask, stored_entries, insert))
    return _without_retyped(table, found, suspects) if suspects else found


def _without_retyped(table: Table, edits: list[PlainEdit], suspects: Sequence[Lost]) -> list[PlainEdit]:
    """Return the edits none of whose suspect entries has another digest than it had."""
    records = [edit.pending.values or () for edit in edits]
    changed: set[int] = set()
    # A row that is not plain has left its suspects behind, under the number of the next that is.
    own = [item for item in suspects if item[2] < len(edits) and item[0] in edits[item[2]].stored]
    for items, digests in digests_of(table, own, _keys(table, edits), records):
        changed.update(
            number for (stored, _, number), digest in zip(items, digests, strict=True) if digest != stored[4]
        )
    return [edit for number, edit in enumerate(edits) if number not in changed]


def _is_edit(pending: PendingRow) -> bool:
    if pending.inserted or pending.silent or pending.early or pending.heavy:
        return False
    return pending.values is None or (pending.mask != 0 and not pending.deleted)


def _is_named(table: Table, row: Row) -> bool:
    """Return True if the row's name says how to find it: with a NULL in its key it is named by its rowid."""
    return table.spec.kind is not KeyKind.KEYED or isinstance(row, bytes)


def _any_has_equal(table: Table, values: Sequence[Any], mask: int) -> bool:
    bits = table.columns.bits
    return any(
        mask >> bits[name] & 1 and has_equal(value) for name, value in zip(table.columns.local, values, strict=True)
    )


def stamp_edits(chunk: Chunk, edits: Sequence[PlainEdit], groups: Groups) -> None:
    """Stamp plain edits, write them into the change log and append them to the groups of their columns."""
    by_mask: dict[int, list[PlainEdit]] = {}
    for edit in edits:
        by_mask.setdefault(edit.mask, []).append(edit)
    for mask in sorted(by_mask):  # deletes first
        _stamp(chunk, mask, by_mask[mask], groups)


def _stamp(chunk: Chunk, mask: int, edits: Sequence[PlainEdit], groups: Groups) -> None:
    """Stamp edits of the same cells; `mask` is `EXISTENCE` for deletes."""
    table, site_number, tick = chunk.table, chunk.site.site_number, chunk.site.clock.tick
    dead = mask == EXISTENCE
    hlcs: list[int] = []
    priors: list[bytes | None] = []
    lost: list[Lost] = []
    for number, edit in enumerate(edits):
        top, seen = 0, False
        for stored in edit.stored:
            owned = stored[3]
            top = max(top, stored[1])
            cells = owned if dead else owned & mask
            if cells:
                lost.append((stored, owned ^ cells, number))
                seen = seen or stored[0] != site_number or stored[5] is not None
        hlcs.append(tick(edit.pending.at_ms, top))  # the user saw these values and overwrote them
        priors.append(_prior(table, edit, site_number, mask) if seen else None)
    keys = _keys(table, edits)
    records = [edit.pending.values or () for edit in edits]
    supersede(table, lost, keys, records)
    columns = () if dead else table.columns.names_of(mask)
    cells_of_rows: list[Any] = [()] * len(edits) if dead else cells_of(table, mask, records)
    encoded = encode_cells(len(columns), cells_of_rows)
    # A deleted row of a table without a primary key has no rowid: its key names it.
    rows = keys if dead else [edit.row for edit in edits]
    digests = [0] * len(edits) if dead else table.digests.many(site_number, mask, hlcs, keys, encoded)
    packed = pack_mask(mask, dead=dead)
    table.log.add_many(
        [
            (site_number, hlc, row, packed, digest, prior)
            for hlc, row, digest, prior in zip(hlcs, rows, digests, priors, strict=True)
        ]
    )
    for key in recorded_keys(table, keys):
        note_restored(table, key, columns, hlcs[keys.index(key)])
    kind = Kind.DELETE if dead else Kind.UPDATE
    group = Group(table.store.site(site_number), kind, columns, hlcs, keys, cells_of_rows, None, b"".join(encoded))
    if any(priors):
        group.priors = [prior_to_wire(table, prior, mask) if prior else [] for prior in priors]
    assert (site_number, kind, mask) not in groups, "the plain edits of one mask come at once"
    groups[site_number, kind, mask] = group


def _keys(table: Table, edits: Sequence[PlainEdit]) -> list[Any]:
    if table.spec.kind is not KeyKind.KEYLESS:
        return [edit.row for edit in edits]
    site = table.store.site
    return [insert_key(site(edit.insert[0]), edit.insert[1]) for edit in edits]


def _prior(table: Table, edit: PlainEdit, site_number: int, mask: int) -> bytes | None:
    return encode_prior(priors_of(RowView(table, edit.row, None, edit.stored, holds=False), site_number, mask))
