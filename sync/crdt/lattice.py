"""The merge of one change into one row's entries: a join of max-registers over stamps, as a pure function.

Owns the lattice of design.md section 4. Every cell of a row, and the row's existence, is a register that keeps the greatest
stamp; an existence entry (birth or tombstone) kills the lower-stamped cells of its row. What always holds: `join` is
commutative, associative and idempotent over sets of changes (tests/sync/crdt/test_lattice.py proves it against a naive model).
It must not know SQL, values or sites beyond their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

__all__ = ["EXISTENCE", "Entry", "Join", "bits_of", "join", "visible"]

# Bit 0 of a mask: the entry owns the row's existence. Columns take bits 1 and up.
EXISTENCE = 1

Stamp = tuple[int, bytes]


class Entry(NamedTuple):
    """What one stamp still owns of one row. A tombstone owns the existence alone (`mask` is EXISTENCE, `dead` is true).

    A plain tuple: it is made once for every row that is merged.
    """

    stamp: Stamp
    mask: int
    dead: bool


class Join(NamedTuple):
    """The outcome of a join: what the incoming change gains, and what each prior entry keeps."""

    gained: int  # bits of the incoming change that stand
    masks: list[int]  # the mask of each prior entry afterwards, in the order given; 0 = superseded


def join(entries: Sequence[Entry], stamp: Stamp, mask: int) -> Join:
    """Join an incoming change (`stamp`, owning `mask`) into the entries of its row.

    An entry of the same stamp (the rest of it arrived earlier) keeps its bits; those are not gained again.
    """
    gained = mask
    killer: Stamp | None = None
    for entry in entries:
        if entry.stamp >= stamp:
            gained &= ~entry.mask
        if entry.mask & EXISTENCE:
            killer = entry.stamp
    if killer is not None and killer > stamp:
        gained &= EXISTENCE
    if not gained:
        return Join(0, [entry.mask for entry in entries])
    masks = []
    for entry in entries:
        kept = entry.mask & ~gained
        if gained & EXISTENCE and entry.stamp < stamp:
            kept = 0  # its existence was just taken and a lower cell dies with it
        masks.append(kept)
    return Join(gained, masks)


def visible(entries: Sequence[Entry]) -> bool:
    """Return True if the row exists: its newest existence entry is a birth."""
    for entry in entries:  # noqa: SIM110 - asked once a merged row, and any() costs three times as much
        if entry.mask & EXISTENCE and not entry.dead:
            return True
    return False


def bits_of(mask: int) -> Iterator[int]:
    """Yield the numbers of the set bits, ascending."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
