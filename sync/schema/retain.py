"""The facts of retention: how long the mesh keeps the rows of a table, and when rows from before the mesh were taken in.

Facts of a form that this module does not write have no effect.
"""

from __future__ import annotations

import functools
import json
from typing import Any

from mycomesh.sync.sqlite.table_spec import TableSpec
from mycomesh.sync.storage.horizon import AGE_MS_MAX, AGE_MS_MIN, RetainRule

__all__ = [
    "ADOPTED",
    "ERA_MAX",
    "RETAIN",
    "adopted_fact",
    "adoption_of",
    "end_fact",
    "era_after",
    "retain_fact",
    "retain_name",
    "retain_refusal",
    "rule_of",
]

RETAIN = "retain"
ADOPTED = "adopted"
ERA_MAX = 1 << 31
_TEXT_MAX = 1_024
_MS_END = 1 << 47  # of a clock's milliseconds


def retain_name(table: str) -> str:
    """Return the name of the fact of a table's rule, by canonical name."""
    return f"{RETAIN}:{json.dumps([table], ensure_ascii=False)}"


def retain_fact(table: str, rule: RetainRule) -> tuple[str, str, str]:
    """Return the fact (name, kind, sql) of the rule of a table, by canonical name."""
    value = {"age_ms": rule.age_ms, "by": rule.by, "floor_ms": rule.floor_ms, "era": rule.era}
    return retain_name(table), RETAIN, json.dumps(value, ensure_ascii=False)


def end_fact(table: str, era: int) -> tuple[str, str, str]:
    """Return the fact (name, kind, sql) that the rule of a table has ended; `era` is that of its next rule."""
    return retain_name(table), RETAIN, json.dumps({"era": era})


def era_after(text: str | None) -> int:
    """Return the era of a table's next rule from the text of its fact; 0 without one, or for one of another form."""
    value = _read(text) if text else None
    era = value.get("era", 0) if value is not None else 0
    return era if type(era) is int and 0 <= era <= ERA_MAX else 0


@functools.lru_cache(maxsize=8_192)
def rule_of(text: str) -> RetainRule | None:
    """Return the rule that a fact states; None if it ends one, or has another form."""
    value = _read(text)
    if value is None:
        return None
    age_ms, by, floor_ms = value.get("age_ms"), value.get("by", ""), value.get("floor_ms", 0)
    if type(age_ms) is not int or type(by) is not str or type(floor_ms) is not int:
        return None
    if not AGE_MS_MIN <= age_ms <= AGE_MS_MAX or not 0 <= floor_ms < _MS_END:
        return None
    return RetainRule(age_ms, by, floor_ms, era_after(text))


def _read(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text) if len(text) <= _TEXT_MAX else None
    except (ValueError, RecursionError):
        return None
    return value if type(value) is dict else None


def adopted_fact(site: bytes, wall_ms: int) -> tuple[str, str, str]:
    """Return the fact (name, kind, sql) that the rows of an early site count from a time (Unix milliseconds)."""
    return f"{ADOPTED}:{json.dumps([site.hex()])}", ADOPTED, str(wall_ms)


def adoption_of(site: str, text: str) -> dict[bytes, int]:
    """Return the time of the rows of an early site that a fact states, by site; empty for a fact of another form."""
    try:
        found, wall_ms = bytes.fromhex(site), int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1
    except ValueError:
        return {}
    return {found: wall_ms} if len(found) == 16 and 0 <= wall_ms < _MS_END else {}


def retain_refusal(spec: TableSpec, by: str) -> str:
    """Return why rows of a table cannot go by the time in a column, "" if they can; `by` is "" for the time of the insert."""
    if not by or any(column.folded == by for column in spec.columns):
        return ""
    return f"{spec.name} has no stored column {by!r}; its columns are {', '.join(c.name for c in spec.columns)}"
