"""Who passes a handshake: members by their certificate, joining nodes by an invitation.

Owns what is said in the payloads of messages 2 and 3, and the judgement of what the other side says there. What always
holds: a member is admitted only with a certificate of this mesh, valid at this moment, for the very key that the
handshake has proven; a joining node only under the key of an open invitation. A gate serves one session and keeps what
it learnt there. Must not know: connections, links, addresses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mycomesh.mesh import wire
from mycomesh.mesh.errors import DecodeError, HandshakeError
from mycomesh.mesh.membership.enrolment import offer_decode, offer_encode, request_decode, request_encode
from mycomesh.mesh.session.noise import HANDSHAKE_BYTES_MAX
from mycomesh.mesh.session.session import Keys
from mycomesh.mesh.versions import VERSION_MAX, Versions

if TYPE_CHECKING:
    from collections.abc import Callable

    from mycomesh.mesh.membership.certificate import Certificate
    from mycomesh.mesh.membership.enrolment import Candidate, Invitation, JoinCode, Request
    from mycomesh.mesh.membership.roster import Roster
    from mycomesh.mesh.session.session import Introduction

__all__ = ["BOOT_BYTES", "JoinGate", "JoinRequest", "MemberGate", "MemberHello", "RefusalError"]

BOOT_BYTES = 8  # drawn at each start of a node: tells a restarted peer from a second connection of the same one

_VERSION = 1
_PORT_MAX = 65_535


@dataclass(frozen=True, slots=True)
class MemberHello:
    """What a member shows: certificate, the number of this life of its process, the port where it listens (or 0).

    `versions` of the protocol are those that it speaks.
    """

    certificate: Certificate
    boot: bytes
    port: int
    versions: Versions

    def encode(self) -> bytes:
        """The payload of message 2 or 3."""
        spoken = self.versions
        return wire.encode((_VERSION, self.certificate.raw, self.boot, self.port, spoken.oldest, spoken.newest))


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """A node that asks to be let in, the static key that the handshake proved, and the invitation that it used."""

    request: Request
    static: bytes
    invitation: Invitation


class RefusalError(HandshakeError):
    """We do not want this connection, though nobody did wrong: it leads to ourselves, or to a member already linked.

    Fault: nobody's. State: the handshake is dropped. To do: nothing.
    """


class MemberGate:
    """The gate of a member. Set `wall_ms` before bytes are fed to its session."""

    __slots__ = (
        "_invitations",
        "_own",
        "_refusal_reason",
        "_roster",
        "_secrets",
        "hello",
        "join_request",
        "stale",
        "wall_ms",
    )

    def __init__(
        self,
        own: MemberHello,
        roster: Roster,
        secrets: tuple[bytes, ...],
        invitations: tuple[tuple[bytes, Invitation], ...],
        refusal_reason: Callable[[MemberHello], str],
    ) -> None:
        self._own = own
        self._roster = roster
        self._secrets = secrets  # of the mesh, in the order in which they are tried
        self.stale = (
            False  # the other side came with a secret that we use no more: it is told the one in use, and no more
        )
        self._invitations = invitations  # (pre-shared key, invitation) in the order of `keys()`
        self._refusal_reason = refusal_reason  # why a member should not be linked once more, or an empty string
        self.hello: MemberHello | None = None  # of the member who was admitted (or refused by `refusal_reason`)
        self.join_request: JoinRequest | None = None
        self.wall_ms = 0

    def keys(self) -> Keys:
        """The keys of a session behind this gate."""
        identity = self._roster.identity
        psks = (*self._secrets, *(psk for psk, _ in self._invitations))
        return Keys(identity.mesh_id, psks, identity.static_private)

    def answer(self, psk: int) -> bytes:
        """Members see our hello, joining nodes the offer of enrolment."""
        return self._own.encode() if psk < len(self._secrets) else offer_encode(self._roster.identity)

    def admit(self, introduction: Introduction) -> bytes:
        """Judge a member or a joining node; MeshError refuses."""
        if introduction.psk < len(self._secrets):
            self._admit_member(introduction)
            self.stale = self._secrets[introduction.psk] != self._roster.revocations.secret
        else:
            invitation = self._invitations[introduction.psk - len(self._secrets)][1]
            if not invitation.is_open(self.wall_ms):
                raise HandshakeError("the invitation has run out while it was used")
            request = request_decode(
                introduction.payload, transcript=introduction.transcript, remote_static=introduction.remote_static
            )
            self.join_request = JoinRequest(request, introduction.remote_static, invitation)
        return self._own.encode()

    def _admit_member(self, introduction: Introduction) -> None:
        raw, boot, port, oldest, newest = wire.decode_record(
            introduction.payload,
            what="introduction",
            version=_VERSION,
            kinds=(bytes, bytes, int, int, int),
            bytes_max=HANDSHAKE_BYTES_MAX,
        )
        if len(boot) != BOOT_BYTES or not 0 <= port <= _PORT_MAX or not 1 <= oldest <= newest <= VERSION_MAX:
            raise DecodeError("introduction is out of its limits")
        certificate = self._roster.verify(raw, self.wall_ms)
        certificate.check_static(introduction.remote_static)
        self.hello = MemberHello(certificate, boot, port, Versions(oldest, newest))
        why = self._refusal_reason(self.hello)
        if why:
            raise RefusalError(why)


class JoinGate:
    """The gate of a node that joins: it admits any member of the code's mesh, and shows its request."""

    __slots__ = ("_candidate", "_code", "_refusal_reason", "wall_ms")

    def __init__(self, code: JoinCode, candidate: Candidate, refusal_reason: Callable[[], str]) -> None:
        self._code = code
        self._candidate = candidate
        self._refusal_reason = refusal_reason  # why this member should not be asked, or an empty string
        self.wall_ms = 0

    def keys(self) -> Keys:
        """The keys of a session behind this gate."""
        return Keys(self._code.mesh_id, (self._code.psk(),), self._candidate.static_private)

    def answer(self, psk: int) -> bytes:
        """Nobody calls a joining node."""
        raise HandshakeError(f"a joining node answers nobody, whatever the key ({psk})")

    def admit(self, introduction: Introduction) -> bytes:
        """Judge the member who invites, and ask to be let in."""
        offer_decode(
            introduction.payload, code=self._code, remote_static=introduction.remote_static, wall_ms=self.wall_ms
        )
        why = self._refusal_reason()
        if why:
            raise RefusalError(why)
        return request_encode(self._candidate, transcript=introduction.transcript)
