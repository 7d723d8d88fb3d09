"""Numbers as people type them, for argparse."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["pace", "whole"]


def whole(most: int, hint: str = "", *, least: int = 1) -> Callable[[str], int]:
    """Return a reader of arguments from `least` to `most`; it refuses anything else with the bounds, then `hint`."""
    bounds = f"is not a number from {least} to {most:,}{f'; {hint}' if hint else ''}"

    def read(text: str) -> int:
        if not re.fullmatch(r"0|[1-9][0-9]{0,17}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} {bounds}")
        return int(text)

    return read


def pace(text: str) -> float:
    """Read virtual seconds a second: more than 0, below 10,000."""
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]+)?", text) or float(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of virtual seconds a second")
    return float(text)
