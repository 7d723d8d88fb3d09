"""Long messages in parts: a replica may have any number of tables and sites, and one message lists a bounded number.

A sender sends parts first, then the message itself with the rest. Version 0.1 ignores parts and takes the message for the whole,
so its list has complete tables only: a table that does not fit into one message is in parts alone (ADR 29).

Invariant: a receiver that joins all parts has the message that was cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mycomesh.sync.codec import require
from mycomesh.sync.crdt.version_vector import RANGES_MAX, Vector
from mycomesh.sync.wire.bundle import SECTIONS_MAX, SITES_MAX
from mycomesh.sync.wire.messages import (
    CoverageReply,
    Digests,
    Done,
    LongMessage,
    Message,
    Part,
    Vectors,
    WholeMessage,
    decode,
    encode,
)

__all__ = ["PARTS_BYTES_MAX", "PART_RANGES_MAX", "PART_TABLES_MAX", "Joiner", "cut"]

# Tables and sites of one message, as many as every version reads.
PART_TABLES_MAX = SECTIONS_MAX - 1
PART_SITES_MAX = SITES_MAX
# Ranges of one message: some hundred kilobytes, some milliseconds to read.
PART_RANGES_MAX = 16_384
# Parts that a receiver keeps until their message comes: the digests of 100,000 tables, or a vector of 250,000 ranges.
PARTS_BYTES_MAX = 8 << 20

_Vectors = tuple[tuple[str, Vector], ...]
# A table, and its vectors in the lists of a message: two lists in Done, one in Vectors.
_Unit = tuple[str, tuple[Vector | None, ...]]


class Joiner:
    """The parts that one peer has sent of a message which is still to come.

    They are kept encoded: a list of names and clocks takes twelve times as much memory when it is decoded.
    """

    __slots__ = ("_parts", "_size", "_type")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._type: type[Message] | None = None  # of the parts

    def on_message(self, message: Message, size: int) -> WholeMessage | None:
        """Keep a part, which had `size` bytes on the wire, and return None; return any other message, with its parts.

        Raises:
            DecodeError: parts of more than `PARTS_BYTES_MAX`, or another message than theirs follows.
        """
        if isinstance(message, Part):
            self._size += size
            require(self._size <= PARTS_BYTES_MAX, "a message in too many parts")
            require(self._type in (None, type(message.message)), "parts of two messages")
            self._type = type(message.message)
            self._parts.append(encode(message))
            return None
        if self._type is None:
            return message
        kind, self._type = self._type, None
        encoded, self._parts, self._size = self._parts, [], 0
        require(kind is type(message), "parts without their message")
        parts = [part.message for part in map(decode, encoded) if isinstance(part, Part)]
        return _join(parts, message)


def cut(message: Message) -> list[Message]:
    """Return the messages that together say what `message` does: parts, then the message with the first of its tables."""
    match message:
        case Digests(tables, answer) if len(tables) > PART_TABLES_MAX:
            return _in_order([Digests(tables[at:end], answer and not at) for at, end in _windows(len(tables))])
        case CoverageReply(site, tops, after) if len(tops) > PART_TABLES_MAX:
            return _in_order([CoverageReply(site, tops[at:end], after) for at, end in _windows(len(tops))])
        case Vectors(vectors):
            units: list[_Unit] = [(name, (vector,)) for name, vector in vectors]
            if not _fit(units):
                return _in_order([Vectors(_list(piece, 0)) for piece in _pieces(units)])
        case Done(vectors, collected):
            watermarks = dict(collected)
            units = [(name, (vector, watermarks.get(name))) for name, vector in vectors]
            if not _fit(units):
                return _in_order([Done(_list(piece, 0), _list(piece, 1)) for piece in _pieces(units)])
    return [message]


def _windows(count: int) -> Iterator[tuple[int, int]]:
    for at in range(0, count, PART_TABLES_MAX):
        yield at, at + PART_TABLES_MAX


def _in_order(pieces: Sequence[LongMessage]) -> list[Message]:
    """Return all pieces but the first as parts, then the first as it is."""
    return [*map(Part, pieces[1:]), pieces[0]]


def _fit(units: Sequence[_Unit]) -> bool:
    """Return True if one message has room for all of these tables; usually it does."""
    if len(units) > PART_TABLES_MAX:
        return False
    ranges = sum(len(items) for unit in units for _, _, items in _items(unit))
    return ranges <= PART_RANGES_MAX and len(set().union(*map(_sites, units))) <= PART_SITES_MAX


def _pieces(units: Sequence[_Unit]) -> list[list[_Unit]]:
    """Return the units in pieces that each fit one message; the first piece has only whole tables."""
    pieces: list[list[_Unit]] = [[]]
    large: list[list[_Unit]] = []
    sites: set[bytes] = set()
    ranges = 0
    for unit in units:
        own, weight = _sites(unit), sum(len(items) for _, _, items in _items(unit))
        if len(own) > PART_SITES_MAX or weight > PART_RANGES_MAX:
            large += [[piece] for piece in _slices_of(unit)]
            continue
        if pieces[-1] and (
            len(pieces[-1]) == PART_TABLES_MAX or len(sites | own) > PART_SITES_MAX or ranges + weight > PART_RANGES_MAX
        ):
            pieces.append([])
            sites, ranges = set(), 0
        pieces[-1].append(unit)
        sites |= own
        ranges += weight
    return pieces + large


def _items(unit: _Unit) -> Iterator[tuple[int, bytes, Sequence[tuple[int, int]]]]:
    """Yield (list, site, ranges) of a table."""
    for number, vector in enumerate(unit[1]):
        for site, ranges in [] if vector is None else vector.items():
            yield number, site, ranges[:RANGES_MAX]


def _sites(unit: _Unit) -> set[bytes]:
    return {site for _, site, _ in _items(unit)}


def _slices_of(unit: _Unit) -> Iterator[_Unit]:
    """Yield a table that does not fit one message as tables of the same name that do."""
    name, vectors = unit
    some: list[Vector | None] = [None for _ in vectors]
    count = ranges = 0
    for number, site, items in _items(unit):
        if count == PART_SITES_MAX or ranges + len(items) > PART_RANGES_MAX:
            yield name, tuple(some)
            some, count, ranges = [None for _ in vectors], 0, 0
        vector = some[number] = some[number] or Vector()
        vector.merge(Vector({site: items}))
        count += 1
        ranges += len(items)
    yield name, tuple(some)


def _list(units: Sequence[_Unit], number: int) -> _Vectors:
    """Return one list of a message; a table is left out if it has no vector there."""
    return tuple((name, vector) for name, vectors in units if (vector := vectors[number]) is not None)


def _join(parts: Sequence[LongMessage], last: WholeMessage) -> WholeMessage:
    """Return the message that `parts` and `last`, all of one type, were cut from."""
    every = [last, *parts]
    match last:
        case Digests(_, answer):
            return Digests(
                tuple(item for piece in every if isinstance(piece, Digests) for item in piece.tables), answer
            )
        case CoverageReply(site, _, after):
            replies = [piece for piece in every if isinstance(piece, CoverageReply)]
            require(all((piece.site, piece.after) == (site, after) for piece in replies), "parts about two sites")
            return CoverageReply(site, tuple(item for piece in replies for item in piece.tables), after)
        case Vectors():
            return Vectors(_merge([piece.vectors for piece in every if isinstance(piece, Vectors)]))
        case Done():
            ends = [piece for piece in every if isinstance(piece, Done)]
            return Done(_merge([end.vectors for end in ends]), _merge([end.collected for end in ends]))
        case _:
            return last


def _merge(lists: Sequence[_Vectors]) -> _Vectors:
    """Return the vectors of all lists by table: a table may be in several parts."""
    merged: dict[str, Vector] = {}
    for name, vector in (item for items in lists for item in items):
        known = merged.get(name)
        if known is None:
            merged[name] = vector
        else:
            known.merge(vector)
            require(all(len(known.ranges(site)) <= RANGES_MAX for site, _ in vector.items()), "malformed vector")
    return tuple(merged.items())
