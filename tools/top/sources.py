"""The sources of `top`: a running node, polled, and a recorded trace, played by the clock.

A poll returns within seconds. If the node has gone, the picture says so in its note, and polling goes on.
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
from mycomesh.tools.top.event_log import EVENTS_MAX
from mycomesh.tools.top.model import Live, Picture, Trace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mycomesh.mesh.node.home import Home

__all__ = ["NodeSource", "Source", "TraceSource"]

ANSWER_S = 2.0  # the user waits for it; a node in a long transaction answers a later poll
RETRY_S = 2.0


class Source(Protocol):
    """Provides the current picture."""

    def picture(self, *, paused: bool, steps: int = 0) -> Picture:
        """Return the current picture; while paused the one before, or in a replay the one so many recorded moments later."""
        ...


class NodeSource:
    """The running node of one home.

    Raises:
        NodeError: no node runs when it is created.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._live = Live()
        self._notices: deque[dict[str, Any]] = deque(maxlen=EVENTS_MAX)  # the listening thread appends to it
        self._status: Status = from_json(ask(home, "status"))
        self._picture = self._live.picture(self._status)
        threading.Thread(target=self._listen, daemon=True).start()

    def picture(self, *, paused: bool, steps: int = 0) -> Picture:
        """Return the picture of the node's status; a running node has no steps."""
        del steps
        if paused:
            return self._picture
        note = ""
        try:
            self._status = from_json(ask(self._home, "status", timeout_s=ANSWER_S))
        except NodeError as error:
            note = str(error)
        while self._notices:
            self._live.record_notice(self._notices.popleft())
        self._picture = self._live.picture(self._status, note)
        return self._picture

    def _listen(self) -> None:
        while True:
            with contextlib.suppress(NodeError, OSError):
                for notice in watch(self._home, past=EVENTS_MAX):
                    self._notices.append(notice)
            time.sleep(RETRY_S)


class TraceSource:
    """A recorded run, at `speed` virtual seconds per second, or its end at once if `ended`.

    Raises:
        UsageError: the file is not a trace of version 1.
    """

    def __init__(self, path: Path, speed: float, *, ended: bool = False) -> None:
        self._path = path
        self._speed = speed
        self._trace = Trace()
        self._lines = self._read()
        self._next = next(self._lines, None)
        if self._next is None or self._next.get("kind") != "header" or self._next.get("version") != 1:
            raise exits.UsageError(f"{path} is not a trace of version 1; make one with: mycomesh simulate --report DIR")
        self._t = math.inf if ended else 0.0
        self._last_s = time.monotonic()

    def picture(self, *, paused: bool, steps: int = 0) -> Picture:
        """Play up to the clock, or so many recorded moments further, and return the picture."""
        now_s = time.monotonic()
        if not paused:
            self._t += (now_s - self._last_s) * self._speed
        self._last_s = now_s
        self._play()
        for _ in range(steps):
            if self._next is not None:
                self._t = self._time_of(self._next)
                self._play()
        return self._trace.picture("end of the trace" if self._next is None else "")

    @property
    def t(self) -> float:
        """Virtual seconds of the last line that was played."""
        return self._trace.t

    @property
    def ended(self) -> bool:
        """Whether every line was played."""
        return self._next is None

    def _play(self) -> None:
        while self._next is not None and self._time_of(self._next) <= self._t:
            try:
                self._trace.feed(self._next)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise exits.UsageError(
                    f"{self._path} contains a line that does not belong in a trace: {error}"
                ) from error
            self._next = next(self._lines, None)

    def _time_of(self, line: dict[str, Any]) -> float:
        value = line.get("t")
        if not isinstance(value, int | float):
            raise exits.UsageError(f"{self._path} contains a line without a time; see docs/simulations.md")
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
                        raise exits.UsageError(
                            f"{self._path}, line {number} is not a JSON object; check that the file is a trace"
                        )
                    yield line
        except OSError as error:
            raise exits.UsageError(f"cannot read {self._path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise exits.UsageError(f"cannot read {self._path}: it is not text") from error
