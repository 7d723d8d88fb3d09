"""Parsers of numeric arguments, for argparse."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["pace", "whole"]


def whole(most: int, *, least: int = 1) -> Callable[[str], int]:
    """Return a parser of whole numbers from `least` to `most`; its error names these bounds."""
    bounds = f"is not a number from {least} to {most:,}"

    def parse(text: str) -> int:
        if not re.fullmatch(r"0|[1-9][0-9]{0,17}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} {bounds}")
        return int(text)

    return parse


def pace(text: str) -> float:
    """Parse a speed in virtual seconds per second: more than 0, below 10,000."""
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]+)?", text) or float(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a speed in virtual seconds per second; write 0.5, 5 or 100")
    return float(text)
