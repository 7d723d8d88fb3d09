"""The values that `top` draws: the mesh at one moment, from a running node's status or from the lines of a trace.

A `Picture` is immutable. It contains each link once, and only if both ends are members that it contains.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mycomesh.tools.moments import clock_time
from mycomesh.tools.top.event_log import Event, EventLog
from mycomesh.tools.views import linked_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mycomesh.mesh.node.status import AreaView, ChildView, MailboxView, PeerView, ReaderView, Status, TableView

__all__ = ["Edge", "Live", "Node", "Picture", "Trace"]

HISTORY = 240  # values of a sparkline: two minutes of a running node
SLOW_MS = 250  # a link with a longer round trip is drawn as poor


@dataclass(frozen=True, slots=True)
class Node:
    """One member. `state` is here, linked, reachable or down.

    A value of None is unknown: a node that was not compared, or bytes and round trips in a trace. `group` numbers the
    contents of a trace's nodes, the most frequent 0. `traffic` has the latest bytes per second, `lags` the latest `lag_rows`.
    """

    key: str
    name: str
    state: str
    roles: tuple[str, ...] = ()
    equal: bool | None = None
    rtt_ms: float | None = None
    offset_ms: float | None = None
    lag_rows: int | None = None
    lag_ms: int | None = None
    sent_bytes: int | None = None
    received_bytes: int | None = None
    address: str = ""
    group: int | None = None
    traffic: tuple[int, ...] = ()
    lags: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Edge:
    """One link: its ends' keys in order, whether it is poor, and whether it carried bytes since the last picture.

    `past`: both ends are unreachable, and both last reported this link.
    """

    first: str
    second: str
    poor: bool = False
    busy: bool = False
    past: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """The mesh at one moment. `traffic` and `lags` are of all nodes; `lag_unit` is rows, in a trace nodes that differ."""

    title: str
    nodes: tuple[Node, ...] = ()
    edges: tuple[Edge, ...] = ()
    tables: tuple[TableView, ...] = ()
    events: tuple[Event, ...] = ()
    note: str = ""
    readers: tuple[ReaderView, ...] = ()
    children: tuple[ChildView, ...] = ()
    mailboxes: tuple[MailboxView, ...] = ()
    areas: tuple[AreaView, ...] = ()
    traffic: tuple[int, ...] = ()
    lags: tuple[int, ...] = ()
    lag_unit: str = "rows"

    @property
    def islands(self) -> int:
        """The number of groups of running members without links between them."""
        return len(_components([node.key for node in self.nodes if node.state != "down"], self.edges))

    @property
    def parts(self) -> tuple[tuple[str, ...], ...]:
        """The keys of the nodes by island, the largest first; the far half of a split is one.

        Members that are down and reported no link are together in the last.
        """
        held = {end for edge in self.edges if edge.past for end in (edge.first, edge.second)}
        alone = tuple(node.key for node in self.nodes if node.state == "down" and node.key not in held)
        found = _components([node.key for node in self.nodes if node.key not in alone], self.edges)
        return tuple(sorted(found, key=len, reverse=True)) + ((alone,) if alone else ())


@dataclass(slots=True)
class _Histories:
    """The latest values of each node and of all, by key; "" is the key of all."""

    traffic: dict[str, deque[int]] = field(default_factory=dict)
    lags: dict[str, deque[int]] = field(default_factory=dict)
    _before: dict[str, int] = field(default_factory=dict)
    _before_ms: int | None = None

    def record(self, now_ms: int, moved: Mapping[str, int], lags: Mapping[str, int]) -> None:
        """Record cumulative bytes and lags at a time; nothing if no time has passed. A counter that begins again adds nothing."""
        before_ms = self._before_ms
        if before_ms is not None and now_ms == before_ms:
            return
        self._before_ms = now_ms
        passed_ms = 0 if before_ms is None else now_ms - before_ms
        if passed_ms > 0:
            for key, total in moved.items():
                more = max(0, total - self._before.get(key, total))
                self.traffic.setdefault(key, deque(maxlen=HISTORY)).append(more * 1000 // passed_ms)
        self._before = dict(moved)
        for key, lag in lags.items():
            self.lags.setdefault(key, deque(maxlen=HISTORY)).append(lag)

    def added_to(self, node: Node) -> Node:
        """Return the node with its histories."""
        return replace(node, traffic=self.traffic_of(node.key), lags=self.lags_of(node.key))

    def traffic_of(self, key: str) -> tuple[int, ...]:
        """Return the latest bytes per second."""
        return tuple(self.traffic.get(key, ()))

    def lags_of(self, key: str) -> tuple[int, ...]:
        """Return the latest lags."""
        return tuple(self.lags.get(key, ()))


@dataclass(slots=True)
class Live:
    """Makes pictures from a node's status; keeps the events, each link's bytes in the last picture, and histories."""

    log: EventLog = field(default_factory=EventLog)
    _bytes_before: dict[tuple[str, str], int] = field(default_factory=dict)
    _histories: _Histories = field(default_factory=_Histories)
    _at: str = ""  # of the latest notice

    def record_notice(self, notice: dict[str, Any]) -> None:
        """Add one notice of the node to the events."""
        time = str(notice.get("time"))
        self._at = clock_time(time)
        news = (str(notice.get("event")), str(notice.get("level")), str(notice.get("text")))
        self.log.record_notice(self._at, _seconds(time), news)

    def picture(self, status: Status, note: str = "") -> Picture:
        """Return the picture of a status."""
        own = Node(status.node_id, status.node, "here", status.roles, equal=True, address=f"port {status.port}")
        nodes = (own, *map(_member, status.peers))
        moved = {peer.node_id: peer.sent_bytes + peer.received_bytes for peer in status.peers}
        lags = {node.key: node.lag_rows or 0 for node in nodes[1:] if node.state == "linked"}
        self._histories.record(status.uptime_ms, moved | {"": sum(moved.values())}, lags | {"": sum(lags.values())})
        edges = self._edges(status, {node.key for node in nodes})
        linked = linked_of(status.peers)
        down = sum(peer.state == "down" for peer in status.peers)
        title = f"{status.mesh or 'joining'}: {status.node}, {linked} of {len(status.peers)} linked"
        title += f", {down} down" if down else ""
        picture = Picture(
            title,
            tuple(map(self._histories.added_to, nodes)),
            edges,
            status.tables,
            note=note or status.hint,
            readers=status.readers,
            children=status.children,
            mailboxes=status.mailboxes,
            areas=status.areas,
            traffic=self._histories.traffic_of(""),
            lags=self._histories.lags_of(""),
        )
        self._record_islands(picture)
        return replace(picture, events=self.log.events())

    def _edges(self, status: Status, known: set[str]) -> tuple[Edge, ...]:
        found: dict[tuple[str, str], tuple[float | None, int]] = {}
        for peer in status.peers:
            for link in peer.links:
                if link.node_id in known and peer.state != "down":
                    found[_ends(peer.node_id, link.node_id)] = (link.rtt_ms, link.moved_bytes)
        # This node's own view of its links is newer than what others reported about them.
        found = {ends: value for ends, value in found.items() if status.node_id not in ends}
        for peer in status.peers:
            if peer.state == "linked":
                found[_ends(peer.node_id, status.node_id)] = (peer.rtt_ms, peer.sent_bytes + peer.received_bytes)
        edges = tuple(_edge(ends, *found[ends], self._bytes_before) for ends in sorted(found))
        self._bytes_before = {ends: moved for ends, (_, moved) in found.items()}
        return edges + tuple(Edge(*ends, past=True) for ends in _past(status.peers))

    def _record_islands(self, picture: Picture) -> None:
        # A lone member that is down does not make a split: it may have stopped.
        held = {end for edge in picture.edges for end in (edge.first, edge.second)} | {picture.nodes[0].key}
        names = {node.key: node.name for node in picture.nodes}
        islands = [[names[key] for key in part] for part in picture.parts if held & set(part)]
        self.log.record_islands(self._at, islands)


@dataclass(slots=True)
class Trace:
    """Makes pictures from a simulation's trace, read line by line (docs/simulations.md, "Trace file")."""

    names: list[str] = field(default_factory=list)
    log: EventLog = field(default_factory=EventLog)
    scenario: str = ""
    t: float = 0.0
    _groups: list[int | None] = field(default_factory=list)
    _links: list[list[Any]] = field(default_factory=list)
    _bytes_before: dict[tuple[str, str], int] = field(default_factory=dict)
    _histories: _Histories = field(default_factory=_Histories)
    _whole: _Histories = field(default_factory=_Histories)  # samples come more often than topologies

    def feed(self, line: dict[str, Any]) -> None:
        """Add one line; skip a line of an unknown kind.

        Raises:
            KeyError, TypeError, ValueError, IndexError: the line is not one of a trace.
        """
        self.t = float(line["t"])
        match line["kind"]:
            case "header":
                self.names = [str(name) for name in line["names"]]
                self.scenario = f"{line['scenario']} (seed {line['seed']})"
            case "topology":
                self._feed_groups(line["groups"])
                self._bytes_before = {_link_ends(link): int(link[3]) for link in self._links}
                self._links = [list(link) for link in line["links"]]
                self._histories.record(self._now_ms, self._moved(), {})
            case "contents":
                self._feed_groups(line["groups"])
            case "sample":
                differ = int(line["up"]) - int(line["agree"])
                self._whole.record(self._now_ms, {"": int(line.get("bytes", 0))}, {"": differ})
            case "fault" if line["fault"] == "Split":
                self.log.record_split(self._at, self.t, str(line["text"]))
            case "fault" if line["fault"] != "Move":  # nodes move every second; their links show it
                self.log.record(self._at, "warning", str(line["text"]))
            case "notice":
                news = (str(line.get("event", "")), str(line["level"]), str(line["text"]))
                self.log.record_notice(self._at, self.t, news, self.names[int(line["node"])])
            case "calm":
                self.log.record(self._at, "info", "faults and writes have ended")
            case "result":
                self.log.record(self._at, "info", "the run has ended")
            case _:
                pass

    def picture(self, note: str = "") -> Picture:
        """Return the picture after the last line. The title counts the nodes as they are drawn."""
        groups = self._groups or [0] * len(self.names)
        nodes = tuple(
            self._histories.added_to(Node(str(number), name, "down" if group is None else "linked", group=group))
            for number, (name, group) in enumerate(zip(self.names, groups, strict=True))
        )
        edges = tuple(_edge(_link_ends(link), link[2], int(link[3]), self._bytes_before) for link in self._links)
        sizes = Counter(group for group in groups if group is not None)
        agree = f"{max(sizes.values(), default=0)} of {sizes.total()} equal"
        return Picture(
            f"{self.scenario}, t = {self.t:.1f} s, {agree}",
            nodes,
            edges,
            events=self.log.events(),
            note=note,
            traffic=self._whole.traffic_of(""),
            lags=self._whole.lags_of(""),
            lag_unit="nodes",
        )

    def _feed_groups(self, groups: list[int | None]) -> None:
        if len(groups) != len(self.names):
            raise ValueError("a topology has another number of nodes")
        self._groups = list(groups)

    def _moved(self) -> dict[str, int]:
        moved: dict[str, int] = {}
        for link in self._links:
            for end in _link_ends(link):
                moved[end] = moved.get(end, 0) + int(link[3])
        return moved

    @property
    def _at(self) -> str:
        return f"{self.t:8.1f}"

    @property
    def _now_ms(self) -> int:
        return round(self.t * 1000)


