"""Fast path of the merge: updates and deletes of many visible rows at once.

Most updates and deletes overwrite what their writer had seen, in a row that is visible here. They need no comparison of values:
one statement reads the entries of all their rows, one their values, and one writes them. Changes that need more go back to
the caller, which merges them row by row (`merge`).

Invariant: the tables, the change log and the digests are the same as if each change had been merged alone
(tests/sync/merge/test_bulk_edit.py). ADR 0044.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.merge.bulk_insert import slice_group
from mycomesh.sync.merge.restored import note_restored, recorded_keys
from mycomesh.sync.merge.work_budget import (
    CHUNK_BYTES_MAX,
    GROUP_WEIGHT,
    PLAIN_EDIT_WEIGHT,
    WorkBudget,
    bytes_weight_of,
)
from mycomesh.sync.sqlite.raw_text import is_raw
from mycomesh.sync.sqlite.refusals import REFUSALS
from mycomesh.sync.sqlite.table_spec import KeyKind, Row
from mycomesh.sync.storage.change_log import pack_mask
from mycomesh.sync.storage.row_batch import Lost, encode_cells, read_records, supersede
from mycomesh.sync.storage.row_view import prior_from_wire
from mycomesh.sync.storage.table import Table
from mycomesh.sync.storage.user_table import key_values
from mycomesh.sync.wire.bundle import Group, Kind, Part, filtered

__all__ = ["merge_edits"]

_SAVEPOINT = "mycomesh_edits"
# A batch that the table refuses is split in halves down to this size. Below it the rows are merged one by one.
_BATCH_MIN = 16


def merge_edits(
    table: Table, group: Group, site_number: int, keys: Sequence[Any], budget: WorkBudget
) -> tuple[int, Group | None, Group | None]:
    """Merge the plain changes of a group of updates or deletes.

    Returns how many were merged, the changes that have to be merged row by row, and those that were not looked at because the
    rows before them are large. `keys` are the keys of the group's rows, in order. The caller owns the transaction.
    """
    if not _is_plain(table, group):
        return 0, group, None
    rows = table.locate_many(keys)
    if len(set(rows)) < len(rows) or not _are_named(table, rows):
        return 0, group, None
    try:
        records, done, size = read_records(table, rows, CHUNK_BYTES_MAX)
    except UnicodeDecodeError:
        return 0, group, None
    budget.spend(done * PLAIN_EDIT_WEIGHT + bytes_weight_of(size))
    if not done:
        return 0, group, None
    later = slice_group(group, done, len(rows)) if done < len(rows) else None
    if later is not None:
        group, keys, rows = slice_group(group, 0, done), keys[:done], rows[:done]
    edits = _Edits(table, group, site_number, keys, rows, [records.get(row) for row in rows])
    left = edits.find_plain()
    merged = edits.write(edits.plain, left, budget)
    return merged, filtered(group, left) if any(left) else None, later


def _is_plain(table: Table, group: Group) -> bool:
    """Return True if no rule of the table or value of the group needs the row path."""
    spec, columns = table.spec, table.columns
    if spec.id_column or columns.counters or columns.converting or group.kind is Kind.INSERT:
        return False
    if not columns.local_names.issuperset(group.columns) or any(key.folded in group.columns for key in spec.key):
        return False
    # A list is text that is not UTF-8. SQLite takes that only through an expression (`raw_text`).
    return list not in set(map(type, itertools.chain.from_iterable(group.rows)))


def _are_named(table: Table, rows: Sequence[Row]) -> bool:
    """Return True if the names of rows are as `UserTable.records` takes them.

    A row of a keyed table with a NULL in its key is named by its insert or its rowid. A row of a keyless table is named by
    its insert unless it is visible.
    """
    if table.spec.kind is not KeyKind.KEYED:
        return all(isinstance(row, int) for row in rows)
    if any(isinstance(row, int) or row[:1] == b"\x00" for row in rows):
        return False
    return not any(is_raw(value) for key in key_values(rows) for value in key)


class _Edits:
    """The changes of one group, with the rows as they were before the first."""

    def __init__(
        self,
        table: Table,
        group: Group,
        site_number: int,
        keys: Sequence[Any],
        rows: Sequence[Row],
        records: Sequence[Any],
    ) -> None:
        self._table = table
        self._group = group
        self._site_number = site_number
        self._keys = keys
        self._rows = rows
        self._records = records
        self.plain: list[int] = []  # numbers of the changes that are merged at once
        self._lost: dict[int, list[Lost]] = {}  # by number: what the change takes from earlier entries

    def find_plain(self) -> list[bool]:
        """Find the plain changes; return for each change whether it is left to the row path."""
        table, group, own = self._table, self._group, self._site_number
        whole = group.kind is Kind.DELETE
        mask = EXISTENCE if whole else table.columns.mask_of(group.columns)
        entries_of = table.log.entries_of_rows(self._rows)
        held = table.held.among(itertools.chain.from_iterable(entries_of.values()))
        foreign = ~(table.columns.local_mask | EXISTENCE)
        left_over = [True] * len(group.hlcs)
        for number, (hlc, row, record) in enumerate(zip(group.hlcs, self._rows, self._records, strict=True)):
            if record is None:
                continue
            alive = False
            lost = []
            for stored in entries_of[row]:
                owned = stored[3]
                if type(owned) is not int or not owned or (held and stored[:2] in held):
                    break
                if (
                    stored[1] >= hlc
                ):  # it keeps its cells; of one stamp there may be another part, and of one clock another site
                    if stored[1] == hlc or whole or owned & (mask | EXISTENCE):
                        break
                    continue
                alive = alive or owned & EXISTENCE != 0
                cells = owned if whole else owned & mask
                if cells:
                    if stored[0] != own and not self._has_seen(number, stored[0], stored[1], cells, whole=whole):
                        break
                    if (owned ^ cells) & foreign:
                        break
                    lost.append((stored, owned ^ cells, number))
            else:
                if alive:
                    left_over[number] = False
                    self.plain.append(number)
                    self._lost[number] = lost
        return left_over

    def _has_seen(self, number: int, site_number: int, hlc: int, cells: int, *, whole: bool) -> bool:
        """Return True if the writer of a change had seen an entry whose cells it overwrote."""
        if self._group.priors is None:
            return False
        site, seen = self._table.store.site(site_number), 0
        for names, origin, upto in self._group.priors[number]:
            if origin == site and upto >= hlc:
                if names is None:
                    return True
                seen |= self._table.columns.mask_of(names)
        return not whole and not cells & ~seen

    def write(self, numbers: list[int], left: list[bool], budget: WorkBudget) -> int:
        """Merge plain changes at once or in halves; return how many, and mark in `left` those that SQLite refuses."""
        if not numbers:
            return 0
        if self._try_write(numbers):
            return len(numbers)
        budget.spend(GROUP_WEIGHT + len(numbers))
        if len(numbers) <= _BATCH_MIN:
            for number in numbers:
                left[number] = True
            return 0
        middle = len(numbers) // 2
        return self.write(numbers[:middle], left, budget) + self.write(numbers[middle:], left, budget)

    def _try_write(self, numbers: list[int]) -> bool:
        """Write plain changes into the table and the change log; return False, with nothing done, if SQLite refuses one."""
        table, group = self._table, self._group
        db = table.store.db
        db.execute(f"SAVEPOINT {_SAVEPOINT}")
        try:
            rows = [self._rows[number] for number in numbers]
            if group.kind is Kind.DELETE:
                table.rows.delete_many(rows)
            else:
                table.rows.update_many(group.columns, rows, [group.rows[number] for number in numbers])
        except REFUSALS:
            db.execute(f"ROLLBACK TO {_SAVEPOINT}")
            db.execute(f"RELEASE {_SAVEPOINT}")
            return False
        db.execute(f"RELEASE {_SAVEPOINT}")
        supersede(
            table,
            list(itertools.chain.from_iterable(map(self._lost.__getitem__, numbers))),
            self._keys,
            self._records,
        )
        self._enter(numbers)
        self._note_restored(numbers)
        return True

    def _enter(self, numbers: list[int]) -> None:
        """Add the entries of the changes to the change log."""
        table, group, site_number = self._table, self._group, self._site_number
        hlcs = [group.hlcs[number] for number in numbers]
        keys = [self._keys[number] for number in numbers]
        priors: Sequence[bytes | None] = [None] * len(numbers)
        if group.priors is not None:
            priors = [_stored_prior(table, group.priors[number]) for number in numbers]
        if group.kind is Kind.DELETE:
            # A deleted row of a table without a primary key has no rowid: its key names it.
            table.log.add_many(
                [(site_number, hlc, key, 0, 0, prior) for hlc, key, prior in zip(hlcs, keys, priors, strict=True)]
            )
            return
        mask = table.columns.mask_of(group.columns)
        cells = encode_cells(len(group.columns), [group.rows[number] for number in numbers])
        digests = table.digests.many(site_number, mask, hlcs, keys, cells)
        packed = pack_mask(mask)
        table.log.add_many(
            [
                (site_number, hlc, self._rows[number], packed, digest, prior)
                for hlc, number, digest, prior in zip(hlcs, numbers, digests, priors, strict=True)
            ]
        )

    def _note_restored(self, numbers: list[int]) -> None:
        for key in recorded_keys(self._table, [self._keys[number] for number in numbers]):
            number = self._keys.index(key)
            note_restored(self._table, key, self._group.columns, self._group.hlcs[number])


def _stored_prior(table: Table, parts: Sequence[Part]) -> bytes | None:
    return prior_from_wire(table, parts) if parts else None
