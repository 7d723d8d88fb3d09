"""A simulation that runs while `top` looks on: its trace goes to the screen instead of to a file.

Owns the thread of the run and its pace. What always holds: virtual time is never further than a moment ahead of what is
shown; while paused it stands; when the person has left, the run ends and its files are gone. It must not know how a picture
is drawn.
"""

from __future__ import annotations

import io
import json
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from mycomesh.simulations.errors import SimulationError
from mycomesh.simulations.recorder import Recorder
from mycomesh.simulations.tap import Tap
from mycomesh.tools.top.model import Picture, Trace

if TYPE_CHECKING:
    from mycomesh.simulations.request import Request
    from mycomesh.simulations.runner import Result

__all__ = ["RunSource"]

AHEAD_S = 2.0  # virtual seconds that the run may be ahead of the screen


class _Left(BaseException):
    """The person has left; no `except Exception` of a run may keep it going."""


class RunSource:
    """One run of a request, `speed` virtual seconds a second or as fast as the machine allows, whichever is slower."""

    def __init__(self, request: Request, seed: int, speed: float) -> None:
        self.result: Result | None = None
        self.refused = ""
        self._request = request
        self._seed = seed
        self._speed = speed
        self._trace = Trace()
        self._lines: deque[dict[str, Any]] = deque()
        self._t = 0.0
        self._last_s = time.monotonic()
        self._moved = threading.Condition()
        self._left = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def look(self, *, paused: bool) -> Picture:
        """Play up to the clock; where the run is slower than that, to where it is."""
        now_s = time.monotonic()
        with self._moved:
            if not paused:
                self._t += (now_s - self._last_s) * self._speed
            self._last_s = now_s
            while self._lines and self._lines[0]["t"] <= self._t:
                self._trace.feed(self._lines.popleft())
            if self._thread.is_alive() and not self._lines:
                self._t = min(self._t, self._trace.t + AHEAD_S)  # it has not come that far
            self._moved.notify_all()
        return self._trace.picture(self._note())

    def leave(self) -> None:
        """End the run if it still goes on, and wait until its files are gone."""
        with self._moved:
            self._left = True
            self._moved.notify_all()
        self._thread.join()

    def _note(self) -> str:
        if self._thread.is_alive() or self._lines:
            return ""
        if self.result is None:
            return f"the run did not begin: {self.refused}"
        if self.result.ok:
            return "the run has ended: all held"
        found = self.result.violations
        return f"the run has ended: {found[0] if found else 'not converged'}"

    def _run(self) -> None:
        try:
            with Tap() as tap:
                self.result = self._request.attempt(self._seed, record=Recorder(_Pipe(self._take), tap=tap))
        except _Left:
            pass
        except SimulationError as error:
            self.refused = str(error)

    def _take(self, line: dict[str, Any]) -> None:
        with self._moved:
            while not self._left and line["t"] > self._t + AHEAD_S:
                self._moved.wait()
            if self._left:
                raise _Left
            self._lines.append(line)


class _Pipe(io.StringIO):
    """What a recorder writes its lines to."""

    def __init__(self, take: Any) -> None:
        super().__init__()
        self._take = take

    def write(self, text: str, /) -> int:
        """Hand one line on."""
        self._take(json.loads(text))
        return len(text)
