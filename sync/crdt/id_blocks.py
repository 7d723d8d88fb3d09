"""Blocks of automatic ids: which ids a node may give to its rows while it cannot talk to the others.

The positive integers below 2^53 are cut into blocks, and the blocks are dealt to `SLOTS` slots in turn, as cards are. A node that
has a slot of its own gives out ids of its own blocks only, so no two nodes give out one id, whatever either of them knows. SQLite
gives a row the id after the greatest that it has seen, so a node that takes in a greater id goes on with its next block above it.

Invariant: nodes with different slots never give out one id. ADR 0040.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator

__all__ = ["BLOCK_IDS", "IDS_MAX", "SLOTS", "choose_slot", "ids_left", "is_own", "preferred_slots", "sequence_above"]

# Programs that read ids as doubles keep them exact.
IDS_MAX = (1 << 53) - 1
# Two nodes that have never heard of each other get one slot by a chance of 1 in SLOTS.
SLOTS = 4_096
# Two nodes that write in turn use up SLOTS blocks for two rows: 2^53 / (SLOTS * BLOCK_IDS) is 2^31 turns.
BLOCK_IDS = 1_024
_CANDIDATES = 16


def preferred_slots(site: bytes) -> Iterator[int]:
    """Return the slots that a site would like to have, the best first."""
    for number in range(_CANDIDATES):
        digest = hashlib.blake2b(site + bytes([number]), digest_size=8, person=b"mycomesh-slot").digest()
        yield int.from_bytes(digest, "big") % SLOTS


def choose_slot(site: bytes, taken: Collection[int]) -> int | None:
    """Return the slot that a site claims, where others have `taken` some; None if none is free."""
    preferred = list(preferred_slots(site))
    following = ((preferred[0] + step) % SLOTS for step in range(SLOTS))
    return next((slot for slot in (*preferred, *following) if slot not in taken), None)


def is_own(slot: int, sequence: int) -> bool:
    """Return True if the id after `sequence` is in a block of the slot."""
    return sequence >= 0 and sequence // BLOCK_IDS % SLOTS == slot


def sequence_above(slot: int, used: int) -> int | None:
    """Return the value of SQLite's sequence after which the ids of the slot follow, none of them up to `used`.

    It is `used` itself for the first half of a block. The other half is for a program that runs ahead of its node.
    Returns None if no block of the slot is left below `IDS_MAX`.
    """
    used = max(used, 0)
    if is_own(slot, used) and used % BLOCK_IDS <= BLOCK_IDS // 2:
        return used
    block = -(-used // BLOCK_IDS)
    block += (slot - block) % SLOTS
    return block * BLOCK_IDS if (block + 1) * BLOCK_IDS <= IDS_MAX else None


def ids_left(slot: int, sequence: int, taken: Collection[int]) -> int:
    """Return how many ids follow a sequence before a block of a slot that another node has `taken`; at least the own block's.

    0 if the next id is not in a block of the slot.
    """
    if not is_own(slot, sequence):
        return 0
    others = [(other - slot) % SLOTS for other in taken if other != slot]
    return min([SLOTS, *others]) * BLOCK_IDS - sequence % BLOCK_IDS
