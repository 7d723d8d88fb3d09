"""The values that `top` draws: the mesh at one moment, from a running node's status or from the lines of a trace.

A `Picture` is immutable. It contains each link once, and only if both ends are members that it contains.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mycomesh.tools.moments import clock_time
from mycomesh.tools.views import linked_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mycomesh.mesh.node.status import PeerView, Status, TableView

__all__ = ["EVENTS_MAX", "Edge", "Event", "Live", "Node", "Picture", "Trace"]

EVENTS_MAX = 500  # the number of events that a filter can search
SLOW_MS = 250  # a link with a longer round trip is drawn as poor


@dataclass(frozen=True, slots=True)
class Node:
    """One member. `state` is here, linked, reachable or down.

    A value of None is unknown: a node that was not compared, or the bytes and round trips of a node in a trace.
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
class Event:
    """One line of the event list."""

    at: str
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Picture:
    """The mesh at one moment."""

    title: str
    nodes: tuple[Node, ...] = ()
    edges: tuple[Edge, ...] = ()
    tables: tuple[TableView, ...] = ()
    events: tuple[Event, ...] = ()
    note: str = ""

    @property
    def islands(self) -> int:
        """The number of groups of running members without links between them."""
        home = {node.key: node.key for node in self.nodes if node.state != "down"}

        def root(key: str) -> str:
            while home[key] != key:
                home[key] = home[home[key]]
                key = home[key]
            return key

        for edge in self.edges:
            if edge.first in home and edge.second in home:
                home[root(edge.first)] = root(edge.second)
        return len({root(key) for key in home})


@dataclass(slots=True)
class Live:
    """Makes pictures from a node's status; keeps the events, and each link's bytes in the last picture."""

    events: deque[Event] = field(default_factory=lambda: deque(maxlen=EVENTS_MAX))
    _bytes_before: dict[tuple[str, str], int] = field(default_factory=dict)

    def record_notice(self, notice: dict[str, Any]) -> None:
        """Add one notice of the node to the events, unless it is a debug notice."""
        if notice.get("level") != "debug":
            at = clock_time(str(notice.get("time")))
            self.events.append(Event(at, str(notice.get("level")), str(notice.get("text"))))

    def picture(self, status: Status, note: str = "") -> Picture:
        """Return the picture of a status."""
        own = Node(status.node_id, status.node, "here", status.roles, equal=True, address=f"port {status.port}")
        nodes = (own, *map(_member, status.peers))
        known = {node.key for node in nodes}
        found: dict[tuple[str, str], tuple[float | None, int]] = {}
        for peer in status.peers:
            for link in peer.links:
                if link.node_id in known and peer.state != "down":
                    found[_ends(peer.node_id, link.node_id)] = (link.rtt_ms, link.moved_bytes)
        # This node's own view of its links is newer than what others reported about them.
        found = {ends: value for ends, value in found.items() if status.node_id not in ends}
        for peer in status.peers:
            if peer.state == "linked":
                found[_ends(peer.node_id, own.key)] = (peer.rtt_ms, peer.sent_bytes + peer.received_bytes)
        edges = tuple(_edge(ends, *found[ends], self._bytes_before) for ends in sorted(found))
        self._bytes_before = {ends: moved for ends, (_, moved) in found.items()}
        edges += tuple(Edge(*ends, past=True) for ends in _past(status.peers))
        linked = linked_of(status.peers)
        down = sum(peer.state == "down" for peer in status.peers)
        title = f"{status.mesh or 'joining'}: {status.node}, {linked} of {len(status.peers)} linked"
        title += f", {down} down" if down else ""
        return Picture(title, nodes, edges, status.tables, tuple(self.events), note or status.hint)


@dataclass(slots=True)
class Trace:
    """Makes pictures from a simulation's trace, read line by line (docs/simulations.md, "Trace file")."""

    names: list[str] = field(default_factory=list)
    events: deque[Event] = field(default_factory=lambda: deque(maxlen=EVENTS_MAX))
    scenario: str = ""
    t: float = 0.0
    agree: str = ""
    _groups: list[int | None] = field(default_factory=list)
    _links: list[list[Any]] = field(default_factory=list)
    _bytes_before: dict[tuple[str, str], int] = field(default_factory=dict)

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
                if len(line["groups"]) != len(self.names):
                    raise ValueError("a topology has another number of nodes")
                self._bytes_before = {_link_ends(link): int(link[3]) for link in self._links}
                self._groups, self._links = list(line["groups"]), [list(link) for link in line["links"]]
            case "sample":
                self.agree = f"{line['agree']} of {line['up']} equal"
            case "fault" if line["fault"] != "Move":  # nodes move every second; their links show it
                self._event("warning", str(line["text"]))
            case "notice":
                if line["level"] != "debug":
                    self._event(str(line["level"]), f"{self.names[int(line['node'])]}: {line['text']}")
            case "calm":
                self._event("info", "faults and writes have ended")
            case "result":
                self._event("info", "the run has ended")
            case _:
                pass

    def picture(self, note: str = "") -> Picture:
        """Return the picture after the last line."""
        groups = self._groups or [0] * len(self.names)
        nodes = tuple(
            Node(str(number), name, "down" if group is None else "linked", equal=None if group is None else group == 0)
            for number, (name, group) in enumerate(zip(self.names, groups, strict=True))
        )
        edges = tuple(_edge(_link_ends(link), link[2], int(link[3]), self._bytes_before) for link in self._links)
        parts = Counter(group for group in groups if group is not None)
        title = f"{self.scenario}, t = {self.t:.1f} s, {self.agree or f'{len(parts)} content(s)'}"
        return Picture(title, nodes, edges, (), tuple(self.events), note)

    def _event(self, level: str, text: str) -> None:
        self.events.append(Event(f"{self.t:8.1f}", level, text))


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
