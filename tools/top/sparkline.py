"""Sparklines: the last values of a figure as one row of characters, scaled to their greatest (Tufte 2004)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["sparkline"]

BARS = " ▁▂▃▄▅▆▇█"
PLAIN_BARS = " .:-=+*#%"


def sparkline(values: Sequence[int], width: int, *, unicode: bool) -> str:
    """Return exactly `width` characters, the latest value last; a value above zero is never blank."""
    bars = BARS if unicode else PLAIN_BARS
    shown = list(values[-width:]) if width > 0 else []
    top = max(shown, default=0)
    levels = [0 if value <= 0 else max(1, round(value * (len(bars) - 1) / top)) for value in shown]
    return "".join(bars[level] for level in levels).rjust(max(0, width))
