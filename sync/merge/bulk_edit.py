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
from dataclasses import dataclass
from typing import Any

from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.merge.bulk_conflicts import BulkConflicts
from mycomesh.sync.merge.counters import share_column
from mycomesh.sync.merge.registers import Registers, learn_columns, share_mask, shares_among
from mycomesh.sync.merge.restored import note_restored_many
from mycomesh.sync.merge.work_budget import (
    CHUNK_BYTES_MAX,
    GROUP_WEIGHT,
    LOOK_WEIGHT,
    MANY_CONFLICTS_WEIGHT,
    PLAIN_EDIT_WEIGHT,
    WorkBudget,
    bytes_weight_of,
)
from mycomesh.sync.sqlite.refusals import REFUSALS
from mycomesh.sync.sqlite.table_spec import KeyKind, Row
from mycomesh.sync.storage.change_log import pack_mask
from mycomesh.sync.storage.insert_runs import InsertRun, RunPart, StoredEntry
from mycomesh.sync.storage.row_batch import Lost, Taken, encode_cells, read_records
from mycomesh.sync.storage.row_view import prior_from_wire
from mycomesh.sync.storage.table import Table
from mycomesh.sync.storage.user_table import key_values
from mycomesh.sync.wire.bundle import Group, Kind, Part, filtered

__all__ = ["MergedEdits", "merge_edits"]

_SAVEPOINT = "mycomesh_edits"
# A batch that the table refuses is split in halves down to this size. Below it the rows are merged one by one.
_BATCH_MIN = 16
# Changes of more columns than a mask of 63 bits has, or of more priors, take long to look at, and most are not plain.
_COLUMNS = 62
_PRIORS_A_CHANGE = 8


@dataclass(slots=True)
class MergedEdits:
    """Effect of a group: how many changes are merged, the conflicts recorded, and the changes that are left.

    rest: to be merged row by row.
    later: to be passed to `merge_edits` in another transaction, which has room for their conflicts.
    """

    changes: int = 0
    conflicts: int = 0
    rest: Group | None = None
    later: Group | None = None


def merge_edits(
    table: Table, group: Group, site_number: int, keys: Sequence[Any], wall_ms: int, budget: WorkBudget
) -> MergedEdits:
    """Merge the plain changes of a group of updates or deletes.

    `keys` are the keys of the group's rows, in order; `wall_ms` is the time of conflict records. Runs inside a transaction.
    """
    if not _is_plain(table, group):
        return MergedEdits(rest=group)
    learn_columns(table, group, budget)
    rows = table.locate_many(keys)
    if len(set(rows)) < len(rows) or not _are_named(table, rows):
        return MergedEdits(rest=group)
    budget.spend(len(rows) * PLAIN_EDIT_WEIGHT)
    edits = _Edits(table, group, site_number, keys, rows)
    plain = edits.with_records(edits.find_plain(budget), budget)
    left = [True] * len(rows)
    merged = edits.write_all(plain, left, budget)
    conflicts = edits.finish(wall_ms, budget)
    later = [number in edits.later for number in range(len(rows))] if edits.later else []
    rest = [waits and not (later and later[number]) for number, waits in enumerate(left)]
    return MergedEdits(
        merged,
        conflicts,
        filtered(group, rest) if any(rest) else None,
        filtered(group, later) if any(later) else None,
    )


def _is_plain(table: Table, group: Group) -> bool:
    """Return True if no rule of the table or value of the group needs the row path."""
    spec, columns = table.spec, table.columns
    if spec.id_column or columns.converting or group.kind is Kind.INSERT:
        return False
    shares = shares_among(table, group.columns)
    if columns.counters and (group.kind is Kind.DELETE or len(set(map(share_column, shares))) < len(shares)):
        return False
    if len(group.columns) > _COLUMNS or _has_many_priors(group):
        return False
    rest = set(group.columns).difference(shares)
    if not columns.local_names >= rest or rest & columns.counters or any(key.folded in rest for key in spec.key):
        return False
    # A list is text that is not UTF-8. SQLite takes that only through an expression (`raw_text`).
    return list not in set(map(type, itertools.chain.from_iterable(group.rows)))


