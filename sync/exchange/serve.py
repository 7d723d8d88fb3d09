"""The sender's side of rounds: serves each linked peer one catch-up stream at a time.

The sender spends little on any one peer. A stream goes no faster than its peer acknowledges, a few chunks at a time, so that
live traffic goes between. A peer that keeps requesting rows which it has received already is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.errors import DatabaseError
from mycomesh.sync.exchange.catch_up_stream import CatchUpStream, fitting
from mycomesh.sync.exchange.flow_control import SendWindow, TokenBucket
from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.replica import Replica
from mycomesh.sync.storage.log_reader import FEED_BYTES_MAX
from mycomesh.sync.wire import messages as wire

__all__ = ["CatchUpServer"]

# While a stream waits for acknowledgements, as on a link whose budget is spent, the peer learns this often that it goes on.
KEEP_MS = 60_000
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
    delivered: dict[str, Vector] = field(default_factory=dict)  # vectors of the streams that this peer received whole
    rows: int = 0


class CatchUpServer:
    """The catch-up streams of all links."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._links: dict[int, _Link] = {}

    def on_link_opened(self, number: int, window: SendWindow) -> None:
        """Register a link, whose `window` limits the bytes under way."""
        self._links[number] = _Link(window, TokenBucket(REPEATS_MAX, REPEATS_PERIOD_MS))

    def on_link_closed(self, number: int) -> None:
        """Remove a link and its stream."""
        self._links.pop(number, None)

    def rows_sent(self, number: int) -> int:
        """Return how many changes were sent on a link."""
        return self._links[number].rows

    def is_streaming(self, number: int) -> bool:
        """Return True while a stream on a link has not ended."""
        return self._links[number].stream is not None

    @property
    def ready(self) -> bool:
        """True if some stream can send its next chunk."""
        return any(link.stream is not None and link.window.has_room for link in self._links.values())

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
        link.stream = CatchUpStream(self._replica, {name: vectors[name] for name in fitting(self._replica, vectors)})
        link.kept_ms = turn.now_ms
        changes = link.stream.estimate()
        if changes:
            turn.send(number, wire.Plan(changes))

    def next_deadline(self) -> int | None:
        """Return when `on_timer` is due."""
        return min((link.kept_ms + KEEP_MS for link in self._links.values() if link.stream is not None), default=None)

    def on_timer(self, turn: Turn) -> None:
        """Tell peers whose streams wait that these go on: else they take the link for dead."""
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
        for number, link in sorted(self._links.items()):
            for _ in range(STEP_CHUNKS):
                if link.stream is None or not link.window.has_room:
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
        if chunk.bundle is None:
            link.stream = None
            link.delivered.update(chunk.vectors)
            turn.send(number, wire.Done(tuple(sorted(chunk.vectors.items())), tuple(sorted(chunk.collected.items()))))
            return
        link.rows += chunk.rows
        link.window.record_sent(turn.send(number, wire.Chunk(chunk.bundle), urgent=chunk.urgent), turn.now_ms)
