"""The rule by which a flow stops: so many of its last changes or messages have failed that going on would set all aside."""

from __future__ import annotations

from collections import deque

__all__ = ["FAILED_MAX", "JUDGED_MAX", "FlowStoppedError", "Judge"]

# A reader stops when so many of its last `JUDGED_MAX` changes have failed: else it would set all aside.
FAILED_MAX = 20
JUDGED_MAX = 50


class FlowStoppedError(Exception):
    """Too many of the last ones failed; a person has to look."""


class Judge:
    """The outcomes of the last ones."""

    def __init__(self) -> None:
        self._failed: deque[bool] = deque(maxlen=JUDGED_MAX)

    def add(self, *, failed: bool) -> None:
        """Note one outcome."""
        self._failed.append(failed)

    @property
    def stops(self) -> bool:
        """Whether too many have failed."""
        return sum(self._failed) >= FAILED_MAX

    @property
    def text(self) -> str:
        """How many of the last ones failed."""
        return f"{sum(self._failed)} of the last {len(self._failed)}"
