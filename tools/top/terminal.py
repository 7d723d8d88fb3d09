"""Full-screen mode of the terminal: single keys, resizing, ^Z, and the restoration of what was before.

Invariant (tests/tools/top/test_terminal.py): however `open_terminal` is left, also by a signal, the terminal is as it was before.
After ^Z (SIGTSTP) the shell has the terminal until the user continues the program.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["Terminal", "keys_of", "open_terminal"]

ENTER = "\x1b[?1049h\x1b[?25l\x1b[2J"
LEAVE = "\x1b[0m\x1b[?25h\x1b[?1049l"
READ_MAX = 256
ARROWS = {f"\x1b{mode}{end}": name for mode in "[O" for end, name in (("A", "up"), ("B", "down"), ("C", "right"))}


class Terminal:
    """Standard input and output in full-screen mode."""

    def __init__(self) -> None:
        self._input, self._output = sys.stdin.fileno(), sys.stdout.fileno()
        self._before = termios.tcgetattr(self._input)
        # Counts how often the screen was taken over or resized. The drawing code compares numbers: a signal can come at any
        # moment, and a flag that is cleared after drawing would lose a signal that came while drawing.
        self.generation = 0

    def enter(self) -> None:
        """Switch the terminal to full-screen mode."""
        tty.setcbreak(self._input)
        self._write(ENTER)
        self.generation += 1

    def leave(self) -> None:
        """Restore the terminal."""
        self._write(LEAVE)
        termios.tcsetattr(self._input, termios.TCSADRAIN, self._before)

    def show(self, frame: str) -> None:
        """Draw a frame over the previous one."""
        self._write(f"\x1b[H{frame}")

    def keys(self, seconds: float) -> list[str]:
        """Wait for keys for at most so many seconds; a resize ends the wait."""
        try:
            ready, _, _ = select.select([self._input], [], [], seconds)
        except InterruptedError:
            return []
        if not ready:
            return []
        data = os.read(self._input, READ_MAX)
        return keys_of(data.decode("utf-8", "replace")) if data else ["q"]  # the terminal is gone

    def suspend(self, _number: int, _frame: FrameType | None) -> None:
        """Handle ^Z: return the terminal to the shell until it continues this program."""
        self.leave()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self.suspend)
        self.enter()

    def _write(self, text: str) -> None:
        """Write without Python's buffer, which is not reentrant: a signal handler may write during a write."""
        data = text.encode(sys.stdout.encoding or "utf-8", "replace")
        while data:
            data = data[os.write(self._output, data) :]


@contextlib.contextmanager
def open_terminal() -> Iterator[Terminal]:
    """Yield the terminal; restore it at the end, after an error, and at SIGTERM and SIGHUP."""
    terminal = Terminal()

    def end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    def resized(_number: int, _frame: FrameType | None) -> None:
        terminal.generation += 1

    handlers = {signal.SIGTERM: end, signal.SIGHUP: end, signal.SIGTSTP: terminal.suspend, signal.SIGWINCH: resized}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        terminal.enter()
        yield terminal
    finally:
        terminal.leave()
        for number, handler in before.items():
            signal.signal(number, handler)


def keys_of(text: str) -> list[str]:
    """Return the keys in the text of one read: arrows by name, without other escape sequences."""
    keys = []
    while text:
        if text[:3] in ARROWS:
            keys.append(ARROWS[text[:3]])
            text = text[3:]
        elif len(text) > 1 and text[0] == "\x1b" and text[1] in "[O":
            end = next((at for at, sign in enumerate(text[2:], 2) if "@" <= sign <= "~"), len(text) - 1)
            text = text[end + 1 :]
        else:
            keys.append(text[0])
            text = text[1:]
    return keys