def _has_many_priors(group: Group) -> bool:
    """Return True if the changes have more priors, or these more names of columns, than a fast look at each allows."""
    if group.priors is None:
        return False
    names = sum(len(names) for parts in group.priors for names, _, _ in parts if names)
    changes = len(group.hlcs)
    return sum(map(len, group.priors)) > _PRIORS_A_CHANGE * changes or names > _COLUMNS * changes


def _are_named(table: Table, rows: Sequence[Row]) -> bool:
    """Return True if the names of rows are as `UserTable.records` takes them.

    A row of a keyed table with a NULL in its key is named by its insert or its rowid. A row of a keyless table is named by
    its insert unless it is visible.
    """
    kinds = set(map(type, rows))
    if table.spec.kind is not KeyKind.KEYED:
        return kinds == {int}
    if int in kinds or any(row.startswith(b"\x00") for row in rows):  # type: ignore[union-attr]
        return False
    return list not in set(map(type, itertools.chain.from_iterable(key_values(rows))))


class _Edits:
    """The changes of one group, with the rows as they were before the first."""

    def __init__(self, table: Table, group: Group, site_number: int, keys: Sequence[Any], rows: Sequence[Row]) -> None:
        self._table = table
        self._group = group
        self._site_number = site_number
        self._keys = keys
        self._rows = rows
        self._records: list[Any] = [None] * len(rows)
        # The changes take cells from entries in no run, and from runs: each with what it keeps and the numbers of the changes.
        self._lost: list[Lost] = []
        self._packed: list[tuple[InsertRun, int, Sequence[int]]] = []
        self._parts: list[tuple[InsertRun, RunPart]] = []  # of what is written
        self._shares = shares_among(table, group.columns)
        self._registers: Registers | None = None  # of a table with counters
        self._conflicts = BulkConflicts(table, group, keys)
        self.later: set[int] = set()  # changes whose conflicts exceed the budget
        self._written: list[int] = []
        self._plain = 0  # how many changes are plain

    def find_plain(self, budget: WorkBudget) -> list[int]:
        """Return the numbers of the plain changes, and of as many that conflict as the budget has room for."""
        table, group = self._table, self._group
        mask = EXISTENCE if group.kind is Kind.DELETE else table.columns.mask_of(group.columns)
        stored_entries, runs = table.log.entries_in_order(self._rows)
        alive, other = bytearray(len(self._rows)), bytearray(len(self._rows))
        if table.columns.counters:
            self._registers = Registers(table, self._rows, stored_entries, runs)
            for number in self._registers.other:
                other[number] = 1
        for run, numbers in runs:
            self._take_run(run, numbers, mask, alive, other)
        self._take_entries(stored_entries, mask, alive, other)
        if self._conflicts:
            kept = {number for number in self._conflicts.numbers if alive[number] and not other[number]}
            # Those for which there is no room have been looked up alone: the rest of what they were to cost is room for others.
            spared = PLAIN_EDIT_WEIGHT - LOOK_WEIGHT
            room = budget.room + spared * len(kept)
            self.later.update(self._conflicts.keep(kept, max(1, room // (MANY_CONFLICTS_WEIGHT + spared))))
            budget.spend(-spared * len(self.later))
            for number in (*self.later, *self._conflicts.losers):
                other[number] = 1
        if 0 not in alive and 1 not in other:
            return [*range(len(alive))]
        return self._only([number for number, each in enumerate(alive) if each and not other[number]])

    def _only(self, numbers: list[int]) -> list[int]:
        """Forget what other changes than these would take; return the numbers."""
        self._lost, self._packed = self._taken_by(numbers)
        return numbers

    def _taken_by(self, numbers: list[int]) -> tuple[list[Lost], list[tuple[InsertRun, int, Sequence[int]]]]:
        kept = frozenset(numbers)
        parts = [(run, left, [number for number in part if number in kept]) for run, left, part in self._packed]
        return [lost for lost in self._lost if lost[2] in kept], [part for part in parts if part[2]]

    def _take_run(self, run: InsertRun, numbers: Sequence[int], mask: int, alive: bytearray, other: bytearray) -> None:
        """Take cells from the entries of a run; note which rows are alive, and which changes are not plain."""
        group = self._group
        whole = group.kind is Kind.DELETE
        cells = taken = 0
        if type(run.mask) is int:
            cells = run.mask if whole else run.mask & mask
            taken = run.mask ^ cells
        if type(run.mask) is not int or (cells and taken & ~(self._table.columns.local_mask | EXISTENCE)):
            for number in numbers:
                other[number] = 1
            return
        shift = run.hlc - run.row
        own = run.site_number == self._site_number or not cells
        if not own or run.hlc + run.n > group.hlcs[0]:
            seen = []
            for number in numbers:
                hlc = self._rows[number] + shift  # type: ignore[operator]
                if hlc >= group.hlcs[number]:
                    other[number] = 1
                    continue
                unseen = 0 if own else self._conflicts.unseen(number, run.site_number, hlc, cells, whole=whole)
                if unseen and not self._conflicts.wins(number, run.entry(hlc - run.hlc), unseen):
                    other[number] = 1
                else:
                    seen.append(number)
            numbers = seen
        for number in numbers:
            alive[number] = 1  # a run has inserts of visible rows
        if cells:
            self._packed.append((run, taken, numbers))

    def _take_entries(
        self, stored_entries: Sequence[StoredEntry], mask: int, alive: bytearray, other: bytearray
    ) -> None:
        """Take cells from entries in no run; note as `_take_run`."""
        if not stored_entries:
            return
        hlcs, own, whole = self._group.hlcs, self._site_number, self._group.kind is Kind.DELETE
        held = self._table.held.among(stored_entries) if self._registers is None else ()
        shares = share_mask(self._table)
        foreign = ~(self._table.columns.local_mask | EXISTENCE | shares)
        places = dict(zip(self._rows, itertools.count()))
        for stored in stored_entries:  # runs for each entry, where calls would take longer
            number, owned = places[stored[2]], stored[3]
            if type(owned) is not int or not owned or (held and stored[:2] in held):
                other[number] = 1
                continue
            if stored[1] >= hlcs[number]:
                # It keeps its cells. Of one stamp there may be another part, and of one clock another site.
                apart = stored[1] == hlcs[number] or whole or owned & EXISTENCE
                if apart or (owned & mask and not self._conflicts.loses(number, stored, mask)):
                    other[number] = 1
                continue
            if owned & EXISTENCE:
                alive[number] = 1
            cells = owned if whole else owned & mask
            if cells:
                left, unseen = owned ^ cells, 0
                if stored[0] != own:
                    unseen = self._conflicts.unseen(number, stored[0], stored[1], cells, whole=whole)
                held_apart = left & foreign or (left and owned & shares)
                if held_apart or (unseen and not self._conflicts.wins(number, stored, unseen)):
                    other[number] = 1
                else:
                    self._lost.append((stored, left, number))

    def with_records(self, plain: list[int], budget: WorkBudget) -> list[int]:
        """Read the rows whose values are needed for digests; return the numbers of the changes that stay plain.

        Most rows are not read: where SQLite changes fewer rows than it should, one is missing.
        """
        needed = plain
        if self._table.rows.counts_changes:
            parts = [numbers for _, left, numbers in self._packed if left]
            lost = [number for _, left, number in self._lost if left]
            needed = [*itertools.chain(*parts), *lost]
        if self._conflicts or needed is not plain:
            needed = sorted({*needed, *self._conflicts.numbers})
        if not needed:
            return plain
        rows = self._rows
        try:
            found, done, size = read_records(self._table, [rows[number] for number in needed], CHUNK_BYTES_MAX)
        except UnicodeDecodeError:
            found, done, size = {}, 0, 0
        budget.spend(bytes_weight_of(size))
        for number in needed[:done]:
            record = found.get(rows[number])
            if record is not None and self._registers is not None:
                record = self._registers.with_base(number, record)
            self._records[number] = record
        refused = {number for number in needed if self._records[number] is None}
        if self._conflicts:
            refused |= self._conflicts.forget_large(refused)
        if not refused:
            return plain
        return self._only([number for number in plain if number not in refused])

    def write_all(self, numbers: list[int], left: list[bool], budget: WorkBudget) -> int:
        """Merge the plain changes; return how many SQLite took. `left` becomes False for these and for those that lose."""
        self._plain = len(numbers)
        for number in self._conflicts.losers:
            left[number] = False
        return self._write(numbers, left, budget)

    def _write(self, numbers: list[int], left: list[bool], budget: WorkBudget) -> int:
        """Merge plain changes at once or in halves, as `write_all` does."""
        if not numbers:
            return 0
        if self._try_write(numbers, left):
            return len(numbers)
        budget.spend(GROUP_WEIGHT + len(numbers))
        if len(numbers) <= _BATCH_MIN:
            return 0
        middle = len(numbers) // 2
        return self._write(numbers[:middle], left, budget) + self._write(numbers[middle:], left, budget)

    def _try_write(self, numbers: list[int], left: list[bool]) -> bool:
        """Write plain changes into the table and the change log; return False, with nothing done, if SQLite refuses one."""
        table, group, db = self._table, self._group, self._table.store.db
        rows = [self._rows[number] for number in numbers]
        before = db.total_changes()
        db.execute(f"SAVEPOINT {_SAVEPOINT}")
        try:
            if group.kind is Kind.DELETE:
                table.rows.delete_many(rows)
            else:
                names, values = self._cells(numbers)
                table.rows.update_many(names, rows, values)
            whole = not table.rows.counts_changes or db.total_changes() - before == len(rows)
        except REFUSALS:
            whole = False
        if not whole:
            db.execute(f"ROLLBACK TO {_SAVEPOINT}")
        db.execute(f"RELEASE {_SAVEPOINT}")
        if not whole:
            return False
        taken = Taken()
        taken.lost, parts = (self._lost, self._packed) if len(numbers) == self._plain else self._taken_by(numbers)
        for run, kept, part in parts:
            taken.take_run(run, kept, part)
        self._parts += taken.supersede(table, self._keys, self._rows, self._records)
        self._enter(numbers)
        self._hold(numbers, taken)
        self._written += numbers
        for number in numbers:
            left[number] = False
        return True

    def _cells(self, numbers: list[int]) -> tuple[Sequence[str], list[Sequence[Any]]]:
        """Return the columns that the changes set in the user's table, and the values of each."""
        group, registers = self._group, self._registers
        rows = [group.rows[number] for number in numbers]
        if registers is None or not self._shares:
            return group.columns, rows
        columns = []
        for name, cells in zip(group.columns, zip(*rows, strict=True), strict=True):
            columns.append(registers.totals(name, numbers, cells) if name in self._shares else cells)
        names = [share_column(name) or name for name in group.columns]
        return names, list(zip(*columns, strict=True))

    def _hold(self, numbers: list[int], taken: Taken) -> None:
        """Hold the shares that the changes have brought, in place of those that they overwrote."""
        if self._registers is None:
            return
        holders, held = self._registers.holders, self._table.held
        held.remove_many([stored[:2] for stored, left, _ in taken.lost if not left and stored[:2] in holders])
        if self._shares:
            group, at = self._group, [self._group.columns.index(name) for name in self._shares]
            rows = [(self._site_number, group.hlcs[number], [group.rows[number][n] for n in at]) for number in numbers]
            held.write_many(self._shares, rows)

    def finish(self, wall_ms: int, budget: WorkBudget) -> int:
        """Write what has become of the runs; record conflicts, and note earlier ones that the changes have restored."""
        table, group = self._table, self._group
        table.log.reshape(self._parts)
        # Earlier records first: the rows show the winners of those that are made next.
        if not table.store.conflict_room.empty:
            note_restored_many(
                table, {self._keys[number]: group.hlcs[number] for number in self._written}, group.columns
            )
        if not self._conflicts:
            return 0
        made = self._conflicts.record(sorted([*self._written, *self._conflicts.losers]), self._records, wall_ms)
        budget.spend(MANY_CONFLICTS_WEIGHT * made)
        return made

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


def _stored_prior(table: Table, parts: Sequence[Part]) -> bytes | None:
    return prior_from_wire(table, parts) if parts else None
