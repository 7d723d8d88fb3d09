"""Virtual time: the event heap, the seeded random streams and the trace that a simulated world runs on.

Owns the only clock of a simulation. What always holds: calls happen in the order of (time, sequence), so that two
calls due at the same microsecond keep the order in which they were asked for; time never goes back; every random
choice comes from a stream that is derived from the seed by name, so that adding a draw in one subsystem moves no
other one. Must not know nodes, networks or tables; reads no clock of the machine.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EPOCH_MS", "MS", "SECOND", "Clock", "Trace", "World"]

MS = 1_000  # one millisecond in the world's unit, the microsecond: a LAN hop is a fraction of a millisecond
SECOND = 1_000_000
EPOCH_MS = 1_700_000_000_000  # wall time at virtual zero: any plausible date, the same in every run
PPM = 1_000_000


@dataclass(frozen=True, slots=True)
class Clock:
    """One node's idea of wall time: `skew_ms` off at virtual zero, running `drift_ppm` too fast (or too slow)."""

    skew_ms: int = 0
    drift_ppm: int = 0

    def wall_ms(self, now_us: int) -> int:
        """The wall clock's reading in milliseconds since 1970; never negative, as no machine's is."""
        elapsed_ms = (now_us + now_us * self.drift_ppm // PPM) // MS
        return max(0, EPOCH_MS + self.skew_ms + elapsed_ms)


class Trace:
    """A running BLAKE2b over everything that was delivered: equal traces mean equal runs."""

    __slots__ = ("_hash", "events")

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=16)
        self.events = 0

    def record(self, now_us: int, place: int, kind: str, data: bytes = b"") -> None:
        """Add one delivered event: when, at which node (-1 for the world itself), what, and its bytes."""
        self.events += 1
        self._hash.update(b"%d %d %s %d\n" % (now_us, place, kind.encode(), len(data)))
        self._hash.update(data)

    def hexdigest(self) -> str:
        """The hash of all events so far, 32 hexadecimal digits."""
        return self._hash.hexdigest()


class World:
    """The event heap over virtual time, in integer microseconds."""

    __slots__ = ("_heap", "_sequence", "now_us", "seed", "trace")

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now_us = 0
        self.trace = Trace()
        # Plain tuples: this is the hottest loop of a simulation, and the sequence makes every comparison end there.
        self._heap: list[tuple[int, int, Callable[..., None], tuple[object, ...]]] = []
        self._sequence = 0

    @property
    def now_ms(self) -> int:
        """Monotonic time as the cores take it."""
        return self.now_us // MS

    def stream(self, name: str) -> random.Random:
        """The random stream of one subsystem: the same for the same seed and name, whatever else was drawn."""
        digest = blake2b(f"{self.seed}/{name}".encode(), digest_size=16).digest()
        return random.Random(int.from_bytes(digest, "big"))

    def at(self, time_us: int, call: Callable[..., None], *args: object) -> None:
        """Make `call(*args)` at `time_us`, or at once when that has passed."""
        self._sequence += 1
        heapq.heappush(self._heap, (max(time_us, self.now_us), self._sequence, call, args))

    def after(self, delay_us: int, call: Callable[..., None], *args: object) -> None:
        """Make `call(*args)` when `delay_us` have passed."""
        self.at(self.now_us + delay_us, call, *args)

    def run_until(self, time_us: int) -> None:
        """Make every call due up to and including `time_us`, then stand at that time."""
        heap = self._heap
        while heap and heap[0][0] <= time_us:
            due_us, _, call, args = heapq.heappop(heap)
            assert due_us >= self.now_us, "time went back"
            self.now_us = due_us
            call(*args)
        self.now_us = max(self.now_us, time_us)

    def __len__(self) -> int:
        return len(self._heap)
