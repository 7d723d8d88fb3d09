"""The terminal: whole screen, single keys, and the way back to what it was.

Owns the terminal's modes and the signals. What always holds: however `opened` is left, the terminal is as it was; stopped
by SIGTSTP (^Z) it is the shell's, and ours again afterwards. It must not know what is drawn.
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

__all__ = ["Terminal", "keys_of", "opened"]

ENTER = "\x1b[?1049h\x1b[?25l\x1b[2J"
LEAVE = "\x1b[0m\x1b[?25h\x1b[?1049l"
READ_MAX = 256
ARROWS = {"\x1b[A": "up", "\x1b[B": "down", "\x1bOA": "up", "\x1bOB": "down"}


class Terminal:
    """Standard input and output while `top` has them."""

    def __init__(self) -> None:
        self._input, self._output = sys.stdin.fileno(), sys.stdout.fileno()
        self._before = termios.tcgetattr(self._input)
        # Counts how often the screen has become somebody else's or another size. Signals come at any moment: whoever
        # draws compares numbers, where a flag that is set down after drawing would lose what came in between.
        self.turn = 0

    def enter(self) -> None:
        """Take the terminal."""
        tty.setcbreak(self._input)
        self._write(ENTER)
        self.turn += 1

    def leave(self) -> None:
        """Give it back as it was."""
        self._write(LEAVE)
        termios.tcsetattr(self._input, termios.TCSADRAIN, self._before)

    def show(self, frame: str) -> None:
        """Draw a frame over the one before."""
        self._write(f"\x1b[H{frame}")

    def keys(self, seconds: float) -> list[str]:
        """Wait for keys so long at most; a changed size ends the wait."""
        try:
            ready, _, _ = select.select([self._input], [], [], seconds)
        except InterruptedError:
            return []
        if not ready:
            return []
        data = os.read(self._input, READ_MAX)
        return keys_of(data.decode("utf-8", "replace")) if data else ["q"]  # the terminal is gone

    def suspend(self, _number: int, _frame: FrameType | None) -> None:
        """^Z: the shell gets its terminal, until it lets us go on."""
        self.leave()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self.suspend)
        self.enter()

    def _write(self, text: str) -> None:
        """Write past Python's buffer, which a signal that comes amid a write may not enter again."""
        data = text.encode(sys.stdout.encoding or "utf-8", "replace")
        while data:
            data = data[os.write(self._output, data) :]


@contextlib.contextmanager
def opened() -> Iterator[Terminal]:
    """Yield the terminal; it is given back at the end, after an error, and at SIGTERM and SIGHUP."""
    terminal = Terminal()

    def end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    def resized(_number: int, _frame: FrameType | None) -> None:
        terminal.turn += 1

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
    """Return the keys that a read brought: arrows by name, other escape sequences dropped, the rest as they are."""
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
