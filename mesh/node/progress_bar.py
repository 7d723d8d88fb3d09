"""The bar that `mycomesh up` draws in a terminal while rows come from a peer.

Owns its look: one line, as a function of a notice; and which signs a terminal can show. It must not import what draws for other
commands: the daemon stays small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mycomesh.mesh.events import Notice

__all__ = ["CLEAR", "drawn", "shows_unicode"]

CLEAR = "\r\x1b[K"  # ECMA-48: to the line's beginning, and erase to its end
CELLS = 24
CELLS_STEP = 4  # words change their length all the time, the bar does not with each of them


def shows_unicode(encoding: str | None, environ: Mapping[str, str]) -> bool:
    """Whether a terminal shows more than ASCII.

    Python writes UTF-8 in the C locale as well (PEP 540): whoever asks for that locale by name is believed all the same.
    """
    locale = environ.get("LC_ALL") or environ.get("LANG") or ""
    return (encoding or "").lower().replace("-", "") == "utf8" and locale not in {"C", "POSIX"}


def drawn(notice: Notice, columns: int, *, unicode: bool) -> str:
    """Return the line of a `round.progress` notice, at most `columns` wide: share of rows as a bar, and its words."""
    rows, expected = int(notice.detail.get("rows", 0)), int(notice.detail.get("expected", 0))
    share = min(1.0, rows / expected) if expected else 0.0
    words = f"{100 * share:3.0f} %  {notice.text}" if expected else f"  ? %  {notice.text}"
    # The words go first: at their end stands the time that is left.
    cells = max(0, min(CELLS, (columns - 2 - len(words)) // CELLS_STEP * CELLS_STEP))
    full = round(cells * share)
    bar = ("█" * full).ljust(cells, "░") if unicode else ("#" * full).ljust(cells, ".")
    return f"{bar} {words}".lstrip()[: max(0, columns - 1)]
