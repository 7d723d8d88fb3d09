"""Where `top` has its pictures from: a running node, asked again and again, or a trace, played by the clock.

Owns the connection or the file. What always holds: `look` returns within some seconds; a node that went is said, not an
end. It must not know how a picture is drawn.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from mycomesh.mesh.node.control.client import ask, watch
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.status import Status, from_json
from mycomesh.tools import exits
from mycomesh.tools.top.model import EVENTS_MAX, Live, Picture, Trace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mycomesh.mesh.node.home import Home

__all__ = ["NodeSource", "Source", "TraceSource"]

ANSWER_S = 2.0  # a person waits; a node in a long transaction answers the next look
RETRY_S = 2.0


class Source(Protocol):
    """Gives the picture of this moment."""

    def look(self, *, paused: bool) -> Picture:
        """Return it; while paused the one before."""
        ...


class NodeSource:
    """The node of one home; raises `NodeError` at the start if none runs."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._live = Live()
        self._heard: deque[dict[str, Any]] = deque(maxlen=EVENTS_MAX)  # appended by the thread that listens
        self._status: Status = from_json(ask(home, "status"))
        self._picture = self._live.picture(self._status)
        threading.Thread(target=self._listen, daemon=True).start()

    def look(self, *, paused: bool) -> Picture:
        """Ask the node."""
        if paused:
            return self._picture
        note = ""
        try:
            self._status = from_json(ask(self._home, "status", timeout_s=ANSWER_S))
        except NodeError as error:
            note = str(error)
        while self._heard:
            self._live.heard(self._heard.popleft())
        self._picture = self._live.picture(self._status, note)
        return self._picture

    def _listen(self) -> None:
        while True:
            with contextlib.suppress(NodeError, OSError):
                for notice in watch(self._home, past=EVENTS_MAX):
                    self._heard.append(notice)
            time.sleep(RETRY_S)


class TraceSource:
    """A recorded run, `speed` virtual seconds a second, or at once its end; raises `UsageError` if the file is none."""

    def __init__(self, path: Path, speed: float, *, ended: bool = False) -> None:
        self._path = path
        self._speed = speed
        self._trace = Trace()
        self._lines = self._read()
        self._next = next(self._lines, None)
        if self._next is None or self._next.get("kind") != "header" or self._next.get("version") != 1:
            raise exits.UsageError(f"{path} is no trace of version 1; make one with: mycomesh simulate --report")
        self._t = math.inf if ended else 0.0
        self._last_s = time.monotonic()

    def look(self, *, paused: bool) -> Picture:
        """Play up to the clock."""
        now_s = time.monotonic()
        if not paused:
            self._t += (now_s - self._last_s) * self._speed
        self._last_s = now_s
        while self._next is not None and self._at(self._next) <= self._t:
            try:
                self._trace.feed(self._next)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise exits.UsageError(f"{self._path} has a line that is not of a trace: {error}") from error
            self._next = next(self._lines, None)
        return self._trace.picture("the end of the trace" if self._next is None else "")

    def _at(self, line: dict[str, Any]) -> float:
        value = line.get("t")
        if not isinstance(value, int | float):
            raise exits.UsageError(f"{self._path} has a line without a time; see docs/simulations.md")
        return value

    def _read(self) -> Iterator[dict[str, Any]]:
        try:
            with self._path.open(encoding="utf-8") as lines:
                for number, text in enumerate(lines, 1):
                    try:
                        line = json.loads(text)
                    except (ValueError, RecursionError):
                        line = None
                    if not isinstance(line, dict):
                        raise exits.UsageError(f"{self._path}, line {number} is no JSON object; is it a trace?")
                    yield line
        except OSError as error:
            raise exits.UsageError(f"cannot read {self._path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise exits.UsageError(f"cannot read {self._path}: it is no text") from error
