"""Records a run over virtual time (samples, topology and events) for the report and the trace file.

docs/simulations.md describes the lines of the trace file, which are in the order of time.

Invariant: recording changes nothing in a run, so the trace hash is the same with and without it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import IO, TYPE_CHECKING

from mycomesh.simulations.checkers import digests
from mycomesh.simulations.world import SECOND
from mycomesh.sync import events as sync_events

if TYPE_CHECKING:
    from collections.abc import Callable

    from mycomesh.simulations.cluster import Cluster
    from mycomesh.simulations.network import Network
    from mycomesh.simulations.tap import Tap
    from mycomesh.simulations.world import World

__all__ = ["TRACE_VERSION", "Recorder", "Sample", "Snapshot"]

TRACE_VERSION = 1
_NODE_ID = re.compile(r"\b[0-9a-f]{8}\b")
TOPOLOGY_US = 5 * SECOND  # between snapshots; one more comes right before each fault of the whole network
SAMPLES_MAX = 2_000  # beyond it, every other sample is dropped and the interval doubles, to bound the size of the page
LATENCIES_MAX = 200_000  # deliveries in the distribution; a longer run is represented by its first ones
PUBLISHED_MAX = 20_000  # batches on their way; older ones have arrived, or come by catch-up


@dataclass(frozen=True, slots=True)
class Sample:
    """The state of the whole cluster at one time. Counts are cumulative."""

    t: float  # virtual seconds
    up: int
    agree: int  # nodes of the largest group with equal digests of every table
    groups: int  # number of different contents among the running nodes
    bytes: int
    kinds: dict[str, int]  # bytes before encryption, by kind of message
    copies: int  # received batches
    firsts: int  # received batches that their receiver did not have


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The topology at one time: for each node its group of equal content (None: down), and the links."""

    t: float
    label: str
    groups: tuple[int | None, ...]
    links: tuple[tuple[int, int, float | None, int], ...]  # node, node, round trip in ms, bytes so far


@dataclass(slots=True)
class Recorder:
    """Records one run. `lines` is an open text file for the trace; None keeps the measurements only."""

    lines: IO[str] | None = None
    samples: list[Sample] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    faults: list[tuple[float, str, str]] = field(default_factory=list)  # time, kind, text
    latencies_ms: list[float] = field(default_factory=list)  # from a commit to the file of another node
    calm_s: float | None = None  # when the faults ended
    tap: Tap | None = None
    on_snapshot: Callable[[Snapshot], None] | None = None
    _run: _Run | None = None

    def begin(self, header: dict[str, object], world: World, network: Network, cluster: Cluster) -> None:
        """Start recording a run."""
        names = [f"node{host.index}" for host in cluster.hosts]
        ids = {node_id.hex()[:8]: name for node_id, name in zip(cluster.node_ids, names, strict=True)}
        self._run = _Run(world, network, cluster, ids)
        self._write("header", version=TRACE_VERSION, **header, names=names)

    # ---- simulations.shell.Observer

    def on_commit(self, node: int) -> None:
        """Record a commit of any program to the node's file."""
        run = self._running
        run.pending.setdefault(node, run.world.now_us)

    def on_exchange(self, node: int, event: sync_events.Event, actions: list[sync_events.Action]) -> None:
        """Record an event of the node's `Exchange` and its actions."""
        run = self._running
        now = run.world.now_us
        match event:
            case sync_events.LinkOpened(link, peer):
                run.links_of(node)[link] = peer
            case sync_events.LinkClosed(link):
                run.links_of(node).pop(link, None)
            case sync_events.BatchReceived(_, _, payload):
                self._received(payload)
            case sync_events.BatchesReceived(batches):
                for batch in batches:
                    self._received(batch.payload)
            case _:
                pass
        for action in actions:
            if isinstance(action, sync_events.Publish):
                run.batches += 1
                run.published[_name(action.payload)] = run.pending.pop(node, now)
                if len(run.published) > PUBLISHED_MAX:
                    del run.published[next(iter(run.published))]

    def _received(self, payload: bytes) -> None:
        run = self._running
        run.firsts += 1
        since = run.published.get(_name(payload))
        if since is not None and len(self.latencies_ms) < LATENCIES_MAX:
            self.latencies_ms.append((run.world.now_us - since) / 1_000)

    def on_notice(self, node: int, event: str, text: str, level: str) -> None:
        """Record a notice of the node."""
        names = self._running.names
        named = _NODE_ID.sub(lambda found: names.get(found[0], found[0]), text)
        self._write("notice", node=node, event=event, text=named, level=level)

    # ---- calls by the runner

    def before(self, kind: str, text: str, *, whole: bool) -> None:
        """Record a fault before it occurs; with `whole`, for the whole network, also the topology."""
        if whole:
            self.snapshot(f"before {kind.lower()}")
        self.faults.append((self._running.world.now_us / SECOND, kind, text))
        self._write("fault", fault=kind, text=text)

    def calm(self) -> None:
        """Record the end of the faults."""
        self.snapshot("before the end of faults")
        self.calm_s = self._running.world.now_us / SECOND
        self._write("calm")

    def sample(self) -> None:
        """Take a sample of the cluster if one is due."""
        run = self._running
        now = run.world.now_us
        if now < run.sample_due_us:
            return
        run.sample_due_us = now + run.sample_us
        contents = self._groups()
        groups = Counter(group for group in contents if group is not None)
        kinds = dict(sorted(self.tap.sent.items())) if self.tap is not None else {}
        copies = self.tap.batches if self.tap is not None else run.firsts
        sample = Sample(
            now / SECOND,
            sum(groups.values()),
            max(groups.values(), default=0),
            len(groups),
            run.network.bytes_sent,
            kinds,
            max(copies, run.firsts),
            run.firsts,
        )
        self.samples.append(sample)
        if len(self.samples) > SAMPLES_MAX:
            del self.samples[1::2]
            run.sample_us *= 2
        values = {name: getattr(sample, name) for name in Sample.__slots__ if name != "t"}
        self._write("sample", **values)
        pairs = [link[:2] for link in run.links_now()]
        last = self.snapshots[-1] if self.snapshots else None
        if now >= run.snapshot_due_us or last is None or pairs != [link[:2] for link in last.links]:
            self.snapshot("")
        elif contents != run.contents:
            run.contents = contents
            self._write("contents", groups=contents)

    def snapshot(self, label: str) -> None:
        """Record the topology."""
        run = self._running
        now = run.world.now_us
        run.snapshot_due_us = now + TOPOLOGY_US
        groups = run.contents = self._groups()
        snapshot = Snapshot(now / SECOND, label, groups, tuple(run.links_now()))
        self.snapshots.append(snapshot)
        if len(self.snapshots) > SAMPLES_MAX:
            self.snapshots = [each for number, each in enumerate(self.snapshots) if each.label or number % 2]
        self._write("topology", label=label, groups=groups, links=snapshot.links)
        if self.on_snapshot is not None:
            self.on_snapshot(snapshot)

    def _groups(self) -> tuple[int | None, ...]:
        """Return for each node the number of its content, 0 the most frequent; None: down."""
        contents: list[tuple[tuple[str, bytes], ...] | None] = [
            digests(host) if host.shell is not None and host.shell.up else None for host in self._running.cluster.hosts
        ]
        sizes = Counter(each for each in contents if each is not None)
        order = {content: number for number, (content, _) in enumerate(sizes.most_common())}
        return tuple(None if each is None else order[each] for each in contents)

    def end(self, result: dict[str, object]) -> None:
        """Record the result of the run."""
        self._write("result", **result)

    @property
    def live_share(self) -> float:
        """The share of published batches that arrived live at the other nodes; the rest came by rounds."""
        run = self._running
        return run.firsts / max(1, run.batches * (len(run.cluster.hosts) - 1))

    @property
    def _running(self) -> _Run:
        assert self._run is not None, "begin must come first"
        return self._run

    def _write(self, kind: str, **values: object) -> None:
        if self.lines is not None:
            line = {"t": self._running.world.now_us / SECOND, "kind": kind, **values}
            self.lines.write(json.dumps(line, ensure_ascii=False) + "\n")


