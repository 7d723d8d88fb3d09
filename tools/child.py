"""The child's end of a supervised process: reports to the node, its requests, and an end together with the node.

`mesh.node.children` has the other end. Run by hand, such a process prints its reports as text for a person.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from typing import Any

__all__ = ["SUPERVISED", "Parent", "Reports", "end_with_parent", "is_supervised", "run_until_signal"]

SUPERVISED = "MYCOMESH_CHILD"  # set in the environment by the node
GRACE_S = 5  # after SIGTERM to itself
TEXT_CHARS_MAX = 1_000  # of one report, whose line is limited


def is_supervised() -> bool:
    """Return whether a node started this process."""
    return SUPERVISED in os.environ


class Parent:
    """Requests of the node to this process: to try dead letters again."""

    def __init__(self) -> None:
        self._asked: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def retry_event(self) -> asyncio.Event:
        """Return an event of the running loop that is set at first, and whenever dead letters are to be tried again."""
        event = asyncio.Event()
        event.set()
        self._asked = asyncio.get_running_loop(), event
        return event

    def request_retry(self) -> None:
        """Set the event, from any thread."""
        if self._asked is not None:
            loop, event = self._asked
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(event.set)


def end_with_parent() -> Parent:
    """Send SIGTERM to this process when its standard input ends, as the node does, and end it if that does not help.

    A thread waits, so that an event loop that hangs ends too. Without a supervisor it does nothing. Returns what the node asks.
    """
    parent = Parent()
    if is_supervised():
        threading.Thread(target=_wait_for_end, args=(parent,), name="mycomesh-parent", daemon=True).start()
    return parent


def _wait_for_end(parent: Parent) -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4_096):
            parent.request_retry()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)


def run_until_signal(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run the work in an event loop until it ends, or until SIGTERM or SIGINT cancels it."""

    async def cancellable() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await work()

    asyncio.run(cancellable())


class Reports:
    """Reports of a child about itself. A state is written when it changes, figures as often as the caller reports them."""

    def __init__(self) -> None:
        self._supervised = is_supervised()
        self._last = ("", "")

    def report(self, state: str, text: str = "", figures: Mapping[str, float] | None = None) -> None:
        """Report the state, such as running or waiting, why, and numbers by name."""
        text = text[:TEXT_CHARS_MAX]
        if self._supervised:
            _write({"state": state, "text": text, "figures": dict(figures or {})})
        elif self._last != (state, text):
            print(f"{state}: {text}" if text else state, flush=True)
        self._last = state, text

    def notify(self, event: str, text: str, level: str = "info") -> None:
        """Let the node log a notice; `event` is a code of `mycomesh explain`."""
        text = text[:TEXT_CHARS_MAX]
        if self._supervised:
            _write({"notice": {"event": event, "text": text, "level": level}})
        else:
            print(f"{level}: {text} [{event}]", file=sys.stderr, flush=True)


def _write(value: dict[str, object]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the node has ended, and this process is about to
        sys.stdout.write(f"{json.dumps(value)}\n")
        sys.stdout.flush()