def _seconds(time: str) -> float:
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return 0.0


def _components(keys: Sequence[str], edges: Sequence[Edge]) -> list[tuple[str, ...]]:
    """Return the keys of each connected component, in the order of the keys."""
    home = {key: key for key in keys}

    def root(key: str) -> str:
        while home[key] != key:
            home[key] = home[home[key]]
            key = home[key]
        return key

    for edge in edges:
        if edge.first in home and edge.second in home:
            home[root(edge.first)] = root(edge.second)
    found: dict[str, list[str]] = {}
    for key in keys:
        found.setdefault(root(key), []).append(key)
    return list(map(tuple, found.values()))


def _past(peers: Sequence[PeerView]) -> list[tuple[str, str]]:
    """Return the links between unreachable members that both ends last reported: the far half of a split stays one island.

    A member that went down before the split has none: the others reported the lost link while they were still reachable.
    """
    reported = {peer.node_id: {link.node_id for link in peer.links} for peer in peers if peer.state == "down"}
    return [
        (one, two)
        for one in sorted(reported)
        for two in sorted(reported)
        if one < two and one in reported[two] and two in reported[one]
    ]


def _member(peer: PeerView) -> Node:
    progress = peer.catching_up
    lag_rows = 0 if peer.equal and peer.state == "linked" else None
    if progress is not None and progress.expected:
        lag_rows = max(0, progress.expected - progress.rows)
    return Node(
        peer.node_id,
        peer.name,
        peer.state,
        peer.roles,
        peer.equal,
        peer.rtt_ms,
        peer.offset_ms,
        lag_rows,
        None if progress is None else progress.left_ms,
        peer.sent_bytes,
        peer.received_bytes,
        peer.address,
    )


def _ends(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)


def _link_ends(link: list[Any]) -> tuple[str, str]:
    return str(int(link[0])), str(int(link[1]))


def _edge(ends: tuple[str, str], rtt_ms: float | None, moved: int, before: dict[tuple[str, str], int]) -> Edge:
    poor = rtt_ms is not None and rtt_ms > SLOW_MS
    return Edge(*ends, poor=poor, busy=ends in before and moved > before[ends])
