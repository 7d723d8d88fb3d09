"""Enrolment of new members: join codes, invitations, the exchange over one handshake, and offline tickets.

Invariants: the joiner sends nothing that identifies it before the other side has proven the code's secret and a certificate
of the code's mesh. The inviter sends the mesh's secret only to the static key of a handshake that was made with an open
invitation, together with a certificate for that same key.

    joiner (initiator)                             inviter (responder), psk of the open invitation
    message 1  (psk, e)                       ->
               <- message 2  offer_encode          root public key, inviter's certificate
    message 3  request_encode                 ->   name, node key, signature over the transcript and the static key
               <- first frame  grant               certificate, root public key, mesh secret, mesh name
    accept_grant -> Identity
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mycomesh.mesh import primitives, wire
from mycomesh.mesh.errors import CertificateError, DecodeError, EnrolmentError
from mycomesh.mesh.membership import certificate as certificates
from mycomesh.mesh.membership.certificate import GRANTS_ALL, Certificate, name_fault
from mycomesh.mesh.membership.identity import IDENTITY_BYTES_MAX, SECRET_BYTES, Identity
from mycomesh.mesh.membership.renewal import CERTIFICATE_CHAIN_BYTES_MAX, read_certificate
from mycomesh.mesh.membership.revocations import EPOCH_BYTES_MAX, EPOCHS_KEPT, Revocations
from mycomesh.mesh.primitives import ID_BYTES, KEY_BYTES, draw

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "INVITATIONS_MAX",
    "MESSAGE_BYTES_MAX",
    "TICKET_BYTES_MAX",
    "Candidate",
    "Invitation",
    "JoinCode",
    "Offer",
    "Request",
    "accept_grant",
    "grant",
    "grant_decode",
    "grant_encode",
    "invite",
    "offer_decode",
    "offer_encode",
    "request_decode",
    "request_encode",
    "ticket_decode",
    "ticket_encode",
]

CODE_SECRET_BYTES = 16  # 128 bits: an eavesdropper of message 1 can test guesses of the code offline
CODE_TEXT_MAX = 256  # four times the length of a code; longer text is something else
MESSAGE_BYTES_MAX = CERTIFICATE_CHAIN_BYTES_MAX + 128  # offer and request: a certificate, a key and a name fit 2 KiB
GRANT_BYTES_MAX = CERTIFICATE_CHAIN_BYTES_MAX + EPOCHS_KEPT * EPOCH_BYTES_MAX + 512  # certificate, epochs, keys, a name
INVITATIONS_MAX = 16  # open at once: each adds a key that the responder tries on every first message
USES_MAX = 1_000  # a code for more nodes than a mesh has would be a shared password
TICKET_BYTES_MAX = 2 * IDENTITY_BYTES_MAX + 256  # base64, line ends and the heading

_VERSION = 1
_CODE_PURPOSE = b"mycomesh join"
_CODE_CHECK_BITS = 36  # fills the last group; with 16 bits, fuzzing found undetected mistakes (one in 65,536)
_CODE_DATA_BYTES = 1 + ID_BYTES + CODE_SECRET_BYTES
_CODE_CHARS = (_CODE_DATA_BYTES * 8 + _CODE_CHECK_BITS) // 5
_CODE_GROUP = 4
_DOMAIN_REQUEST = b"join request"
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base32: no I, L, O, U
_READ_AS = str.maketrans("ILO", "110")  # Crockford's reading of letters that people confuse
# Word processors replace hyphens by other dashes.
_SEPARATORS = str.maketrans("", "", "-_. \t\r\n\u2010\u2011\u2012\u2013\u2014\u00a0")
_TICKET_HEADING = b"mycomesh ticket 1"
_CHECKSUM_BYTES = 8


@dataclass(frozen=True, slots=True)
class JoinCode:
    """A join code, which a person carries to the new node: the mesh id and the 16 secret bytes of one invitation.

    `str(code)` is 60 letters and digits in groups of four; the text fits a QR code's alphanumeric mode.
    """

    mesh_id: bytes
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        assert len(self.mesh_id) == ID_BYTES
        assert len(self.secret) == CODE_SECRET_BYTES

    def __str__(self) -> str:
        data = bytes([_VERSION]) + self.mesh_id + self.secret
        number = int.from_bytes(data, "big") << _CODE_CHECK_BITS | _code_check(data)
        text = "".join(_ALPHABET[number >> 5 * index & 31] for index in reversed(range(_CODE_CHARS)))
        return "-".join(text[start : start + _CODE_GROUP] for start in range(0, len(text), _CODE_GROUP))

    @classmethod
    def parse(cls, text: str) -> JoinCode:
        """Return the code in `text`; EnrolmentError if it is not a valid code.

        Case and separators do not matter; I and L are read as 1, and O as 0.
        """
        if len(text) > CODE_TEXT_MAX:
            raise EnrolmentError(f"join code has {len(text)} characters, a code has about 70: paste the code alone")
        number = _base32_decode(text.translate(_SEPARATORS).upper().translate(_READ_AS))
        data = (number >> _CODE_CHECK_BITS).to_bytes(_CODE_DATA_BYTES, "big")
        if number & (1 << _CODE_CHECK_BITS) - 1 != _code_check(data):
            raise EnrolmentError("join code has a mistyped character: compare it with the original")
        if data[0] != _VERSION:
            raise EnrolmentError(
                f"join code has version {data[0]}, but this node reads version {_VERSION}: upgrade the older node"
            )
        return cls(mesh_id=data[1 : 1 + ID_BYTES], secret=data[1 + ID_BYTES :])

    def psk(self) -> bytes:
        """Return the pre-shared key of the enrolment handshake; it opens no session between members."""
        return primitives.derive(self.secret, _CODE_PURPOSE, self.mesh_id)


@dataclass(frozen=True, slots=True)
class Invitation:
    """The inviter's side of a join code: expiry (unix ms), number of nodes, and the roles and grants that they get."""

    secret: bytes = field(repr=False)
    expires_ms: int
    uses_left: int
    roles: tuple[str, ...] = ("member",)
    grants: tuple[tuple[str, str], ...] = GRANTS_ALL

    def __post_init__(self) -> None:
        assert len(self.secret) == CODE_SECRET_BYTES
        assert 0 <= self.uses_left <= USES_MAX

    def is_open(self, wall_ms: int) -> bool:
        """Return whether one more node may join with this invitation."""
        return self.uses_left > 0 and wall_ms < self.expires_ms

    def after_use(self) -> Invitation:
        """Return the invitation after one more admission; the caller stores it before the grant is sent."""
        assert self.uses_left > 0
        return replace(self, uses_left=self.uses_left - 1)

    def code(self, mesh_id: bytes) -> JoinCode:
        """Return the join code to show to the person who sets up the new node."""
        return JoinCode(mesh_id, self.secret)

    def encode(self) -> bytes:
        """Return the stored form, which contains the secret."""
        return wire.encode((_VERSION, self.secret, self.expires_ms, self.uses_left, self.roles, self.grants))

    @classmethod
    def decode(cls, data: bytes) -> Invitation:
        """Return the invitation that `encode` wrote, or raise DecodeError."""
        secret, expires_ms, uses_left, roles, grants = wire.decode_record(
            data, what="invitation", version=_VERSION, kinds=(bytes, int, int, list, list), bytes_max=MESSAGE_BYTES_MAX
        )
        if len(secret) != CODE_SECRET_BYTES or not 0 <= uses_left <= USES_MAX:
            raise DecodeError("invitation exceeds a limit: revoke it and invite again")
        pairs = [tuple(pair) for pair in grants if isinstance(pair, list)]
        fault = certificates.rights_fault(tuple(roles), tuple(pairs))
        if fault or len(pairs) != len(grants):
            raise DecodeError(f"invitation has unusable rights ({fault or 'a grant is not a pair'}): invite again")
        return cls(secret, expires_ms, uses_left, tuple(roles), tuple(pairs))


