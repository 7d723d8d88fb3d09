"""The terminal output of `mycomesh simulate`: the table of results and the progress bar.

Invariant: the bar appears only on a terminal, and only on standard error.
"""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from mycomesh.simulations.runner import Result

__all__ = ["Bar", "Counter", "header", "lines_of"]

VIOLATIONS_SHOWN = 5
BAR = 20
TRACE_DIGITS = 8
COLUMNS = (
    ("scenario", 16),
    ("seed", 7),
    ("held", 6),
    ("nodes", 5),
    ("virtual", 8),
    ("real", 8),
    ("commits", 8),
    ("events", 9),
    ("sent", 10),
    ("equal after", 11),
    ("trace", 0),
)
# The columns and widths for a terminal of 80 columns, with TRACE_DIGITS of the trace.
NARROW = {
    "scenario": 15,
    "seed": 5,
    "held": 4,
    "nodes": 5,
    "real": 7,
    "sent": 9,
    "equal after": 11,
    "trace": TRACE_DIGITS,
}
WHOLE = sum(width + 2 for _, width in COLUMNS) + 32


def header() -> str:
    """Return the line above the results."""
    return _row({name: name for name, _ in COLUMNS})


def lines_of(result: Result) -> str:
    """Return the line of a result in the table, with its violations below."""
    cells = {
        "scenario": result.scenario,
        "seed": str(result.seed),
        "held": "yes" if result.ok else "NO",
        "nodes": str(result.nodes),
        "virtual": f"{result.virtual_s:.0f} s",
        "real": f"{result.real_s:.1f} s",
        "commits": str(result.commits),
        "events": str(result.events),
        "sent": f"{result.bytes / 1e6:.2f} MB",
        "equal after": "never" if result.healed_s is None else f"{result.healed_s:.1f} s",
        "trace": result.trace,
    }
    lines = [_row(cells)]
    lines += [f"  {line}" for line in result.violations[:VIOLATIONS_SHOWN]]
    if len(result.violations) > VIOLATIONS_SHOWN:
        lines.append(f"  and {len(result.violations) - VIOLATIONS_SHOWN} more")
    if not result.ok:
        faults = ", ".join(f"{name} {count}" for name, count in result.faults.items())
        lines.append(f"  faults that occurred: {faults or 'none'}")
    return "\n".join(lines)


def _row(cells: dict[str, str]) -> str:
    narrow = sys.stdout.isatty() and shutil.get_terminal_size().columns < WHOLE
    columns = NARROW if narrow else dict(COLUMNS)
    if narrow:
        cells = cells | {"trace": cells["trace"][:TRACE_DIGITS]}
    padded = [
        cells[name].ljust(width) if name in ("scenario", "held", "trace") else cells[name].rjust(width)
        for name, width in columns.items()
    ]
    return "  ".join(padded).rstrip()


class _Line:
    """A line that is rewritten in place."""

    __slots__ = ("_shown", "_stream")

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._shown = ""

    @property
    def live(self) -> bool:
        """True if the stream is a terminal."""
        return self._stream.isatty()

    def _write(self, text: str) -> None:
        text = text[: shutil.get_terminal_size().columns - 1]  # a line that wraps cannot be rewritten
        if text != self._shown:
            self._stream.write("\r" + text.ljust(len(self._shown)))
            self._stream.flush()
            self._shown = text

    def clear(self) -> None:
        """Clear the line."""
        if self._shown:
            self._stream.write("\r" + " " * len(self._shown) + "\r")
            self._stream.flush()
            self._shown = ""


class Bar(_Line):
    """Progress through virtual time."""

    __slots__ = ("_end_s", "_name")

    def __init__(self, name: str, end_s: float, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._name = name
        self._end_s = end_s

    def show(self, virtual_s: float) -> None:
        """Show the virtual time; after the end of the faults the bar is full and the time continues."""
        done = min(1.0, virtual_s / self._end_s)
        phase = "writes and faults" if done < 1 else "until all are equal"
        self._write(f"{self._name} {_bar(done)} {virtual_s:.0f} of {self._end_s:.0f} s, {phase}")


class Counter(_Line):
    """Progress through many runs."""

    __slots__ = ("_name", "_total")

    def __init__(self, name: str, total: int, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._name = name
        self._total = total

    def show(self, done: int, failed: int) -> None:
        """Show the numbers of completed and failed runs, on a terminal only."""
        if self.live:
            ending = f", {failed} failed" if failed else ""
            self._write(f"{self._name} {_bar(done / self._total)} {done} of {self._total}{ending}")


def _bar(share: float) -> str:
    full = round(share * BAR)
    return f"[{'#' * full}{'.' * (BAR - full)}]"
