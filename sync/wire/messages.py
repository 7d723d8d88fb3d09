"""Messages of anti-entropy between two peers, inside an authenticated link (docs/PROTOCOL.md, "Rounds").

Owns their encoding. What always holds: `decode(encode(m)) == m`, and whatever `decode` returns is within the limits. It must
not know what a round does with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_never

from mycomesh.sync import codec
from mycomesh.sync.codec import is_array, is_bytes, is_int, require
from mycomesh.sync.crdt.sketch import ID_BYTES
from mycomesh.sync.crdt.version_vector import RANGES_MAX, Vector
from mycomesh.sync.errors import DecodeError
from mycomesh.sync.sqlite.identifiers import NAME_MAX
from mycomesh.sync.wire.bundle import BUNDLE_BYTES_MAX, SECTIONS_MAX, SITES_MAX
from mycomesh.sync.wire.compression import pack, unpack

__all__ = [
    "MESSAGE_BYTES_MAX",
    "Ack",
    "AuditReply",
    "AuditRequest",
    "Chunk",
    "CoverageReply",
    "CoverageRequest",
    "Digests",
    "Done",
    "Message",
    "Plan",
    "RepairRequest",
    "RepairRows",
    "TableSketch",
    "Vectors",
    "decode",
    "encode",
]

MESSAGE_BYTES_MAX = BUNDLE_BYTES_MAX + 64


# Runs of stamps in one answer to an audit: some tens of kilobytes, some milliseconds of reading.
RUNS_MAX = 8_192


@dataclass(frozen=True, slots=True)
class Digests:
    """What I hold: (table, 8-byte vector digest, 16-byte sum of entry digests), sorted by table.

    `answer` asks for the same from the other side at once.
    """

    tables: tuple[tuple[str, bytes, bytes], ...]
    answer: bool = False


@dataclass(frozen=True, slots=True)
class Vectors:
    """What I cover of these tables, and what I have got from you already: send me what I lack."""

    vectors: tuple[tuple[str, Vector], ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a catch-up stream: one encoded bundle, whose ranges tell what the sender has looked through for it."""

    bundle: bytes


@dataclass(frozen=True, slots=True)
class Ack:
    """That many bytes of chunks and mends, as they were sent, have been applied since the last Ack."""

    size: int


@dataclass(frozen=True, slots=True)
class Done:
    """The stream is complete: with it you cover what I cover of these tables.

    `collected` holds, for each table, up to which clock of each site tombstones may be missing here: who does not cover that
    may hold rows whose end I cannot tell any more.
    """

    vectors: tuple[tuple[str, Vector], ...]
    collected: tuple[tuple[str, Vector], ...] = ()


@dataclass(frozen=True, slots=True)
class TableSketch:
    """A sketch of all entry digests of a table whose vector has this 8-byte digest; see sync.sketch."""

    table: str
    vector: bytes
    sketch: bytes


@dataclass(frozen=True, slots=True)
class RepairRequest:
    """Send me the rows of the entries with these ids (`ID_BYTES` each); none means every row."""

    table: str
    ids: bytes


@dataclass(frozen=True, slots=True)
class RepairRows:
    """Whole rows, as one encoded bundle without ranges: join them although you cover them.

    Unless it is `final`, the receiver answers with what it holds of these rows beyond that, in a final one.
    """

    bundle: bytes
    final: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The stream that you asked for begins, and holds about that many changes."""

    changes: int


@dataclass(frozen=True, slots=True)
class AuditRequest:
    """Which entries of this table do you hold, with stamps of this site in `(after, upto]`?"""

    table: str
    site: bytes
    after: int
    upto: int


@dataclass(frozen=True, slots=True)
class AuditReply:
    """The answer to an audit of `(after, reached]`: runs of consecutive stamps, (first as difference to the last, count)."""

    table: str
    site: bytes
    after: int
    reached: int
    runs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CoverageRequest:
    """How far do you cover this site's clock, in each table?"""

    site: bytes


@dataclass(frozen=True, slots=True)
class CoverageReply:
    """The answer: (table, up to which clock everything of the site is covered here), sorted by table; others: nothing."""

    site: bytes
    tables: tuple[tuple[str, int], ...]


_Rare = TableSketch | RepairRequest | RepairRows | AuditRequest | AuditReply | CoverageRequest | CoverageReply
Message = Digests | Vectors | Chunk | Ack | Done | Plan | _Rare


def encode(message: Message) -> bytes:
    """Return the canonical bytes of a message."""
    return codec.encode(_fields(message))


