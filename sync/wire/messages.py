"""Anti-entropy messages between two peers, inside an authenticated link (docs/PROTOCOL.md, "Rounds").

A comparison sends Digests. A round sends Vectors, then Plan, Chunk and Done back; AuditRequest and AuditReply may follow. A
repair sends TableSketch, then RepairRequest and RepairRows. The receiver of rows sends Ack. The docstring of a message says
what its sender states or requests. `parts` cuts a message that lists many tables or sites.

Invariant: `decode(encode(m)) == m`, and `decode` returns only messages that keep the limits.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, assert_never

from mycomesh.sync import codec
from mycomesh.sync.codec import is_array, is_bytes, is_int, require
from mycomesh.sync.crdt.sketch import ID_BYTES
from mycomesh.sync.crdt.version_vector import RANGES_MAX, Vector
from mycomesh.sync.errors import DecodeError
from mycomesh.sync.sqlite.identifiers import NAME_MAX
from mycomesh.sync.wire.bundle import BUNDLE_BYTES_MAX
from mycomesh.sync.wire.compression import pack, unpack
from mycomesh.sync.wire.units import AREA_CHARS_MAX

__all__ = [
    "AREAS_READ_MAX",
    "MESSAGE_BYTES_MAX",
    "Ack",
    "AreaDigests",
    "AuditReply",
    "AuditRequest",
    "Chunk",
    "CoverageReply",
    "CoverageRequest",
    "Digests",
    "Done",
    "LongMessage",
    "Message",
    "Part",
    "Plan",
    "RepairRequest",
    "RepairRows",
    "TableSketch",
    "Vectors",
    "WholeMessage",
    "decode",
    "encode",
    "kind_of",
]

MESSAGE_BYTES_MAX = BUNDLE_BYTES_MAX + 64
# Runs of stamps in one reply to an audit: some tens of kilobytes, some milliseconds of reading.
RUNS_MAX = 8_192
# Tables and sites that one message may list. Senders cut far below (`parts`), but version 0.1 sends any number in one.
TABLES_READ_MAX = 65_536
SITES_READ_MAX = 65_536
# Areas that one message of a descent lists.
AREAS_READ_MAX = 1_023
# Nodes of the tree over areas (`sync.storage.area_tree`): the root, 64 branches, and 64 twigs of each.
_NODES = 4_161


@dataclass(frozen=True, slots=True)
class Digests:
    """The sender's state: (table, 8-byte vector digest, 16-byte sum of entry digests), sorted by table.

    With `answer`, the receiver replies with its own digests at once.
    """

    tables: tuple[tuple[str, bytes, bytes], ...]
    answer: bool = False


@dataclass(frozen=True, slots=True)
class Vectors:
    """A request for a stream: send everything of these tables that the vectors do not cover."""

    vectors: tuple[tuple[str, Vector], ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a stream: one encoded bundle, whose ranges name the windows from which the sender read it."""

    bundle: bytes


@dataclass(frozen=True, slots=True)
class Ack:
    """The sender of this message has applied `size` more bytes of Chunk and RepairRows, counted as on the wire."""

    size: int


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a stream: a receiver that has applied all of it covers these vectors.

    `collected` has the sender's GC watermarks by table: up to these clocks, tombstones may be missing in the stream. A
    receiver that does not cover them may have rows whose deletes the sender cannot send any more.
    """

    vectors: tuple[tuple[str, Vector], ...]
    collected: tuple[tuple[str, Vector], ...] = ()


@dataclass(frozen=True, slots=True)
class TableSketch:
    """A sketch of all entry digests of a table whose vector has the 8-byte digest `vector`; see sync.crdt.sketch."""

    table: str
    vector: bytes
    sketch: bytes


@dataclass(frozen=True, slots=True)
class RepairRequest:
    """A request for the rows of the entries with these ids (`ID_BYTES` each); no id requests every row."""

    table: str
    ids: bytes


@dataclass(frozen=True, slots=True)
class RepairRows:
    """Whole rows, as one encoded bundle without ranges. The receiver merges them although it covers them.

    Unless the message is `final`, the receiver replies with its entries of these rows that the bundle lacks, in a final one.
    """

    bundle: bytes
    final: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The start of a requested stream, which has about that many changes."""

    changes: int