def invite(
    *,
    entropy: Callable[[int], bytes],
    expires_ms: int,
    uses: int = 1,
    roles: tuple[str, ...] = ("member",),
    grants: tuple[tuple[str, str], ...] = GRANTS_ALL,
) -> Invitation:
    """Return a fresh invitation, or raise EnrolmentError if it could never be used."""
    if not 1 <= uses <= USES_MAX:
        raise EnrolmentError(f"an invitation must be for 1 to {USES_MAX} nodes, not {uses}")
    fault = certificates.rights_fault(roles, grants)
    if fault:
        raise EnrolmentError(f"a node cannot be invited with these rights: {fault}")
    return Invitation(draw(entropy, CODE_SECRET_BYTES), expires_ms, uses, roles, grants)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that is about to join: its name and its fresh private keys, which it never sends."""

    name: str
    node_seed: bytes = field(repr=False)
    static_private: bytes = field(repr=False)

    @classmethod
    def fresh(cls, name: str, *, entropy: Callable[[int], bytes]) -> Candidate:
        """Draw the keys; EnrolmentError if the name cannot be used."""
        fault = name_fault(name)
        if fault:
            raise EnrolmentError(f"node cannot be named {name[:80]!r}: {fault}")
        return cls(name, draw(entropy, KEY_BYTES), draw(entropy, KEY_BYTES))

    @property
    def node_key(self) -> bytes:
        """The Ed25519 public key."""
        return primitives.signing_pair(self.node_seed)[0]

    @property
    def static_public(self) -> bytes:
        """The X25519 public key."""
        return primitives.static_public(self.static_private)


@dataclass(frozen=True, slots=True)
class Offer:
    """The inviter's proof in message 2: the root key that the code names, and its own certificate."""

    root_public: bytes
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class Request:
    """The joiner's request in message 3. `name` is a label that the inviter may number; `node_key` is the identity."""

    name: str
    node_key: bytes


