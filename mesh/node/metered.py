"""Budget of metered links: its table in config.toml, and the bytes of the last 24 hours in the home, for after a restart."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.link_budget import BUDGET_BYTES_DAY_MIN, BUDGET_BYTES_S_MIN, DAY_HOURS, Budget
from mycomesh.mesh.node.errors import ConfigError
from mycomesh.mesh.node.home import read_private, write_private

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["MeteredBytes", "amount", "parse_budget"]

SAVE_S = 60.0  # a kill loses the count of this long, or with a budget of the day of what is less:
SAVES_A_DAY = 200  # this part of it, which is some writes a day to the card of a drone
LOOK_S = 2.0  # between two looks at whether so much has gone
BUDGET_BYTES_MAX = 10**15
INTERFACES_MAX = 64
_UNITS = {"b": 1, "kb": 1_000, "mb": 1_000_000, "gb": 1_000_000_000}
_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kKmMgG]?B)")
_KEYS = ("budget", "daily", "metered")


def parse_budget(value: Any) -> Budget:
    """Return the budget that the table [link] of the file asks for.

    Raises:
        ConfigError: a key is unknown, or a value is no amount or out of range.
    """
    if not isinstance(value, dict) or not value.keys() <= set(_KEYS) or not value:
        raise ConfigError("[link] takes 'budget' (such as \"50 kB/s\"), 'daily' (\"20 MB\") and 'metered'")
    interfaces = value.get("metered", [])
    if not isinstance(interfaces, list) or len(interfaces) > INTERFACES_MAX or not all(map(_is_pattern, interfaces)):
        raise ConfigError(
            f"[link]: 'metered' must be a list of at most {INTERFACES_MAX} names of interfaces, such as [\"wwan*\"]"
        )
    bytes_s = amount("[link]", "budget", value["budget"], "/s") if "budget" in value else None
    bytes_day = amount("[link]", "daily", value["daily"], "") if "daily" in value else None
    if bytes_s is not None and bytes_s < BUDGET_BYTES_S_MIN:
        raise ConfigError(f"[link]: 'budget' must be at least {BUDGET_BYTES_S_MIN} B/s, which heartbeats need")
    if bytes_day is not None and bytes_day < BUDGET_BYTES_DAY_MIN:
        raise ConfigError(
            f"[link]: 'daily' must be at least {BUDGET_BYTES_DAY_MIN // 10**6} MB: an idle link takes 13 MB a day"
        )
    return Budget(bytes_s, bytes_day, tuple(interfaces))


def _is_pattern(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and value.isprintable()


def amount(where: str, key: str, text: Any, suffix: str) -> int:
    """Return the bytes that a text such as "50 kB" states, followed by `suffix`; K, m and g stand for k, M and G.

    Raises:
        ConfigError: the text has another form, or states too much.
    """
    found = _AMOUNT.fullmatch(text.strip().removesuffix(suffix)) if isinstance(text, str) else None
    if found is None or not text.strip().endswith(suffix):
        raise ConfigError(
            f"{where}: '{key}' must be an amount such as \"50 kB{suffix}\" (B, kB, MB or GB with digits 0-9 before them;"
            f" a small b would be bits), not {text!r}"
        )
    size = float(found[1]) * _UNITS[found[2].lower()]
    if size > BUDGET_BYTES_MAX:
        most = BUDGET_BYTES_MAX // _UNITS["gb"]
        raise ConfigError(f"{where}: '{key}' must be at most {most} GB{suffix}, not {text[:80]!r}")
    return int(size)


class MeteredBytes:
    """The count of metered bytes in a file of the home: written once a minute while links carry some, and at the end.

    With a budget of the day, it is also written after each part of that.
    """

    def __init__(
        self, path: Path, hours: Callable[[], tuple[tuple[int, int], ...]], bytes_day: int | None = None
    ) -> None:
        """Keep what `hours` returns in the file at `path`."""
        self._save_bytes = None if bytes_day is None else bytes_day // SAVES_A_DAY
        self._path = path
        self._hours = hours
        self._saved: tuple[tuple[int, int], ...] = ()
        self._task: asyncio.Task[None] | None = None

    @staticmethod
    def load(path: Path) -> tuple[tuple[int, int], ...]:
        """Return the counts of an earlier run; none from a damaged file."""
        try:
            value = json.loads(read_private(path) or b"[]")
            return tuple((int(hour), int(size)) for hour, size in value)[-2 * DAY_HOURS :]
        except (ValueError, TypeError):
            return ()

    def start(self, store: Callable[[Callable[[], None]], None]) -> None:
        """Save now and then; `store` calls a function that writes, and reports its errors."""
        self._task = asyncio.get_running_loop().create_task(self._save_often(store))

    async def _save_often(self, store: Callable[[Callable[[], None]], None]) -> None:
        try:
            while True:
                await self._wait()
                store(self.save)
        finally:
            store(self.save)

    async def _wait(self) -> None:
        """Return when the count is to be saved again."""
        if self._save_bytes is None:
            await asyncio.sleep(SAVE_S)
            return
        for _ in range(round(SAVE_S / LOOK_S)):
            await asyncio.sleep(LOOK_S)
            if _total(self._hours()) >= _total(self._saved) + self._save_bytes:
                return

    async def close(self) -> None:
        """Save a last time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def save(self) -> None:
        """Write the count if it has changed."""
        hours = self._hours()
        if hours != self._saved:
            write_private(self._path, json.dumps(hours).encode())
            self._saved = hours


def _total(hours: tuple[tuple[int, int], ...]) -> int:
    return sum(size for _, size in hours)
