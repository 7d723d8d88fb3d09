"""Status of one other member, joined from its certificate, its link-state record and the live link to it."""

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
    """One other member. `state` is "linked", "reachable" (over `hops` links) or "down".

    Times are milliseconds, and None where nothing is known. `offset_ms` is the member's clock minus ours. The byte counts are
    those of the live link. `neighbours` are the links that the member reports. `protocol` is the version in use on the link,
    or, for a member that shares no version with this node, the range that the member supports.
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
    """Return the status of the certificate's holder.

    `link` is the live link to it. `unsupported` is the range of versions that it supports, if this node supports none of them.
    """
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
