"""A progress bar on stderr for commands that take longer than a second; nothing in a pipe.

Invariants (tests/tools/test_progress.py): a command that ends within `PATIENCE_S` draws nothing and does not load rich; a bar
leaves nothing on the screen.
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

Measured = tuple[float, float | None]  # done so far, and the total or None


@contextlib.contextmanager
def progress(what: str, measure: Callable[[], Measured] | None = None) -> Iterator[None]:
    """Draw a bar while the block runs; another thread calls `measure`. Without `measure` the bar shows only the time."""
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
    bars = importlib.import_module("rich.progress")  # only a command that takes long pays for it
    console = importlib.import_module("rich.console").Console(stderr=True)
    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.TaskProgressColumn("{task.percentage:>3.0f} %", markup=False),  # empty where the total is unknown
        bars.TimeElapsedColumn(),
    )
    with bars.Progress(*columns, console=console, transient=True) as drawn:
        task = drawn.add_task(what, total=None)
        while not ended.wait(STEP_S):
            done, total = measure()
            drawn.update(task, completed=done, total=total)
