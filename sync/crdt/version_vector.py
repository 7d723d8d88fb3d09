"""Version vector with gaps: for one table, the ranges of each site's clock that this replica covers.

A range `(after, upto]` excludes `after` and includes `upto`. A covered stamp needs no request: the replica has its change,
has superseded it, or knows that no change has that stamp.

Invariant: the ranges of a site are sorted and disjoint, and no two of them touch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mycomesh.sync import codec

__all__ = ["RANGES_MAX", "Range", "Vector", "difference"]

Range = tuple[int, int]
# Ranges remembered of the clock of one site, and told in a message. Beyond this, rounds fetch the changes again.
RANGES_MAX = 64


class Vector:
    """Mutable version vector of one table. A site is a 16-byte id."""

    __slots__ = ("_ranges",)

    def __init__(self, ranges: Mapping[bytes, Sequence[Range]] | None = None) -> None:
        self._ranges: dict[bytes, tuple[Range, ...]] = {}  # tuples, because copies share them
        for site, items in (ranges or {}).items():
            for after, upto in items:
                self.add(site, after, upto)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vector) and self.items() == other.items()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Vector({self._ranges!r})"

    def copy(self) -> Vector:
        """Return an independent copy."""
        other = Vector()
        other._ranges = self._ranges.copy()
        return other

    def items(self) -> list[tuple[bytes, tuple[Range, ...]]]:
        """Return (site, ranges) sorted by site."""
        return sorted(self._ranges.items())

    @property
    def count(self) -> int:
        """The number of ranges of all sites."""
        return sum(map(len, self._ranges.values()))

    def digest(self) -> bytes:
        """Return the BLAKE2b-64 digest of the canonical encoding: equal vectors have equal digests."""
        items = [[site, [edge for window in ranges for edge in window]] for site, ranges in self.items()]
        return hashlib.blake2b(codec.encode(items), digest_size=8, person=b"mycomesh-vector").digest()

    def ranges(self, site: bytes) -> Sequence[Range]:
        """Return the covered ranges of one site, ascending."""
        return self._ranges.get(site, ())

    def upto(self, site: bytes, after: int = 0) -> int:
        """Return the hlc up to which the vector covers one site from `after` on without a gap, 0 if not what comes next."""
        return next((high for low, high in self._ranges.get(site, ()) if low <= after < high), 0)

    def top(self, site: bytes) -> int:
        """Return the greatest covered hlc of one site, 0 if none."""
        items = self._ranges.get(site)
        return items[-1][1] if items else 0

    def covers(self, site: bytes, hlc: int) -> bool:
        """Return True if the stamp (hlc, site) lies in a covered range."""
        return any(after < hlc <= upto for after, upto in self._ranges.get(site, ()))

    def covers_range(self, site: bytes, after: int, upto: int) -> bool:
        """Return True if the whole of `(after, upto]` is covered."""
        return any(low <= after and upto <= high for low, high in self._ranges.get(site, ()))

    def has_gap(self, site: bytes) -> bool:
        """Return True if the vector covers a range of that site but not all that lies before it."""
        items = self._ranges.get(site, ())
        return len(items) > 1 or any(after > 0 for after, _ in items)

    def add(self, site: bytes, after: int, upto: int) -> None:
        """Cover `(after, upto]`; an empty range changes nothing."""
        if upto <= after:
            return
        items = self._ranges.get(site, ())
        if items and items[-1][0] <= after <= items[-1][1]:  # the common case: the next batch
            self._ranges[site] = (*items[:-1], (items[-1][0], max(items[-1][1], upto)))
            return
        merged: list[Range] = []
        for low, high in sorted((*items, (after, upto))):
            if merged and low <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], high))
            else:
                merged.append((low, high))
        self._ranges[site] = tuple(merged)

    def cut(self, site: bytes, upto: int) -> None:
        """Remove all coverage of one site beyond `upto`."""
        kept = tuple((after, min(end, upto)) for after, end in self._ranges.pop(site, ()) if after < upto)
        if kept:
            self._ranges[site] = kept

    def merge(self, other: Vector) -> None:
        """Cover everything that `other` covers."""
        for site, items in other.items():
            for after, upto in items:
                self.add(site, after, upto)

    def missing_from(self, other: Vector) -> list[tuple[bytes, Range]]:
        """Return the ranges that this vector covers and `other` does not, sorted by site and start."""
        theirs = other._ranges
        differing = ((site, items) for site, items in self.items() if theirs.get(site) != items)
        return [(site, gap) for site, items in differing for gap in difference(items, other.ranges(site))]


def difference(ranges: Iterable[Range], covered: Sequence[Range]) -> Iterator[Range]:
    """Yield the parts of `ranges` that no range of `covered` covers; both are ascending and disjoint."""
    for after, upto in ranges:
        low = after
        for start, end in covered:
            if end <= low:
                continue
            if start >= upto:
                break
            if start > low:
                yield (low, start)
            low = max(low, end)
        if low < upto:
            yield (low, upto)
