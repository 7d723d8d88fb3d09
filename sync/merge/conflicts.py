"""Conflict detection: finds the values that lost a merge to a write that had not seen them.

A change carries its priors: for each other site, the newest stamp that its writer had seen of the cells it overwrote, also for a
delete, so that a write which a member has kept from its writer is not lost with the row (ADR 61). A loser
that is newer than the winner's priors is concurrent, and `records` writes it to `mycomesh_conflicts`. Nothing here changes
rows or entries.

Invariant: every value that a merge hides was seen by the writer that superseded it, or is recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mycomesh.sync.crdt.lattice import EXISTENCE, Entry
from mycomesh.sync.merge import records
from mycomesh.sync.storage.change_log import StoredEntry
from mycomesh.sync.storage.row_view import RowView, Seen, seen_by_site
from mycomesh.sync.storage.table import Table

__all__ = ["Apart", "Change", "losses_of", "record_conflicts", "record_hidden", "same"]


@dataclass(frozen=True, slots=True)
class Change:
    """One incoming change, with this file's numbers for its site and columns."""

    site_number: int
    hlc: int
    key: Any
    mask: int
    dead: bool
    values: dict[str, Any]
    prior: bytes | None


class Apart:
    """The conflicts of one change whose values are large: they are made text between two transactions, not in one."""

    __slots__ = ("_losses", "_stored", "_texts", "recorded")

    def __init__(self, stored: Sequence[StoredEntry], losses: Sequence[Loss]) -> None:
        """Take the entries of the row as they were read, and what loses in it. Of the winners only the texts are kept."""
        self._stored = tuple(stored)
        self._texts = [records.Texts("", records.winner_text(loss.loser.values, loss.values)) for loss in losses]
        self._losses = [replace(loss, values=None) for loss in losses]
        self.recorded = False

    def is_of(self, stored: Sequence[StoredEntry]) -> bool:
        """Return True if the row still has the entries among which these conflicts were found."""
        return self._stored == tuple(stored)

    def encode(self) -> None:
        """Make the texts of the records, which needs no file; they stand for the values from here on."""
        for number, texts in enumerate(self._texts):
            if not texts.lost:
                loser, values = self._losses[number].loser, self._losses[number].loser.values
                loser = replace(loser, values=dict.fromkeys(values))
                self._losses[number] = replace(self._losses[number], loser=loser)
                texts.lost = records.values_text(values)

    def record(self, table: Table, stored: Sequence[StoredEntry], wall_ms: int) -> int | None:
        """Record the conflicts; return how many records were made, None if the row's entries are other ones now."""
        if not all(texts.lost for texts in self._texts) or not self.is_of(stored):
            return None
        losses, texts, self.recorded = self._losses, self._texts, True
        self._losses, self._texts = [], []
        return sum(loss.record(table, wall_ms, made) for loss, made in zip(losses, texts, strict=True))


@dataclass(frozen=True, slots=True)
class Loss:
    """A write that lost, the stamp of the winner, and the winner's values: None if it is a delete."""

    loser: records.Loser
    won: tuple[int, bytes]
    values: dict[str, Any] | None

    def record(self, table: Table, wall_ms: int, texts: records.Texts | None = None) -> int:
        """Record it, with the texts of its values if they are made; return 1 if it was not on record before, else 0."""
        return records.record_conflict(table, self.loser, self.won, self.values, wall_ms, texts=texts)


def record_conflicts(
    table: Table, view: RowView, change: Change, gained: int, masks: Sequence[int], wall_ms: int
) -> int:
    """Record every value that loses to a write which had not seen it; return how many records were made.

    `gained` and `masks` are the outcome of the join of the change into the row.
    """
    return sum(loss.record(table, wall_ms) for loss in losses_of(table, view, change, gained, masks))


