"""Typed messages inside a link: their one encoding, and the strict decoder for it.

Owns the layout `version of the link, type, body` and every refusal of anything else. What always holds: a message that decodes
encodes to the same bytes; a type below 128 that this version does not know decodes to None, so that later versions may
say more to older nodes; any other surprise is a DecodeError. Fixed layouts for what is frequent, canonical CBOR for
what is rare. Must not know: links, time, who may say what; signatures inside are opaque here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, assert_never

from mycomesh.mesh import wire
from mycomesh.mesh.errors import DecodeError
from mycomesh.mesh.events import Address
from mycomesh.mesh.versions import OLDEST

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "APP_BYTES_MAX",
    "IDS_MAX",
    "PRIORITY_MAX",
    "Addresses",
    "App",
    "Batch",
    "Certificates",
    "CertificatesHave",
    "EpochHave",
    "Epochs",
    "Graft",
    "IHave",
    "LinkStates",
    "LinkStatesHave",
    "Message",
    "Ping",
    "Pong",
    "Prune",
    "Revocations",
    "RevocationsHave",
    "decode",
    "decode_pieces",
    "encode",
    "encode_parts",
]

ID_BYTES = 16  # node ids and batch ids: BLAKE2b-128
SIGNATURE_BYTES = 64  # Ed25519 (RFC 8032)
PRIORITY_MAX = 3  # 0 is the most urgent
APP_BYTES_MAX = 25 << 20  # one bundle of sync is at most 24 MiB, and a blob of 16 MiB must pass with its row around it
IDS_MAX = 1_024  # ids in one message: 16 KiB, more are sent as several messages
RECORDS_MAX = 1_024  # link-state records or certificates in one message: one for each node of the largest mesh
RECORD_BYTES_MAX = 16_384  # of one link-state record or certificate; the owners of both set tighter limits
RECORDS_BYTES_MAX = 1 << 20  # of one message of records; senders cut far below it
ADDRESSES_MAX = 256  # addresses in one message: passive view and active view many times over
ADDRESSES_BYTES_MAX = 32_768  # 256 addresses of at most 100 bytes each, and the list around them
HOST_CHARS_MAX = 64  # an IPv6 address with a scope has 45 + 1 + 15
PORT_MAX = 65_535
DIGEST_BYTES = 8  # of a certificate: only says "probably the one I hold", never a proof
IGNORED_TYPES = 128  # types below are ignored when unknown, types from here on close the link


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there? `token` comes back in the Pong."""

    token: int


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to the Ping of that token; `wall_ms` is the answering node's time of day (may lie before 1970)."""

    token: int
    wall_ms: int


