"""The node's log: one line an event, as text for people or as one JSON object.

Invariants: a line contains no control character, so text from peers cannot control the terminal. No peer and no program can fill
the disk with lines: of one event a log has `LINES_AT_ONCE`, and then one a second, except at level debug.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TextIO

from mycomesh.mesh.node.progress_bar import CLEAR, draw, shows_unicode
from mycomesh.mesh.rate_limit import admit_at_rate

if TYPE_CHECKING:
    from mycomesh.mesh.events import Notice

__all__ = ["LEVELS", "Journal", "as_value", "printable"]

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}  # as the logging module numbers them
COLUMNS_DEFAULT = 80
LINE_CHARS_MAX = 2000  # cuts texts by which a peer tries to fill the log
LINES_AT_ONCE = 500  # of one event: a node of a large mesh links with some hundred members as it starts
LINE_EVERY_MS = 1_000


@dataclass(slots=True)
class Journal:
    """Prints notices of at least `level`, one line each; drops them once the stream's reader has left.

    In JSON a line is an object with `time` (RFC 3339, UTC), `level`, `event`, `text` and `detail`.
    """

    level: str = "info"
    stream: TextIO | None = None
    form: str = "text"  # or json
    _bar_drawn: bool = False  # the last line is a progress bar
    _rates: dict[str, tuple[int | None, int]] = field(default_factory=dict)  # event -> its bucket, lines left out since

    def write(self, notice: Notice) -> None:
        """Print one notice; its details only at level debug."""
        if LEVELS.get(notice.level, 20) < LEVELS[self.level]:
            return
        more = 0 if self.level == "debug" else self._left_out(notice.event)
        if more is None:
            return
        if more:
            notice = replace(notice, text=f"{notice.text} (and {more:,} more before)")
        if self.form == "json":
            self._print(json.dumps(as_value(notice), default=str))
            return
        moment = time.strftime("%H:%M:%S", time.localtime())
        severity = "" if notice.level in ("debug", "info") else f"{notice.level}: "
        tail = f"  [{notice.event}]" if severity else ""
        if self.level == "debug":
            pairs = " ".join(f"{name}={value}" for name, value in notice.detail.items())
            tail = f"  [{notice.event}{' ' if pairs else ''}{pairs}]"
        line = printable(f"{moment}  {severity}{notice.text}{tail}"[:LINE_CHARS_MAX])
        self._print(line, notice if notice.event == "round.progress" else None)

    def _left_out(self, event: str) -> int | None:
        """Return how many lines of an event were left out since the last, None if this one is left out too."""
        before_ms, count = self._rates.get(event, (None, 0))
        rate_ms = admit_at_rate(
            before_ms, time.monotonic_ns() // 1_000_000, every_ms=LINE_EVERY_MS, at_once=LINES_AT_ONCE
        )
        self._rates[event] = (before_ms, count + 1) if rate_ms is None else (rate_ms, 0)
        return None if rate_ms is None else count

    def _print(self, line: str, progress: Notice | None = None) -> None:
        stream = self.stream or sys.stdout
        with contextlib.suppress(BrokenPipeError, ValueError):  # the reader left; the node continues
            clear = CLEAR if self._bar_drawn else ""
            self._bar_drawn = progress is not None and stream.isatty()
            if progress is not None and self._bar_drawn:
                bar = draw(progress, _columns(stream), unicode=shows_unicode(stream.encoding, os.environ))
                print(CLEAR + printable(bar), end="", file=stream, flush=True)
            else:
                print(clear + line, file=stream, flush=True)


def _columns(stream: TextIO) -> int:
    """Return the width of the terminal. Importing shutil for this would cost the node memory."""
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # the terminal does not say, or the stream is no terminal
        return COLUMNS_DEFAULT


def as_value(notice: Notice) -> dict[str, Any]:
    """Return a notice as the object that a JSON line holds, with the current time."""
    now_ms = time.time_ns() // 1_000_000
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_ms // 1000))
    return {
        "time": f"{moment}.{now_ms % 1000:03}Z",
        "level": notice.level,
        "event": notice.event,
        "text": notice.text[:LINE_CHARS_MAX],
        "detail": notice.detail,
    }


def printable(text: str) -> str:
    """Return the text with control characters replaced by question marks: much of it comes from peers."""
    return "".join(char if char.isprintable() else "?" for char in text)