def _fields(message: Message) -> list[Any]:
    match message:
        case Digests(tables, answer):
            return [0, [list(table) for table in tables], int(answer)]
        case Vectors(vectors):
            return [1, *_vectors_out(vectors)]
        case Chunk(bundle):
            return [2, *pack(bundle)]
        case Ack(size):
            return [3, size]
        case Done(vectors, collected):
            sites, tables = _vectors_out((*vectors, *collected))
            return [4, sites, tables[: len(vectors)], tables[len(vectors) :]]
        case Plan(changes):
            return [8, changes]
        case _:
            return _rare_fields(message)


def _rare_fields(message: _Rare) -> list[Any]:
    match message:
        case TableSketch(table, vector, sketch):
            return [5, table, vector, sketch]
        case RepairRequest(table, ids):
            return [6, table, ids]
        case RepairRows(bundle, final):
            return [7, int(final), *pack(bundle)]
        case AuditRequest(table, site, after, upto):
            return [9, table, site, after, upto]
        case AuditReply(table, site, after, reached, runs):
            return [10, table, site, after, reached, list(runs)]
        case CoverageRequest(site):
            return [11, site]
        case CoverageReply(site, tables):
            return [12, site, [list(table) for table in tables]]
        case _:
            assert_never(message)


def decode(data: bytes) -> Message:
    """Return the message in `data`; raises `DecodeError` for anything that the protocol does not allow."""
    value = codec.decode(data, bytes_max=MESSAGE_BYTES_MAX)
    require(is_array(value) and len(value) >= 2 and is_int(value[0]), "a message is an array that begins with its kind")
    match value:
        case [0, list(tables), int(answer)] if is_int(answer, 0, 1):
            return Digests(tuple(_digest_in(item) for item in _limited(tables)), answer == 1)
        case [1, list(sites), list(tables)]:
            return Vectors(_vectors_in(sites, tables))
        case [2, int(packed), bytes(body)] if is_int(packed, 0, 1):
            return Chunk(unpack(packed, body))
        case [3, int(size)] if is_int(size, 1, MESSAGE_BYTES_MAX):
            return Ack(size)
        case [4, list(sites), list(tables), list(collected)]:
            return Done(_vectors_in(sites, tables), _vectors_in(sites, collected))
        case [8, int(changes)] if is_int(changes):
            return Plan(changes)
        case _:
            return _rare_in(value)


def _rare_in(value: list[Any]) -> Message:
    match value:
        case [5, str(table), bytes(vector), bytes(sketch)] if len(vector) == 8:
            return TableSketch(_name(table), vector, sketch)
        case [6, str(table), bytes(ids)] if len(ids) % ID_BYTES == 0:
            return RepairRequest(_name(table), ids)
        case [7, int(final), int(packed), bytes(body)] if is_int(final, 0, 1) and is_int(packed, 0, 1):
            return RepairRows(unpack(packed, body), final == 1)
        case [9, str(table), bytes(site), int(after), int(upto)] if is_int(after) and is_int(upto, after + 1):
            require(len(site) == 16, "a site is 16 bytes")
            return AuditRequest(_name(table), site, after, upto)
        case [10, str(table), bytes(site), int(after), int(reached), list(runs)] if is_int(after):
            require(len(site) == 16 and is_int(reached, after), "bad window of an audit")
            return AuditReply(_name(table), site, after, reached, _runs_in(runs, reached - after))
        case [11, bytes(site)] if len(site) == 16:
            return CoverageRequest(site)
        case [12, bytes(site), list(tables)] if len(site) == 16:
            return CoverageReply(site, tuple(_reach_in(item) for item in _limited(tables)))
        case _:
            raise DecodeError("no such message")


def _runs_in(runs: list[Any], width: int) -> tuple[int, ...]:
    require(len(runs) % 2 == 0 and len(runs) <= 2 * RUNS_MAX, "bad list of runs")
    require(all(type(number) is int and number > 0 for number in runs), "bad list of runs")
    require(sum(runs) - len(runs) // 2 <= width, "runs beyond their window")
    return tuple(runs)


def _limited(tables: list[Any]) -> list[Any]:
    require(len(tables) <= SECTIONS_MAX, "too many tables")
    return tables


def _name(value: object) -> str:
    require(type(value) is str and 0 < len(value) <= NAME_MAX, "bad table name")
    return str(value)


def _digest_in(item: Any) -> tuple[str, bytes, bytes]:
    require(is_array(item, 3) and is_bytes(item[1], 8) and is_bytes(item[2], 16), "bad digest")
    return _name(item[0]), item[1], item[2]


def _reach_in(item: Any) -> tuple[str, int]:
    require(is_array(item, 2) and is_int(item[1], 1), "bad reach")
    return _name(item[0]), item[1]


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
