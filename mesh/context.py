"""What a mesh core is given once: identity, configuration, entropy, and what lets others in.

Owns the invitations. What always holds: an invitation is counted down before its grant exists, and only a node that has
the mesh's root key grants anything. Must not know: connections, members.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mycomesh.mesh.errors import EnrolmentError
from mycomesh.mesh.events import Notice
from mycomesh.mesh.links.authentication import MemberHello
from mycomesh.mesh.membership.certificate import free_name, lifetime_s
from mycomesh.mesh.membership.enrolment import grant, grant_decode
from mycomesh.mesh.membership.renewal import read_certificate
from mycomesh.mesh.membership.revocations import EPOCHS_KEPT
from mycomesh.mesh.primitives import identifier
from mycomesh.mesh.session.noise import PSKS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from mycomesh.mesh.config import MeshConfig
    from mycomesh.mesh.events import Address
    from mycomesh.mesh.links.authentication import JoinRequest
    from mycomesh.mesh.membership.enrolment import Invitation
    from mycomesh.mesh.membership.identity import Identity
    from mycomesh.mesh.membership.membership import Membership
    from mycomesh.mesh.versions import Versions

__all__ = [
    "SUPERSEDED",
    "Context",
    "never_refuse",
    "notice_identity_cloned",
    "notice_link_taken_over",
    "notice_version_mismatch",
]

SUPERSEDED = "superseded"  # what a member hears on a connection whose place another one of its own has taken


@dataclass(slots=True)
class Context:
    """One node's standing facts. `boot` numbers this life of its process, `port` is where it listens (0: unknown)."""

    identity: Identity
    config: MeshConfig
    entropy: Callable[[int], bytes]
    boot: bytes
    root_seed: bytes | None = field(repr=False)
    invitations: tuple[Invitation, ...] = ()
    port: int = 0

    def hello(self) -> MemberHello:
        """What this node shows to members."""
        return MemberHello(self.identity.certificate, self.boot, self.port, self.config.versions)

    def invite(self, invitation: Invitation) -> None:
        """Accept an invitation; the oldest goes when there are more than a handshake tries."""
        self.invitations = (*self.invitations, invitation)[-(PSKS_MAX - 1 - EPOCHS_KEPT) :]

    def open_invitations(self, wall_ms: int) -> tuple[tuple[bytes, Invitation], ...]:
        """Pre-shared key and invitation of all that may be used now."""
        if self.root_seed is None:
            return ()
        mesh_id = self.identity.mesh_id
        return tuple((each.code(mesh_id).psk(), each) for each in self.invitations if each.is_open(wall_ms))

    def grant(self, join_request: JoinRequest, membership: Membership, wall_ms: int) -> tuple[bytes, str, Invitation]:
        """The grant for a joining node, its name, and what is left of the invitation; EnrolmentError if none can be given.

        Nodes made from one image all ask for the image's host name: one that another member bears gets a number behind.
        """
        assert self.root_seed is not None, "invitations are offered only where the root key lies"
        invitation, roster = join_request.invitation, membership.roster
        if invitation not in self.invitations:
            raise EnrolmentError("the invitation was used up while this node was joining: invite it again")
        if roster.standing.revocation(identifier(join_request.request.node_key)) is not None:
            raise EnrolmentError("this node was revoked: it joins again only with keys of its own, from another --home")
        taken = {member.name for member in roster.members() if member.node_key != join_request.request.node_key}
        request = replace(join_request.request, name=free_name(join_request.request.name, taken))
        granted = grant(
            self.root_seed,
            self.identity,
            request,
            join_request.static,
            wall_ms=wall_ms,
            entropy=self.entropy,
            roles=invitation.roles,
            grants=invitation.grants,
            newest_seen_s=roster.newest_seen_s,
            lifetime_s=lifetime_s(invitation.roles),
            epochs=roster.standing.handed(),
        )
        membership.learnt(read_certificate(grant_decode(granted)[0], root_public=self.identity.root_public))
        left = invitation.used()
        self.invitations = tuple(left if each is invitation else each for each in self.invitations)
        return granted, request.name, left


def never_refuse(_hello: MemberHello) -> str:
    """The side that was dialled leaves the choice between two connections to `_replaces`."""
    return ""


def notice_identity_cloned(address: Address) -> Notice:
    """What a person hears when another node runs with our keys."""
    text = f"another node at {address} runs with this node's own identity: give it one of its own"
    return Notice("identity.cloned", text, {"address": str(address)}, "error")


def notice_link_taken_over(address: Address, peer: MemberHello) -> Notice:
    """What a person hears when a peer has taken up a link with another node that runs with our keys."""
    text = f"{peer.certificate.name} has a link with another node of this node's own identity: give that one its own"
    return Notice("identity.cloned", text, {"address": str(address)}, "error")


def notice_version_mismatch(address: Address, theirs: MemberHello, ours: Versions) -> Notice:
    """What a person hears of a member that speaks no version of ours: both ranges, and which of the two is behind."""
    name, spoken = theirs.certificate.name, theirs.versions
    behind = "this node" if ours.newest < spoken.newest else name
    text = f"{name} at {address} speaks protocol {spoken}, this node {ours}: upgrade mycomesh on {behind}"
    return Notice("peer.version", text, {"name": name, "theirs": str(spoken), "ours": str(ours)}, "warning")
