"""Wire messages between linked members: encoding, and a strict decoder.

A message is the version of the link (1 byte), a type (1 byte) and a body. Frequent bodies have a fixed layout, rare ones are
canonical CBOR. Signatures are opaque here. An unknown type below 128 decodes to None, so that later versions can send optional
messages to older nodes; everything else that is unexpected is a DecodeError.

Invariant: a message that decodes encodes to the same bytes.
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

    from mycomesh.mesh.events import Wishes

__all__ = [
    "APP_BYTES_MAX",
    "CIRCUIT_FRAME",
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
    "Purges",
    "Revocations",
    "RevocationsHave",
    "Wants",
    "decode",
    "decode_pieces",
    "encode",
    "encode_parts",
]

ID_BYTES = 16  # node ids and batch ids: BLAKE2b-128
SIGNATURE_BYTES = 64  # Ed25519 (RFC 8032)
PRIORITY_MAX = 3  # 0 is the most urgent
APP_BYTES_MAX = 25 << 20  # a sync bundle has at most 24 MiB, and a blob of 16 MiB must fit with the rest of its row
CIRCUIT_FRAME = b"\x01"  # the first byte of a frame of a circuit: no message of the application begins so
IDS_MAX = 1_024  # ids in one message: 16 KiB; senders split longer lists
RECORDS_MAX = 1_024  # link-state records or certificates in one message: one per node of the largest mesh
RECORD_BYTES_MAX = 16_384  # one link-state record or certificate; the decoders of both set tighter limits
RECORDS_BYTES_MAX = 1 << 20  # all records of one message; senders split far below it
ADDRESSES_MAX = 256  # addresses in one message: many times the passive and active views
ADDRESSES_BYTES_MAX = 32_768  # 256 addresses of at most 100 bytes each, and the CBOR list
HOST_CHARS_MAX = 64  # an IPv6 address with a scope has 45 + 1 + 15
PORT_MAX = 65_535
WISHES_BYTES_MAX = 65_536  # what a peer wants: some thousand topics; the application states less
WISH_CHARS_MAX = 512  # of one group or topic: the application's names are shorter
DIGEST_BYTES = 8  # of a certificate: enough to recognise a known one, proves nothing
IGNORED_TYPES = 128  # a node ignores unknown types below this, and closes the link at unknown types from here on


@dataclass(frozen=True, slots=True)
class Ping:
    """Probe whether the peer is alive. The Pong returns `token`."""

    token: int


@dataclass(frozen=True, slots=True)
class Pong:
    """The reply to the Ping of that token. `wall_ms` is the replying node's Unix time; it may lie before 1970."""

    token: int
    wall_ms: int


@dataclass(frozen=True, slots=True)
class App:
    """An opaque message of the application above the mesh. A node that is too old to know of `optional` ones ignores those."""

    payload: bytes
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """An opaque payload that its origin broadcasts to the whole mesh. Relays pass it on unchanged.

    `direct` means that the origin pushed it on each of its links, so its neighbours need no relay. The origin's `signature`
    covers `signed`, so that no relay can change payload, priority or `direct`.
    """

    origin: bytes
    priority: int
    direct: bool
    signature: bytes
    payload: bytes

    @property
    def signed(self) -> bytes:
        """The bytes that the signature covers."""
        return signed_part(self.priority, self.payload, direct=self.direct)

    @property
    def id(self) -> bytes:
        """The 16-byte batch id: a hash of origin and payload, so nobody can choose it freely."""
        return blake2b(self.origin + self.payload, digest_size=ID_BYTES, person=b"mycomesh batch").digest()


@dataclass(frozen=True, slots=True)
class IHave:
    """Announce batches of one broadcast tree that the sender has and has not pushed on this link."""

    tree: bytes
    ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Graft:
    """Request that the receiver push batches of this tree on this link again, and send those `ids` at once."""

    tree: bytes
    ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Prune:
    """Request that the receiver stop pushing batches of this tree on this link: another link brings them sooner."""

    tree: bytes


@dataclass(frozen=True, slots=True)
class LinkStatesHave:
    """The newest link-state that the sender has of each node: (node id, sequence). The receiver replies with newer ones."""

    versions: tuple[tuple[bytes, int], ...]


