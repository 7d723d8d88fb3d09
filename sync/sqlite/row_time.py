"""The time in a cell: ISO 8601 text, or a number of seconds or milliseconds since 1970.

A number that would be a time before 1980 counts as no time: it may be a Julian day, a date such as 20260101, a year, or the
seconds of a machine. Rows do not come back, so a value that may mean something else keeps its row.

SQLite judges every value, in one expression, so that all nodes cut the same rows (`retention`). Python only sorts out the values
that are certainly later than a bound, which most are.

Invariant: `maybe_before` is true for every value that `TIME_MS` puts before the bound (tests/sync/sqlite/test_row_time.py).
"""

from __future__ import annotations

import datetime as dt
from typing import Any

__all__ = ["maybe_before", "time_ms"]

# A number below this is seconds (until the year 5138), from it on milliseconds (since 1973), and from `_MS_END` on no time.
_MS_FROM = 10**11
_MS_END = 10**14
_EARLIEST_S = 315_532_800  # 1980
_DAY_MS = 86_400_000
_DATE = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*"
_DATE_CHARS = 10


def time_ms(value: str) -> str:
    """Return SQL for the Unix milliseconds of the value of an SQL expression, NULL for one that is no time.

    Text counts to the second, as SQLite versions round fractions differently.
    """
    number = (
        f"CASE WHEN {{0}} >= {_EARLIEST_S} AND {{0}} < {_MS_FROM} THEN 1000 * CAST({{0}} AS INTEGER)"
        f" WHEN {{0}} >= {1_000 * _EARLIEST_S} AND {{0}} < {_MS_END} THEN CAST({{0}} AS INTEGER) END"
    )
    return (
        f"CASE typeof({value}) WHEN 'integer' THEN {number.format(value)} WHEN 'real' THEN {number.format(value)}"
        f" WHEN 'text' THEN CASE WHEN {value} GLOB '{_DATE}' THEN 1000 * CAST(strftime('%s', {value}) AS INTEGER)"
        f" WHEN {value} <> '' AND length({value}) < 15 AND {value} NOT GLOB '*[^0-9]*'"
        f" THEN {number.format(f'CAST({value} AS INTEGER)')} END END"
    )


def maybe_before(value: Any, bound_ms: int) -> bool:
    """Return False if a value is certainly no time before a bound (Unix milliseconds)."""
    if type(value) is int or type(value) is float:
        if value < _MS_FROM:
            return value >= _EARLIEST_S and value * 1000 < bound_ms + 1000
        return 1_000 * _EARLIEST_S <= value < min(bound_ms, _MS_END)
    if type(value) is not str:
        return False
    return value[:_DATE_CHARS] <= _latest_date(bound_ms) or value.isdigit()


def _latest_date(bound_ms: int) -> str:
    """Return the greatest date that text may begin with whose time is before a bound, in any time zone."""
    try:
        return dt.datetime.fromtimestamp((bound_ms + _DAY_MS) / 1000, tz=dt.UTC).strftime("%Y-%m-%d")
    except (OverflowError, ValueError, OSError):
        return "9999-99-99"
