"""Messages of anti-entropy between two peers, inside an authenticated link (docs/PROTOCOL.md, "Rounds").

Owns their encoding. What always holds: `decode(encode(m)) == m`, and whatever `decode` returns is within the limits. It must
not know what a round does with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_never

from sync import codec
from sync.batch import BUNDLE_BYTES_MAX, NAME_MAX, SECTIONS_MAX, SITES_MAX
from sync.codec import is_array, is_bytes, is_int, require
from sync.errors import DecodeError
from sync.vector import RANGES_MAX, Vector

__all__ = [
    "MESSAGE_BYTES_MAX",
    "Ack",
    "Chunk",
    "Digests",
    "Done",
    "Mend",
    "Message",
    "SketchOf",
    "Vectors",
    "Want",
    "decode",
    "encode",
]

MESSAGE_BYTES_MAX = BUNDLE_BYTES_MAX + 64


@dataclass(frozen=True, slots=True)
class Digests:
    """What I hold: (table, 8-byte vector digest, 16-byte sum of entry digests), sorted by table."""

    tables: tuple[tuple[str, bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Vectors:
    """What I cover of these tables: send me what I lack."""

    vectors: tuple[tuple[str, Vector], ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a catch-up stream: one encoded bundle without ranges."""

    bundle: bytes


@dataclass(frozen=True, slots=True)
class Ack:
    """That many chunks have been applied since the last Ack: the sender may send as many more."""

    chunks: int


@dataclass(frozen=True, slots=True)
class Done:
    """The stream is complete: with it you cover what I cover of these tables."""

    vectors: tuple[tuple[str, Vector], ...]


@dataclass(frozen=True, slots=True)
class SketchOf:
    """A sketch of all entry digests of a table whose vector has this 8-byte digest; see sync.sketch."""

    table: str
    vector: bytes
    sketch: bytes


@dataclass(frozen=True, slots=True)
class Want:
    """Send me the rows of the entries with these digests (big-endian signed, 8 bytes each); none means every row."""

    table: str
    digests: bytes


@dataclass(frozen=True, slots=True)
class Mend:
    """Whole rows, as one encoded bundle without ranges: join them although you cover them."""

    bundle: bytes


Message = Digests | Vectors | Chunk | Ack | Done | SketchOf | Want | Mend


def encode(message: Message) -> bytes:
    """Returns the canonical bytes of a message."""
    match message:
        case Digests(tables):
            return codec.encode([0, [list(table) for table in tables]])
        case Vectors(vectors):
            return codec.encode([1, *_vectors_out(vectors)])
        case Chunk(bundle):
            return codec.encode([2, bundle])
        case Ack(chunks):
            return codec.encode([3, chunks])
        case Done(vectors):
            return codec.encode([4, *_vectors_out(vectors)])
        case SketchOf(table, vector, sketch):
            return codec.encode([5, table, vector, sketch])
        case Want(table, digests):
            return codec.encode([6, table, digests])
        case Mend(bundle):
            return codec.encode([7, bundle])
        case _:
            assert_never(message)


def decode(data: bytes) -> Message:
    """Returns the message in `data`; raises `DecodeError` for anything that the protocol does not allow."""
    value = codec.decode(data, bytes_max=MESSAGE_BYTES_MAX)
    require(is_array(value) and len(value) >= 2 and is_int(value[0]), "a message is an array that begins with its kind")
    match value:
        case [0, list(tables)]:
            return Digests(tuple(_digest_in(item) for item in _limited(tables)))
        case [1, list(sites), list(tables)]:
            return Vectors(_vectors_in(sites, tables))
        case [2, bytes(bundle)]:
            return Chunk(bundle)
        case [3, int(chunks)] if is_int(chunks, 1, 1_024):
            return Ack(chunks)
        case [4, list(sites), list(tables)]:
            return Done(_vectors_in(sites, tables))
        case [5, str(table), bytes(vector), bytes(sketch)] if len(vector) == 8:
            return SketchOf(_name(table), vector, sketch)
        case [6, str(table), bytes(digests)] if len(digests) % 8 == 0:
            return Want(_name(table), digests)
        case [7, bytes(bundle)]:
            return Mend(bundle)
        case _:
            raise DecodeError("no such message")


def _limited(tables: list[Any]) -> list[Any]:
    require(len(tables) <= SECTIONS_MAX, "too many tables")
    return tables


def _name(value: object) -> str:
    require(type(value) is str and 0 < len(value) <= NAME_MAX, "bad table name")
    return str(value)


def _digest_in(item: Any) -> tuple[str, bytes, bytes]:
    require(is_array(item, 3) and is_bytes(item[1], 8) and is_bytes(item[2], 16), "bad digest")
    return _name(item[0]), item[1], item[2]


def _vectors_out(vectors: tuple[tuple[str, Vector], ...]) -> list[Any]:
    """Sites once, then for each table [site number, edges]: after, upto, after, upto, ..., each but the first a delta."""
    places: dict[bytes, int] = {}
    tables = []
    for name, vector in vectors:
        items = []
        for site, ranges in vector.items():
            edges = [edge for window in ranges for edge in window]
            deltas = [edge - before for before, edge in zip([0, *edges], edges, strict=False)]
            items.append([places.setdefault(site, len(places)), deltas])
        tables.append([name, items])
    return [list(places), tables]


def _vectors_in(sites: list[Any], tables: list[Any]) -> tuple[tuple[str, Vector], ...]:
    require(len(sites) <= SITES_MAX and all(is_bytes(site, 16) for site in sites), "bad list of sites")
    result = []
    for item in _limited(tables):
        require(is_array(item, 2) and is_array(item[1]) and len(item[1]) <= len(sites), "bad vector")
        vector = Vector()
        for part in item[1]:
            require(is_array(part, 2) and is_int(part[0], 0, len(sites) - 1) and is_array(part[1]), "bad vector")
            deltas = part[1]
            require(len(deltas) % 2 == 0 and len(deltas) <= 2 * RANGES_MAX, "bad vector")
            edge = 0
            edges = []
            for number, delta in enumerate(deltas):
                require(is_int(delta, 0 if number == 0 else 1), "bad vector")
                edge += delta
                edges.append(edge)
            require(edge < 1 << 63, "bad vector")
            for after, upto in zip(edges[::2], edges[1::2], strict=True):
                vector.add(sites[part[0]], after, upto)
        result.append((_name(item[0]), vector))
    return tuple(result)
