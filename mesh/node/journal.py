"""What a running node says: one line an event, for people or as one JSON object.

Owns wording of time and level, and the rule that text from peers cannot steer a terminal. It must not know what the
events mean.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from mycomesh.mesh.node.progress_bar import CLEAR, drawn, shows_unicode

if TYPE_CHECKING:
    from mycomesh.mesh.events import Notice

__all__ = ["LEVELS", "Journal", "as_value", "printable"]

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}  # as the logging module numbers them
COLUMNS_DEFAULT = 80
LINE_CHARS_MAX = 2000  # a longer text is somebody's attempt to fill the log


@dataclass(slots=True)
class Journal:
    """Prints notices of at least one level, one line each, until nobody reads them.

    As JSON a line is an object with `time` (RFC 3339, UTC), `level`, `event`, `text` and `detail`.
    """

    level: str = "info"
    stream: TextIO | None = None
    form: str = "text"  # or json
    _drawn: bool = False  # a bar stands on the last line

    def say(self, notice: Notice) -> None:
        """Print one notice; the details only when every event is shown."""
        if LEVELS.get(notice.level, 20) < LEVELS[self.level]:
            return
        if self.form == "json":
            self._print(json.dumps(as_value(notice), default=str))
            return
        moment = time.strftime("%H:%M:%S", time.localtime())
        mark = "" if notice.level in ("debug", "info") else f"{notice.level}: "
        tail = f"  [{notice.event}]" if mark else ""
        if self.level == "debug":
            pairs = " ".join(f"{name}={value}" for name, value in notice.detail.items())
            tail = f"  [{notice.event}{' ' if pairs else ''}{pairs}]"
        line = printable(f"{moment}  {mark}{notice.text}{tail}"[:LINE_CHARS_MAX])
        self._print(line, notice if notice.event == "round.progress" else None)

    def _print(self, line: str, progress: Notice | None = None) -> None:
        stream = self.stream or sys.stdout
        with contextlib.suppress(BrokenPipeError, ValueError):  # the reader left; the node goes on without one
            clear = CLEAR if self._drawn else ""
            self._drawn = progress is not None and stream.isatty()
            if progress is not None and self._drawn:
                bar = drawn(progress, _columns(stream), unicode=shows_unicode(stream.encoding, os.environ))
                print(CLEAR + printable(bar), end="", file=stream, flush=True)
            else:
                print(clear + line, file=stream, flush=True)


def _columns(stream: TextIO) -> int:
    """How wide the terminal is. Not by shutil: what else it loads would stay in a node's memory."""
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # it says nothing, or is none after all
        return COLUMNS_DEFAULT


def as_value(notice: Notice) -> dict[str, Any]:
    """Return a notice, said at this moment, as the object that a line of JSON holds."""
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
    """Return the text without anything that a terminal would obey: much of what is told comes from peers."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)
