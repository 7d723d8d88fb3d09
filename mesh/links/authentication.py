"""Authentication of peers: members by their certificate, joining nodes by an invitation.

A gate makes the payloads of handshake messages 2 and 3, and checks those of the other side. It serves one session and keeps what
the peer presented there. Invariants: a member is admitted only with a certificate of this mesh that is valid at this moment, for
the static key that the handshake has proven. A joining node is admitted only under the pre-shared key of an open invitation.
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

BOOT_BYTES = 8  # random at each start of a node: a restarted peer has another one, a second connection the same

_VERSION = 1
_PORT_MAX = 65_535


@dataclass(frozen=True, slots=True)
class MemberHello:
    """A member's handshake payload: certificate, boot number, listening port (0: none), supported protocol versions.

    `boot` is random at each start of the member's process.
    """

    certificate: Certificate
    boot: bytes
    port: int
    versions: Versions

    def encode(self) -> bytes:
        """Return the payload of message 2 or 3."""
        spoken = self.versions
        return wire.encode((_VERSION, self.certificate.raw, self.boot, self.port, spoken.oldest, spoken.newest))


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """The request of a joining node, the static key that the handshake has proven, and the invitation that it used."""

    request: Request
    static: bytes
    invitation: Invitation


class RefusalError(HandshakeError):
    """This connection is redundant: it leads to the node itself, or to a member that is linked already.

    Fault: none. State: the handshake is dropped. To do: nothing.
    """


class MemberGate:
    """The gate of a member. Set `wall_ms` before passing bytes to its session."""

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
        self._secrets = secrets  # of the mesh, in the order in which the handshake tries them
        # The other side used an older secret. It gets only the decrees that lead to the current one.
        self.stale = False
        self._invitations = invitations  # (pre-shared key, invitation) in the order of `keys()`
        self._refusal_reason = refusal_reason  # why a member should not get another link, or an empty string
        self.hello: MemberHello | None = None  # of the member that was admitted (or refused by `refusal_reason`)
        self.join_request: JoinRequest | None = None
        self.wall_ms = 0

    def keys(self) -> Keys:
        """Return the keys for a session with this gate."""
        identity = self._roster.identity
        psks = (*self._secrets, *(psk for psk, _ in self._invitations))
        return Keys(identity.mesh_id, psks, identity.static_private)

    def answer(self, psk: int) -> bytes:
        """Return the payload of message 2: our hello for a member, the enrolment offer for a joining node."""
        return self._own.encode() if psk < len(self._secrets) else offer_encode(self._roster.identity)

    def admit(self, introduction: Introduction) -> bytes:
        """Check the peer's payload, admit the peer, and return the payload of message 3, which only an initiator sends.

        Raises:
            MeshError: the peer is refused.
        """
        if introduction.psk < len(self._secrets):
            self._admit_member(introduction)
            self.stale = self._secrets[introduction.psk] != self._roster.revocations.secret
        else:
            invitation = self._invitations[introduction.psk - len(self._secrets)][1]
            if not invitation.is_open(self.wall_ms):
                raise HandshakeError("the invitation expired during the handshake")
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
    """The gate of a joining node: it admits any member of the join code's mesh, and presents its request."""

    __slots__ = ("_candidate", "_code", "_refusal_reason", "wall_ms")

    def __init__(self, code: JoinCode, candidate: Candidate, refusal_reason: Callable[[], str]) -> None:
        self._code = code
        self._candidate = candidate
        self._refusal_reason = refusal_reason  # why this member should not be asked, or an empty string
        self.wall_ms = 0

    def keys(self) -> Keys:
        """Return the keys for a session with this gate."""
        return Keys(self._code.mesh_id, (self._code.psk(),), self._candidate.static_private)

    def answer(self, psk: int) -> bytes:
        """Refuse: a joining node accepts no connections."""
        raise HandshakeError(f"a joining node accepts no connections (pre-shared key {psk})")

    def admit(self, introduction: Introduction) -> bytes:
        """Check the member's offer, and return the enrolment request as the payload of message 3.

        Raises:
            MeshError: the member is refused.
        """
        offer_decode(
            introduction.payload, code=self._code, remote_static=introduction.remote_static, wall_ms=self.wall_ms
        )
        why = self._refusal_reason()
        if why:
            raise RefusalError(why)
        return request_encode(self._candidate, transcript=introduction.transcript)
