"""Set reconciliation with an invertible Bloom lookup table (IBLT) over 64-bit digests.

Two replicas each add the digests of their entries to a sketch. One sketch minus the other holds the difference of the two
sets, and `peel` reads it out. A sketch is sized by the expected difference, not by the sets.

The table has three sub-tables, and each digest falls into one cell of each. A cell sums what falls into it, and a cell with
a single digest reveals that digest; `peel` subtracts it from its other cells, which may leave a single digest there. Cells
hold sums instead of XORs. Counts are signed at random, so that the sum of their squares estimates the size of a difference
that is too large to peel; `cells_after` sizes the next sketch by that.

Invariant: digests that `peel` returns as the complete difference, added again, give the subtracted sketch.

Goodrich and Mitzenmacher 2011, "Invertible Bloom Lookup Tables".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from mycomesh.sync.codec import require

__all__ = ["CELLS_FIRST", "CELLS_MAX", "CELL_BYTES", "ID_BYTES", "Peeled", "Sketch", "cells_after", "id_of"]

_PARTS = 3
_MASK = (1 << 64) - 1
# 40 bits of a digest identify an entry among those that differ. Of 10,000 differing entries two share an id in 1 of 20,000
# repairs; such a repair then sends whole rows. Id and check together are 56 bits that verify each peeled entry.
ID_BYTES = 5
_ID = (1 << 8 * ID_BYTES) - 1
_CHECK = 0xFFFF
# The first sketch decodes up to about 25 differences in 384 bytes; most damage is one row or a few.
CELLS_FIRST = 48
# The first sketch estimates a larger difference within 20 %. Where that asks for up to about this many cells, the second
# sketch has 40 % to spare and is still small. Beyond, the second has this many cells (2.3 KB), estimates within 8 %, and the
# third fits.
CELLS_SECOND = 288
_SURE_FIRST = 1.4
_SURE = 1.25
# 600,000 cells decode about 400,000 differences. Beyond that it is cheaper to send the whole table.
CELLS_MAX = 600_000
CELL_BYTES = ID_BYTES + 2 + 1
# Odd multipliers that spread a digest over the sub-tables (Fibonacci hashing, Knuth 6.4).
_SPREAD = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)
_MIX = 0xD6E8FEB86659FD93
# The check must not be linear in the id, or a sum of several ids would pass for a single one. A shift between two products
# makes it nonlinear.
# Two ids whose products lie close together would share their cells in a sketch of any size, so each size has its own salt.
_SALT = 0x9FB21C651E
# In 1 of 200 sketches two ids share all their cells and cannot be peeled. `peel` then returns the rest, and the next
# comparison finds the two. After the smallest sketch a second sketch costs less than another comparison.
_LEFT_MAX = 2 * _PARTS


class Peeled(NamedTuple):
    """Difference of two sets: the ids only in the first, and the ids only in the second."""

    first: list[int]
    second: list[int]


def id_of(digest: int) -> int:
    """Return the part of a digest by which a sketch identifies it."""
    return digest & _ID


def _cells_for(differences: int) -> int:
    """Return the number of cells, a multiple of 3, that very likely peels that many differences."""
    return 3 * (max(CELLS_FIRST, round(1.35 * differences) + 40) // 3)


def cells_after(cells: int, estimate: int) -> int:
    """Return the number of cells for the next sketch, after one of `cells` did not peel and gave that estimate.

    It is always larger: two ids that share all their cells cancel in the estimate, and would share them again in another
    sketch of that size.
    """
    wanted = _cells_for(round((_SURE_FIRST if cells < CELLS_SECOND else _SURE) * estimate))
    if cells == CELLS_FIRST and wanted > CELLS_SECOND * 3 // 2:
        return CELLS_SECOND
    return max(wanted, cells * 3 // 2 // 3 * 3)


class Sketch:
    """Sketch of a set of digests: signed 64-bit integers, as SQLite stores them. `cells` must be a multiple of 3."""

    __slots__ = ("_salt", "cells", "checks", "counts", "sums")

    def __init__(self, cells: int) -> None:
        require(0 < cells <= CELLS_MAX and cells % _PARTS == 0, f"a sketch of {cells} cells")
        self.cells = cells
        self._salt = cells * _SALT & _ID
        self.sums = [0] * cells
        self.checks = [0] * cells
        self.counts = [0] * cells

    def add(self, digests: Iterable[int]) -> None:
        """Add digests; the caller adds each at most once."""
        part, salt = self.cells // _PARTS, self._salt
        sums, checks, counts = self.sums, self.checks, self.counts
        one, two, three = _SPREAD
        for signed in digests:
            digest = signed & _ID
            salted = digest ^ salt
            spread = salted * one & _MASK
            mixed = (spread ^ spread >> 29) * _MIX & _MASK
            check = mixed >> 48
            sign = 1 if mixed & 1 << 47 else -1
            for cell in (
                spread * part >> 64,
                ((salted * two & _MASK) * part >> 64) + part,
                ((salted * three & _MASK) * part >> 64) + part + part,
            ):
                sums[cell] += digest
                checks[cell] += check
                counts[cell] += sign

    def subtract(self, other: Sketch) -> Sketch:
        """Return the sketch of the difference; both sketches must have the same number of cells."""
        assert self.cells == other.cells
        result = Sketch(self.cells)
        result.sums = [(mine - theirs) & _ID for mine, theirs in zip(self.sums, other.sums, strict=True)]
        result.checks = [(mine - theirs) & _CHECK for mine, theirs in zip(self.checks, other.checks, strict=True)]
        result.counts = [
            (mine - theirs + 128 & 255) - 128 for mine, theirs in zip(self.counts, other.counts, strict=True)
        ]
        return result

    def estimate(self) -> int:
        """Return about how many digests a subtracted sketch holds.

        The signed counts are random walks, whose squares grow with the number of digests.
        """
        return -(-sum(count * count for count in self.counts) // _PARTS)

    def peel(self) -> Peeled | None:
        """Return the difference that a subtracted sketch holds, None if it is too large; the sketch is empty afterwards.

        The result may lack a few digests that share all their cells.
        """
        first: list[int] = []
        second: list[int] = []
        queue = list(range(self.cells))
        budget = 4 * self.cells  # cells that a peer forged must not keep this node peeling forever
        while queue and budget:
            budget -= 1
            cell = queue.pop()
            found = self._pure(cell)
            if found is None:
                continue
            digest, side = found
            (first if side > 0 else second).append(digest)
            queue.extend(self._remove(digest, side))
        left = sum(map(any, zip(self.sums, self.checks, self.counts, strict=True)))
        found_some = bool(first or second) and budget > 0 and self.cells > CELLS_FIRST
        return Peeled(first, second) if not left or (found_some and left <= _LEFT_MAX) else None

    def _pure(self, cell: int) -> tuple[int, int] | None:
        """Return (digest, side) if the cell holds a single digest: side 1 for the first set, -1 for the second."""
        count = self.counts[cell]
        if count not in (1, -1):
            return None
        for side in (1, -1):
            digest = self.sums[cell] * side & _ID
            mixed = _mixed(digest ^ self._salt)
            sign = 1 if mixed & 1 << 47 else -1
            if (
                sign * side == count
                and (mixed >> 48) * side & _CHECK == self.checks[cell]
                and cell in self._cells_of(digest)
            ):
                return digest, side
        return None

    def _cells_of(self, digest: int) -> tuple[int, ...]:
        part = self.cells // _PARTS
        salted = digest ^ self._salt
        return tuple(((salted * spread & _MASK) * part >> 64) + part * number for number, spread in enumerate(_SPREAD))

    def _remove(self, digest: int, side: int) -> tuple[int, ...]:
        mixed = _mixed(digest ^ self._salt)
        sign = (1 if mixed & 1 << 47 else -1) * side
        cells = self._cells_of(digest)
        for cell in cells:
            self.sums[cell] = (self.sums[cell] - digest * side) & _ID
            self.checks[cell] = (self.checks[cell] - (mixed >> 48) * side) & _CHECK
            self.counts[cell] = (self.counts[cell] - sign + 128 & 255) - 128
        return cells

    def encode(self) -> bytes:
        """Return the wire form, 8 bytes a cell: sum mod 2^40, check mod 2^16, count mod 2^8, big-endian."""
        out = bytearray()
        for total, check, count in zip(self.sums, self.checks, self.counts, strict=True):
            out += (total & _ID).to_bytes(ID_BYTES, "big") + (check & _CHECK).to_bytes(2, "big") + bytes((count & 255,))
        return bytes(out)

    @classmethod
    def decode(cls, data: bytes) -> Sketch:
        """Return the sketch in `data`.

        Raises:
            DecodeError: no sketch has that size.
        """
        require(len(data) % CELL_BYTES == 0, f"a sketch is {CELL_BYTES} bytes a cell")
        sketch = cls(len(data) // CELL_BYTES)
        for cell in range(sketch.cells):
            at = cell * CELL_BYTES
            sketch.sums[cell] = int.from_bytes(data[at : at + ID_BYTES], "big")
            sketch.checks[cell] = int.from_bytes(data[at + ID_BYTES : at + ID_BYTES + 2], "big")
            sketch.counts[cell] = data[at + ID_BYTES + 2]
        return sketch


def _mixed(salted: int) -> int:
    """Return the hash that gives sign and check; `add` repeats this code inline, as it runs for each entry of a table."""
    spread = salted * _SPREAD[0] & _MASK
    return (spread ^ spread >> 29) * _MIX & _MASK
