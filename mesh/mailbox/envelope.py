"""The sealed envelope: signed batches of the mesh, encrypted so that storage between bases can hold them.

A batch keeps the signature of its origin, as in gossip. The envelope around it hides everything but its size, its stream and its
position from anyone who lacks the mesh secret; a mesh shows as a hash that only members can compute. The key follows the epoch:
what is sealed after a revocation is closed to the revoked node.

The salt is a keyed hash of the plaintext and the header, so two envelopes share a key only if they are equal, also when a random
generator repeats itself. The same batches at the same position always give the same bytes.

Invariants: `open_envelope` returns only what a holder of one of the secrets sealed for this mesh, stream and position. It
does not check the batches' signatures; the overlay does, where it checks those of all batches.

docs/PROTOCOL.md, "Envelopes", is the specification; tests/vectors/mailbox.json pins the bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from mycomesh.mesh import messages, wire
from mycomesh.mesh.errors import DecodeError, HandshakeError, LimitError
from mycomesh.mesh.messages import APP_BYTES_MAX, RECORD_BYTES_MAX, Batch
from mycomesh.mesh.primitives import ID_BYTES, TAG_BYTES, aead_open, aead_seal, derive

__all__ = [
    "BATCHES_MAX",
    "CERTIFICATES_MAX",
    "ENVELOPE_BYTES_MAX",
    "POSITION_MAX",
    "STREAM_BYTES",
    "Contents",
    "EnvelopeKeys",
    "open_envelope",
    "seal",
]

BATCHES_MAX = 1_024  # batches in one envelope: a gateway gathers 512 KiB, and the least batch has some 150 bytes
CERTIFICATES_MAX = 1_024  # one for each origin of a batch in it
ENVELOPE_BYTES_MAX = APP_BYTES_MAX + (2 << 20)  # the largest batch, which travels alone, and certificates
POSITION_MAX = 2**63 - 1  # 16 hexadecimal digits in the name of a file, and an integer in every language
STREAM_BYTES = 8

_VERSION = 1
_HEAD = struct.Struct(">B16s8sQ8s")  # version, mesh, stream, position, tag of the secret
_SALT_BYTES = 16
_BODY_AT = _HEAD.size + _SALT_BYTES
_BODY = (int, list, list)  # position before this one, certificates, batches


@dataclass(frozen=True, slots=True)
class Contents:
    """The plaintext of an envelope.

    `previous` is the position that its gateway sealed before, 0 for none: a reader finds out by it what the storage keeps back.
    `certificates` are those of the batches' origins, which a far base may not have met.
    """

    previous: int
    certificates: tuple[bytes, ...]
    batches: tuple[Batch, ...]


@dataclass(frozen=True, slots=True)
class EnvelopeKeys:
    """The secrets of one mesh, the one in use first. `first_secret` is the one with which the mesh was founded."""

    mesh_id: bytes
    first_secret: bytes = field(repr=False)
    secrets: tuple[bytes, ...] = field(repr=False)

    @property
    def mesh(self) -> bytes:
        """The blinded mesh id: the same for all members and epochs, and no use to anyone else."""
        return derive(self.first_secret, b"mailbox mesh", self.mesh_id)[:ID_BYTES]

    def stream_of(self, node_id: bytes) -> bytes:
        """Return the stream of a member's parcels; it does not tell strangers which member that is."""
        return derive(self.first_secret, b"mailbox stream", node_id)[:STREAM_BYTES]

    def live_stream_of(self, node_id: bytes) -> bytes:
        """Return the stream of a member's changes since its parcel."""
        return derive(self.first_secret, b"mailbox live", node_id)[:STREAM_BYTES]


def seal(keys: EnvelopeKeys, stream: bytes, position: int, contents: Contents) -> bytes:
    """Return the envelope for one position of a stream.

    Raises:
        LimitError: no reader would accept it.
    """
    if not contents.previous < position <= POSITION_MAX or contents.previous < 0:
        raise LimitError(f"position {position} does not follow {contents.previous}, or is beyond {POSITION_MAX}")
    if not 0 < len(contents.batches) <= BATCHES_MAX or len(contents.certificates) > CERTIFICATES_MAX:
        raise LimitError(f"an envelope takes 1 to {BATCHES_MAX} batches and at most {CERTIFICATES_MAX} certificates")
    frames = tuple(messages.encode(batch) for batch in contents.batches)
    plaintext = wire.encode((_VERSION, contents.previous, contents.certificates, frames))
    if _BODY_AT + len(plaintext) + TAG_BYTES > ENVELOPE_BYTES_MAX:
        raise LimitError(f"an envelope of {len(plaintext)} bytes, at most {ENVELOPE_BYTES_MAX} are allowed")
    secret = keys.secrets[0]
    head = _HEAD.pack(_VERSION, keys.mesh, stream, position, _tag(secret))
    salt = derive(derive(secret, b"mailbox salt", head), b"mailbox salt", plaintext)[:_SALT_BYTES]
    head += salt
    return head + aead_seal(derive(secret, b"mailbox key", head), 0, head, plaintext)


def open_envelope(keys: EnvelopeKeys, stream: bytes, position: int, data: bytes) -> Contents:
    """Return the contents of the envelope that the storage holds at this position of this stream.

    Raises:
        DecodeError: no member sealed these bytes for this place, they were changed, or they exceed a limit.
    """
    if not _BODY_AT + TAG_BYTES <= len(data) <= ENVELOPE_BYTES_MAX:
        raise DecodeError(f"envelope has {len(data)} bytes, which none can have")
    version, mesh, named, at, tag = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise DecodeError(f"envelope has version {version}, this node reads version {_VERSION}: upgrade the older node")
    if (mesh, named, at) != (keys.mesh, stream, position):
        raise DecodeError("envelope belongs to another mesh, stream or position than its name says")
    secret = next((each for each in keys.secrets if _tag(each) == tag), None)
    if secret is None:
        raise DecodeError(
            "envelope is sealed with a mesh secret that this node does not know; a link with a member brings a later one"
        )
    head = data[:_BODY_AT]
    try:
        plaintext = aead_open(derive(secret, b"mailbox key", head), 0, head, data[_BODY_AT:])
    except HandshakeError:
        raise DecodeError("envelope was changed, or no member sealed it") from None
    return _contents(plaintext, position)


def _contents(plaintext: bytes, position: int) -> Contents:
    previous, certificates, frames = wire.decode_record(
        plaintext, what="envelope", version=_VERSION, kinds=_BODY, bytes_max=ENVELOPE_BYTES_MAX
    )
    if not 0 <= previous < position:
        raise DecodeError("envelope does not follow an earlier position")
    if not 0 < len(frames) <= BATCHES_MAX or len(certificates) > CERTIFICATES_MAX:
        raise DecodeError(f"envelope has {len(frames)} batches and {len(certificates)} certificates, beyond the limits")
    if any(type(raw) is not bytes or len(raw) > RECORD_BYTES_MAX for raw in certificates):
        raise DecodeError(f"envelope has a certificate that is not at most {RECORD_BYTES_MAX} bytes")
    batches: list[Batch] = []
    for frame in frames:
        batch = messages.decode(frame) if type(frame) is bytes else None
        if not isinstance(batch, Batch):
            raise DecodeError("envelope has something else than batches")
        batches.append(batch)
    return Contents(previous, tuple(certificates), tuple(batches))


def _tag(secret: bytes) -> bytes:
    """Return which secret an envelope needs, without revealing the secret."""
    return derive(secret, b"mailbox epoch")[:8]
