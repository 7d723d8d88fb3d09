"""Numbers as people type them, for argparse."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["pace", "whole"]


def whole(most: int, refusal: str = "", *, least: int = 1) -> Callable[[str], int]:
    """Return what reads an argument from `least` to `most`; whatever else was typed is refused with these words after it."""
    said = refusal or f"is no number from {least} to {most}"

    def read(text: str) -> int:
        if not re.fullmatch(r"0|[1-9][0-9]{0,17}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} {said}")
        return int(text)

    return read


def pace(text: str) -> float:
    """Read virtual seconds a second: more than 0, below 10,000."""
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]+)?", text) or float(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of virtual seconds a second")
    return float(text)
