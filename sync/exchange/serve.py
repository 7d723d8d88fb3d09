"""The sender's side of rounds: serves each linked peer one catch-up stream at a time.

The sender spends little on any one peer. A stream goes no faster than its peer acknowledges, a few chunks at a time, so that
live traffic goes between. A peer that keeps requesting rows which it has received already is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.errors import DatabaseError
from mycomesh.sync.exchange.catch_up_stream import CatchUpStream, fitting
from mycomesh.sync.exchange.flow_control import SendWindow, TokenBucket
from mycomesh.sync.exchange.table_budget import TableBudgets
from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.replica import Replica
from mycomesh.sync.storage.log_reader import FEED_BYTES_MAX
from mycomesh.sync.wire import messages as wire

__all__ = ["CatchUpServer"]

# While a stream waits for acknowledgements, as on a link whose budget is spent, the peer learns this often that it goes on.
KEEP_MS = 60_000
# A stream ends without the tables whose budgets are spent after it has waited this long for them: the receiver covers the others
# then, keeps what has come of these, and requests them again.
STARVED_MS = 60_000
# Chunks in one step. A step occupies the SQL thread for some 15 ms; then other work has its turn.
STEP_CHUNKS = 4
# A peer may request rows again: if its file is locked, it cannot apply a chunk and retries at growing intervals.
REPEATS_MAX = 16
REPEATS_PERIOD_MS = 5_000


@dataclass(slots=True)
class _Link:
    window: SendWindow
    repeats: TokenBucket
    stream: CatchUpStream | None = None
    kept_ms: int = 0  # when the peer last learned that its stream goes on
    metered: bool = False
    hold_ms: int = 0  # when a budget has room for what the stream waits for
    starved_ms: int | None = None  # since when nothing but tables without room is left
    starved: tuple[str, ...] = ()  # the tables without room, at the last look
    paced: int = 0  # how many chunks had gone on all links when the last one of a table with a budget went here
    delivered: dict[str, Vector] = field(default_factory=dict)  # vectors of the streams that this peer received whole
    rows: int = 0


class CatchUpServer:
    """The catch-up streams of all links."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._budgets = TableBudgets(replica.priority.settings)
        self._links: dict[int, _Link] = {}
        self._now_ms = 0
        self._paced = 0  # chunks of tables with budgets, on all links

    def on_link_opened(self, number: int, window: SendWindow, *, metered: bool = False) -> None:
        """Register a link, whose `window` limits the bytes under way; on a `metered` one tables have budgets."""
        self._links[number] = _Link(window, TokenBucket(REPEATS_MAX, REPEATS_PERIOD_MS), metered=metered)

    def on_link_closed(self, number: int) -> None:
        """Remove a link and its stream."""
        self._links.pop(number, None)
        self._budgets.on_link_closed(number)

    def rows_sent(self, number: int) -> int:
        """Return how many changes were sent on a link."""
        return self._links[number].rows

    def is_streaming(self, number: int) -> bool:
        """Return True while a stream on a link has not ended."""
        return self._links[number].stream is not None

    def waiting(self, number: int, now_ms: int) -> list[str]:
        """Return the tables whose rows wait for their budget on a link."""
        return [name for name in self._links[number].starved if self._budgets.room(number, name, now_ms) == 0]

    @property
    def ready(self) -> bool:
        """True if some stream can send its next chunk."""
        return any(self._may_send(link) for link in self._links.values())

    def _may_send(self, link: _Link) -> bool:
        return link.stream is not None and link.window.has_room and self._now_ms >= link.hold_ms

    def on_vectors(self, number: int, vectors: dict[str, Vector], turn: Turn) -> None:
        """Begin a stream of everything that a peer does not cover, given its vectors by table.

        Tables that do not fit one round are left out of it, and the peer requests them again.
        """
        link = self._links[number]
        if link.stream is not None:
            turn.drop(number, "requests a stream before the last one has ended")
            return
        again = any(
            next(iter(link.delivered[name].missing_from(have)), None)
            for name, have in vectors.items()
            if name in link.delivered
        )
        if again and not link.repeats.take(turn.now_ms):
            turn.drop(number, "requests the same rows too often")
            return
        have = {name: vectors[name] for name in fitting(self._replica, vectors)}
        room = partial(self._room, number) if link.metered else None
        link.stream = CatchUpStream(self._replica, have, room)
        link.kept_ms, link.hold_ms, link.starved_ms = turn.now_ms, 0, None
        changes = link.stream.estimate()
        if changes:
            turn.send(number, wire.Plan(changes))

    def next_deadline(self) -> int | None:
        """Return when `on_timer` is due."""
        streaming = [link for link in self._links.values() if link.stream is not None]
        held = [link.hold_ms for link in streaming if link.hold_ms > self._now_ms]
        return min([*held, *(link.kept_ms + KEEP_MS for link in streaming)], default=None)

    def _room(self, number: int, name: str) -> int | None:
        return self._budgets.room(number, name, self._now_ms)

    def on_timer(self, turn: Turn) -> None:
        """Let streams that a budget held go on, and tell peers whose streams wait: else they take the link for dead."""
        if any(0 < link.hold_ms <= turn.now_ms and link.stream is not None for link in self._links.values()):
            self.step(turn)
        for number, link in sorted(self._links.items()):
            if link.stream is not None and turn.now_ms >= link.kept_ms + KEEP_MS:
                link.kept_ms, since_ms = turn.now_ms, link.window.waiting_since
                if since_ms is not None and turn.now_ms >= since_ms + KEEP_MS:
                    turn.send(number, wire.Plan(link.stream.estimate()), urgent=True)

    def step(self, turn: Turn) -> None:
        """Send up to `STEP_CHUNKS` chunks on every link whose window has room.

        Raises:
            DatabaseError: the file refused in the stream of some link; all other streams took their step.
        """
        refusal: DatabaseError | None = None
        self._now_ms = turn.now_ms
        # All links share the bytes of a table's day: the link that has had none for longest comes first.
        for number, link in sorted(self._links.items(), key=lambda each: (each[1].paced, each[0])):
            for _ in range(STEP_CHUNKS):
                if link.stream is None or not self._may_send(link):
                    break
                try:
                    self._send_next(number, link, link.stream, turn)
                except DatabaseError as error:
                    refusal = error
                    break
        if refusal is not None:
            raise refusal

    def _send_next(self, number: int, link: _Link, stream: CatchUpStream, turn: Turn) -> None:
        chunk = stream.next(turn.wall_ms, min(FEED_BYTES_MAX, link.window.size))
        turn.publish(chunk.published)
        link.starved = chunk.starved
        if chunk.bundle is None and chunk.starved:
            link.starved_ms = turn.now_ms if link.starved_ms is None else link.starved_ms
            link.hold_ms = min(self._budgets.next_ms(number, name, turn.now_ms) for name in chunk.starved)
            if turn.now_ms < link.starved_ms + STARVED_MS:
                return
            stream.leave(chunk.starved)
            chunk = stream.next(turn.wall_ms, min(FEED_BYTES_MAX, link.window.size))
            turn.publish(chunk.published)
        if chunk.bundle is None:
            link.stream = None
            link.delivered.update(chunk.vectors)
            turn.send(number, wire.Done(tuple(sorted(chunk.vectors.items())), tuple(sorted(chunk.collected.items()))))
            return
        link.rows += chunk.rows
        size = turn.send(number, wire.Chunk(chunk.bundle), urgent=chunk.urgent)
        link.window.record_sent(size, turn.now_ms)
        if link.metered and len(chunk.tables) == 1:
            self._budgets.spend(number, chunk.tables[0], size, turn.now_ms)
            self._paced += 1
            link.paced = self._paced
