"""Radix tree over areas: sums of their digests by the hash of their names, so that equal areas cost one comparison in all.

The root has the sum of all areas, its 64 branches those of areas whose hash begins with the same 6 bits, and their twigs 12 bits.
A sum is modulo 2^128, so a change of one area updates three of them. See sync.exchange.area_comparison for the descent.

Invariant: each sum equals that of a tree that is made from the same areas at once (tests/sync/storage/test_area_tree.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b

__all__ = [
    "BRANCHES",
    "NODES_MAX",
    "ROOT",
    "SUM_BYTES",
    "AreaTree",
    "Pair",
    "branch_of",
    "is_twig",
    "parent_of",
    "twig_of",
]

# (digest of the vector, digest of the entries) of an area.
Pair = tuple[bytes, bytes]

BRANCHES = 64  # of the root, and of each branch
ROOT = 0
# The nodes of the tree by number: the root, then the branches, then the twigs.
NODES_MAX = 1 + BRANCHES + BRANCHES * BRANCHES
SUM_BYTES = 16
_MASK = (1 << 8 * SUM_BYTES) - 1
_TWIGS_FROM = 1 + BRANCHES


def branch_of(area: str) -> int:
    """Return the branch of an area: 1 to `BRANCHES`."""
    return 1 + (_hash(area) >> 6)


def twig_of(area: str) -> int:
    """Return the twig of an area."""
    return _TWIGS_FROM + _hash(area)


def _hash(area: str) -> int:
    digest = blake2b(area.encode("utf-8", "surrogatepass"), digest_size=2, person=b"mycomesh-areas").digest()
    return int.from_bytes(digest, "big") >> 4


def _leaf(area: str, pair: Pair) -> int:
    said = b"".join((area.encode("utf-8", "surrogatepass"), b"\0", *pair))
    return int.from_bytes(blake2b(said, digest_size=SUM_BYTES, person=b"mycomesh-areas").digest(), "big")


class AreaTree:
    """The tree of some areas of one table."""

    __slots__ = ("_sums", "_twigs", "pairs")

    def __init__(self, pairs: Mapping[str, Pair] | None = None) -> None:
        self.pairs: dict[str, Pair] = {}  # by area
        self._sums: dict[int, int] = {}  # by node; a node without areas has none
        self._twigs: dict[int, dict[str, None]] = {}  # the areas of each twig
        for area, pair in (pairs or {}).items():
            self.put(area, pair)

    def put(self, area: str, pair: Pair | None) -> None:
        """Give an area other digests; None removes it."""
        before = self.pairs.get(area)
        if before == pair:
            return
        twig = twig_of(area)
        if pair is None:
            del self.pairs[area]
            self._twigs[twig].pop(area)
        else:
            self.pairs[area] = pair
            self._twigs.setdefault(twig, {})[area] = None
        change = (0 if pair is None else _leaf(area, pair)) - (0 if before is None else _leaf(area, before))
        for node in (ROOT, branch_of(area), twig):
            self._sums[node] = (self._sums.get(node, 0) + change) & _MASK

    def sum(self, node: int) -> bytes:
        """Return the sum of a node, zero for one without areas."""
        return self._sums.get(node, 0).to_bytes(SUM_BYTES, "big")

    def below(self, node: int) -> dict[int, bytes]:
        """Return the sums of the nodes directly below the root or a branch, of those that have areas."""
        first = 1 + BRANCHES * node
        return {each: self.sum(each) for each in range(first, first + BRANCHES) if self._sums.get(each)}

    def areas(self, node: int) -> Iterator[str]:
        """Yield the areas of a branch or twig, sorted by twig and name."""
        twigs: Iterable[int] = (node,)
        if node < _TWIGS_FROM:
            first = 1 + BRANCHES * node
            twigs = range(first, first + BRANCHES)
        for twig in twigs:
            yield from sorted(self._twigs.get(twig, ()))

    def count(self, node: int) -> int:
        """Return how many areas a branch or twig has."""
        return sum(1 for _ in self.areas(node))


def is_twig(node: int) -> bool:
    """Return True for a node that has areas and no other nodes below it."""
    return node >= _TWIGS_FROM


def parent_of(node: int) -> int:
    """Return the node above one; the root is above itself."""
    return (node - 1) // BRANCHES if node else ROOT
