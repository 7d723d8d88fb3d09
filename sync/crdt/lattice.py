"""Last-writer-wins merge of one change into the entries of its row, as a pure function.

Each cell of a row, and the row's existence, is a register that keeps the greatest stamp. An entry of existence (insert or
tombstone) also removes the cells of its row that have a lower stamp.

Invariant: `join` is commutative, associative and idempotent over sets of changes; tests/sync/crdt/test_lattice.py compares it
with a naive model. design.md section 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

__all__ = ["EXISTENCE", "Entry", "Join", "bits_of", "join", "visible"]

# Bit 0 of a mask: the entry owns the existence of the row. Columns have bits 1 and up.
EXISTENCE = 1

Stamp = tuple[int, bytes]


class Entry(NamedTuple):
    """Cells of one row that one stamp still owns. A tombstone owns only the existence: `mask` is EXISTENCE, `dead` is true.

    A tuple and not a dataclass, because the merge creates one for each row.
    """

    stamp: Stamp
    mask: int
    dead: bool


class Join(NamedTuple):
    """Result of a join: the bits that the incoming change gains, and the bits that each earlier entry keeps."""

    gained: int
    masks: list[int]  # one for each earlier entry, in the order given; 0 = superseded


def join(entries: Sequence[Entry], stamp: Stamp, mask: int) -> Join:
    """Join an incoming change (`stamp`, owning `mask`) into the entries of its row.

    An entry of the same stamp is another part of the same change. It keeps its bits, and the change does not gain them again.
    """
    gained = mask
    newest_existence: Stamp | None = None
    for entry in entries:
        if entry.stamp >= stamp:
            gained &= ~entry.mask
        if entry.mask & EXISTENCE:
            newest_existence = entry.stamp
    if newest_existence is not None and newest_existence > stamp:
        gained &= EXISTENCE
    if not gained:
        return Join(0, [entry.mask for entry in entries])
    masks = []
    for entry in entries:
        kept = entry.mask & ~gained
        if gained & EXISTENCE and entry.stamp < stamp:
            kept = 0  # a new insert or tombstone also removes the cells with a lower stamp
        masks.append(kept)
    return Join(gained, masks)


def visible(entries: Sequence[Entry]) -> bool:
    """Return True if the row exists: its entry of existence is an insert."""
    for entry in entries:  # noqa: SIM110 - runs once for each merged row, and any() takes three times as long
        if entry.mask & EXISTENCE and not entry.dead:
            return True
    return False


def bits_of(mask: int) -> Iterator[int]:
    """Yield the numbers of the set bits, ascending."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
