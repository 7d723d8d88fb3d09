"""What `top` shows: the mesh at one moment, made from a running node's status or from the lines of a trace.

Owns the values that the screens draw. What always holds: a `Picture` never changes; each link is in it once, and only if
one of its ends is known. It must not know the terminal, sockets or files.
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

EVENTS_MAX = 500  # what a filter looks through
SLOW_MS = 250  # a round trip above this is drawn as a poor link


@dataclass(frozen=True, slots=True)
class Node:
    """One member. `state` is here, linked, reachable or down; `equal` None: not compared; milliseconds and bytes.

    What is None is not known; a trace tells neither bytes nor round trips of nodes.
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
    """One link: its ends' keys in order, health (good or poor), and whether bytes moved since the last picture.

    One that is `past` is the last word of two members who are both out of sight.
    """

    first: str
    second: str
    poor: bool = False
    busy: bool = False
    past: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the feed."""

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
        """How many groups of members that are up have no link between them."""
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
    """Pictures of a running node; keeps what one status cannot tell: events, and the bytes of the last look."""

    events: deque[Event] = field(default_factory=lambda: deque(maxlen=EVENTS_MAX))
    _moved: dict[tuple[str, str], int] = field(default_factory=dict)

    def heard(self, notice: dict[str, Any]) -> None:
        """Take one notice of the node; those for debugging are left out."""
        if notice.get("level") != "debug":
            at = clock_time(str(notice.get("time")))
            self.events.append(Event(at, str(notice.get("level")), str(notice.get("text"))))

    def picture(self, status: Status, note: str = "") -> Picture:
        """Return what the status shows."""
        own = Node(status.node_id, status.node, "here", status.roles, equal=True, address=f"port {status.port}")
        nodes = (own, *map(_member, status.peers))
        known = {node.key for node in nodes}
        found: dict[tuple[str, str], tuple[float | None, int]] = {}
        for peer in status.peers:
            for link in peer.links:
                if link.node_id in known and peer.state != "down":
                    found[_ends(peer.node_id, link.node_id)] = (link.rtt_ms, link.moved_bytes)
        # What this node sees itself is newer than what the others have told.
        found = {ends: value for ends, value in found.items() if status.node_id not in ends}
        for peer in status.peers:
            if peer.state == "linked":
                found[_ends(peer.node_id, own.key)] = (peer.rtt_ms, peer.sent_bytes + peer.received_bytes)
        edges = tuple(_edge(ends, *found[ends], self._moved) for ends in sorted(found))
        self._moved = {ends: moved for ends, (_, moved) in found.items()}
        edges += tuple(Edge(*ends, past=True) for ends in _past(status.peers))
        linked = linked_of(status.peers)
        down = sum(peer.state == "down" for peer in status.peers)
        title = f"{status.mesh or 'joining'}: {status.node}, {linked} of {len(status.peers)} linked"
        title += f", {down} down" if down else ""
        return Picture(title, nodes, edges, status.tables, tuple(self.events), note or status.hint)


@dataclass(slots=True)
class Trace:
    """Pictures of a simulation's trace (docs/simulations.md, "Trace file"), one line after another."""

    names: list[str] = field(default_factory=list)
    events: deque[Event] = field(default_factory=lambda: deque(maxlen=EVENTS_MAX))
    scenario: str = ""
    t: float = 0.0
    agree: str = ""
    _groups: list[int | None] = field(default_factory=list)
    _links: list[list[Any]] = field(default_factory=list)
    _moved: dict[tuple[str, str], int] = field(default_factory=dict)

    def feed(self, line: dict[str, Any]) -> None:
        """Take one line; kinds that are not known are skipped. Raises KeyError, TypeError, ValueError if it is none."""
        self.t = float(line["t"])
        match line["kind"]:
            case "header":
                self.names = [str(name) for name in line["names"]]
                self.scenario = f"{line['scenario']} (seed {line['seed']})"
            case "topology":
                if len(line["groups"]) != len(self.names):
                    raise ValueError("a topology of another number of nodes")
                self._moved = {_numbered(link): int(link[3]) for link in self._links}
                self._groups, self._links = list(line["groups"]), [list(link) for link in line["links"]]
            case "sample":
                self.agree = f"{line['agree']} of {line['up']} equal"
            case "fault" if line["fault"] != "Move":  # that nodes move on each second is seen by their links
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
        """Return what is known up to the last line."""
        groups = self._groups or [0] * len(self.names)
        nodes = tuple(
            Node(str(number), name, "down" if group is None else "linked", equal=None if group is None else group == 0)
            for number, (name, group) in enumerate(zip(self.names, groups, strict=True))
        )
        edges = tuple(_edge(_numbered(link), link[2], int(link[3]), self._moved) for link in self._links)
        parts = Counter(group for group in groups if group is not None)
        title = f"{self.scenario}, t = {self.t:.1f} s, {self.agree or f'{len(parts)} content(s)'}"
        return Picture(title, nodes, edges, (), tuple(self.events), note)

    def _event(self, level: str, text: str) -> None:
        self.events.append(Event(f"{self.t:8.1f}", level, text))


def _past(peers: Sequence[PeerView]) -> list[tuple[str, str]]:
    """Return the links among members out of sight that both ends told last: what a split has cut off stays one island.

    One that went alone has none: those who saw it go told so before they went themselves.
    """
    told = {peer.node_id: {link.node_id for link in peer.links} for peer in peers if peer.state == "down"}
    return [
        (one, two)
        for one in sorted(told)
        for two in sorted(told)
        if one < two and one in told[two] and two in told[one]
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


def _numbered(link: list[Any]) -> tuple[str, str]:
    return str(int(link[0])), str(int(link[1]))


def _edge(ends: tuple[str, str], rtt_ms: float | None, moved: int, before: dict[tuple[str, str], int]) -> Edge:
    poor = rtt_ms is not None and rtt_ms > SLOW_MS
    return Edge(*ends, poor=poor, busy=ends in before and moved > before[ends])
