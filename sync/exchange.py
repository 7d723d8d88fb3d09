"""The conversation of one replica with its peers: live batches out and in, and anti-entropy rounds.

Owns when to drain, compare, ask and stream (design.md sections 5 and 6); docs/PROTOCOL.md tells the messages. What always
holds: a batch is published only after it is committed; a sender's vector is adopted only after every chunk of its stream
was applied; work for one peer is bounded by its acknowledgements. It must not know sockets or clocks: `handle` gets events
and both times, and returns actions in the order they must be done.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import assert_never

from sync import message as wire
from sync.errors import BatchRefusedError, DatabaseBusyError, DecodeError
from sync.events import (
    Action,
    BatchReceived,
    CommitSeen,
    DropLink,
    Event,
    LinkClosed,
    LinkOpened,
    LinkWritable,
    MessageReceived,
    Notice,
    Publish,
    ScrubRequested,
    Send,
    TimerFired,
)
from sync.repair import Repair, digests_in
from sync.replica import Replica
from sync.sketch import Sketch
from sync.stream import Stream

__all__ = ["Exchange", "ExchangeConfig", "LinkStatus"]

# Applied chunks come back as credit: enough in flight to fill a fast link, little enough to bound a slow peer's memory.
WINDOW_CHUNKS = 8
# Repairs of one link wait their turn; a peer that asks for more than this is not answered.
REPAIRS_MAX = 16


@dataclass(frozen=True, slots=True)
class ExchangeConfig:
    """Times in milliseconds, each with its reason.

    safety_ms: how often `data_version` is checked although no commit was seen; inotify is blind to mmap and network writes.
    compare_ms: how often digests are exchanged on an idle link, with jitter; a lost or corrupted row waits this long.
    settle_ms: digests are exchanged this long after the last change, so that `status` tells the truth soon.
    repair_ms: how long a gap in a site's clock may be filled by the live path before a round asks for it.
    busy_ms: how long to wait when another program holds the write lock.
    mend_ms: how long after a repair of a table the next may start on the same link; its effect has to be told first.
    stall_ms: a round that brings nothing for this long is given up, and another peer may be asked.
    """

    safety_ms: int = 1_000
    compare_ms: int = 15_000
    settle_ms: int = 500
    repair_ms: int = 100
    busy_ms: int = 50
    stall_ms: int = 10_000
    mend_ms: int = 5_000

    def __post_init__(self) -> None:
        """Refuses times that would make a node spin."""
        for name in ("safety_ms", "compare_ms", "settle_ms", "repair_ms", "busy_ms", "stall_ms", "mend_ms"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1 ms")


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """One link, for people: rows sent and received by rounds, and whether its tables equalled ours when last compared."""

    peer: bytes
    equal: bool
    behind: tuple[str, ...]
    rows_sent: int
    rows_received: int
    streaming: bool
    fetching: bool


@dataclass(slots=True)
class _Link:
    peer: bytes
    compare_at: int
    digests: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)  # what the peer last told
    asked: dict[str, bytes] = field(default_factory=dict)  # vector digests that a round has answered or will
    suspects: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)  # digests that differed when last compared
    stream: Stream | None = None
    repairs: list[Repair] = field(default_factory=list)
    repaired_at: dict[str, int] = field(default_factory=dict)
    credit: int = WINDOW_CHUNKS
    abandoned: bool = False  # a round was given up: the end of its stream may still come, and proves nothing
    failed: bool = False  # a chunk of the running round could not be applied: its end proves nothing
    refused: bool = False  # ... because its stamps lie too far ahead: asking again at once would not help
    heard_at: int = 0
    rows_sent: int = 0
    rows_received: int = 0


class Exchange:
    """The sync half of a node."""

    def __init__(self, replica: Replica, *, rng: random.Random, config: ExchangeConfig) -> None:
        self._replica = replica
        self._rng = rng
        self._config = config
        self._links: dict[int, _Link] = {}
        self._fetching: dict[str, int] = {}  # table -> the link that it is being fetched from
        self._drain_at: int | None = 0
        self._quiet_at: int | None = None  # when the latest change has settled
        self._ask_at: dict[int, int] = {}  # link -> when to ask it for what it has and we lack

    @property
    def replica(self) -> Replica:
        """The file this exchange speaks for."""
        return self._replica

    def handle(self, event: Event, now_ms: int, wall_ms: int) -> list[Action]:
        """Takes one event and returns what to do, in order. `now_ms` is monotonic, `wall_ms` Unix time."""
        actions: list[Action] = []
        match event:
            case CommitSeen():
                self._drain(actions, now_ms, wall_ms)
            case BatchReceived(link, origin, payload):
                self._on_batch(link, origin, payload, actions, now_ms, wall_ms)
            case MessageReceived(link, payload):
                self._on_message(link, payload, actions, now_ms, wall_ms)
            case LinkOpened(link, peer):
                self._links[link] = _Link(peer, self._jittered(now_ms, self._config.compare_ms), heard_at=now_ms)
                self._drain(actions, now_ms, wall_ms)
                self._compare(link, actions, now_ms)
            case LinkClosed(link):
                self._on_closed(link, now_ms)
            case LinkWritable():
                pass  # streams go by acknowledged chunks; the link's own queue needs no help
            case ScrubRequested():
                try:
                    self._replica.scrub()
                except DatabaseBusyError as error:
                    actions.append(Notice("scrub.busy", f"scrub not started: {error}", {}, "warning"))
                self._drain(actions, now_ms, wall_ms)
            case TimerFired():
                self._on_timer(actions, now_ms, wall_ms)
            case _:
                assert_never(event)
        return actions

    def next_deadline(self) -> int | None:
        """Returns the monotonic millisecond at which `TimerFired` is due."""
        times = [link.compare_at for link in self._links.values()]
        times += self._ask_at.values()
        times += [at for at in (self._drain_at, self._quiet_at) if at is not None]
        return min(times, default=None)

    def links(self) -> tuple[LinkStatus, ...]:
        """Returns every link's state, for people, by link number."""
        mine = {digest.table: (digest.vector, digest.entries) for digest in self._replica.digests()}
        result = []
        for number in sorted(self._links):
            link = self._links[number]
            behind = tuple(name for name, digest in mine.items() if link.digests.get(name) != digest)
            fetching = number in self._fetching.values()
            result.append(
                LinkStatus(
                    link.peer,
                    not behind,
                    behind,
                    link.rows_sent,
                    link.rows_received,
                    link.stream is not None,
                    fetching,
                )
            )
        return tuple(result)

    # ---- local writes

    def _drain(self, actions: list[Action], now_ms: int, wall_ms: int) -> None:
        """Publishes one chunk of local writes; more chunks follow by timer, so that links are served in between."""
        try:
            published, more = self._replica.drain(wall_ms)
        except DatabaseBusyError:
            self._drain_at = now_ms + self._config.busy_ms
            return
        self._drain_at = now_ms if more else now_ms + self._config.safety_ms
        self._publish(published, actions, now_ms)

    def _publish(self, batches: list[bytes], actions: list[Action], now_ms: int) -> None:
        actions.extend(Publish(batch) for batch in batches)
        if batches:
            self._settle(now_ms)

    def _settle(self, now_ms: int) -> None:
        """Something changed: compare once it is quiet. While changes keep coming, only the periodic comparison is made."""
        self._quiet_at = now_ms + self._config.settle_ms

    def _jittered(self, now_ms: int, period_ms: int) -> int:
        return now_ms + period_ms - self._rng.randrange(period_ms // 4 + 1)

    # ---- live batches

    def _on_batch(
        self, number: int, origin: bytes, payload: bytes, actions: list[Action], now_ms: int, wall_ms: int
    ) -> None:
        try:
            applied = self._replica.apply(payload, wall_ms, origin=origin)
        except DatabaseBusyError:
            self._ask_soon(number, now_ms)  # what was not applied is not covered: a round brings it
            return
        except (DecodeError, BatchRefusedError) as error:
            text = f"batch of {origin.hex()[:8]} refused: {error}"
            actions.append(Notice("batch.refused", text, {"origin": origin.hex()}, "warning"))
            return
        self._publish(applied.published, actions, now_ms)
        if applied.merged.changes:
            self._settle(now_ms)
        self._tell(applied.merged.conflicts, applied.merged.parked, actions)
        if applied.gaps or applied.unknown:
            self._ask_soon(number, now_ms)

    def _tell(self, conflicts: int, parked: int, actions: list[Action]) -> None:
        if conflicts:
            text = f"{conflicts} conflicting write(s) kept in mycomesh_conflicts"
            actions.append(Notice("merge.conflict", text, {"count": conflicts}))
        if parked:
            actions.append(Notice("merge.parked", f"{parked} row(s) parked, see mycomesh_parked", {"count": parked}))

    # ---- rounds

    def _compare(self, number: int, actions: list[Action], now_ms: int) -> None:
        """Tells the peer what we hold; equal replicas need nothing more."""
        link = self._links[number]
        link.compare_at = self._jittered(now_ms, self._config.compare_ms)
        actions.append(Send(number, wire.encode(wire.Digests(self._digests()))))

    def _digests(self) -> tuple[tuple[str, bytes, bytes], ...]:
        return tuple((digest.table, digest.vector, digest.entries) for digest in self._replica.digests())

    def _on_message(self, number: int, payload: bytes, actions: list[Action], now_ms: int, wall_ms: int) -> None:
        link = self._links.get(number)
        if link is None:
            return
        link.heard_at = now_ms
        try:
            message = wire.decode(payload)
            match message:
                case wire.Digests(tables):
                    link.digests = {name: (vector, entries) for name, vector, entries in tables}
                    self._ask(number, actions, now_ms)
                    self._start_repairs(link, now_ms)
                case wire.Vectors(vectors):
                    link.stream = Stream(self._replica, dict(vectors))
                    link.credit = WINDOW_CHUNKS
                    self._pump(number, actions, now_ms, wall_ms)
                case wire.Chunk(bundle):
                    self._on_chunk(number, bundle, actions, now_ms, wall_ms)
                case wire.Ack(chunks):
                    link.credit = min(link.credit + chunks, WINDOW_CHUNKS)
                    self._pump(number, actions, now_ms, wall_ms)
                case wire.Done(vectors):
                    self._on_done(number, message, actions, now_ms)
                case wire.SketchOf() | wire.Want() | wire.Mend():
                    self._on_repair(number, message, actions, now_ms, wall_ms)
                case _:
                    assert_never(message)
        except DecodeError as error:
            actions.append(DropLink(number, f"protocol error: {error}"))

    def _ask_soon(self, number: int, now_ms: int) -> None:
        if number in self._links:
            self._ask_at.setdefault(number, now_ms + self._config.repair_ms)

    def _ask(self, number: int, actions: list[Action], now_ms: int) -> None:
        """Asks a peer for what it covers and we do not, except what another peer is sending already."""
        link = self._links[number]
        if link.abandoned:
            return  # until that stream has ended, its end could be taken for the end of another
        mine = {digest.table: digest.vector for digest in self._replica.digests()}
        wanted = [
            name
            for name, (vector, _) in sorted(link.digests.items())
            if mine.get(name) != vector
            and link.asked.get(name) != vector
            and name not in self._fetching
            and self._replica.admits(name)
        ]
        if not wanted:
            return
        for name in wanted:
            self._fetching[name] = number
            link.asked[name] = link.digests[name][0]
        link.failed = link.refused = False
        link.heard_at = now_ms
        vectors = tuple((name, self._replica.vector(name)) for name in wanted)
        actions.append(Send(number, wire.encode(wire.Vectors(vectors))))
        self._ask_at[number] = now_ms + self._config.stall_ms

    def _pump(self, number: int, actions: list[Action], now_ms: int, wall_ms: int) -> None:
        """Sends chunks of the peer's stream while it has credit, and the end of it."""
        link = self._links[number]
        stream = link.stream
        while stream is not None and link.credit:
            try:
                chunk = stream.next(wall_ms)
            except DatabaseBusyError:
                self._drain_at = now_ms + self._config.busy_ms
                return
            self._publish(chunk.published, actions, now_ms)
            if chunk.bundle is None:
                actions.append(Send(number, wire.encode(wire.Done(tuple(sorted(chunk.vectors.items()))))))
                link.stream = None
                return
            link.credit -= 1
            link.rows_sent += chunk.rows
            actions.append(Send(number, wire.encode(wire.Chunk(chunk.bundle))))

    def _on_chunk(self, number: int, bundle: bytes, actions: list[Action], now_ms: int, wall_ms: int) -> None:
        link = self._links[number]
        try:
            applied = self._replica.apply(bundle, wall_ms)
        except DatabaseBusyError:
            link.failed = True
        else:
            if applied.refused:
                link.failed = link.refused = True
                text = (
                    f"{applied.refused} changes from {link.peer.hex()[:8]} are stamped too far ahead; check its clock"
                )
                actions.append(Notice("round.refused", text, {"changes": applied.refused}, "warning"))
            link.rows_received += applied.merged.changes
            self._publish(applied.published, actions, now_ms)
            self._tell(applied.merged.conflicts, applied.merged.parked, actions)
        self._ask_at[number] = now_ms + self._config.stall_ms
        actions.append(Send(number, wire.encode(wire.Ack(1))))

    def _on_done(self, number: int, message: wire.Done, actions: list[Action], now_ms: int) -> None:
        link = self._links[number]
        if link.abandoned:
            link.abandoned = False
            self._ask(number, actions, now_ms)
            return
        vectors = {name: vector for name, vector in message.vectors if self._fetching.get(name) == number}
        moved: list[str] = []
        if not link.failed:
            try:
                moved = self._replica.adopt(vectors)
            except DatabaseBusyError:
                link.failed = True
        self._release(number)
        if link.failed:
            delay_ms = self._config.compare_ms if link.refused else self._config.repair_ms
            self._ask_at[number] = now_ms + delay_ms
            return
        if moved:
            rows = link.rows_received
            actions.append(
                Notice("round.done", f"caught up with {link.peer.hex()[:8]}", {"rows": rows, "tables": moved})
            )
            for other in sorted(self._links):
                self._compare(other, actions, now_ms)
        for other in sorted(self._links):
            if other != number:
                self._ask(other, actions, now_ms)

    def _release(self, number: int) -> None:
        self._ask_at.pop(number, None)
        link = self._links.get(number)
        for name in [name for name, link in self._fetching.items() if link == number]:
            del self._fetching[name]
            if link is not None and link.failed:
                link.asked.pop(name, None)

    def _on_closed(self, number: int, now_ms: int) -> None:
        self._links.pop(number, None)
        self._release(number)
        for other in self._links:
            self._ask_soon(other, now_ms)

    # ---- repair: equal vectors, different digests

    def _start_repairs(self, link: _Link, now_ms: int) -> None:
        """Begins the repair of each damaged table; of two peers the one with the lower site begins."""
        if self._replica.site[:8] > link.peer[:8]:
            return
        for digest in self._replica.digests():
            told = link.digests.get(digest.table)
            if told is None or told[0] != digest.vector or told[1] == digest.entries:
                link.suspects.pop(digest.table, None)
                continue
            pair = (digest.entries, told[1])
            if link.suspects.get(digest.table) != pair:
                # Batches may be under way: what is damaged differs in the same way when it is compared again.
                link.suspects[digest.table] = pair
                self._settle(now_ms)
                continue
            if now_ms >= link.repaired_at.get(digest.table, now_ms) and len(link.repairs) < REPAIRS_MAX:
                link.repaired_at[digest.table] = now_ms + self._config.mend_ms
                link.repairs.append(Repair(digest.table, digest.vector))
                self._drain_at = now_ms

    def _on_repair(
        self,
        number: int,
        message: wire.SketchOf | wire.Want | wire.Mend,
        actions: list[Action],
        now_ms: int,
        wall_ms: int,
    ) -> None:
        link = self._links[number]
        match message:
            case wire.Mend(bundle):
                try:
                    applied = self._replica.apply(bundle, wall_ms, repair=True)
                except DatabaseBusyError:
                    return  # the next comparison begins again
                self._publish(applied.published, actions, now_ms)
                self._settle(now_ms)
                if applied.merged.changes:
                    text = f"{applied.merged.changes} damaged entries repaired from {link.peer.hex()[:8]}"
                    actions.append(Notice("repair.done", text, {"changes": applied.merged.changes}, "warning"))
                return
            case wire.SketchOf(table, vector, sketch):
                repair = Repair.answering(table, vector, Sketch.decode(sketch))
                mine = {digest.table: digest.vector for digest in self._replica.digests()}
                if mine.get(table) != vector:
                    return  # the tables have moved on: compare again later
            case wire.Want(table, digests):
                repair = Repair.mending(table, digests_in(digests))
            case _:
                assert_never(message)
        if len(link.repairs) >= REPAIRS_MAX:
            return
        link.repairs.append(repair)
        self._drain_at = now_ms

    def _step_repairs(self, number: int, actions: list[Action], now_ms: int, wall_ms: int) -> None:
        """One bounded step of the link's first repair; more by timer."""
        link = self._links[number]
        if not link.repairs:
            return
        repair = link.repairs[0]
        messages: list[wire.Message] = []
        try:
            published = self._replica.settled(wall_ms, lambda: messages.extend(repair.step(self._replica)))
        except DatabaseBusyError:
            self._drain_at = now_ms + self._config.busy_ms
            return
        self._publish(published, actions, now_ms)
        actions.extend(Send(number, wire.encode(message)) for message in messages)
        if repair.done:
            link.repairs.pop(0)
        if link.repairs:
            self._drain_at = now_ms

    # ---- time

    def _on_timer(self, actions: list[Action], now_ms: int, wall_ms: int) -> None:
        if self._drain_at is not None and now_ms >= self._drain_at:
            if self._replica.stale():
                self._drain(actions, now_ms, wall_ms)
            else:
                self._drain_at = now_ms + self._config.safety_ms
            for number in sorted(self._links):
                if self._links[number].stream is not None:
                    self._pump(number, actions, now_ms, wall_ms)
                self._step_repairs(number, actions, now_ms, wall_ms)
        for number, at in sorted(self._ask_at.items()):
            if now_ms >= at:
                self._on_overdue(number, actions, now_ms)
        if self._quiet_at is not None and now_ms >= self._quiet_at:
            self._quiet_at = None
            for link in self._links.values():
                at = now_ms + self._rng.randrange(self._config.settle_ms)
                link.compare_at = min(link.compare_at, at)
        for number, link in sorted(self._links.items()):
            if now_ms >= link.compare_at:
                self._compare(number, actions, now_ms)

    def _on_overdue(self, number: int, actions: list[Action], now_ms: int) -> None:
        """A gap that the live path did not fill is asked for; a round that stalled is given up, and others are asked."""
        link = self._links[number]
        link.failed = True
        link.abandoned = link.abandoned or number in self._fetching.values()
        link.asked.clear()
        self._release(number)
        if not link.abandoned:
            self._ask(number, actions, now_ms)
            return
        for other in sorted(self._links):
            self._ask(other, actions, now_ms)
