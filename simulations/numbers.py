"""Lists of whole numbers in short notation, such as `0-3,7`, for skipped faults and groups of nodes.

Invariant: each function reads what the other writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mycomesh.simulations.errors import ScenarioError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["numbers", "numbers_text"]

SKIPPED_MAX = 100_000  # more than the faults of any scenario


def numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of a list such as `0-3,7`, in ascending order.

    Raises:
        ScenarioError: the text is not such a list.
    """
    found: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < SKIPPED_MAX):
            raise ScenarioError(f"--skip-faults: must be numbers of faults from 0, such as 0-3,7, not {text!r}")
        found.update(dict.fromkeys(range(int(first), int(last) + 1)))
    return tuple(sorted(found))


def numbers_text(values: Sequence[int]) -> str:
    """Return ascending values as a list that `numbers` reads."""
    parts: list[list[int]] = []
    for value in values:
        if parts and parts[-1][1] == value - 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