def losses_of(table: Table, view: RowView, change: Change, gained: int, masks: Sequence[int]) -> list[Loss]:
    """Return every value that loses to a write which had not seen it, as `record_conflicts` records it."""
    stamp = (change.hlc, table.store.site(change.site_number))
    seen = seen_by_site(change.prior)
    losses: list[Loss] = []
    # Cells that the change takes from entries of this row.
    for stored, entry, mask in zip(view.stored, view.entries, masks, strict=True):
        lost = entry.mask & ~mask
        if lost and entry.stamp != stamp:
            bits = _concurrent_bits(table, stamp, seen, entry.stamp, lost, whole=change.mask & EXISTENCE != 0)
            values = _differing(view.values(stored, bits & ~EXISTENCE), change.values)
            if values or (entry.dead and bits and not change.dead):  # two deletes have one outcome
                won = None if change.dead else change.values
                loser = records.Loser(change.key, values, entry.stamp, entry.dead)
                losses.append(Loss(loser, stamp, won))
    # Cells of the change that lose to entries of this row. A repeated change does not lose to its own entry.
    refused = change.mask & ~gained
    for entry in view.entries:
        if entry.stamp == stamp:
            refused &= ~entry.mask
    for stored, entry in zip(view.stored, view.entries, strict=True):
        # An insert or a delete of the whole row supersedes every lower cell, also those that its entry does not own.
        whole = entry.mask & EXISTENCE != 0
        lost = refused if whole else refused & entry.mask
        if lost and entry.stamp > stamp:
            bits = _concurrent_bits(table, entry.stamp, seen_by_site(stored[5]), stamp, lost, whole=whole)
            values = {name: change.values[name] for name in table.columns.names_of(bits & ~EXISTENCE)}
            winner_values = view.values(stored, entry.mask & ~EXISTENCE)
            values = _differing(values, winner_values)
            refused &= ~lost
            if values or (change.dead and bits and not entry.dead):
                won = None if entry.dead else winner_values
                losses.append(Loss(records.Loser(change.key, values, stamp, change.dead), entry.stamp, won))
    return losses


def _differing(lost: dict[str, Any], won: dict[str, Any]) -> dict[str, Any]:
    """Return the losing values that differ from the winner's: two writes of one value are not a conflict."""
    return {name: value for name, value in lost.items() if name not in won or not same(won[name], value)}


def _concurrent_bits(
    table: Table, winner: tuple[int, bytes], seen: Seen, loser: tuple[int, bytes], lost: int, *, whole: bool
) -> int:
    """Return the lost cells whose write the winner had not seen.

    A `whole` winner overwrote the row: a part without a mask is about all of it, or, beside parts that name cells of the
    loser's site, about its existence.
    """
    if winner[1] == loser[1]:
        return 0
    parts = seen.get(table.store.site_number(loser[1]), [])
    row = any(mask is None and hlc >= loser[0] for mask, hlc in parts)
    known = 0
    for mask, hlc in parts:
        if mask is not None and hlc >= loser[0]:
            known |= mask
    if not whole:
        return 0 if row else lost & ~known
    if any(mask is not None for mask, _ in parts):
        return lost & ~(known | EXISTENCE if row else known)
    return 0 if row else lost


def record_hidden(table: Table, change: Change, after: list[Entry], owned: dict[str, Any], wall_ms: int) -> int:
    """Record values that a delete hides although they were written later; return how many records were made.

    The entries keep these values, but the next insert of the row supersedes them.
    """
    tombstone = next((entry for entry in after if entry.dead), None)
    if tombstone is None:  # the change came before the insert of its row
        return 0
    made = 0
    for entry in after:
        columns = table.columns.names_of(entry.mask & ~EXISTENCE)
        own = change.values if entry.stamp[0] == change.hlc else {}
        values = {name: own[name] if name in own else owned.get(name) for name in columns}
        if values:
            loser = records.Loser(change.key, values, entry.stamp, entry.dead)
            made += records.record_conflict(table, loser, tombstone.stamp, None, wall_ms)
    return made


def same(left: Any, right: Any) -> bool:
    """Return True if SQLite stores two values alike. It does not store 1 and 1.0 alike, nor 0.0 and -0.0."""
    return type(left) is type(right) and left == right and (bool(left) or repr(left) == repr(right))