@dataclass(frozen=True, slots=True)
class App:
    """An opaque message of the application on this link."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """An opaque payload that its origin spreads to the whole mesh; relayed unchanged.

    `direct` says that the origin pushed it on each of its links, so its neighbours need no relay. `signature` is by the
    origin over `signed`, so that no relay can change payload, priority or the way it spreads.
    """

    origin: bytes
    priority: int
    direct: bool
    signature: bytes
    payload: bytes

    @property
    def signed(self) -> bytes:
        """The bytes under the signature."""
        return signed_part(self.priority, self.payload, direct=self.direct)

    @property
    def id(self) -> bytes:
        """The 16 bytes by which nodes speak of this batch: a hash of origin and payload, so nobody can choose it."""
        return blake2b(self.origin + self.payload, digest_size=ID_BYTES, person=b"mycomesh batch").digest()


@dataclass(frozen=True, slots=True)
class IHave:
    """Batches of one spreading tree that the sender holds and has not pushed here."""

    tree: bytes
    ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Graft:
    """Push batches of this tree on this link again, and those `ids` at once."""

    tree: bytes
    ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Prune:
    """Push no more batches of this tree on this link: they come from elsewhere."""

    tree: bytes


@dataclass(frozen=True, slots=True)
class LinkStatesHave:
    """The newest link-state that the sender holds of each node, (node id, sequence); answered with what is newer."""

    versions: tuple[tuple[bytes, int], ...]


@dataclass(frozen=True, slots=True)
class LinkStates:
    """Signed link-state records, each opaque."""

    records: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class CertificatesHave:
    """Digests of the members' certificates that the sender holds; answered with those that it lacks."""

    digests: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Certificates:
    """Certificates of members, so that what they signed can be checked by nodes that never met them."""

    raws: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the sender reached other members: (node id, address). Hints, as everything about addresses."""

    entries: tuple[tuple[bytes, Address], ...]


@dataclass(frozen=True, slots=True)
class RevocationsHave:
    """Digests of the revocations that the sender holds; answered with those that it lacks. The first word on a link."""

    digests: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Revocations:
    """Revocations, each signed by the root or an admin."""

    raws: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class EpochHave:
    """The tag (8 bytes) of the secret that the sender uses; whoever uses another one answers with its own `Epochs`."""

    tag: bytes


@dataclass(frozen=True, slots=True)
class Epochs:
    """Secrets of the mesh, oldest first, each signed by the root or an admin; none: that which it was made with."""

    raws: tuple[bytes, ...]


RosterMessage = LinkStatesHave | LinkStates | CertificatesHave | Certificates | Addresses
DecreeMessage = RevocationsHave | Revocations | EpochHave | Epochs
SmallMessage = Ping | Pong | IHave | Graft | Prune | RosterMessage | DecreeMessage
Message = App | Batch | SmallMessage


def encode_parts(message: Message, version: int) -> tuple[bytes, bytes]:
    """What `encode` joins: a head and, where it may be large, the payload as it is, so that nobody copies it."""
    match message:
        case App(payload):
            return bytes((version, _Type.APP)), payload
        case Batch(origin, priority, direct, signature, payload):
            head = bytes((version, _Type.BATCH))
            return b"".join((head, origin, signature, _flags(priority, direct=direct))), payload
        case _:
            return bytes((version,)) + _encode_small(message), b""


def encode(message: Message, version: int = OLDEST) -> bytes:
    """The one encoding of `message` on a link of this version: version, type, body."""
    return b"".join(encode_parts(message, version))


def _encode_small(message: SmallMessage) -> bytes:
    """Type and body of what is never large."""
    match message:
        case Ping(token):
            return _PING.pack(_Type.PING, token)
        case Pong(token, wall_ms):
            return _PONG.pack(_Type.PONG, token, wall_ms)
        case IHave(tree, ids):
            return b"".join((_head(_Type.IHAVE), tree, *ids))
        case Graft(tree, ids):
            return b"".join((_head(_Type.GRAFT), tree, *ids))
        case Prune(tree):
            return _head(_Type.PRUNE) + tree
        case RevocationsHave() | Revocations() | EpochHave() | Epochs():
            return _encode_decrees(message)
        case _:
            return _encode_roster(message)


def _encode_roster(message: RosterMessage) -> bytes:
    match message:
        case LinkStatesHave(versions):
            pieces = (node_id + sequence.to_bytes(8, "big") for node_id, sequence in versions)
            return b"".join((_head(_Type.LINK_STATES_HAVE), *pieces))
        case LinkStates(records):
            return _head(_Type.LINK_STATES) + wire.encode(records)
        case CertificatesHave(digests):
            return b"".join((_head(_Type.CERTIFICATES_HAVE), *digests))
        case Certificates(raws):
            return _head(_Type.CERTIFICATES) + wire.encode(raws)
        case Addresses(entries):
            return _head(_Type.ADDRESSES) + wire.encode([[node, at.host, at.port] for node, at in entries])
        case _:
            assert_never(message)


def _encode_decrees(message: DecreeMessage) -> bytes:
    match message:
        case RevocationsHave(digests):
            return b"".join((_head(_Type.REVOCATIONS_HAVE), *digests))
        case Revocations(raws):
            return _head(_Type.REVOCATIONS) + wire.encode(raws)
        case EpochHave(tag):
            return _head(_Type.EPOCH_HAVE) + tag
        case Epochs(raws):
            return _head(_Type.EPOCHS) + wire.encode(raws)
        case _:
            assert_never(message)


def decode(data: bytes, version: int = OLDEST) -> Message | None:
    """The message that `data` encodes on a link of this version; None for a type below 128 that it does not know.

    Raises:
        DecodeError: another version, an unknown type from 128 on, or a body that is not exactly as laid out.
    """
    if len(data) < 2:
        raise DecodeError(f"message of {len(data)} bytes has no version and type")
    if data[0] != version:
        raise DecodeError(f"message has version {data[0]} on a link of version {version}")
    parse = _PARSERS.get(data[1])
    if parse is None:
        if data[1] < IGNORED_TYPES:
            return None
        raise DecodeError(f"message of unknown type {data[1]} must be understood: upgrade the older node")
    return parse(data)


def decode_pieces(pieces: tuple[bytes | memoryview, ...], version: int) -> Message | None:
    """`decode` of the pieces joined; a large application message is copied once and not twice."""
    first = pieces[0]
    if len(pieces) == 1 or len(first) < 2 or first[0] != version or first[1] != _Type.APP:
        return decode(b"".join(pieces), version)
    if sum(map(len, pieces)) - 2 > APP_BYTES_MAX:
        raise DecodeError(f"application message has more than {APP_BYTES_MAX} bytes")
    return App(b"".join((memoryview(first)[2:], *pieces[1:])))


def signed_part(priority: int, payload: bytes, *, direct: bool) -> bytes:
    """What the origin of a batch signs."""
    return _flags(priority, direct=direct) + payload


# ---- layouts


class _Type:
    PING = 1
    PONG = 2
    APP = 3
    BATCH = 4
    IHAVE = 5
    GRAFT = 6
    PRUNE = 7
    LINK_STATES_HAVE = 8
    LINK_STATES = 9
    CERTIFICATES_HAVE = 10
    CERTIFICATES = 11
    ADDRESSES = 12
    REVOCATIONS_HAVE = 13
    REVOCATIONS = 14
    EPOCH_HAVE = 15
    EPOCHS = 16


_PING = struct.Struct(">BI")
_PONG = struct.Struct(">BIq")
_BATCH_HEAD = 2 + ID_BYTES + SIGNATURE_BYTES + 1
_DIRECT = 4  # flag beside the two bits of the priority


def _head(kind: int) -> bytes:
    return bytes((kind,))


def _flags(priority: int, *, direct: bool) -> bytes:
    assert 0 <= priority <= PRIORITY_MAX, f"priority {priority}"
    return bytes((priority | _DIRECT if direct else priority,))


def _ping(data: bytes) -> Ping:
    if len(data) != 1 + _PING.size:
        raise DecodeError(f"ping has {len(data)} bytes instead of {1 + _PING.size}")
    return Ping(_PING.unpack_from(data, 1)[1])


def _pong(data: bytes) -> Pong:
    if len(data) != 1 + _PONG.size:
        raise DecodeError(f"pong has {len(data)} bytes instead of {1 + _PONG.size}")
    _, token, wall_ms = _PONG.unpack_from(data, 1)
    return Pong(token, wall_ms)


def _app(data: bytes) -> App:
    if len(data) - 2 > APP_BYTES_MAX:
        raise DecodeError(f"application message has {len(data) - 2} bytes, at most {APP_BYTES_MAX} are allowed")
    return App(data[2:])


def _batch(data: bytes) -> Batch:
    if len(data) < _BATCH_HEAD:
        raise DecodeError(f"batch has {len(data)} bytes, its head alone has {_BATCH_HEAD}")
    if len(data) - _BATCH_HEAD > APP_BYTES_MAX:
        raise DecodeError(f"batch has {len(data) - _BATCH_HEAD} bytes of payload, at most {APP_BYTES_MAX} are allowed")
    flags = data[_BATCH_HEAD - 1]
    if flags & ~(_DIRECT | PRIORITY_MAX):
        raise DecodeError(f"batch has unknown flags {flags:#x}")
    origin_end = 2 + ID_BYTES
    return Batch(
        origin=data[2:origin_end],
        priority=flags & PRIORITY_MAX,
        direct=bool(flags & _DIRECT),
        signature=data[origin_end : origin_end + SIGNATURE_BYTES],
        payload=data[_BATCH_HEAD:],
    )


def _tree_and_ids(data: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    if len(data) < 2 + ID_BYTES:
        raise DecodeError("message about batches names no tree")
    return data[2 : 2 + ID_BYTES], _pieces(data, 2 + ID_BYTES, ID_BYTES, IDS_MAX)


def _ihave(data: bytes) -> IHave:
    return IHave(*_tree_and_ids(data))


def _graft(data: bytes) -> Graft:
    return Graft(*_tree_and_ids(data))


def _prune(data: bytes) -> Prune:
    if len(data) != 2 + ID_BYTES:
        raise DecodeError(f"prune has {len(data)} bytes instead of {2 + ID_BYTES}")
    return Prune(data[2:])


def _link_states_have(data: bytes) -> LinkStatesHave:
    entries = _pieces(data, 2, ID_BYTES + 8, RECORDS_MAX)
    return LinkStatesHave(tuple((entry[:ID_BYTES], int.from_bytes(entry[ID_BYTES:], "big")) for entry in entries))


def _link_states(data: bytes) -> LinkStates:
    return LinkStates(_records(data, "link-state"))


def _certificates_have(data: bytes) -> CertificatesHave:
    return CertificatesHave(_pieces(data, 2, DIGEST_BYTES, RECORDS_MAX))


def _certificates(data: bytes) -> Certificates:
    return Certificates(_records(data, "certificate"))


def _revocations_have(data: bytes) -> RevocationsHave:
    return RevocationsHave(_pieces(data, 2, DIGEST_BYTES, RECORDS_MAX))


def _revocations(data: bytes) -> Revocations:
    return Revocations(_records(data, "revocation"))


def _epoch_have(data: bytes) -> EpochHave:
    if len(data) != 2 + DIGEST_BYTES:
        raise DecodeError(f"tag of an epoch has {len(data) - 2} bytes instead of {DIGEST_BYTES}")
    return EpochHave(data[2:])


def _epochs(data: bytes) -> Epochs:
    return Epochs(_records(data, "epoch"))


def _addresses(data: bytes) -> Addresses:
    rows = wire.decode(data[2:], bytes_max=ADDRESSES_BYTES_MAX, depth_max=2)
    if type(rows) is not list or len(rows) > ADDRESSES_MAX:
        raise DecodeError(f"list of addresses is not a list of at most {ADDRESSES_MAX}")
    return Addresses(tuple(_address(row) for row in rows))


def _address(row: Any) -> tuple[bytes, Address]:
    if type(row) is not list or [type(field) for field in row] != [bytes, str, int]:
        raise DecodeError("address is not [node id, host, port]")
    node_id, host, port = row
    if len(node_id) != ID_BYTES or not 0 < len(host) <= HOST_CHARS_MAX or not host.isascii() or not host.isprintable():
        raise DecodeError("address has a bad node id or host")
    if not 0 < port <= PORT_MAX:
        raise DecodeError(f"address has port {port}")
    return node_id, Address(host, port)


def _pieces(data: bytes, start: int, size: int, count_max: int) -> tuple[bytes, ...]:
    count, rest = divmod(len(data) - start, size)
    if rest:
        raise DecodeError(f"list in a message is {rest} bytes longer than its entries of {size}")
    if count > count_max:
        raise DecodeError(f"list in a message has {count} entries, at most {count_max} are allowed")
    return tuple(data[at : at + size] for at in range(start, len(data), size))


def _records(data: bytes, what: str) -> tuple[bytes, ...]:
    records = wire.decode(data[2:], bytes_max=RECORDS_BYTES_MAX, depth_max=1)
    if type(records) is not list or len(records) > RECORDS_MAX:
        raise DecodeError(f"list of {what} records is not a list of at most {RECORDS_MAX}")
    for record in records:
        if type(record) is not bytes or not 0 < len(record) <= RECORD_BYTES_MAX:
            raise DecodeError(f"{what} record is not bytes, or longer than {RECORD_BYTES_MAX}")
    return tuple(records)


_PARSERS: dict[int, Callable[[bytes], Message]] = {
    _Type.PING: _ping,
    _Type.PONG: _pong,
    _Type.APP: _app,
    _Type.BATCH: _batch,
    _Type.IHAVE: _ihave,
    _Type.GRAFT: _graft,
    _Type.PRUNE: _prune,
    _Type.LINK_STATES_HAVE: _link_states_have,
    _Type.LINK_STATES: _link_states,
    _Type.CERTIFICATES_HAVE: _certificates_have,
    _Type.CERTIFICATES: _certificates,
    _Type.ADDRESSES: _addresses,
    _Type.REVOCATIONS_HAVE: _revocations_have,
    _Type.REVOCATIONS: _revocations,
    _Type.EPOCH_HAVE: _epoch_have,
    _Type.EPOCHS: _epochs,
}
