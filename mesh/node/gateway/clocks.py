"""Whose clock is wrong: a gateway's own clock against that of the storage, and against the stamps of what others append.

Positions of envelopes are Unix times and only rise: a gateway whose clock was ahead once goes on from there. So an envelope from
the future says that one of two clocks is or was wrong. The storage's clock says which, where the storage has one of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from mycomesh.mesh.mailbox.probe import CLOCK_MS_MAX

__all__ = ["NAMES_SHOWN", "clock_line"]

NAMES_SHOWN = 3  # of members: the line is for a person
_UNITS = ((86_400_000, "days"), (3_600_000, "hours"), (60_000, "minutes"), (1_000, "seconds"))


def clock_line(offset_ms: int | None, ahead: Sequence[tuple[str, int]], own_ms: int) -> str:
    """Return in one line which clock is wrong and what to do, "" if none is.

    Args:
        offset_ms: how far the storage's clock is ahead of this node's, None if that is not known.
        ahead: by name, how far the newest envelope of each other member is ahead of this node's clock, in milliseconds.
        own_ms: the same for the newest envelope of this node.
    """
    if offset_ms is not None and abs(offset_ms) > CLOCK_MS_MAX:
        way = "behind" if offset_ms > 0 else "ahead of"
        return (
            f"this node's clock is {_span(offset_ms)} {way} the storage's: set it, or start its time service;"
            " if it is right, set the storage's"
        )
    names = [name for name, each_ms in ahead if each_ms > CLOCK_MS_MAX]
    if names:
        more = f" and {len(names) - NAMES_SHOWN} others" if len(names) > NAMES_SHOWN else ""
        shown = ", ".join(names[:NAMES_SHOWN]) + more
        span = _span(max(each_ms for _, each_ms in ahead))
        if len(names) == len(ahead) > 1:
            return (
                f"all others ({shown}) stamp up to {span} ahead of this node's clock, which seems to be behind: set it, or"
                " start its time service"
            )
        return (
            f"{shown}: stamped up to {span} ahead of this node's clock: look at the clock there, then at this one;"
            " positions stay ahead once it is right"
        )
    if own_ms > CLOCK_MS_MAX:
        return (
            f"this node's newest envelope is stamped {_span(own_ms)} ahead of its clock, which was ahead then or is behind:"
            " look at it; if it is right, nothing is to be done"
        )
    return ""


def _span(ms: int) -> str:
    """Return a span in the greatest unit of which it has two, such as 3 days."""
    size, unit = next((each for each in _UNITS if abs(ms) >= 2 * each[0]), _UNITS[-1])
    return f"{abs(ms) // size:,} {unit}"
