"""A live simulation as a source of `top`: its trace goes to the screen instead of to a file.

The simulation runs in a thread of its own. Invariants (tests/tools/top/test_running.py): virtual time is at most `AHEAD_S` ahead
of the screen and pauses with it; when the user quits, the run ends and removes its files.
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

AHEAD_S = 2.0  # virtual seconds by which the run may be ahead of the screen


class _Left(BaseException):
    """The user has quit. A BaseException, so that no `except Exception` of a run catches it."""


class RunSource:
    """One run of a request, at `speed` virtual seconds per second or as fast as the machine allows, whichever is slower."""

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
        self._changed = threading.Condition()
        self._left = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def picture(self, *, paused: bool, steps: int = 0) -> Picture:
        """Play up to the clock, or so many recorded moments further, as far as the run has come."""
        now_s = time.monotonic()
        with self._changed:
            if not paused:
                self._t += (now_s - self._last_s) * self._speed
            self._last_s = now_s
            self._play()
            for _ in range(steps):
                if self._lines:
                    self._t = self._lines[0]["t"]
                    self._play()
            if self._thread.is_alive() and not self._lines:
                self._t = min(self._t, self._trace.t + AHEAD_S)  # the run is slower than the clock
            self._changed.notify_all()
        return self._trace.picture(self._note())

    def _play(self) -> None:
        while self._lines and self._lines[0]["t"] <= self._t:
            self._trace.feed(self._lines.popleft())

    def leave(self) -> None:
        """End the run if it is still running, and wait until it has removed its files."""
        with self._changed:
            self._left = True
            self._changed.notify_all()
        self._thread.join()

    def _note(self) -> str:
        if self._thread.is_alive() or self._lines:
            return ""
        if self.result is None:
            return f"the run could not begin: {self.refused}"
        if self.result.ok:
            return "the run has ended: all checks passed"
        found = self.result.violations
        return f"the run has ended: {found[0] if found else 'not converged'}"

    def _run(self) -> None:
        try:
            with Tap() as tap:
                self.result = self._request.attempt(self._seed, record=Recorder(_Pipe(self._on_line), tap=tap))
        except _Left:
            pass
        except SimulationError as error:
            self.refused = str(error)

    def _on_line(self, line: dict[str, Any]) -> None:
        with self._changed:
            while not self._left and line["t"] > self._t + AHEAD_S:
                self._changed.wait()
            if self._left:
                raise _Left
            self._lines.append(line)


class _Pipe(io.StringIO):
    """The file to which a recorder writes its lines."""

    def __init__(self, on_line: Any) -> None:
        super().__init__()
        self._on_line = on_line

    def write(self, text: str, /) -> int:
        """Pass one line on."""
        self._on_line(json.loads(text))
        return len(text)
