"""Position of a reader in the feed of one table: the version vector of what it has seen.

A greatest clock would not do. Catch-up and urgent tables fill the clocks of a site out of order, so that a change with a lower
clock may come in later.

A reader that starts with the rows that are there does not need deletes from before. `start` has the vector of that
moment, until the reader has passed it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mycomesh.sync import codec
from mycomesh.sync.codec import is_array, is_bytes, is_int, require
from mycomesh.sync.crdt.version_vector import RANGES_MAX, Vector
from mycomesh.sync.errors import DecodeError
from mycomesh.sync.storage.areas import Areas

__all__ = ["POSITION_BYTES_MAX", "Position"]

FORMAT = 1
# A program can write any bytes into a cursor. A mesh of 4,096 members with a few sites each takes 400 KB.
POSITION_BYTES_MAX = 4 << 20


@dataclass(slots=True)
class Position:
    """A reader of one table, and the changes that it has seen.

    seen: the stamps.
    touched: the number of the last row that changed without a stamp (`feed.touched`).
    start: what the file covered when the reader began with the rows that were there; None once it has passed that.
    """

    seen: Vector = field(default_factory=Vector)
    touched: int = 0
    start: Vector | None = None

    def encode(self) -> bytes:
        """Return the bytes that a cursor holds."""
        return codec.encode(
            [FORMAT, self.touched, _plain(self.seen), None if self.start is None else _plain(self.start)]
        )

    @classmethod
    def decode(cls, data: bytes) -> Position:
        """Return the position in these bytes.

        Raises:
            DecodeError: they are not a position.
        """
        value = codec.decode(data, bytes_max=POSITION_BYTES_MAX)
        require(is_array(value, 4) and value[0] == FORMAT and is_int(value[1]), "not a position of a reader")
        return cls(_vector(value[2]), value[1], None if value[3] is None else _vector(value[3]))

    def follow_cut(self, areas: Areas) -> None:
        """Follow a table that was cut with its rows: what the reader has seen has the sites of areas by now."""
        for vector in (self.seen, self.start):
            old = (
                []
                if vector is None
                else [(site, ranges) for site, ranges in vector.items() if areas.of_site(site) is None]
            )
            if vector is None or not old:
                continue
            for site, ranges in old:
                for area in areas.known():
                    own = areas.own_site(site, area)
                    for after, upto in ranges if areas.of_site(own) == area else ():
                        vector.add(own, after, upto)
                vector.cut(site, 0)

    def copy(self) -> Position:
        """Return an independent copy; `start` is never changed, and shared."""
        return Position(self.seen.copy(), self.touched, self.start)

    def merge(self, other: Position) -> None:
        """Cover what another position of the same reader covers."""
        self.seen.merge(other.seen)
        self.touched = max(self.touched, other.touched)
        self.settle()

    def settle(self) -> None:
        """Forget the start once everything from before is seen."""
        if self.start is not None and not self.start.missing_from(self.seen):
            self.start = None


def _plain(vector: Vector) -> list[Any]:
    # Beyond so many ranges of a site, the reader sees changes again.
    return [[site, [edge for window in ranges[:RANGES_MAX] for edge in window]] for site, ranges in vector.items()]


def _vector(plain: Any) -> Vector:
    require(is_array(plain), "malformed position")
    vector = Vector()
    for item in plain:
        require(is_array(item, 2) and is_bytes(item[0], 16) and is_array(item[1]), "malformed position")
        site, edges = item
        require(len(edges) % 2 == 0 and len(edges) <= 2 * RANGES_MAX and all(map(is_int, edges)), "malformed position")
        for after, upto in zip(edges[::2], edges[1::2], strict=True):
            if upto < after:
                raise DecodeError("malformed position")
            vector.add(site, after, upto)
    return vector