def offer_encode(inviter: Identity) -> bytes:
    """Return the payload of message 2."""
    return wire.encode((_VERSION, inviter.root_public, inviter.certificate.raw))


def offer_decode(payload: bytes, *, code: JoinCode, remote_static: bytes | None, wall_ms: int) -> Offer:
    """Return the inviter's proof; EnrolmentError unless it is a member of the code's mesh and holds the handshake's key."""
    root_public, raw = _fields(payload, "offer", (bytes, bytes))
    _check_root(root_public, code)
    try:
        certificate = read_certificate(raw, root_public=root_public)
        certificate.check_static(remote_static)
        # A new drone may never have set its clock, so expiry is checked at the certificate's issue at the earliest.
        certificate.check_time(wall_ms=wall_ms, newest_seen_s=certificate.not_before_s)
    except CertificateError as error:
        raise EnrolmentError(
            f"the inviting node is not a valid member of the mesh ({error}): ask another one"
        ) from None
    return Offer(root_public, certificate)


def request_encode(candidate: Candidate, *, transcript: bytes) -> bytes:
    """Return the payload of message 3. `transcript` is the handshake hash after message 2, known to these two ends only."""
    public, secret = primitives.signing_pair(candidate.node_seed)
    proof = primitives.sign(
        secret, _DOMAIN_REQUEST, _request_bytes(candidate.name, candidate.static_public, transcript)
    )
    return wire.encode((_VERSION, candidate.name, public, proof))


def request_decode(payload: bytes, *, transcript: bytes, remote_static: bytes | None) -> Request:
    """Return the joiner's request; EnrolmentError unless the joiner has proven for this session that it holds the node key.

    `transcript` is the handshake hash before message 3 was read; `remote_static` is known after message 3.
    """
    name, node_key, proof = _fields(payload, "join request", (str, bytes, bytes))
    fault = name_fault(name)
    if fault:
        raise EnrolmentError(f"the joining node has an unusable name: {fault}")
    if remote_static is None or not primitives.verify(
        node_key, _DOMAIN_REQUEST, _request_bytes(name, remote_static, transcript), proof
    ):
        raise EnrolmentError("the joining node did not prove that it holds the key that it names")
    return Request(name, node_key)


