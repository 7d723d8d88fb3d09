"""Settings of a `MeshCore`: one frozen value, validated at construction.

Limits of the protocol, on which peers must agree, are constants of the modules that enforce them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mycomesh.mesh.link_budget import Budget
from mycomesh.mesh.versions import SUPPORTED, Versions

__all__ = ["GossipLimits", "KindOf", "MeshConfig", "Topic", "TopicOf", "of_everything", "of_one_kind"]

# (group, topic) of a batch's payload, None for a batch that everybody gets.
Topic = tuple[str, str]
TopicOf = Callable[[bytes], Topic | None]
KindOf = Callable[[bytes], str]


def of_everything(payload: bytes) -> Topic | None:
    """Return None: every batch is for everybody."""
    del payload
    return None


def of_one_kind(payload: bytes) -> str:
    """Return the kind of all payloads."""
    del payload
    return "app"


@dataclass(frozen=True, slots=True)
class GossipLimits:
    """Limits and delays of the broadcast. Names that end in `_ms` are milliseconds.

    seen_max: batch ids that are remembered, to recognise duplicates. At 1,000 batches a second they last half a minute, far
        longer than any copy travels.
    kept_max, kept_bytes_max: number and bytes of recent batches that are kept to answer grafts. A graft comes within a second.
    missing_max: announced batches that a node waits for at once. If more are missing, the catch-up is quicker.
    trees_max: origins that have a tree of their own. More than the members of a mesh small enough for such trees
        (`MeshConfig.full_mesh_max`).
    announce_ms: how long ids are collected before one message announces them. Most copies have arrived by then, and need no
        announcement.
    graft_ms: how long an announced batch may take to arrive by push before the node requests it: several hops of a slow LAN.
        The wait is random, up to twice as long, so that one graft of a branch can serve the other nodes there.
    regraft_ms: how long to wait for the first announcer before the node asks the next one.
    settle_ms: the interval in which about one batch prunes. Longer than a batch takes through the whole mesh.
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
    """Settings of one node's links. Names that end in `_ms` are milliseconds, `_bytes` are bytes.

    heartbeat_ms (50..600,000): half of how long a link may be idle before the node sends a ping. It is the unit of the failure
        detector: a dead peer is noticed after about three. A longer one lets radios sleep, and notices dead peers later in
        proportion.
    handshake_ms (100..60,000): how long a whole handshake may take. It does not restart at each read, so nobody can occupy a
        slot by sending a byte at a time.
    strangers_max: connections whose peer has not authenticated yet. Each costs about 3 KiB and a file descriptor.
    strangers_reserved (0..strangers_max - 1): how many of those are kept for hosts where members were seen before, so that a
        flood does not lock members out.
    strangers_per_host_max (1..strangers_max): how many of those one IPv4 address or IPv6 /64 may have. The machine itself is
        exempt.
    handshake_every_ms, handshakes_at_once (1 or more): the rate of handshakes of one such host: 20 a second, eight at once. A
        host of several nodes that all dial at once gets in, and junk costs a few milliseconds of CPU a second.
    dials_max (1 or more): dials in progress at once. Enough for a whole small mesh, and no burst of SYNs that looks like a scan.
    dial_ms, dial_ms_max (dial_ms <= dial_ms_max): first and longest wait before an address is dialled again. The wait doubles
        at each failure, with jitter.
    full_mesh_max: the largest mesh in which all members link to all. Above it, each node keeps a partial view.
    view_min, view_max (1 <= view_min <= view_max <= full_mesh_max): links of a partial view. The node dials below view_min,
        and drops one link at a time above view_max.
    queue_bytes_max: unsent bytes at which the node drops a link. They must fit a live batch and a chunk of a catch-up, both
        of the largest size (25 MiB), and the catch-up's window; else a table of large blobs could never catch up.
    behind_bytes (below queue_bytes_max): unsent bytes above which a link gets no live batches: the catch-up brings them at less
        cost. Urgent batches stop only above as many unsent bytes of their own.
    ready_bytes (below behind_bytes): unsent bytes below which a link gets bulk messages and live batches again.
    versions: the protocol versions that the node offers. Fewer than the program supports can hold a node back while a mesh is
        upgraded.
    budget: limits of metered links; None for no limit.
    metered: the bytes that such links carried in the last hours of an earlier run: (hour of Unix time, bytes).
    topic_of: returns what the payload of a batch is about. Only peers that want the topic get the batch.
    partial: the application has been set to want parts only. So the node opens few links until it has stated what it wants.
    kind_of: returns the kind of a message of the application, one of a few, by which its bytes are counted.
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
    budget: Budget | None = None
    metered: tuple[tuple[int, int], ...] = ()
    topic_of: TopicOf = of_everything
    partial: bool = False
    kind_of: KindOf = of_one_kind

    def __post_init__(self) -> None:
        if not 50 <= self.heartbeat_ms <= 600_000:
            raise ValueError(f"heartbeat_ms must be 50 to 600000, not {self.heartbeat_ms}")
        if not 100 <= self.handshake_ms <= 60_000:
            raise ValueError(f"handshake_ms must be 100 to 60000, not {self.handshake_ms}")
        if not 0 <= self.strangers_reserved < self.strangers_max:
            raise ValueError("strangers_reserved must be at least 0 and below strangers_max")
        if not 0 < self.strangers_per_host_max <= self.strangers_max:
            raise ValueError("strangers_per_host_max must be at least 1 and at most strangers_max")
        if not 0 < self.dial_ms <= self.dial_ms_max:
            raise ValueError("dial_ms must be at least 1 and at most dial_ms_max")
        if min(self.handshake_every_ms, self.handshakes_at_once) < 1:
            raise ValueError("handshake_every_ms and handshakes_at_once must be at least 1")
        if self.dials_max < 1:
            raise ValueError("dials_max must be at least 1")
        if not 1 <= self.view_min <= self.view_max <= self.full_mesh_max:
            raise ValueError("view_min, view_max and full_mesh_max must be at least 1, and in ascending order")
        if not 0 < self.ready_bytes < self.behind_bytes < self.queue_bytes_max:
            raise ValueError(
                "ready_bytes, behind_bytes and queue_bytes_max must be at least 1, and each above the one before"
            )
