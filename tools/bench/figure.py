"""One measured figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Figure"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A value with its unit; `baseline` names what a ratio is relative to, `goal` what it must reach."""

    value: float
    unit: str
    baseline: str = ""
    goal: str = ""

    def plain(self) -> dict[str, Any]:
        """Returns the JSON form."""
        result: dict[str, Any] = {"value": round(self.value, 4), "unit": self.unit}
        if self.baseline:
            result["baseline"] = self.baseline
        if self.goal:
            result["goal"] = self.goal
        return result