def grant(  # noqa: PLR0913, keyword-only after the four that identify inviter and joiner
    root_seed: bytes,
    inviter: Identity,
    request: Request,
    remote_static: bytes,
    *,
    wall_ms: int,
    entropy: Callable[[int], bytes],
    roles: tuple[str, ...] = ("member",),
    grants: tuple[tuple[str, str], ...] = GRANTS_ALL,
    lifetime_s: int = certificates.LIFETIME_S_DEFAULT,
    newest_seen_s: int = 0,
    epochs: tuple[bytes, ...] = (),
) -> bytes:
    """Return the first frame to the joiner: a certificate for its keys, the mesh's root key, secret and name, and `epochs`.

    The certificate is valid from the latest of the wall clock, `newest_seen_s` and the inviter's own `not_before_s`.
    Otherwise an inviter whose clock is in 1970 would issue certificates that have already expired. EnrolmentError if
    `root_seed` is not the root of the inviter's mesh.
    """
    if primitives.signing_pair(root_seed)[0] != inviter.root_public:
        raise EnrolmentError(f"this root key does not belong to mesh {inviter.mesh_name}: use the mesh's own root key")
    not_before_s = max(wall_ms // 1_000, newest_seen_s, inviter.certificate.not_before_s)
    try:
        certificate = certificates.issue(
            root_seed,
            name=request.name,
            node_key=request.node_key,
            static_key=remote_static,
            roles=roles,
            grants=grants,
            not_before_s=not_before_s,
            not_after_s=not_before_s + lifetime_s,
            serial=draw(entropy, certificates.SERIAL_BYTES),
        )
    except CertificateError as error:
        raise EnrolmentError(f"no certificate can be issued to {request.name}: {error}") from None
    return grant_encode(certificate, inviter, epochs)


def grant_encode(certificate: Certificate, inviter: Identity, epochs: tuple[bytes, ...] = ()) -> bytes:
    """Return an encoded grant: `certificate`, the mesh's root key, secret and name from `inviter`, and `epochs`."""
    return wire.encode((_VERSION, certificate.raw, inviter.root_public, inviter.secret, inviter.mesh_name, epochs))


def grant_decode(payload: bytes) -> tuple[bytes, bytes, bytes, str, tuple[bytes, ...]]:
    """Return raw certificate, root public key, mesh secret, mesh name and epochs; EnrolmentError if a length is wrong."""
    kinds = (bytes, bytes, bytes, str, list)
    raw, root_public, secret, mesh_name, epochs = _fields(payload, "grant", kinds, GRANT_BYTES_MAX)
    fits = len(root_public) == KEY_BYTES and len(secret) == SECRET_BYTES and not name_fault(mesh_name)
    if not fits or len(epochs) > EPOCHS_KEPT or any(type(epoch) is not bytes for epoch in epochs):
        raise EnrolmentError("the inviting node sent a damaged grant: join again")
    return raw, root_public, secret, mesh_name, tuple(epochs)


def accept_grant(payload: bytes, *, candidate: Candidate, code: JoinCode, wall_ms: int) -> Identity:
    """Return the new member's identity; EnrolmentError if the grant is not for these keys in the code's mesh."""
    raw, root_public, secret, mesh_name, epochs = grant_decode(payload)
    _check_root(root_public, code)
    try:
        certificate = Certificate.decode_signed(raw, root_public=root_public)
        certificate.check_time(wall_ms=wall_ms, newest_seen_s=certificate.not_before_s)
        Revocations(root_public, secret, epochs)
    except CertificateError as error:
        raise EnrolmentError(f"the inviting node sent an invalid certificate ({error})") from None
    if (certificate.node_key, certificate.static_key) != (candidate.node_key, candidate.static_public):
        raise EnrolmentError("the inviting node sent a certificate for another node's keys")
    seed, private = candidate.node_seed, candidate.static_private
    return Identity(code.mesh_id, mesh_name, root_public, secret, seed, private, certificate, epochs)


def ticket_encode(identity: Identity) -> bytes:
    """Return a text file with a whole identity and its checksum, for a drone's storage card.

    The holder of the file can act as that node.
    """
    encoded = identity.encode()
    body = base64.encodebytes(encoded + _checksum(encoded))
    note = f"# {identity.name} in {identity.mesh_name}: secret, delete after joining"
    return b"%b\n%b\n%b" % (_TICKET_HEADING, note.encode(), body)


def ticket_decode(data: bytes) -> Identity:
    """Return the identity in a ticket file; EnrolmentError if it is damaged or another file.

    Any line ends are accepted, and so is a byte order mark, because editors add them.
    """
    if len(data) > TICKET_BYTES_MAX:
        raise EnrolmentError(
            f"ticket has {len(data)} bytes, at most {TICKET_BYTES_MAX} are expected: this is not a ticket"
        )
    lines = [line.strip() for line in data.removeprefix(b"\xef\xbb\xbf").splitlines()]
    if not lines or lines[0] != _TICKET_HEADING:
        raise EnrolmentError(f"ticket does not begin with '{_TICKET_HEADING.decode()}': this is not a ticket")
    body = b"".join(line for line in lines[1:] if not line.startswith(b"#"))
    try:
        whole = base64.b64decode(body, validate=True)
        encoded, checksum = whole[:-_CHECKSUM_BYTES], whole[-_CHECKSUM_BYTES:]
        if checksum != _checksum(encoded):
            raise EnrolmentError(
                "ticket is damaged (its checksum does not match, or its end is missing): copy it again"
            )
        return Identity.decode(encoded)
    except (binascii.Error, DecodeError) as error:
        raise EnrolmentError(f"ticket is damaged ({error}): copy it again") from None


def _checksum(encoded: bytes) -> bytes:
    """Return a checksum against worn cards and damaged copies; against attackers, the certificate is signed."""
    return hashlib.blake2b(encoded, digest_size=_CHECKSUM_BYTES, person=b"mycomesh-ticket").digest()


def _check_root(root_public: bytes, code: JoinCode) -> None:
    if len(root_public) != KEY_BYTES or primitives.identifier(root_public) != code.mesh_id:
        raise EnrolmentError("the inviting node does not belong to the mesh of the join code")


def _fields(payload: bytes, what: str, kinds: tuple[type, ...], bytes_max: int = MESSAGE_BYTES_MAX) -> list[Any]:
    try:
        return wire.decode_record(payload, what=what, version=_VERSION, kinds=kinds, bytes_max=bytes_max)
    except DecodeError as error:
        raise EnrolmentError(f"the other node does not follow the enrolment exchange: {error}") from None


def _request_bytes(name: str, static_key: bytes, transcript: bytes) -> bytes:
    return wire.encode((name, static_key, transcript))


def _code_check(data: bytes) -> int:
    digest = hashlib.blake2b(data, digest_size=-(-_CODE_CHECK_BITS // 8), person=_CODE_PURPOSE).digest()
    return int.from_bytes(digest, "big") >> -_CODE_CHECK_BITS % 8


def _base32_decode(text: str) -> int:
    number = 0
    for char in text:
        value = _ALPHABET.find(char)
        if value < 0:
            raise EnrolmentError(f"join code contains {char!r}, which is not a letter or digit of a code: check it")
        number = number << 5 | value
    if len(text) != _CODE_CHARS:
        groups = _CODE_CHARS // _CODE_GROUP
        raise EnrolmentError(f"join code is incomplete or too long: it has {groups} groups of {_CODE_GROUP} characters")
    return number
