"""Reading and writing the streams of a mailbox, as state machines without I/O.

A writer gathers batches into envelopes. Each envelope names, inside its seal, the position of the one before. So a reader knows
which envelopes are missing, whatever the storage says: a copied folder may bring the second file before the first, and storage
that is full may have dropped the oldest.

A reader delivers an envelope when it sees it, because batches carry their own order; it never delivers one twice. It waits
`GAP_MS` for a missing one, then reports a gap, which an ordinary round between two nodes repairs.

Invariants: whatever the storage does, a reader delivers only envelopes that open, each at most once, and reports every envelope
that its writer sealed and that it did not deliver, once a later one has arrived. Its memory is bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mycomesh.mesh.errors import DecodeError
from mycomesh.mesh.mailbox.envelope import BATCHES_MAX, POSITION_MAX, Contents, EnvelopeKeys, open_envelope, seal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mycomesh.mesh.mailbox.mailbox import Listed
    from mycomesh.mesh.messages import Batch

__all__ = ["AHEAD_MAX", "GAP_MS", "GATHER_BYTES", "QUEUE_BYTES_MAX", "REFUSED_MAX", "StreamReader", "StreamWriter"]

GATHER_BYTES = (
    512 * 1024
)  # of batches in one envelope; a larger batch travels alone. NATS takes messages of up to 1 MiB
QUEUE_BYTES_MAX = 64 << 20  # batches that wait for a mailbox that is away; beyond it the oldest are left to rounds
AHEAD_MAX = 4_096  # envelopes that arrived before an earlier one of their stream
REFUSED_MAX = 1_024  # positions whose envelope did not open, so that it is not fetched again and again
GAP_MS = 60_000  # how long a missing envelope may still come: folders are copied in any order


class StreamWriter:
    """The writing end of one stream. `last` is the position of its newest envelope in the mailbox, 0 for none."""

    def __init__(self, stream: bytes, last: int, certificate_of: Callable[[bytes], bytes | None]) -> None:
        self.stream = stream
        self.last = last
        self.skipped = 0  # batches that were dropped since the queue was full
        self._certificate_of = certificate_of
        self._queue: list[Batch] = []
        self._queue_bytes = 0
        self._sealed = 0  # batches at the head of the queue that the envelope under way holds

    @property
    def queued(self) -> int:
        """Batches that wait."""
        return len(self._queue)

    @property
    def is_full(self) -> bool:
        """True if a whole envelope waits."""
        return self._queue_bytes > GATHER_BYTES or len(self._queue) >= BATCHES_MAX

    def put(self, batch: Batch) -> None:
        """Queue a batch; drop the oldest ones if the mailbox has been away for too long."""
        self._queue.append(batch)
        self._queue_bytes += len(batch.payload)
        while self._queue_bytes > QUEUE_BYTES_MAX and len(self._queue) > self._sealed + 1:
            self._queue_bytes -= len(self._queue.pop(self._sealed).payload)
            self.skipped += 1

    def next_envelope(self, keys: EnvelopeKeys, wall_ms: int) -> tuple[int, bytes] | None:
        """Return position and bytes of the next envelope, None if nothing waits. Call `on_appended` or `on_taken` next.

        Positions follow the clock, so that a writer that has lost its mailbox does not use a position again.
        """
        if not self._queue:
            return None
        taken = self._taken()
        self._sealed = len(taken)
        origins = dict.fromkeys(batch.origin for batch in taken)
        certificates = tuple(raw for raw in map(self._certificate_of, origins) if raw is not None)
        position = min(max(self.last + 1, wall_ms << 8), POSITION_MAX)
        return position, seal(keys, self.stream, position, Contents(self.last, certificates, tuple(taken)))

    def on_appended(self, position: int) -> None:
        """Record that the last envelope is stored at this position."""
        self._queue_bytes -= sum(len(batch.payload) for batch in self._queue[: self._sealed])
        del self._queue[: self._sealed]
        self._sealed = 0
        self.last = position

    def on_taken(self, position: int) -> None:
        """Record that the mailbox holds another envelope at this position: the next one goes beyond it."""
        self._sealed = 0
        self.last = max(self.last, position)

    def _taken(self) -> list[Batch]:
        """Return the batches at the head of the queue that fit one envelope, at least one."""
        taken: list[Batch] = []
        size = 0
        for batch in self._queue[:BATCHES_MAX]:
            size += len(batch.payload)
            if taken and size > GATHER_BYTES:
                break
            taken.append(batch)
        return taken


class StreamReader:
    """The reading end of one stream. `position`: every envelope up to here was delivered or reported as missing."""

    def __init__(self, stream: bytes, position: int = 0) -> None:
        self.stream = stream
        self.position = position
        self.delivered = 0
        self.refused = 0
        self.gaps = 0
        self.refusal = ""  # why the last refused envelope was refused
        self._ahead: dict[int, int] = {}  # delivered beyond `position` -> the position before it
        self._refused: dict[int, None] = {}
        self._gap_since_ms: int | None = None

    def wanted(self, listed: Iterable[Listed]) -> list[Listed]:
        """Return which of the listed envelopes to fetch, in their order."""
        room = AHEAD_MAX - len(self._ahead)
        news = [
            each
            for each in sorted(listed)
            if each.stream == self.stream
            and each.position > self.position
            and each.position not in self._ahead
            and each.position not in self._refused
        ]
        return news[: max(room, 0)]

    def read(self, keys: EnvelopeKeys, position: int, data: bytes) -> Contents | None:
        """Open one envelope; return its contents, None if it was delivered before or does not open."""
        if position <= self.position or position in self._ahead:
            return None
        try:
            contents = open_envelope(keys, self.stream, position, data)
        except DecodeError as error:
            self.refused += 1
            self.refusal = str(error)
            self._refused[position] = None
            if len(self._refused) > REFUSED_MAX:
                del self._refused[next(iter(self._refused))]
            return None
        self._ahead[position] = contents.previous
        self.delivered += 1
        return contents

    def advance(self, now_ms: int) -> bool:
        """Move `position` on after a pass over the listing; return True if an envelope before it is missing for good."""
        gap = False
        while self._ahead:
            position = min(self._ahead)
            if self._ahead[position] > self.position:
                if self._gap_since_ms is None:
                    self._gap_since_ms = now_ms
                if now_ms - self._gap_since_ms < GAP_MS and len(self._ahead) < AHEAD_MAX:
                    return gap
                gap = True
                self.gaps += 1
            self._gap_since_ms = None
            del self._ahead[position]
            self.position = position
        return gap

    def retry_refused(self) -> None:
        """Fetch refused envelopes once more: the storage may have held half a file, or this node has learnt a new secret."""
        self._refused.clear()