@dataclass(frozen=True, slots=True)
class LinkStates:
    """Signed link-state records, opaque here."""

    records: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class CertificatesHave:
    """Digests of the certificates that the sender has. The receiver replies with those that the sender lacks."""

    digests: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Certificates:
    """Members' certificates, so that nodes can check the signatures of members to which they never had a link."""

    raws: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses at which the sender reached other members: (node id, address). They are hints and may be wrong."""

    entries: tuple[tuple[bytes, Address], ...]


@dataclass(frozen=True, slots=True)
class RevocationsHave:
    """Digests of the revocations and purges that the sender has, the first message on a link.

    The receiver replies with those that the sender lacks.
    """

    digests: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Revocations:
    """Revocations, each signed by the root or an admin."""

    raws: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class EpochHave:
    """The 8-byte tag of the mesh secret that the sender uses. A receiver that uses another one replies with its `Epochs`."""

    tag: bytes


@dataclass(frozen=True, slots=True)
class Epochs:
    """Mesh secrets, oldest first, each signed by the root or an admin. Empty: the sender uses the first secret of the mesh."""

    raws: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Wants:
    """The live batches that the sender wants on this link: of each group that it names these topics, and all of other groups.

    An older node ignores it, and sends everything.
    """

    groups: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def of(cls, wishes: Wishes) -> Wants:
        """Return the message that states these wishes; one without groups, which asks for everything, if they are too long."""
        groups = tuple((group, tuple(sorted(topics))) for group, topics in sorted(wishes.items()))
        return cls(groups if len(wire.encode(groups)) <= WISHES_BYTES_MAX else ())

    def wishes(self) -> Wishes:
        """Return the wishes that the message states."""
        return {group: frozenset(topics) for group, topics in self.groups}


RosterMessage = LinkStatesHave | LinkStates | CertificatesHave | Certificates | Addresses


@dataclass(frozen=True, slots=True)
class Purges:
    """Orders to drop what revoked nodes have written, each signed by the root. An older node ignores it."""

    raws: tuple[bytes, ...]


DecreeMessage = RevocationsHave | Revocations | EpochHave | Epochs | Purges
SmallMessage = Ping | Pong | IHave | Graft | Prune | RosterMessage | DecreeMessage | Wants
Message = App | Batch | SmallMessage


def encode_parts(message: Message, version: int) -> tuple[bytes, bytes]:
    """Return the encoding in two parts: a head, and the payload where it may be large, so that nobody copies the payload."""
    match message:
        case App(payload, optional):
            return bytes((version, _Type.APP_OPTIONAL if optional else _Type.APP)), payload
        case Batch(origin, priority, direct, signature, payload):
            head = bytes((version, _Type.BATCH))
            return b"".join((head, origin, signature, _flags(priority, direct=direct))), payload
        case _:
            return bytes((version,)) + _encode_small(message), b""


def encode(message: Message, version: int = OLDEST) -> bytes:
    """Return the encoding of `message` on a link of this version: version, type, body."""
    return b"".join(encode_parts(message, version))


def _encode_small(message: SmallMessage) -> bytes:
    """Return type and body of a message that is never large."""
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
        case RevocationsHave() | Revocations() | EpochHave() | Epochs() | Purges():
            return _encode_decrees(message)
        case Wants(groups):
            return _head(_Type.WANTS) + wire.encode(groups)
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
        case Purges(raws):
            return _head(_Type.PURGES) + wire.encode(raws)
        case _:
            assert_never(message)


def decode(data: bytes, version: int = OLDEST) -> Message | None:
    """Return the message that `data` encodes on a link of this version; None for an unknown type below 128.

    Raises:
        DecodeError: another version, an unknown type from 128 on, or a body that does not match its layout exactly.
    """
    if len(data) < 2:
        raise DecodeError(f"message of {len(data)} bytes has no version and type")
    if data[0] != version:
        raise DecodeError(f"message has version {data[0]} on a link of version {version}")
    parse = _PARSERS.get(data[1])
    if parse is None:
        if data[1] < IGNORED_TYPES:
            return None
        raise DecodeError(f"message of unknown type {data[1]} is mandatory: upgrade the older node")
    return parse(data)


def decode_pieces(pieces: tuple[bytes | memoryview, ...], version: int) -> Message | None:
    """Decode a message that arrived in pieces. It copies a large application message once instead of twice."""
    first = pieces[0]
    if len(pieces) == 1 or len(first) < 2 or first[0] != version or first[1] not in _APP_TYPES:
        return decode(b"".join(pieces), version)
    if sum(map(len, pieces)) - 2 > APP_BYTES_MAX:
        raise DecodeError(f"application message has more than {APP_BYTES_MAX} bytes")
    return App(b"".join((memoryview(first)[2:], *pieces[1:])), first[1] == _Type.APP_OPTIONAL)


def signed_part(priority: int, payload: bytes, *, direct: bool) -> bytes:
    """Return the bytes that the origin of a batch signs."""
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
    APP_OPTIONAL = 17
    PURGES = 18
    WANTS = 19


_APP_TYPES = frozenset((_Type.APP, _Type.APP_OPTIONAL))
_PING = struct.Struct(">BI")
_PONG = struct.Struct(">BIq")
_BATCH_HEAD = 2 + ID_BYTES + SIGNATURE_BYTES + 1
_DIRECT = 4  # flag above the two bits of the priority


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
    return App(data[2:], data[1] == _Type.APP_OPTIONAL)


def _batch(data: bytes) -> Batch:
    if len(data) < _BATCH_HEAD:
        raise DecodeError(f"batch has {len(data)} bytes, but its head alone has {_BATCH_HEAD}")
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
        raise DecodeError("gossip message names no tree")
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


def _wants(data: bytes) -> Wants:
    groups = wire.decode(data[2:], bytes_max=WISHES_BYTES_MAX, depth_max=3)
    if type(groups) is not list or any(type(item) is not list or len(item) != 2 for item in groups):
        raise DecodeError("list of wishes is not a list of [group, topics]")
    if any(type(topics) is not list for _, topics in groups):
        raise DecodeError("list of wishes is not a list of [group, topics]")
    names = [name for group, topics in groups for name in (group, *topics)]
    if any(type(name) is not str or len(name) > WISH_CHARS_MAX for name in names):
        raise DecodeError(f"group or topic in a list of wishes is not a text of at most {WISH_CHARS_MAX} characters")
    return Wants(tuple((group, tuple(topics)) for group, topics in groups))


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


def _purges(data: bytes) -> Purges:
    return Purges(_records(data, "purge"))


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
        raise DecodeError("address has an invalid node id or host")
    if not 0 < port <= PORT_MAX:
        raise DecodeError(f"address has port {port}, outside 1..{PORT_MAX}")
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
    _Type.PURGES: _purges,
    _Type.WANTS: _wants,
    _Type.APP_OPTIONAL: _app,
}
