"""Describes faults in words, one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from mycomesh.simulations import faults
from mycomesh.simulations.numbers import numbers_text

if TYPE_CHECKING:
    from mycomesh.simulations.faults import Fault

__all__ = ["in_words"]


def in_words(fault: Fault) -> str:  # noqa: C901, PLR0911, PLR0912  (one branch a fault)
    """Return what happens, in the present tense."""
    match fault:
        case faults.Split(_, groups):
            return f"the network splits: nodes {' | '.join(numbers_text(sorted(group)) for group in groups)}"
        case faults.Heal():
            return "the network heals"
        case faults.Cut(_, source, target, one_way):
            return (
                f"no packet from node{source} reaches node{target}{'' if one_way else ', nor in the other direction'}"
            )
        case faults.Radio(_, node, on):
            return f"the radio of node{node} goes {'on' if on else 'off'}"
        case faults.Reset():
            return "a connection breaks"
        case faults.Move(_, positions):
            return f"{len(positions)} node(s) move"
        case faults.Crash(_, node, _, silent):
            return f"node{node} and its machine stop without notice" if silent else f"node{node} is killed (kill -9)"
        case faults.PowerCut(_, node):
            return f"the machine of node{node} loses power"
        case faults.Stop(_, node):
            return f"node{node} is stopped cleanly"
        case faults.Restart(_, node):
            return f"node{node} starts again"
        case faults.Upgrade(_, node, versions):
            return f"node{node} comes back with a program that speaks protocol {versions}"
        case faults.Join(_, node):
            return f"node{node} joins with an empty file"
        case faults.Backup(_, node):
            return f"the file of node{node} is copied aside"
        case faults.Restore(_, node):
            return f"node{node} loses its file, and continues with the copy"
        case faults.Clone(_, source, node):
            return f"node{node} starts on a copy of the file of node{source}"
        case faults.Revoke(_, node):
            return f"node{node} is revoked"
        case faults.Purge(_, node, since_s):
            return f"node{node} is revoked, and its writes since {since_s:.1f} s are dropped"
        case faults.Betray(_, node, lies):
            return f"node{node} begins to lie in its {', '.join(lies)}"
        case faults.Keep(_, node, areas):
            return f"node{node} keeps {'the areas ' + ', '.join(areas) if areas else 'no area'}"
        case faults.Divide(_, node):
            return f"node{node} decides that the table is cut into areas"
        case faults.Pin(_, node, age_s):
            return (
                f"node{node} keeps {age_s} s of the rows that go with time"
                if age_s
                else f"node{node} keeps less no longer"
            )
        case faults.MailboxDoes(_, wrongs):
            return f"the mailbox does wrong: {', '.join(wrongs)}" if wrongs else "the mailbox is honest again"
        case faults.Window(_, base, opens):
            return f"the way of base {base} to the mailbox {'opens' if opens else 'closes'}"
        case faults.ClockSet(_, node, clock):
            return f"the clock of node{node} jumps: {clock.skew_ms / 1000:+,.1f} s off, {clock.drift_ppm:+} ppm"
        case _:
            assert_never(fault)
