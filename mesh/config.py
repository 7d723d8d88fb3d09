"""How a mesh core behaves: one frozen value, checked when it is made.

Owns the defaults, each with its reason. Protocol limits, which peers must agree on, are constants of the modules that
own them. Must not know: files, command lines.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mycomesh.mesh.versions import SUPPORTED, Versions

__all__ = ["GossipLimits", "MeshConfig"]


@dataclass(frozen=True, slots=True)
class GossipLimits:
    """Bounds and times, each with its reason.

    seen_max: ids remembered; at 1,000 batches a second half a minute, far longer than any copy is_routable.
    kept_max, kept_bytes_max: batches kept to answer grafts; a graft comes within a second.
    missing_max: announced batches waited for; beyond it the catch-up is quicker anyway.
    trees_max: origins with a tree of their own; more than a small mesh has members.
    announce_ms: ids are gathered this long; one message carries many, and most copies have arrived by then.
    graft_ms: how long an announced batch may still come by itself: several hops of a slow LAN. Up to twice as long, at
        random, so that one graft of a branch can serve the others.
    regraft_ms: and how long until the next announcer is asked.
    settle_ms: a spell: longer than a batch takes through the whole mesh.
    """

    seen_max: int = 32_768
    kept_max: int = 2_048
    kept_bytes_max: int = 16 << 20
    missing_max: int = 4_096
    trees_max: int = 64
    announce_ms: int = 40
    graft_ms: int = 120
    regraft_ms: int = 60
    settle_ms: int = 300


@dataclass(frozen=True, slots=True)
class MeshConfig:
    """Times in milliseconds, sizes in bytes.

    heartbeat_ms (50..600,000): silence after which a link says something; the detector's unit of time. Longer lets
        radios sleep, and finds the dead later in proportion.
    handshake_ms: a whole handshake, not each read, so that nobody holds a place by sending a byte at a time.
    strangers_max: connections that have not shown a certificate; each costs about 3 KiB and a descriptor.
    strangers_reserved: of those, kept for hosts where members were met, so that a flood does not lock members out.
    strangers_per_host_max: of one IPv4 address or IPv6 /64; this machine itself is exempt.
    handshake_every_ms, handshakes_at_once: of one such source, 20 a second and eight together: a host of several nodes
        that all dial at once gets in, and junk costs a few milliseconds of CPU a second.
    dials_max: dials under way at once: a whole small mesh, without a burst of SYNs that looks like a scan.
    dial_ms, dial_ms_max: first and longest wait before an address is tried again; doubles, with jitter.
    full_mesh_max: members that all link to all; above it, each keeps a partial view.
    view_min, view_max: links of a partial view: dials below the first, lets one go above the second.
    queue_bytes_max: unsent bytes of one link before it is given up. A fresh batch and a chunk of a catch-up, both of the
        largest size (25 MiB), and the catch-up's window must fit, or a table of large blobs could never catch up.
    behind_bytes: unsent bytes above which a link gets no fresh batches: they come cheaper with the catch-up. Urgent ones are
        held back only by as many bytes of their own.
    ready_bytes: unsent bytes below which a link has room again.
    versions: of the protocol that are spoken; fewer than the program can hold a node back while a mesh is upgraded.
    """

    heartbeat_ms: int = 1_000
    handshake_ms: int = 5_000
    strangers_max: int = 64
    strangers_reserved: int = 16
    strangers_per_host_max: int = 8
    handshake_every_ms: int = 50
    handshakes_at_once: int = 8
    dials_max: int = 16
    dial_ms: int = 1_000
    dial_ms_max: int = 60_000
    full_mesh_max: int = 16
    view_min: int = 6
    view_max: int = 8
    queue_bytes_max: int = 56 << 20
    behind_bytes: int = 1 << 20
    ready_bytes: int = 64 << 10
    versions: Versions = SUPPORTED
    gossip: GossipLimits = field(default_factory=GossipLimits)

    def __post_init__(self) -> None:
        if not 50 <= self.heartbeat_ms <= 600_000:
            raise ValueError(f"heartbeat_ms is 50 to 600000, not {self.heartbeat_ms}")
        if not 100 <= self.handshake_ms <= 60_000:
            raise ValueError(f"handshake_ms is 100 to 60000, not {self.handshake_ms}")
        if not 0 <= self.strangers_reserved < self.strangers_max:
            raise ValueError("strangers_reserved must be part of strangers_max, and leave room for others")
        if not 0 < self.strangers_per_host_max <= self.strangers_max:
            raise ValueError("strangers_per_host_max must be part of strangers_max")
        if not 0 < self.dial_ms <= self.dial_ms_max:
            raise ValueError("dial_ms must be positive and not above dial_ms_max")
        if min(self.handshake_every_ms, self.handshakes_at_once) < 1:
            raise ValueError("handshake_every_ms and handshakes_at_once must be at least 1")
        if self.dials_max < 1:
            raise ValueError("dials_max must be at least 1")
        if not 1 <= self.view_min <= self.view_max <= self.full_mesh_max:
            raise ValueError("view_min <= view_max <= full_mesh_max, from 1")
        if not 0 < self.ready_bytes < self.behind_bytes < self.queue_bytes_max:
            raise ValueError("ready_bytes < behind_bytes < queue_bytes_max, from 1")
