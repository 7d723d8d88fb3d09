"""A peelable sketch of a set of digests: two sketches subtract to their sets' difference, whatever the sets' size.

Owns an invertible Bloom lookup table (Goodrich and Mitzenmacher 2011, "Invertible Bloom Lookup Tables") with three
sub-tables, sums in place of XOR, and signed counts, whose squares estimate the size of a difference that does not peel.
What always holds: whatever `peel` returns as complete, re-added, gives the subtracted sketch back. It must not know tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from mycomesh.sync.codec import require

__all__ = ["CELLS_FIRST", "CELLS_MAX", "CELL_BYTES", "ID_BYTES", "Peeled", "Sketch", "cells_after", "id_of"]

_PARTS = 3
_MASK = (1 << 64) - 1
# 40 bits name an entry among the differing ones: 10,000 of them hold a pair of one name in 1 of 20,000 repairs, which then
# joins whole rows instead. Together with the check 56 bits vouch for what is peeled.
ID_BYTES = 5
_ID = (1 << 8 * ID_BYTES) - 1
_CHECK = 0xFFFF
# The first sketch decodes up to about 25 differences in 384 bytes; most damage is one row or a few.
CELLS_FIRST = 48
# It tells a larger difference within 20 %: up to this, a second one with that much to spare is cheap. Beyond, the second
# tells it within 8 %, for 2.3 KB, and the third fits.
CELLS_SECOND = 288
_SURE_FIRST = 1.4
_SURE = 1.25
# 600,000 cells decode about 400,000 differences; beyond that a whole table is cheaper to send.
CELLS_MAX = 600_000
CELL_BYTES = ID_BYTES + 2 + 1
# Odd multipliers that spread a digest over the sub-tables (Fibonacci hashing, Knuth 6.4).
_SPREAD = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)
_MIX = 0xD6E8FEB86659FD93
# The check must not be linear in the id: a sum of ids would pass for one. Hence the shift between two products.
# Two ids whose products lie close together would share their cells in a sketch of any size: each size salts its own.
_SALT = 0x9FB21C651E
# Two ids that share all their cells leave these undecided, in one of 200 sketches: the next comparison finds the two. Beside
# the smallest sketch another one costs less than that.
_LEFT_MAX = 2 * _PARTS


class Peeled(NamedTuple):
    """The difference of two sets: ids only in the first, only in the second."""

    first: list[int]
    second: list[int]


def id_of(digest: int) -> int:
    """Return the id of a digest in sketches."""
    return digest & _ID


def _cells_for(differences: int) -> int:
    """Return how many cells peel that many differences with little risk of failure (a multiple of 3)."""
    return 3 * (max(CELLS_FIRST, round(1.35 * differences) + 40) // 3)


def cells_after(cells: int, estimate: int) -> int:
    """Return how many cells the sketch after one of `cells` has, which did not peel and told that estimate."""
    wanted = _cells_for(round((_SURE_FIRST if cells < CELLS_SECOND else _SURE) * estimate))
    if cells == CELLS_FIRST:
        return CELLS_SECOND if wanted > CELLS_SECOND * 3 // 2 else wanted
    return max(wanted, cells * 3 // 2 // 3 * 3)


class Sketch:
    """A sketch; `cells` must be a multiple of 3. Digests are signed 64-bit integers, as SQLite stores them."""

    __slots__ = ("_salt", "cells", "checks", "counts", "sums")

    def __init__(self, cells: int) -> None:
        require(0 < cells <= CELLS_MAX and cells % _PARTS == 0, f"a sketch of {cells} cells")
        self.cells = cells
        self._salt = cells * _SALT & _ID
        self.sums = [0] * cells
        self.checks = [0] * cells
        self.counts = [0] * cells

    def add(self, digests: Iterable[int]) -> None:
        """Add digests, each once."""
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
        """Return the sketch of the difference; both must have the same number of cells."""
        assert self.cells == other.cells
        result = Sketch(self.cells)
        result.sums = [(mine - theirs) & _ID for mine, theirs in zip(self.sums, other.sums, strict=True)]
        result.checks = [(mine - theirs) & _CHECK for mine, theirs in zip(self.checks, other.checks, strict=True)]
        result.counts = [
            (mine - theirs + 128 & 255) - 128 for mine, theirs in zip(self.counts, other.counts, strict=True)
        ]
        return result

    def estimate(self) -> int:
        """Return about how many digests a subtracted sketch holds: signed counts are random walks."""
        return -(-sum(count * count for count in self.counts) // _PARTS)

    def peel(self) -> Peeled | None:
        """Return the difference that a subtracted sketch holds, None if it holds too much to tell. Empties the sketch.

        A few cells may stay undecided beside what was found.
        """
        first: list[int] = []
        second: list[int] = []
        queue = list(range(self.cells))
        budget = 4 * self.cells  # a lying peer's cells must not keep us peeling
        while queue and budget:
            budget -= 1
            cell = queue.pop()
            found = self._pure(cell)
            if found is None:
                continue
            digest, side = found
            (first if side > 0 else second).append(digest)
            queue.extend(self._take(digest, side))
        left = sum(map(any, zip(self.sums, self.checks, self.counts, strict=True)))
        found_some = bool(first or second) and budget > 0 and self.cells > CELLS_FIRST
        return Peeled(first, second) if not left or (found_some and left <= _LEFT_MAX) else None

    def _pure(self, cell: int) -> tuple[int, int] | None:
        """Return (digest, side) if the cell holds one digest: side 1 for the first set, -1 for the second."""
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
                and cell in self._places(digest)
            ):
                return digest, side
        return None

    def _places(self, digest: int) -> tuple[int, ...]:
        part = self.cells // _PARTS
        salted = digest ^ self._salt
        return tuple(((salted * spread & _MASK) * part >> 64) + part * number for number, spread in enumerate(_SPREAD))

    def _take(self, digest: int, side: int) -> tuple[int, ...]:
        mixed = _mixed(digest ^ self._salt)
        sign = (1 if mixed & 1 << 47 else -1) * side
        places = self._places(digest)
        for cell in places:
            self.sums[cell] = (self.sums[cell] - digest * side) & _ID
            self.checks[cell] = (self.checks[cell] - (mixed >> 48) * side) & _CHECK
            self.counts[cell] = (self.counts[cell] - sign + 128 & 255) - 128
        return places

    def encode(self) -> bytes:
        """Return 8 bytes a cell: sum mod 2^40, check mod 2^16, count mod 2^8, big-endian."""
        out = bytearray()
        for total, check, count in zip(self.sums, self.checks, self.counts, strict=True):
            out += (total & _ID).to_bytes(ID_BYTES, "big") + (check & _CHECK).to_bytes(2, "big") + bytes((count & 255,))
        return bytes(out)

    @classmethod
    def decode(cls, data: bytes) -> Sketch:
        """Return the sketch in `data`; raises `DecodeError` for a size that no sketch has."""
        require(len(data) % CELL_BYTES == 0, f"a sketch is {CELL_BYTES} bytes a cell")
        sketch = cls(len(data) // CELL_BYTES)
        for cell in range(sketch.cells):
            at = cell * CELL_BYTES
            sketch.sums[cell] = int.from_bytes(data[at : at + ID_BYTES], "big")
            sketch.checks[cell] = int.from_bytes(data[at + ID_BYTES : at + ID_BYTES + 2], "big")
            sketch.counts[cell] = data[at + ID_BYTES + 2]
        return sketch


def _mixed(salted: int) -> int:
    """Return what sign and check are taken from; written out in `add`, which runs once an entry of a table."""
    spread = salted * _SPREAD[0] & _MASK
    return (spread ^ spread >> 29) * _MIX & _MASK
