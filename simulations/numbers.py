"""Lists of whole numbers as people write them, such as `0-3,7`: faults that are left out, nodes of a group.

Owns the notation. What always holds: what one function writes the other reads. Must not know scenarios.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mycomesh.simulations.errors import ScenarioError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["numbers", "numbers_text"]

SKIPPED_MAX = 100_000  # faults that a request may leave out; more than any scenario has


def numbers(text: str) -> tuple[int, ...]:
    """The whole numbers of a list such as `0-3,7`, in order.

    Raises:
        ScenarioError: it is no such list.
    """
    found: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < SKIPPED_MAX):
            raise ScenarioError(f"--skip-faults: numbers of faults from 0, such as 0-3,7, not {text!r}")
        found.update(dict.fromkeys(range(int(first), int(last) + 1)))
    return tuple(sorted(found))


def numbers_text(values: Sequence[int]) -> str:
    """The list that `numbers` reads; the values ascend."""
    parts: list[list[int]] = []
    for value in values:
        if parts and parts[-1][1] == value - 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