@dataclass(frozen=True, slots=True)
class AuditRequest:
    """A request for the stamps of this site in `(after, upto]` that the receiver has entries for."""

    table: str
    site: bytes
    after: int
    upto: int


@dataclass(frozen=True, slots=True)
class AuditReply:
    """The stamps in `(after, reached]`, as runs: the distance from the last run's end, the count, and so on."""

    table: str
    site: bytes
    after: int
    reached: int
    runs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CoverageRequest:
    """A request: from `after` on, up to which clock of this site does the receiver cover each table?"""

    site: bytes
    after: int = 0


@dataclass(frozen=True, slots=True)
class CoverageReply:
    """The reply, sorted: (table, clock up to which the sender covers all of the site from `after` on); of others nothing."""

    site: bytes
    tables: tuple[tuple[str, int], ...]
    after: int = 0


@dataclass(frozen=True, slots=True)
class AreaDigests:
    """A step of the comparison of a table's areas whose sum differs, by nodes of the tree over areas.

    `sums` has all nodes with areas directly below those in `below`: (node, 16-byte sum), ascending. `areas` has all areas of the
    nodes in `listed`: (area, 8-byte vector digest, 16-byte sum of entry digests). With `answer`, the receiver lists its own areas
    of those of them that differ.
    """

    table: str
    below: tuple[int, ...]
    sums: tuple[tuple[int, bytes], ...]
    listed: tuple[int, ...]
    areas: tuple[tuple[str, bytes, bytes], ...]
    answer: bool


# Names by number.
_KINDS = (
    "Digests", "Vectors", "Chunk", "Ack", "Done", "TableSketch", "RepairRequest", "RepairRows", "Plan", "AuditRequest",
    "AuditReply", "CoverageRequest", "CoverageReply", "Part", "AreaDigests",
)  # fmt: skip


