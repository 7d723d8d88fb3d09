"""Budgets of tables on metered links: token buckets of bytes for each link and second, and of all links for the day.

The bucket of the day fills at the rate of the day, and begins empty: nothing has to be remembered over a restart, and no clock
can be set to free it. In any 24 hours it passes at most the budget and an hour's share of it.

Turner: New directions in communications (1986), the leaky bucket.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mycomesh.sync.replication.table_settings import TableSetting, TableSettings

__all__ = ["PIECE_BYTES", "TableBudgets"]

DAY_MS = 86_400_000
BURST_MS = 1_000
DAY_BURST_MS = DAY_MS // 24
PIECE_BYTES = 1_400  # less than a packet is not worth its headers


@dataclass(slots=True)
class _Bucket:
    """Tokens at `rate` bytes in a millisecond, up to those of `burst_ms`. `paid_ms`: when all that went is over at the rate."""

    rate: float
    burst_ms: float
    paid_ms: float

    def room(self, now_ms: int) -> int:
        return int(self.rate * (self.burst_ms - max(0.0, self.paid_ms - now_ms)))

    def spend(self, size: int, now_ms: int) -> None:
        self.paid_ms = max(self.paid_ms, float(now_ms)) + size / self.rate

    def next_ms(self) -> int:
        """Return when there is room for a piece."""
        return int(self.paid_ms - self.burst_ms + PIECE_BYTES / self.rate) + 1


@dataclass(slots=True)
class TableBudgets:
    """The buckets of one node. Links are known by number, tables by canonical name."""

    settings: TableSettings
    _links: dict[tuple[int, str], _Bucket] = field(default_factory=dict)
    _days: dict[str, _Bucket] = field(default_factory=dict)

    def on_link_closed(self, link: int) -> None:
        """Forget the buckets of a link."""
        self._links = {key: bucket for key, bucket in self._links.items() if key[0] != link}

    def room(self, link: int, name: str, now_ms: int) -> int | None:
        """Return how many bytes of a table may go on a metered link, 0 if less than a piece; None for any number."""
        room = min((bucket.room(now_ms) for bucket in self._buckets(link, name, now_ms)), default=None)
        return 0 if room is not None and room < PIECE_BYTES else room

    def spend(self, link: int, name: str, size: int, now_ms: int) -> None:
        """Count bytes of a table that were sent on a metered link."""
        for bucket in self._buckets(link, name, now_ms):
            bucket.spend(size, now_ms)

    def next_ms(self, link: int, name: str, now_ms: int) -> int:
        """Return when there is room for a piece of a table."""
        return max((bucket.next_ms() for bucket in self._buckets(link, name, now_ms)), default=now_ms)

    def _buckets(self, link: int, name: str, now_ms: int) -> list[_Bucket]:
        setting = self.settings.of(name)
        return (
            []
            if setting is None
            else [*self._of_link(link, name, setting, now_ms), *self._of_day(name, setting, now_ms)]
        )

    def _of_link(self, link: int, name: str, setting: TableSetting, now_ms: int) -> list[_Bucket]:
        if setting.bytes_s is None:
            return []
        rate = setting.bytes_s / 1_000
        burst_ms = max(BURST_MS, PIECE_BYTES / rate)
        return [self._links.setdefault((link, name), _Bucket(rate, burst_ms, float(now_ms)))]

    def _of_day(self, name: str, setting: TableSetting, now_ms: int) -> list[_Bucket]:
        if setting.bytes_day is None:
            return []
        rate = setting.bytes_day / DAY_MS
        burst_ms = max(DAY_BURST_MS, PIECE_BYTES / rate)
        return [self._days.setdefault(name, _Bucket(rate, burst_ms, now_ms + burst_ms))]
