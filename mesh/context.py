"""Context that all connections of a mesh core share: identity, settings, entropy, root key and invitations.

Only a node that has the mesh's root key can grant a certificate to a joining node. Invariant: a grant uses up one use of its
invitation before the core sends it.
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

SUPERSEDED = "superseded"  # the reason that a member receives when another connection of its own replaces this one


@dataclass(slots=True)
class Context:
    """The facts about its own node that one core shares with all its connections.

    `boot` is random at each start of the process: peers recognise a restarted node by it. `port` is the TCP port on which the
    node listens, 0 if unknown.
    """

    identity: Identity
    config: MeshConfig
    entropy: Callable[[int], bytes]
    boot: bytes
    root_seed: bytes | None = field(repr=False)
    invitations: tuple[Invitation, ...] = ()
    port: int = 0

    def hello(self) -> MemberHello:
        """Return what this node presents to members in a handshake."""
        return MemberHello(self.identity.certificate, self.boot, self.port, self.config.versions)

    def invite(self, invitation: Invitation) -> None:
        """Accept an invitation. It replaces the oldest one when there are more than a handshake tries."""
        self.invitations = (*self.invitations, invitation)[-(PSKS_MAX - 1 - EPOCHS_KEPT) :]

    def open_invitations(self, wall_ms: int) -> tuple[tuple[bytes, Invitation], ...]:
        """Return (pre-shared key, invitation) of each invitation that is usable now."""
        if self.root_seed is None:
            return ()
        mesh_id = self.identity.mesh_id
        return tuple((each.code(mesh_id).psk(), each) for each in self.invitations if each.is_open(wall_ms))

    def grant(self, join_request: JoinRequest, membership: Membership, wall_ms: int) -> tuple[bytes, str, Invitation]:
        """Return the grant for a joining node, its name, and the invitation with one use less.

        Nodes made from one disk image all ask for the host name of that image. If another member has the name, the node gets
        it with a number appended.

        Raises:
            EnrolmentError: the invitation is used up, or the node was revoked.
        """
        assert self.root_seed is not None, "only a node with the root key offers invitations"
        invitation, roster = join_request.invitation, membership.roster
        if invitation not in self.invitations:
            raise EnrolmentError("the invitation was used up while this node was joining: invite it again")
        if roster.revocations.revocation(identifier(join_request.request.node_key)) is not None:
            raise EnrolmentError(
                "this node was revoked: to join again it needs new keys; use a ticket, or another --home"
            )
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
            epochs=roster.revocations.epochs_for_joiner(),
        )
        membership.record_certificate(read_certificate(grant_decode(granted)[0], root_public=self.identity.root_public))
        left = invitation.after_use()
        self.invitations = tuple(left if each is invitation else each for each in self.invitations)
        return granted, request.name, left


def never_refuse(_hello: MemberHello) -> str:
    """Return no reason: a node finishes every handshake that a member began, and `LinkTable.accepts` chooses afterwards."""
    return ""


def notice_identity_cloned(address: Address) -> Notice:
    """Return the notice that another node at this address uses this node's keys."""
    text = f"another node at {address} uses this node's identity: give each node its own"
    return Notice("identity.cloned", text, {"address": str(address)}, "error")


def notice_link_taken_over(address: Address, peer: MemberHello) -> Notice:
    """Return the notice that a peer has replaced its link to this node by one to another node with the same keys."""
    text = f"{peer.certificate.name} has a link to another node with this node's identity: give each node its own"
    return Notice("identity.cloned", text, {"address": str(address)}, "error")


def notice_version_mismatch(address: Address, theirs: MemberHello, ours: Versions) -> Notice:
    """Return the notice that a member shares no protocol version with this node: both ranges, and which node to upgrade."""
    name, versions = theirs.certificate.name, theirs.versions
    behind = "this node" if ours.newest < versions.newest else name
    text = f"{name} at {address} speaks protocol {versions}, this node {ours}: upgrade mycomesh on {behind}"
    return Notice("peer.version", text, {"name": name, "theirs": str(versions), "ours": str(ours)}, "warning")