LongMessage = Digests | Vectors | Done | CoverageReply


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the tables and sites of a message that is too long for one. The message with the rest of them follows."""

    message: LongMessage


_Rare = (
    TableSketch | RepairRequest | RepairRows | AuditRequest | AuditReply | CoverageRequest | CoverageReply | AreaDigests
)
WholeMessage = Digests | Vectors | Chunk | Ack | Done | Plan | _Rare
Message = WholeMessage | Part


def encode(message: Message) -> bytes:
    """Return the canonical bytes of a message."""
    return codec.encode(_fields(message))


def kind_of(payload: bytes) -> str:
    """Return the kind of an encoded message, for counting; "other" for what no version has sent so far."""
    at = 2 if payload[1:2] == b"\x0d" else 1  # of a part, that of the message which it is a part of
    number = payload[at] if len(payload) > at else len(_KINDS)
    return _KINDS[number] if number < len(_KINDS) and payload[0] >> 5 == 4 else "other"


def _fields(message: Message) -> list[Any]:
    match message:
        case Digests(tables, answer):
            return [0, [list(table) for table in tables], int(answer)]
        case Vectors(vectors):
            return [1, *_encode_vectors(vectors)]
        case Chunk(bundle):
            return [2, *pack(bundle)]
        case Ack(size):
            return [3, size]
        case Done(vectors, collected):
            sites, tables = _encode_vectors((*vectors, *collected))
            return [4, sites, tables[: len(vectors)], tables[len(vectors) :]]
        case Plan(changes):
            return [8, changes]
        case Part(long):
            return [13, *_fields(long)]
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
        case CoverageRequest(site, after):
            return [11, site, *([after] if after else [])]
        case CoverageReply(site, tables, after):
            return [12, site, [list(table) for table in tables], *([after] if after else [])]
        case AreaDigests(table, below, sums, listed, areas, answer):
            return [
                14,
                table,
                list(below),
                [list(each) for each in sums],
                list(listed),
                [list(each) for each in areas],
                int(answer),
            ]
        case _:
            assert_never(message)


def decode(data: bytes) -> Message:
    """Return the message in `data`; raise `DecodeError` for anything that the protocol does not allow."""
    value = codec.decode(data, bytes_max=MESSAGE_BYTES_MAX)
    require(
        is_array(value) and len(value) >= 2 and is_int(value[0]), "a message is not an array that begins with a kind"
    )
    if value[0] != 13:
        return _decode_fields(value)
    require(is_int(value[1]), "a part has no kind")
    long = _decode_fields(value[1:])
    if not isinstance(long, LongMessage):
        raise DecodeError("a part of a message that comes whole")
    return Part(long)


def _decode_fields(value: list[Any]) -> WholeMessage:
    match value:
        case [0, list(tables), int(answer)] if is_int(answer, 0, 1):
            return Digests(tuple(_decode_digest(item) for item in _limited(tables)), answer == 1)
        case [1, list(sites), list(tables)]:
            return Vectors(_decode_vectors(sites, tables))
        case [2, int(packed), bytes(body)] if is_int(packed, 0, 1):
            return Chunk(unpack(packed, body))
        case [3, int(size)] if is_int(size, 1, MESSAGE_BYTES_MAX):
            return Ack(size)
        case [4, list(sites), list(tables), list(collected)]:
            return Done(_decode_vectors(sites, tables), _decode_vectors(sites, collected))
        case [8, int(changes)] if is_int(changes):
            return Plan(changes)
        case _:
            return _decode_rare(value)


def _decode_rare(value: list[Any]) -> WholeMessage:
    match value:
        case [5, str(table), bytes(vector), bytes(sketch)] if len(vector) == 8:
            return TableSketch(_name(table), vector, sketch)
        case [6, str(table), bytes(ids)] if len(ids) % ID_BYTES == 0:
            return RepairRequest(_name(table), ids)
        case [7, int(final), int(packed), bytes(body)] if is_int(final, 0, 1) and is_int(packed, 0, 1):
            return RepairRows(unpack(packed, body), final == 1)
        case [9, str(table), bytes(site), int(after), int(upto)] if is_int(after) and is_int(upto, after + 1):
            require(len(site) == 16, "a site is not 16 bytes")
            return AuditRequest(_name(table), site, after, upto)
        case [10, str(table), bytes(site), int(after), int(reached), list(runs)] if is_int(after):
            require(len(site) == 16 and is_int(reached, after), "malformed window of an audit reply")
            return AuditReply(_name(table), site, after, reached, _decode_runs(runs, reached - after))
        case [11, bytes(site), *after] if len(site) == 16:
            return CoverageRequest(site, _decode_after(after))
        case [12, bytes(site), list(tables), *after] if len(site) == 16:
            start = _decode_after(after)
            return CoverageReply(site, tuple(_decode_coverage(item, start) for item in _limited(tables)), start)
        case [14, str(table), list(below), list(sums), list(listed), list(areas), int(answer)] if is_int(answer, 0, 1):
            return _decode_area_digests(_name(table), below, sums, listed, areas, answer=answer == 1)
        case _:
            raise DecodeError("unknown kind or malformed fields of a message")


def _decode_area_digests(
    table: str, below: list[Any], sums: list[Any], listed: list[Any], areas: list[Any], *, answer: bool
) -> AreaDigests:
    require(all(is_array(item, 2) and is_bytes(item[1], 16) for item in sums), "malformed sum of areas")
    for nodes in (below, listed, [item[0] for item in sums]):
        require(all(is_int(node, 0, _NODES - 1) for node in nodes), "malformed node of areas")
        require(all(low < high for low, high in itertools.pairwise(nodes)), "nodes of areas do not ascend")
    require(len(areas) <= AREAS_READ_MAX, "too many areas")
    for item in areas:
        require(is_array(item, 3) and is_bytes(item[1], 8) and is_bytes(item[2], 16), "malformed digest of an area")
        require(type(item[0]) is str and 0 < len(item[0]) <= AREA_CHARS_MAX, "malformed area")
    pairs = tuple((node, total) for node, total in sums)
    return AreaDigests(table, tuple(below), pairs, tuple(listed), tuple(map(tuple, areas)), answer=answer)


def _decode_runs(runs: list[Any], width: int) -> tuple[int, ...]:
    require(len(runs) % 2 == 0 and len(runs) <= 2 * RUNS_MAX, "malformed list of runs")
    require(all(type(number) is int and number > 0 for number in runs), "malformed list of runs")
    require(sum(runs) - len(runs) // 2 <= width, "runs beyond their window")
    return tuple(runs)


def _limited(tables: list[Any]) -> list[Any]:
    require(len(tables) <= TABLES_READ_MAX, "too many tables")
    return tables


def _name(value: object) -> str:
    require(type(value) is str and 0 < len(value) <= NAME_MAX, "malformed table name")
    return str(value)


def _decode_digest(item: Any) -> tuple[str, bytes, bytes]:
    require(is_array(item, 3) and is_bytes(item[1], 8) and is_bytes(item[2], 16), "malformed digest")
    return _name(item[0]), item[1], item[2]


def _decode_coverage(item: Any, after: int) -> tuple[str, int]:
    require(is_array(item, 2) and is_int(item[1], after + 1), "malformed coverage")
    return _name(item[0]), item[1]


def _decode_after(fields: list[Any]) -> int:
    """Return where coverage begins; a message in which that is 0 does not say it."""
    if not fields:
        return 0
    require(len(fields) == 1 and is_int(fields[0], 1), "malformed start of coverage")
    return int(fields[0])


def _encode_vectors(vectors: tuple[tuple[str, Vector], ...]) -> list[Any]:
    """Return [sites, tables]. Each table has [site number, edges] pairs; edges are after, upto, after, upto, ... as deltas.

    Of a site with more ranges than `RANGES_MAX` the first ones are listed: to claim less costs another round.
    """
    site_numbers: dict[bytes, int] = {}
    tables = []
    for name, vector in vectors:
        items = []
        for site, ranges in vector.items():
            edges = [edge for window in ranges[:RANGES_MAX] for edge in window]
            deltas = [edge - before for before, edge in zip([0, *edges], edges, strict=False)]
            items.append([site_numbers.setdefault(site, len(site_numbers)), deltas])
        tables.append([name, items])
    return [list(site_numbers), tables]


def _decode_vectors(sites: list[Any], tables: list[Any]) -> tuple[tuple[str, Vector], ...]:
    require(len(sites) <= SITES_READ_MAX and all(is_bytes(site, 16) for site in sites), "malformed list of sites")
    result = []
    for item in _limited(tables):
        require(is_array(item, 2) and is_array(item[1]) and len(item[1]) <= len(sites), "malformed vector")
        vector = Vector()
        for part in item[1]:
            require(is_array(part, 2) and is_int(part[0], 0, len(sites) - 1) and is_array(part[1]), "malformed vector")
            deltas = part[1]
            require(len(deltas) % 2 == 0 and len(deltas) <= 2 * RANGES_MAX, "malformed vector")
            edge = 0
            edges = []
            for number, delta in enumerate(deltas):
                require(is_int(delta, 0 if number == 0 else 1), "malformed vector")
                edge += delta
                edges.append(edge)
            require(edge < 1 << 63, "malformed vector")
            for after, upto in zip(edges[::2], edges[1::2], strict=True):
                vector.add(sites[part[0]], after, upto)
            require(len(vector.ranges(sites[part[0]])) <= RANGES_MAX, "malformed vector")  # a site may be listed twice
        result.append((_name(item[0]), vector))
    return tuple(result)
