"""Tables and JSON on standard output: drawn with rich on a terminal, as plain aligned columns in a pipe."""

from __future__ import annotations

import importlib
import json
import re
import sys
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.journal import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import TextIO

__all__ = [
    "add_json",
    "byte_count",
    "duration",
    "json_text",
    "print_json",
    "print_table",
    "say",
    "short_hash",
    "signed_ms",
    "tell",
    "without_steering",
]

# Characters that JSON leaves as they are, and that steer a terminal or turn the direction of text.
_STEERING = re.compile(r"[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
UNITS = ("B", "kB", "MB", "GB", "TB")
HASH_DIGITS = 8  # enough to distinguish two contents by eye; --json has the whole hash


def print_json(value: Any) -> None:
    """Print one JSON value, indented for a terminal, on one line in a pipe."""
    print(json_text(value, indent=2 if sys.stdout.isatty() else None))


def json_text(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON, with JSON escapes where standard output is not UTF-8."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return without_steering(json.dumps(value, ensure_ascii=not utf8, indent=indent))


def without_steering(text: str) -> str:
    """Return JSON with escapes for the characters that steer a terminal: of a C1 control code JSON knows nothing."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declare `--json`, which `tell` obeys."""
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout, for programs")


def say(*lines: str, file: TextIO | None = None) -> None:
    """Print lines for people, on stdout by default. Control codes in them are escaped: names come from peers."""
    for line in lines:
        print(printable(line), file=file)


def tell(args: argparse.Namespace, value: dict[str, Any], *lines: str) -> None:
    """Report a result: lines on stderr for people, or the value as JSON on stdout. Control codes in lines are escaped."""
    if args.json:
        print_json(value)
    else:
        say(*lines, file=sys.stderr)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text under their headers. Control codes in them are escaped."""
    rows = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _draw(headers, rows)
        return
    widths = [max(len(row[at]) for row in (headers, *rows)) for at in range(len(headers))]
    for row in (headers, *rows):
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def duration(milliseconds: int | None) -> str:
    """Return a span of time for people, rounded."""
    if milliseconds is None:
        return "-"
    seconds = milliseconds / 1000
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    if seconds < 1:
        return f"{milliseconds} ms"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def signed_ms(milliseconds: float | None) -> str:
    """Return a clock offset in whole milliseconds, with its sign and never as -0."""
    return "-" if milliseconds is None else f"{round(milliseconds):+,} ms"


def byte_count(count: int) -> str:
    """Return a number of bytes for people, rounded, in powers of 1,000."""
    size = float(count)
    for unit in UNITS:
        if size < 1000 or unit == UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("the last unit accepts every size")


def short_hash(digest: str) -> str:
    """Return the last digits of a table's hash, which people compare; every view shows the same ones."""
    return digest[-HASH_DIGITS:]


def _draw(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = importlib.import_module("rich.table").Table(*headers, box=None, pad_edge=False, header_style="bold")
    text = importlib.import_module("rich.text").Text  # names come from peers, so rich must not parse them as markup
    for row in rows:
        table.add_row(*[text(cell) for cell in row])
    importlib.import_module("rich.console").Console().print(table)
