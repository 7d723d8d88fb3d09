"""Mesh cores joined by in-memory pipes under virtual time: the harness of the mesh's tests.

Bytes of one direction arrive in order, `delay_ms` later, cut where `cut_bytes` says. Each step has an event that caused it, and
the same seed gives the same run.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from mycomesh.mesh.config import MeshConfig
from mycomesh.mesh.core import MeshCore
from mycomesh.mesh.events import (
    Action,
    Address,
    AddressFound,
    Close,
    ConnClosed,
    ConnOpened,
    ConnReceived,
    DeliverBatch,
    DeliverMessage,
    Dial,
    DialFailed,
    Enrolled,
    Event,
    LinkDown,
    LinkReady,
    LinkUp,
    Notice,
    PublishBatch,
    SendMessage,
    TimerFired,
    Write,
)
from mycomesh.mesh.membership.identity import Identity, create_mesh, make_identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

WALL_MS = 1_760_000_000_000  # 2025-10-09: where virtual wall clocks begin
LIFETIME_S = 30 * 86_400
DIAL_LIMIT_MS = 2_000
PORT = 4747


class Core(Protocol):
    def handle(self, event: Event, now_ms: int, wall_ms: int) -> list[Action]: ...
    def next_deadline(self) -> int | None: ...


@lru_cache(maxsize=8)
def mesh_of(count: int, seed: int = 1) -> tuple[tuple[Identity, ...], bytes]:
    """`count` members of one mesh, `n0` first, and the root seed."""
    rng = random.Random(f"mesh {seed}")
    first, root_seed = create_mesh("test", "n0", entropy=rng.randbytes, wall_ms=WALL_MS, lifetime_s=LIFETIME_S)
    others = (
        make_identity(
            root_seed,
            mesh_name="test",
            node_name=f"n{index}",
            secret=first.secret,
            roles=("member",),
            entropy=rng.randbytes,
            not_before_s=WALL_MS // 1_000,
            lifetime_s=LIFETIME_S,
        )
        for index in range(1, count)
    )
    return (first, *others), root_seed


@dataclass(repr=False)
class End:
    """One end of a pipe: who holds it and what he calls it."""

    node: Node
    conn: int
    other: End | None = None
    open: bool = True
    busy_ms: float = 0.0  # when the last byte written here has left, at the pipes' rate


@dataclass(repr=False)
class Node:
    """One core, and everything it has answered."""

    name: str
    core: Core
    address: Address
    wall_ms: int = WALL_MS
    up: bool = True
    log: list[tuple[int, Action]] = field(default_factory=list)
    ends: dict[int, End] = field(default_factory=dict)
    links: dict[int, bytes] = field(default_factory=dict)

    def seen(self, kind: type) -> list[Action]:
        return [action for _, action in self.log if isinstance(action, kind)]

    def batches(self) -> list[bytes]:
        return [action.payload for action in self.seen(DeliverBatch)]

    def messages(self) -> list[bytes]:
        return [action.payload for action in self.seen(DeliverMessage)]

    def notices(self) -> list[str]:
        return [action.event for action in self.seen(Notice)]

    def link_to(self, other: Node) -> int:
        node_id = other.core._context.identity.node_id
        return next(link for link, peer in self.links.items() if peer == node_id)


class Pipes:
    """The world. `now_ms` is every node's monotonic clock."""

    def __init__(self, seed: int = 1, *, delay_ms: int = 1, cut_bytes: int = 1 << 20, bytes_ms: float = 1e9) -> None:
        self.rng = random.Random(f"pipes {seed}")
        self.now_ms = 1_000
        self.delay_ms = delay_ms
        self.cut_bytes = cut_bytes
        self.bytes_ms = bytes_ms
        self.nodes: list[Node] = []
        self.carried: dict[tuple[str, str], int] = {}
        self.tap: Callable[[Node, Node, bytes], bytes] | None = None  # sees and may change what travels
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._counter = 0
        self._conns = 0
        self._cuts: dict[tuple[str, str], None] = {}
        self._wakes: dict[str, int] = {}

    # ---- nodes

    def member(self, identity: Identity, *, config: MeshConfig | None = None, **more: object) -> Node:
        rng = random.Random(f"{identity.name} {self._counter}")
        core = MeshCore(identity, entropy=rng.randbytes, rng=rng, config=config or MeshConfig(), **more)
        core.advertise_port(PORT)
        return self.add(identity.name, core)

    def add(self, name: str, core: Core) -> Node:
        number = len(self.nodes) + 1
        node = Node(name, core, Address(f"10.0.{number >> 8}.{number & 255}", PORT))
        self.nodes.append(node)
        self._arm(node)
        return node

    def meet(self, left: Node, right: Node) -> None:
        """Give `left` the address of `right`."""
        self.feed(left, AddressFound(right.address))

    def meet_all(self) -> None:
        for left in self.nodes:
            for right in self.nodes:
                if left is not right:
                    self.meet(left, right)

    def feed(self, node: Node, event: Event) -> None:
        if not node.up:
            return
        actions = node.core.handle(event, self.now_ms, node.wall_ms + self.now_ms)
        for action in actions:
            self._do(node, action)
        self._arm(node)

    def publish(self, node: Node, payload: bytes, priority: int = 1) -> None:
        self.feed(node, PublishBatch(payload, priority))

    def send(self, node: Node, other: Node, payload: bytes, priority: int = 2) -> None:
        self.feed(node, SendMessage(node.link_to(other), payload, priority))

    def kill(self, node: Node, *, silent: bool) -> None:
        """End a node: like a dead process, or `silent` like a power cut."""
        node.up = False
        for end in node.ends.values():
            end.open = False
            if not silent:
                self._at(self.delay_ms, self._gone, end.other)

    # ---- the network

    def cut(self, left: Node, right: Node) -> None:
        self._cuts[left.name, right.name] = None
        self._cuts[right.name, left.name] = None

    def heal(self) -> None:
        self._cuts = {}

    def split(self, left: Iterable[Node], right: Iterable[Node]) -> None:
        right = list(right)
        for one in left:
            for other in right:
                self.cut(one, other)

    def stranger(self, node: Node, host: str = "10.9.9.9") -> Stranger:
        """Connect something that is no core."""
        self._conns += 1
        end = End(node, self._conns)
        node.ends[end.conn] = end
        stranger = Stranger(self, end)
        self.feed(node, ConnOpened(end.conn, Address(host, 40_000), dialled=False))
        return stranger

    # ---- time

    def run(self, ms: int) -> None:
        """Let this much time pass."""
        until = self.now_ms + ms
        while self._heap and self._heap[0][0] <= until:
            self._step()
        self.now_ms = until

    def run_until(self, condition: Callable[[], bool], *, limit_ms: int = 60_000) -> int:
        """Let time pass until it holds; how long it took."""
        start = self.now_ms
        while not condition():
            assert self._heap, "nothing will ever happen again"
            assert self._heap[0][0] <= start + limit_ms, f"not within {limit_ms} ms"
            self._step()
        return self.now_ms - start

    def _step(self) -> None:
        due, _, call, arguments = heapq.heappop(self._heap)
        self.now_ms = max(self.now_ms, int(due))
        call(*arguments)

    def _at(self, delay_ms: float, call: Callable[..., None], *arguments: object) -> None:
        self._counter += 1
        heapq.heappush(self._heap, (self.now_ms + delay_ms, self._counter, call, arguments))

    def _arm(self, node: Node) -> None:
        due = node.core.next_deadline()
        if due is None:
            return
        due = max(due, self.now_ms)
        planned = self._wakes.get(node.name)
        if planned is None or planned > due or planned < self.now_ms:
            self._wakes[node.name] = due
            self._at(due - self.now_ms, self._wake, node, due)

    def _wake(self, node: Node, due: int) -> None:
        if self._wakes.get(node.name) != due:
            return
        del self._wakes[node.name]
        wanted = node.core.next_deadline() if node.up else None
        if wanted is not None and wanted <= self.now_ms:
            for _ in range(3):  # what one timer does may make another one due, but not for ever
                self.feed(node, TimerFired())
                again = node.core.next_deadline()
                if again is None or again > self.now_ms:
                    return
            raise AssertionError(f"{node.name} would spin at {again}")
        if node.up:
            self._arm(node)

    # ---- actions

    def _do(self, node: Node, action: Action) -> None:
        node.log.append((self.now_ms, action))
        match action:
            case Dial(address):
                self._at(self.delay_ms, self._arrive, node, address)
            case Write(conn, data):
                self._write(node.ends[conn], data)
            case Close(conn, _):
                end = node.ends.pop(conn)
                end.open = False
                self._at(max(0.0, end.busy_ms - self.now_ms) + self.delay_ms, self._gone, end.other)
            case LinkUp(link, peer):
                assert link not in node.links, "LinkUp twice"
                assert peer.node_id not in node.links.values(), "two links to one member"
                node.links[link] = peer.node_id
            case LinkDown(link, peer):
                assert node.links.pop(link) == peer.node_id
            case DeliverMessage(link) | LinkReady(link):
                assert link in node.links, "a link that is not up speaks"
            case DeliverBatch() | Enrolled() | Notice():
                pass

    def _arrive(self, node: Node, address: Address) -> None:
        other = next((each for each in self.nodes if each.address == address), None)
        if other is None or (node.name, other.name) in self._cuts:
            self._at(DIAL_LIMIT_MS, self.feed, node, DialFailed(address))
        elif not other.up:
            self._at(self.delay_ms, self.feed, node, DialFailed(address))
        else:
            self._conns += 2
            left, right = End(node, self._conns - 1), End(other, self._conns)
            left.other, right.other = right, left
            node.ends[left.conn], other.ends[right.conn] = left, right
            self.feed(other, ConnOpened(right.conn, Address(node.address.host, 40_000), dialled=False))
            self._at(self.delay_ms, self.feed, node, ConnOpened(left.conn, address, dialled=True))

    def _write(self, end: End, data: bytes) -> None:
        other = end.other
        if other is None or not end.open:
            return
        pair = (end.node.name, other.node.name)
        if self.tap is not None:
            data = self.tap(end.node, other.node, data)
        self.carried[pair] = self.carried.get(pair, 0) + len(data)
        for at in range(0, len(data), self.cut_bytes):
            piece = data[at : at + self.cut_bytes]
            end.busy_ms = max(end.busy_ms, self.now_ms) + len(piece) / self.bytes_ms
            self._at(end.busy_ms - self.now_ms + self.delay_ms, self._deliver, end, piece)

    def _deliver(self, end: End, data: bytes) -> None:
        other = end.other
        assert other is not None
        if (end.node.name, other.node.name) in self._cuts:
            self._at(200, self._deliver, end, data)  # TCP tries again
        elif other.open and other.node.up:
            self.feed(other.node, ConnReceived(other.conn, data))

    def _gone(self, end: End | Stranger | None) -> None:
        if isinstance(end, End) and end.open and end.node.up:
            end.open = False
            end.node.ends.pop(end.conn, None)
            self.feed(end.node, ConnClosed(end.conn))


class Stranger:
    """The far end of a connection, in the hands of a test."""

    def __init__(self, pipes: Pipes, end: End) -> None:
        self._pipes = pipes
        self._end = end
        end.other = None

    @property
    def heard(self) -> bytes:
        """Everything the node wrote to it."""
        return b"".join(action.data for action in self._end.node.seen(Write) if action.conn == self._end.conn)

    @property
    def closed(self) -> str | None:
        """The reason for which the node closed it; None while it is open."""
        reasons = [action.reason for action in self._end.node.seen(Close) if action.conn == self._end.conn]
        return reasons[0] if reasons else None

    def say(self, data: bytes) -> None:
        self._pipes.feed(self._end.node, ConnReceived(self._end.conn, data))
