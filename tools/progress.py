"""A progress bar on stderr for whatever takes longer than a second; nothing at all in a pipe.

Owns the thread that draws. What always holds: a command that is done within `PATIENCE_S` draws nothing and loads nothing;
nothing of a bar is left on the screen after it. It must not know what is measured.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["PATIENCE_S", "progress"]

PATIENCE_S = 1.0
STEP_S = 0.25

Measured = tuple[float, float | None]  # done so far, and the whole, None where nobody knows


@contextlib.contextmanager
def progress(what: str, measure: Callable[[], Measured] | None = None) -> Iterator[None]:
    """Draw a bar while the block runs; `measure` is asked from another thread, without one only the time is shown."""
    if not sys.stderr.isatty():
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_draw, args=(what, measure or _unknown, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _unknown() -> Measured:
    return 0, None


def _draw(what: str, measure: Callable[[], Measured], ended: threading.Event) -> None:
    if ended.wait(PATIENCE_S):
        return
    bars = importlib.import_module("rich.progress")  # only those who wait pay for it
    console = importlib.import_module("rich.console").Console(stderr=True)
    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.TaskProgressColumn("{task.percentage:>3.0f} %", markup=False),  # nothing where the whole is not known
        bars.TimeElapsedColumn(),
    )
    with bars.Progress(*columns, console=console, transient=True) as drawn:
        task = drawn.add_task(what, total=None)
        while not ended.wait(STEP_S):
            done, total = measure()
            drawn.update(task, completed=done, total=total)
