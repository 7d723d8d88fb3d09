"""Virtual time: the event heap, seeded random streams and run trace of a simulation.

Each random choice comes from a stream that is derived from the seed by name, so another draw in one subsystem changes no other
subsystem. The module never reads the machine's clock.

Invariants: calls run in the order of (time, sequence), so calls due at the same microsecond keep the order of their planning;
time never goes back.
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
    """One node's wall clock: `skew_ms` off at virtual zero, and `drift_ppm` too fast, or too slow if negative."""

    skew_ms: int = 0
    drift_ppm: int = 0

    def wall_ms(self, now_us: int) -> int:
        """Return the wall time in milliseconds since 1970; never negative, as on real machines."""
        elapsed_ms = (now_us + now_us * self.drift_ppm // PPM) // MS
        return max(0, EPOCH_MS + self.skew_ms + elapsed_ms)


class Trace:
    """A running BLAKE2b over all delivered events: equal traces mean equal runs."""

    __slots__ = ("_hash", "events")

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=16)
        self.events = 0

    def record(self, now_us: int, node: int, kind: str, data: bytes = b"") -> None:
        """Add one delivered event: its time, node (-1 for the world itself), kind and bytes."""
        self.events += 1
        self._hash.update(b"%d %d %s %d\n" % (now_us, node, kind.encode(), len(data)))
        self._hash.update(data)

    def hexdigest(self) -> str:
        """Return the hash of all events so far, 32 hexadecimal digits."""
        return self._hash.hexdigest()


class World:
    """The event heap over virtual time, in integer microseconds."""

    __slots__ = ("_heap", "_sequence", "now_us", "seed", "trace")

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now_us = 0
        self.trace = Trace()
        # Plain tuples: this is the hottest loop of a simulation. Comparisons end at the sequence, which is unique.
        self._heap: list[tuple[int, int, Callable[..., None], tuple[object, ...]]] = []
        self._sequence = 0

    @property
    def now_ms(self) -> int:
        """Monotonic milliseconds, the unit of the cores."""
        return self.now_us // MS

    def stream(self, name: str) -> random.Random:
        """Return the random stream of one subsystem, which depends on seed and name alone."""
        digest = blake2b(f"{self.seed}/{name}".encode(), digest_size=16).digest()
        return random.Random(int.from_bytes(digest, "big"))

    def at(self, time_us: int, call: Callable[..., None], *args: object) -> None:
        """Plan `call(*args)` for `time_us`, or for now if that has passed."""
        self._sequence += 1
        heapq.heappush(self._heap, (max(time_us, self.now_us), self._sequence, call, args))

    def after(self, delay_us: int, call: Callable[..., None], *args: object) -> None:
        """Plan `call(*args)` for `delay_us` from now."""
        self.at(self.now_us + delay_us, call, *args)

    def run_until(self, time_us: int) -> None:
        """Run all calls due up to and including `time_us`, then set the time to it."""
        heap = self._heap
        while heap and heap[0][0] <= time_us:
            due_us, _, call, args = heapq.heappop(heap)
            assert due_us >= self.now_us, "time went back"
            self.now_us = due_us
            call(*args)
        self.now_us = max(self.now_us, time_us)

    def __len__(self) -> int:
        return len(self._heap)
