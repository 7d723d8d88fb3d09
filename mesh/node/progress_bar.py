"""The progress bar that `mycomesh up` draws in a terminal while rows arrive from a peer.

It draws one line by itself: the library that draws for other commands would cost the daemon memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mycomesh.mesh.events import Notice

__all__ = ["CLEAR", "draw", "shows_unicode"]

CLEAR = "\r\x1b[K"  # ECMA-48: go to the beginning of the line and erase it
CELLS = 24
CELLS_STEP = 4  # the bar's width changes in steps: the text beside it changes its length all the time


def shows_unicode(encoding: str | None, environ: Mapping[str, str]) -> bool:
    """Return whether a terminal shows more than ASCII.

    Python writes UTF-8 in the C locale too (PEP 540), but a user who names that locale gets ASCII.
    """
    locale = environ.get("LC_ALL") or environ.get("LANG") or ""
    return (encoding or "").lower().replace("-", "") == "utf8" and locale not in {"C", "POSIX"}


def draw(notice: Notice, columns: int, *, unicode: bool) -> str:
    """Return the line for a `round.progress` notice, narrower than `columns`: a bar for the share of rows, and the text."""
    rows, expected = int(notice.detail.get("rows", 0)), int(notice.detail.get("expected", 0))
    share = min(1.0, rows / expected) if expected else 0.0
    text = f"{100 * share:3.0f} %  {notice.text}" if expected else f"  ? %  {notice.text}"
    # The text has precedence over the bar: it ends with the time left.
    cells = max(0, min(CELLS, (columns - 2 - len(text)) // CELLS_STEP * CELLS_STEP))
    full = round(cells * share)
    bar = ("█" * full).ljust(cells, "░") if unicode else ("#" * full).ljust(cells, ".")
    return f"{bar} {text}".lstrip()[: max(0, columns - 1)]
