"""Budget of a metered link: a token bucket of bytes a second, and a count of the bytes of the last 24 hours.

Both count both directions, with the headers of each packet. A node sends what there are tokens for. The credits of the record
layer pace what it receives: the peer, which needs no setting, sends as much as this node acknowledges. Heartbeats and urgent
messages never wait; they use tokens of later, so bulk pays for them.

Invariant: in any stretch of time the bytes that waited for tokens are at most the rate times its length, and `BURST_MS` more.

Turner: New directions in communications (1986), the leaky bucket.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass

from mycomesh.mesh.mesh_clock import UNSET_MS

__all__ = ["BUDGET_BYTES_DAY_MIN", "BUDGET_BYTES_S_MIN", "Budget", "DayCount", "LinkBudget"]

HEADER_BYTES = 66  # of one packet: Ethernet 14, IPv4 20, TCP with time stamps 32
BUDGET_BYTES_S_MIN = 500  # heartbeats and comparisons of an idle link take 150
BUDGET_BYTES_DAY_MIN = 20_000_000  # an idle link takes 13 MB
BURST_MS = 1_000  # how much of the rate may go at once after a pause
PIECE_BYTES = 1_410  # less than a packet is not worth its headers
HOUR_MS = 3_600_000
DAY_HOURS = 24


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of metered links; None for no limit.

    bytes_s: bytes a second of each link, `BUDGET_BYTES_S_MIN` or more.
    bytes_day: bytes of all metered links in any 24 hours, to the hour; `BUDGET_BYTES_DAY_MIN` or more.
    interfaces: shell patterns of the interfaces whose links are metered; empty for every link.
    tables: whether tables have budgets of their own, so that rounds bring most rows (`Gossip.on_paced`).
    """

    bytes_s: int | None = None
    bytes_day: int | None = None
    interfaces: tuple[str, ...] = ()
    tables: bool = False

    def covers(self, interface: str) -> bool:
        """Return True if links over this interface are metered. The name may be empty where it is not known."""
        return not self.interfaces or any(fnmatch.fnmatchcase(interface, pattern) for pattern in self.interfaces)


class DayCount:
    """Bytes of the last 24 hours, by hours of Unix time.

    Hours of the future, as a clock that was set back leaves them, count as the present hour: they are over in a day, and setting
    a clock frees nothing. A clock that was never set does not touch what another run has counted.
    """

    __slots__ = ("_hours",)

    def __init__(self, hours: Iterable[tuple[int, int]] = ()) -> None:
        self._hours = dict(hours)

    def add(self, count: int, wall_ms: int) -> None:
        """Count bytes."""
        hour = wall_ms // HOUR_MS
        if hour not in self._hours:
            self._hours = {each: size for each, size in self._hours.items() if each > hour - DAY_HOURS}
        self._hours[hour] = self._hours.get(hour, 0) + count
        if wall_ms >= UNSET_MS and max(self._hours) > hour:
            later = [each for each in self._hours if each > hour]
            self._hours[hour] += sum(self._hours.pop(each) for each in later)

    def total(self, wall_ms: int) -> int:
        """Return the bytes of the last 24 hours."""
        since = wall_ms // HOUR_MS - DAY_HOURS
        return sum(size for hour, size in self._hours.items() if hour > since)

    def hours(self) -> tuple[tuple[int, int], ...]:
        """Return the counts to store: (hour of Unix time, bytes), in order."""
        return tuple(sorted(self._hours.items()))


class LinkBudget:
    """The budget of one link. Its owner calls `spend` for what went, and asks for `room` before it sends what can wait."""

    __slots__ = ("_budget", "_burst_ms", "_day", "_paid_ms")

    def __init__(self, budget: Budget, day: DayCount, now_ms: int) -> None:
        self._budget = budget
        self._day = day
        self._burst_ms = BURST_MS if budget.bytes_s is None else max(BURST_MS, PIECE_BYTES * 1_000 / budget.bytes_s)
        self._paid_ms = float(now_ms)  # when everything that went would be over, had it gone at the rate

    @property
    def behind_bytes(self) -> int | None:
        """Unsent bytes above which the link gets no live batches: those of a second, so that what waits is not yet old."""
        return None if self._budget.bytes_s is None else max(self._budget.bytes_s, PIECE_BYTES)

    def spend(self, size: int, now_ms: int, wall_ms: int) -> None:
        """Count one packet with so many bytes of data, of either direction."""
        size += HEADER_BYTES
        if self._budget.bytes_s is not None:
            self._paid_ms = max(self._paid_ms, float(now_ms)) + size * 1_000 / self._budget.bytes_s
        self._day.add(size, wall_ms)

    def room(self, now_ms: int, wall_ms: int) -> int | None:
        """Return how many bytes may go that can wait, 0 if not even a packet; None for any number."""
        rooms = []
        if self._budget.bytes_s is not None:
            burst = self._burst_ms * self._budget.bytes_s / 1_000
            over_ms = max(0.0, self._paid_ms - now_ms)
            rooms.append(int(burst - over_ms * self._budget.bytes_s / 1_000))
        if self._budget.bytes_day is not None:
            rooms.append(self._budget.bytes_day - self._day.total(wall_ms))
        room = min(rooms, default=None)
        return 0 if room is not None and room < PIECE_BYTES else room

    def next_ms(self, now_ms: int, wall_ms: int) -> int:
        """Return the monotonic millisecond at which there is room again; now if there is some."""
        if self._budget.bytes_day is not None and self._budget.bytes_day - self._day.total(wall_ms) < PIECE_BYTES:
            return now_ms + HOUR_MS - wall_ms % HOUR_MS
        if self.room(now_ms, wall_ms) != 0:
            return now_ms
        assert self._budget.bytes_s is not None
        return max(now_ms + 1, int(self._paid_ms - self._burst_ms + PIECE_BYTES * 1_000 / self._budget.bytes_s) + 1)
