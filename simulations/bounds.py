"""Ranges of the values of a scenario, shared by the catalogue, scenario files and command-line options.

A refusal is one line with the value's name, the allowed range and the given value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mycomesh.simulations.errors import ScenarioError

__all__ = [
    "AREAS",
    "BANDWIDTH",
    "DELAY_MS",
    "DRIFT_PPM",
    "DURATION_S",
    "HEARTBEAT_MS",
    "LOSS",
    "METRES",
    "NODES",
    "RATE",
    "RATE_ALL",
    "READERS",
    "RETAIN_S",
    "ROWS",
    "SKEW_MS",
    "Bound",
]


@dataclass(frozen=True, slots=True)
class Bound:
    """A range from `least` to `most`. `above` excludes `least`, `whole` excludes fractions; `unit` appears in messages."""

    least: float
    most: float
    whole: bool = False
    above: bool = False
    unit: str = ""

    @property
    def text(self) -> str:
        """The range in words."""
        least, most, unit = _plain(self.least), _plain(self.most), f" {self.unit}" if self.unit else ""
        if self.above:
            return f"more than {least} and at most {most}{unit}"
        return f"{'a whole number ' if self.whole else ''}from {least} to {most}{unit}"

    def read(self, value: object, name: str) -> float:
        """Return the value if it is in the range.

        Raises:
            ScenarioError: the value is outside, missing or not a number.
        """
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value is None:
            raise ScenarioError(f"{name}: is missing; give {self.text}")
        if not number or (self.whole and not isinstance(value, int)):
            kind = "" if self.whole else "a number, "
            raise ScenarioError(f"{name}: must be {kind}{self.text}, not {value!r}")
        assert isinstance(value, int | float)
        if not self.least <= value <= self.most or (self.above and value == self.least):
            raise ScenarioError(f"{name}: must be {self.text}, not {_plain(value)}")
        return value


def _plain(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


AREAS = Bound(0, 10_000, whole=True)
NODES = Bound(1, 5_000, whole=True)  # more run out of file descriptors in one process
DURATION_S = Bound(0, 7 * 86_400, above=True, unit="s")
HEARTBEAT_MS = Bound(50, 600_000, whole=True)
RATE = Bound(0, 1_000, unit="a second")  # of one kind at one node
RATE_ALL = Bound(0, 10_000, above=True, unit="transactions a second")  # of all nodes together
READERS = Bound(0, 1_000, whole=True)  # of all nodes together
RETAIN_S = Bound(0, 7 * 86_400, whole=True, unit="s")
ROWS = Bound(1, 1_000_000, whole=True)
LOSS = Bound(0, 0.9)  # a path with more loss is effectively cut
DELAY_MS = Bound(0, 60_000.0)
BANDWIDTH = Bound(1, 1e12, unit="bytes a second")
METRES = Bound(-1e9, 1e9)
SKEW_MS = Bound(-2 * 10**12, 2 * 10**12, whole=True)
DRIFT_PPM = Bound(-500_000, 500_000, whole=True)