@dataclass(slots=True)
class _Run:
    """The state of the recorder during a run."""

    world: World
    network: Network
    cluster: Cluster
    names: dict[str, str]  # by the beginning of the node id, which notices of the exchange contain
    # by node: the number of its start, and since that start link -> node id of the peer
    links: dict[int, tuple[int, dict[int, bytes]]] = field(default_factory=dict)
    pending: dict[int, int] = field(default_factory=dict)  # by node: the time of its oldest unpublished commit
    published: dict[bytes, int] = field(default_factory=dict)  # batch -> commit time of the oldest write in it
    firsts: int = 0
    batches: int = 0
    sample_us: int = SECOND
    sample_due_us: int = 0
    snapshot_due_us: int = 0
    contents: tuple[int | None, ...] = ()  # as last written

    def links_now(self) -> list[tuple[int, int, float | None, int]]:
        """Return each link that at least one end has, once, with round trip and bytes if the mesh knows them."""
        numbers = {member: index for index, member in enumerate(self.cluster.node_ids)}
        found: dict[tuple[int, int], tuple[float | None, int]] = {}
        for host in self.cluster.up():
            assert host.shell is not None
            known = {peer.node_id: peer for peer in host.shell.core.mesh.peers(self.world.now_ms)}
            for peer_id in self.links_of(host.index).values():
                other = numbers[peer_id]
                peer = known.get(peer_id)
                pair = (min(host.index, other), max(host.index, other))
                size = getattr(peer, "sent_bytes", 0) + getattr(peer, "received_bytes", 0)
                found.setdefault(pair, (getattr(peer, "rtt_ms", None), size))
        return [(one, other, *found[one, other]) for one, other in sorted(found)]

    def links_of(self, node: int) -> dict[int, bytes]:
        """Return the links of a node since its last start."""
        starts = self.cluster.hosts[node].starts
        if self.links.get(node, (0, {}))[0] != starts:
            self.links[node] = starts, {}
        return self.links[node][1]


def _name(payload: bytes) -> bytes:
    return blake2b(payload, digest_size=16).digest()
