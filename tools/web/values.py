"""Values of SQL as JSON that a program in any language reads without loss, as the change feed writes them.

A blob is `{"base64": TEXT}`, text that is not UTF-8 `{"text in base64": TEXT}`. JavaScript and others lose digits of an integer
beyond 2^53 and have no JSON for an infinite number: these are `{"integer": TEXT}` and `{"real": TEXT}`. A cell longer than what
the console reads is `{"too long": BYTES}`.
"""

from __future__ import annotations

import base64
import math
from typing import Any

from mycomesh.sync.sqlite.raw_text import is_raw

__all__ = ["INTEGER_MAX", "TooLong", "browser_safe", "csv_text", "plain"]

INTEGER_MAX = 1 << 53


class TooLong(int):
    """The bytes of a cell that is not read."""


def plain(value: Any) -> Any:
    """Return a value of SQL as JSON values."""
    kind = type(value)
    if kind is str or value is None:
        return value
    if kind is bytes:
        return {"base64": base64.b64encode(value).decode("ascii")}
    if is_raw(value):
        return {"text in base64": base64.b64encode(value[0]).decode("ascii")}
    if kind is TooLong:
        return {"too long": int(value)}
    return browser_safe(value)


def browser_safe(value: Any) -> Any:
    """Return JSON values with the numbers replaced that JavaScript does not hold."""
    if isinstance(value, dict):
        return {name: browser_safe(each) for name, each in value.items()}
    if isinstance(value, list):
        return [browser_safe(each) for each in value]
    if type(value) is int and abs(value) > INTEGER_MAX:
        return {"integer": str(value)}
    if type(value) is float and not math.isfinite(value):
        return {"real": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    return value


def csv_text(value: Any) -> str:
    """Return a value of SQL as one cell of CSV."""
    if value is None:
        return ""
    if type(value) is bytes:
        return base64.b64encode(value).decode("ascii")
    if is_raw(value):
        return str(value[0].decode(errors="replace"))
    if type(value) is TooLong:
        return f"({int(value)} bytes)"
    return str(value)
