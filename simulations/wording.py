"""Faults and lists of nodes in words, for people.

Owns the wording. What always holds: every fault has one line, with the nodes that it strikes. Must not know runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from simulations.faults import (
    Backup,
    ClockSet,
    Clone,
    Crash,
    Cut,
    Heal,
    Join,
    Move,
    PowerCut,
    Radio,
    Reset,
    Restart,
    Restore,
    Revoke,
    Split,
    Stop,
    Upgrade,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulations.faults import Fault

__all__ = ["in_words", "numbers_text"]


def in_words(fault: Fault) -> str:  # noqa: C901, PLR0911, PLR0912  one line a fault
    """Return what happens, in the present tense."""
    match fault:
        case Split(_, groups):
            return f"the network splits: nodes {' | '.join(numbers_text(sorted(group)) for group in groups)}"
        case Heal():
            return "the network heals"
        case Cut(_, source, target, one_way):
            return f"nothing of node{source} reaches node{target}{'' if one_way else ', nor the other way'}"
        case Radio(_, node, on):
            return f"the radio of node{node} goes {'on' if on else 'off'}"
        case Reset():
            return "a connection breaks"
        case Move(_, places):
            return f"{len(places)} node(s) move on"
        case Crash(_, node, _, silent):
            return f"node{node} and its machine stop dead" if silent else f"node{node} is killed (kill -9)"
        case PowerCut(_, node):
            return f"the machine of node{node} loses power"
        case Stop(_, node):
            return f"node{node} is stopped in order"
        case Restart(_, node):
            return f"node{node} starts again"
        case Upgrade(_, node, versions):
            return f"node{node} comes back with a program that speaks protocol {versions}"
        case Join(_, node):
            return f"node{node} joins with an empty file"
        case Backup(_, node):
            return f"the file of node{node} is copied aside"
        case Restore(_, node):
            return f"node{node} loses its file, and goes on with the copy"
        case Clone(_, source, node):
            return f"node{node} starts on a copy of the file of node{source}"
        case Revoke(_, node):
            return f"node{node} is revoked"
        case ClockSet(_, node, clock):
            return f"the clock of node{node} jumps: {clock.skew_ms / 1000:+,.1f} s off, {clock.drift_ppm:+} ppm"
        case _:
            assert_never(fault)


def numbers_text(values: Sequence[int]) -> str:
    """The list that `request.numbers` reads: ascending whole numbers, runs of them as `0-3`."""
    parts: list[list[int]] = []
    for value in values:
        if parts and parts[-1][1] == value - 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
