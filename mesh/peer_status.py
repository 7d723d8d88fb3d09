"""What a node knows of another member, in one value for people.

Owns the joining of certificate, link-state and live link. What always holds: one `PeerStatus` for each other member
whose certificate lives, linked or not. Must not know: how it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mycomesh.mesh.events import Address
    from mycomesh.mesh.links.link import Link
    from mycomesh.mesh.membership.certificate import Certificate
    from mycomesh.mesh.overlay.topology import Neighbour, Topology
    from mycomesh.mesh.versions import Versions

__all__ = ["PeerStatus", "peer_status"]


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One other member. `state` is linked, reachable (over `hops` links) or down.

    Milliseconds; `offset_ms` is its clock minus ours; None where nothing is known. Bytes are those of the live link;
    `neighbours` are the links that it claims. `protocol` is the version that the link goes by or, of a member that was
    met and speaks none of ours, what it speaks.
    """

    node_id: bytes
    name: str
    roles: tuple[str, ...]
    state: str
    address: Address | None = None
    rtt_ms: float | None = None
    offset_ms: float | None = None
    seen_ms_ago: int | None = None
    sent_bytes: int = 0
    received_bytes: int = 0
    hops: int | None = None
    neighbours: tuple[Neighbour, ...] = ()
    protocol: str = ""


def peer_status(
    certificate: Certificate, topology: Topology, link: Link | None, unsupported: Versions | None, now_ms: int
) -> PeerStatus:
    """The status of the certificate's holder; `link` is the live link to it, `unsupported` what it speaks that we do not."""
    node_id = certificate.node_id
    state = topology.state(node_id)
    received_ms = topology.received_ms(node_id)
    hops = topology.hops(node_id)
    known = PeerStatus(
        node_id,
        certificate.name,
        certificate.roles,
        "down" if hops is None else "reachable",
        seen_ms_ago=None if received_ms is None else now_ms - received_ms,
        hops=hops,
        neighbours=() if state is None else state.neighbours,
        protocol="" if unsupported is None else str(unsupported),
    )
    if link is None:
        return known
    metrics = link.detector.metrics(now_ms)
    return replace(
        known,
        state="linked",
        address=link.address,
        rtt_ms=metrics.rtt_ms,
        offset_ms=metrics.offset_ms,
        seen_ms_ago=metrics.silent_ms,
        sent_bytes=link.sent_bytes,
        received_bytes=link.received_bytes,
        hops=1,
        protocol=str(link.version),
    )
