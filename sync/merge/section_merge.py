"""Merge of one section of a bundle in as many transactions as its work takes (`work_budget`).

Received inserts of unknown rows take a fast path (`bulk_insert`), and so do updates and deletes of visible rows that lose to none
(`bulk_edit`). Every change that these refuse is merged alone (`merge`).

Invariant: the ranges of a section are covered only once every change of it is in the file. After a crash between two
transactions, a round brings the changes again, and those that are here already change nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence, Sized
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.errors import DecodeError
from mycomesh.sync.merge.bulk_edit import merge_edits
from mycomesh.sync.merge.bulk_insert import insert_new_rows, slice_group
from mycomesh.sync.merge.conflicts import Apart
from mycomesh.sync.merge.cut import admitted
from mycomesh.sync.merge.dropped_columns import without_columns
from mycomesh.sync.merge.merge import merge_rows
from mycomesh.sync.merge.merged import Merged
from mycomesh.sync.merge.row_keys import keys_of
from mycomesh.sync.merge.work_budget import (
    CELLS_A_UNIT,
    CELLS_NEW_A_UNIT,
    CHUNK_ROWS_MAX,
    EDIT_WEIGHT,
    GROUP_WEIGHT,
    KEY_WEIGHT,
    LONG_KEY_BYTES,
    MANY_CONFLICTS_WEIGHT,
    PLAIN_EDIT_WEIGHT,
    RANGE_WEIGHT,
    SECTION_WEIGHT,
    TRANSACTION_WEIGHT_MAX,
    WorkBudget,
    bytes_weight,
    bytes_weight_of,
    fact_weight,
    size_of,
)
from mycomesh.sync.sqlite.table_spec import KeyKind
from mycomesh.sync.sqlite.trial import read_ahead
from mycomesh.sync.storage.accounts import Account
from mycomesh.sync.storage.large_rows import large_keys
from mycomesh.sync.storage.table import Table
from mycomesh.sync.wire.bundle import Group, Kind, Section, filtered
from mycomesh.sync.wire.unread_rows import UnreadRows

__all__ = ["FACTS_AHEAD", "SectionMerge", "fast_weight", "read_definitions"]

FACTS_AHEAD = 8  # that are read before a transaction, which follows at most five (`FACT_WEIGHT`)

_TEXTS = frozenset({str, bytes})


@dataclass(slots=True)
class _Rest:
    """Changes of one group that are still to be merged: those from `start` on."""

    group: Group
    start: int = 0
    alone: bool = False  # the fast path has refused them
    apart: Apart | None = None  # conflicts of the first one
    put_off: bool = False  # the first one is large, and `prepare` was to come before it


class SectionMerge:
    """A section on its way into its table."""

    def __init__(
        self,
        section: Section,
        *,
        facts_among: Sized | None = None,
        change_bytes: int = 0,
        weighs_values: bool = False,
        looks_at_keys: bool = False,
    ) -> None:
        """Take the section.

        Args:
            section: changes that have been checked for shape, not for meaning.
            facts_among: each change is a fact, which causes work beyond its merge: these are the tables of the file by then.
            change_bytes: the size of a change of this message on average, for the account of its origin.
            weighs_values: look at the size of each value, because some may be large.
            looks_at_keys: look for large keys: the message has room for some.
        """
        self.table = section.table
        # The greatest clock of the section, and the sites of its ranges.
        self.top = max(
            [group.hlcs[-1] for group in section.groups] + [upto for _, _, upto in section.ranges], default=0
        )
        self.sites = tuple(dict.fromkeys(site for site, _, _ in section.ranges))
        self.left_out: set[bytes] = set()  # sites of which too many rows are parked, or keys are too large
        self._seals = section.seals
        self._groups = deque(map(_Rest, section.groups))
        self._ranges = deque(section.ranges)
        self._states_facts = facts_among is not None
        self._tables: Sized = () if facts_among is None else facts_among
        self._change_bytes = change_bytes
        self._weighs_values = weighs_values
        self._looks_at_keys = looks_at_keys
        self._stepped: Table | None = None  # the table of the last step
        # What conflicts add to the weight of an edit, if they are as many as among the last edits.
        self._conflict_weight = 0

    @property
    def done(self) -> bool:
        """True if every change is merged and every range covered."""
        return not self._groups and not self._ranges

    @property
    def rest(self) -> Section:
        """The changes and ranges that are still to be merged; whole groups, also those that are merged in part."""
        return Section(self.table, list(self._ranges), [rest.group for rest in self._groups], self._seals)

    def prove(self, table: Table) -> int:
        """Leave out the changes of a signed table that their writers have not signed, and all ranges then; return how many.

        Raises:
            KeyMismatchError: a key cannot belong to this table.
        """
        if table.seals is None or not self._groups:
            return 0
        rest = self.rest
        refused = table.seals.prove(rest)
        if refused:
            self._groups = deque(map(_Rest, rest.groups))
            self._ranges.clear()
        return refused

    def prepare(self) -> None:
        """Do what the next step needs no file for; outside a transaction."""
        rest = self._groups[0] if self._groups else None
        if rest is not None and self._states_facts:
            read_definitions(slice_group(rest.group, rest.start, rest.start + FACTS_AHEAD))
            return
        if rest is None or not rest.put_off:
            return
        if rest.apart is not None:
            rest.apart.encode()
        if self._stepped is not None and (rest.apart is None or rest.apart.recorded):
            self._make_first(self._stepped, rest)

    def _make_first(self, table: Table, rest: _Rest) -> None:
        """Make the values of the next change, which is large, and the digest that its entry will have."""
        if isinstance(rest.group.rows, UnreadRows):
            rest.group = replace(rest.group, rows=rest.group.rows.holding())
        group = slice_group(rest.group, rest.start, rest.start + 1)
        try:
            (key,) = keys_of(table, group)
        except DecodeError:
            return  # as the next step will find
        existence = 0 if group.kind is Kind.UPDATE else EXISTENCE
        if group.kind is not Kind.DELETE:
            table.digests.prepare(group.site, group.hlcs[0], existence, key, group.columns, group.rows[0])

    def step(self, table: Table, wall_ms: int, budget: WorkBudget, *, repair: bool = False) -> Merged:
        """Merge as many changes as the budget allows, and cover the ranges after the last. Runs inside a transaction.

        Args:
            table: the table of the section.
            wall_ms: the time that conflict records get.
            budget: what this transaction may still do.
            repair: merge changes although they are covered, because the comparison of digests has shown that they are lost
                here.

        Raises:
            DecodeError: a key or a value cannot belong to this table; the caller rolls the transaction back.
        """
        merged = Merged()
        if self._looks_at_keys and self._stepped is None:
            self._looks_at_keys = table.spec.kind is KeyKind.KEYED and any(
                _has_long_key(table, group) for group in map(attrgetter("group"), self._groups)
            )
            self._weighs_values |= self._looks_at_keys
        self._stepped = table
        budget.spend(SECTION_WEIGHT)
        while self._groups and not budget.spent:
            if self._puts_off(self._groups[0], budget):
                break
            rest = self._groups.popleft()
            taken = self._take(rest, budget)
            held = None
            if isinstance(taken.keys, UnreadRows):
                taken = replace(taken, keys=list(taken.keys))
            if isinstance(taken.rows, UnreadRows):
                held = taken.rows.holding()
                held.fill()
                taken = replace(taken, rows=held)
            head = self._admitted(table, taken)
            if head is not None and self._looks_at_keys:
                head = self._without_large_keys(table, head, merged)
            if head is not None:
                self._merge_part(table, head, wall_ms, merged, budget, rest, repair=repair)
            if held is not None:
                held.release()
            table.digests.forget_prepared()
        table.log.flush()
        if merged.changes and (self._groups or not self._ranges):  # covered later, or never
            table.coverage.may_be_ahead = True
        while self._ranges and not self._groups and not budget.spent:
            site, after, upto = self._ranges.popleft()
            table.coverage.cover(site, after, upto)
            budget.spend(RANGE_WEIGHT + len(table.coverage.staged.ranges(site)))
        if self._seals and self.done:
            table.log.trim_seals(self._seals)
        return merged

    def _puts_off(self, rest: _Rest, budget: WorkBudget) -> bool:
        """Return True if the first change of a group is large and `prepare` has to come before it, in another transaction."""
        if rest.put_off or not self._is_large(rest.group, rest.start):
            return False
        rest.put_off = True
        budget.spend(TRANSACTION_WEIGHT_MAX)
        return True

    def _admitted(self, table: Table, taken: Group) -> Group | None:
        """Return the changes without those that are purged or too old, and without dropped columns; None if none is left."""
        left: Group | None = taken
        if not self._states_facts:
            left = table.store.purged.without(taken)
            left = None if left is None else admitted(table, left)
        return None if left is None else without_columns(left, table.columns.dropped)

    def _without_large_keys(self, table: Table, group: Group, merged: Merged) -> Group | None:
        """Return the changes of a group whose keys are not too large; None if none is left.

        The others are not covered, except deletes.
        """
        keys = keys_of(table, group)
        large = set(large_keys(table, keys))
        if not large:
            return group
        if group.kind is not Kind.DELETE:  # a delete of a row that is not here has no effect, and ends it at its writer
            merged.large_keys += sum(key in large for key in keys)
            self._leave_out(group.site)
        flags = [key not in large for key in keys]
        return filtered(group, flags) if any(flags) else None

    def _leave_out(self, site: bytes) -> None:
        """Cover nothing of a site, so that rounds bring what is left out once it fits."""
        self.left_out.add(site)
        self._ranges = deque(window for window in self._ranges if window[0] != site)

    def _merge_part(
        self, table: Table, head: Group, wall_ms: int, merged: Merged, budget: WorkBudget, rest: _Rest, *, repair: bool
    ) -> None:
        part = Merged()
        self._merge(table, head, wall_ms, part, budget, rest, repair=repair)
        table.store.purged.note_late(table.table_id, head)
        merged.add(part)
        size = self._change_bytes * part.changes
        if self._weighs_values:
            budget.spend(sum(self._weigh_key(head, at, EDIT_WEIGHT + 1) for at in range(len(head.hlcs))))
            size = sum(map(size_of, head.rows)) if part.changes else 0
        table.store.accounts.add(head.site, Account(part.changes, size, part.conflicts, part.parked))

    def _is_full(self, table: Table, group: Group) -> bool:
        """Return True if too many rows of the group's writer are parked, and these would be more."""
        return (
            group.kind is Kind.INSERT
            and not self._states_facts
            and table.store.parked_room.is_full(table.table_id, group.site)
        )

    def _take(self, rest: _Rest, budget: WorkBudget) -> Group:
        """Return as many changes of a group as are within the budget, at least one; leave the others."""
        group, start = rest.group, rest.start
        weight = EDIT_WEIGHT if rest.alone or rest.put_off else fast_weight(group)
        if group.kind is not Kind.INSERT:
            weight += self._conflict_weight
        budget.spend(GROUP_WEIGHT + len(group.columns) // CELLS_A_UNIT)
        most = max(1, min(budget.room // weight, CHUNK_ROWS_MAX))
        end = min(start + most, len(group.hlcs))
        if self._states_facts or self._weighs_values:  # an edit too: the values of its row are read with it
            room = budget.room
            for at in range(start, end):
                own = self._weigh(group, at)
                if at > start and own >= TRANSACTION_WEIGHT_MAX and not self._states_facts:
                    end = at  # `_is_large`
                    break
                room -= weight + own
                if room <= 0:
                    end = at + 1
                    break
        if end < len(group.hlcs):
            self._groups.appendleft(_Rest(group, end, rest.alone))
        return slice_group(group, start, end)

    def _weigh(self, group: Group, at: int) -> int:
        """Return the weight of a change's values and key, or of the fact that it states."""
        if self._states_facts:
            return fact_weight(group.rows[at], len(self._tables))
        unread = isinstance(group.rows, UnreadRows)
        weight = bytes_weight_of(group.rows.size(at)) if unread else bytes_weight(group.rows[at])
        return weight + self._weigh_key(group, at, weight)

    def _weigh_key(self, group: Group, at: int, weight: int) -> int:
        """Return the weight of a change's key, which may be among values of this weight."""
        if group.keys is not None:
            size = group.keys.size(at) if isinstance(group.keys, UnreadRows) else size_of((group.keys[at],))
            return KEY_WEIGHT * bytes_weight_of(size)
        spec = None if self._stepped is None else self._stepped.spec
        if weight <= EDIT_WEIGHT or spec is None or spec.kind is not KeyKind.KEYED:
            return 0
        names = {column.folded for column in spec.key}
        values = zip(group.columns, group.rows[at], strict=True)
        return KEY_WEIGHT * bytes_weight([value for name, value in values if name in names])

    def _is_large(self, group: Group, at: int) -> bool:
        """Return True if the values of a change are more than one transaction should write."""
        return self._weighs_values and not self._states_facts and self._weigh(group, at) >= TRANSACTION_WEIGHT_MAX

    def _merge(
        self, table: Table, group: Group, wall_ms: int, merged: Merged, budget: WorkBudget, rest: _Rest, *, repair: bool
    ) -> None:
        covered = _covered(table, group)
        fresh = _part(group, covered, known=False)
        if fresh is not None and not (rest.alone or rest.put_off):
            fresh = self._merge_fast(table, fresh, wall_ms, merged, budget)
        if fresh is not None:
            self._merge_alone(table, fresh, wall_ms, merged, budget, apart=rest.apart)
        known = _part(group, covered, known=True) if repair else None
        if known is not None:
            # A repair restores old changes, at no time. Their conflicts were recorded when they first arrived; if they never did,
            # because a member withheld them, they are recorded by the repair.
            before = merged.changes
            self._merge_alone(table, known, None, merged, budget)
            merged.repaired += merged.changes - before
        if self._states_facts:
            budget.spend(sum(self._weigh(group, at) for at in range(len(group.hlcs))))

    def _merge_fast(self, table: Table, group: Group, wall_ms: int, merged: Merged, budget: WorkBudget) -> Group | None:
        """Merge what needs no look at single rows; return the rest."""
        if self._weighs_values:
            budget.spend(sum(map(bytes_weight, group.rows)))
        site_number = table.store.site_number_or_new(group.site)
        keys = keys_of(table, group)
        if group.kind is Kind.INSERT:
            budget.spend(new_row_weight(group) * len(group.hlcs))
            new = insert_new_rows(table, group, site_number, keys, budget)
            merged.add(Merged(new.changes, parked=new.parked, parked_new=new.parked))
            later, left = new.later, new.rest
        else:
            edits = merge_edits(table, group, site_number, keys, wall_ms, budget)
            merged.add(Merged(edits.changes, conflicts=edits.conflicts))
            later, left = edits.later, edits.rest
            # Without room for their conflicts, edits would be looked up once more in the next transaction.
            share = MANY_CONFLICTS_WEIGHT * edits.conflicts // len(keys)
            self._conflict_weight = MANY_CONFLICTS_WEIGHT if later is not None else min(MANY_CONFLICTS_WEIGHT, share)
        if later is not None:
            self._groups.appendleft(_Rest(later))
        return left

    def _merge_alone(
        self,
        table: Table,
        group: Group,
        wall_ms: int | None,
        merged: Merged,
        budget: WorkBudget,
        *,
        apart: Apart | None = None,
    ) -> None:
        site_number = table.store.site_number_or_new(group.site)
        most = CHUNK_ROWS_MAX // EDIT_WEIGHT
        for start in range(0, len(group.hlcs), most):
            if self._is_full(table, group):  # those that SQLite takes have gone the fast way
                merged.left_out += len(group.hlcs) - start
                self._leave_out(group.site)
                return
            part = slice_group(group, start, start + most)
            done = 0
            if not budget.spent:
                done, apart = merge_rows(table, part, site_number, wall_ms, merged, budget, apart=apart)
            if done < len(part.hlcs):
                put_off = apart is not None
                self._groups.appendleft(_Rest(group, start + done, alone=True, apart=apart, put_off=put_off))
                return


def _has_long_key(table: Table, group: Group) -> bool:
    """Return True if some key of a group may be long, in a table whose key is made of columns."""
    if group.keys is not None:
        return _is_any_long(group.keys)
    if isinstance(group.rows, UnreadRows):
        return _is_any_long(group.rows)
    names = {column.folded for column in table.spec.key}
    places = [at for at, name in enumerate(group.columns) if name in names]
    return any(_is_any_long([row[at] for row in group.rows]) for at in places)


def _is_any_long(values: Sequence[Any]) -> bool:
    if isinstance(values, UnreadRows):
        return any(values.size(at) > LONG_KEY_BYTES for at in range(len(values)))
    if any(type(value) in _TEXTS and len(value) > LONG_KEY_BYTES for value in values):
        return True
    return any(type(value) is list and size_of(value) > LONG_KEY_BYTES for value in values)  # text that is not UTF-8


def read_definitions(facts: Group) -> None:
    """Read the definitions of tables among some facts; outside a transaction."""
    if {"kind", "sql"} <= set(facts.columns):
        kind, sql = facts.columns.index("kind"), facts.columns.index("sql")
        for row in facts.rows:
            if row[kind] == "table" and isinstance(row[sql], str):
                read_ahead(row[sql])


def fast_weight(group: Group) -> int:
    """Return the weight of one change that the fast path takes."""
    return new_row_weight(group) if group.kind is Kind.INSERT else PLAIN_EDIT_WEIGHT


def new_row_weight(group: Group) -> int:
    """Return the weight of one insert that the fast path takes."""
    return 1 + len(group.columns) // CELLS_NEW_A_UNIT


def _covered(table: Table, group: Group) -> Sequence[bool]:
    """Return for each change of a group whether this replica covers it; empty if it covers none.

    A change that is covered but not in the change log has been superseded.
    """
    coverage = table.coverage.staged
    if group.hlcs[0] > coverage.top(group.site):
        return ()
    return [coverage.covers(group.site, hlc) for hlc in group.hlcs]


def _part(group: Group, covered: Sequence[bool], *, known: bool) -> Group | None:
    """Return the changes of a group that are covered, or those that are not; None if there are none."""
    if not any(covered):
        return None if known else group
    flags = [each is known for each in covered]
    return filtered(group, flags) if any(flags) else None
