"""Names of units on the wire: a table that is cut into areas is compared and sent area by area, each under a name of its own.

The name of an area begins as no user's table may, so a version that does not know areas takes it for a table that it lacks.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from mycomesh.sync.sqlite.identifiers import NAME_MAX

__all__ = [
    "AREA_CHARS_MAX",
    "CUT_NAME_CHARS_MAX",
    "NO_AREA",
    "area_of",
    "area_pattern",
    "is_area_name",
    "matches",
    "pattern_fault",
    "shown_unit",
    "split_unit",
    "summary_name",
    "summary_table",
    "table_of",
    "topic_of",
    "unit_name",
]

_PREFIX = "mycomesh_area\0"
_SUMMARY = "mycomesh_areas\0"
_SITE_BYTES = 17  # of one in the list of a bundle: a head of CBOR, and 16 bytes
# Characters of an area. A row with a longer value belongs to no area, like one with NULL.
AREA_CHARS_MAX = 100
# Characters of the name of a table that is cut, so that the name of each of its units fits `NAME_MAX`.
CUT_NAME_CHARS_MAX = 140
# The area of the rows of no area in a table that was cut with its rows, which everybody keeps. No unit has the name of such a
# table, which is the whole table to a node that does not know of the cut.
NO_AREA = "\x01"


def unit_name(table: str, area: str | None) -> str:
    """Return the name of an area of a table; that of the table for its base, which has the rows of no area."""
    return table if area is None else f"{_PREFIX}{table}\0{area}"


def split_unit(name: str) -> tuple[str, str] | None:
    """Return (table, area) of the name of an area, None for any other name."""
    if not name.startswith(_PREFIX):
        return None
    table, _, area = name[len(_PREFIX) :].partition("\0")
    return (table, area) if table and area and "\0" not in area and len(area) <= AREA_CHARS_MAX else None


def table_of(name: str) -> str:
    """Return the table of a unit by its name."""
    return (split_unit(name) or (name,))[0]


def shown_unit(name: str) -> str:
    """Return the name of a unit for people: `table[area]`, or the table's."""
    table, area = split_unit(name) or (name, "")
    return f"{table}[{area}]" if area and area != NO_AREA else table


def summary_name(table: str) -> str:
    """Return the name under which Digests has one line for many areas of a table."""
    return f"{_SUMMARY}{table}"


def summary_table(name: str) -> str | None:
    """Return the table of a name that `summary_name` has made, None for any other name."""
    return name[len(_SUMMARY) :] if name.startswith(_SUMMARY) else None


def is_area_name(name: str) -> bool:
    """Return True if a name on the wire is that of an area."""
    return name.startswith(_PREFIX)


def area_of(value: Any) -> str | None:
    """Return the area of a row by its value in the column of areas: the value as text; None if the row is in no area.

    NULL, byte strings, text that is not UTF-8, and text that is empty, too long or has a NUL name no area.
    """
    match value:
        case str():
            return value if 0 < len(value) <= AREA_CHARS_MAX and "\0" not in value else None
        case int() | float():
            return repr(value)
        case _:
            return None


def matches(pattern: str, table: str, area: str | None) -> bool:
    """Return True if a pattern is of a table with all its areas, or of one area of it; no `area` for the table itself."""
    scoped, area = area_pattern(pattern), None if area == NO_AREA else area
    if scoped is None:
        return fnmatchcase(table, _literal(pattern))
    return area is not None and fnmatchcase(table, _literal(scoped[0])) and fnmatchcase(area, _literal(scoped[1]))


def area_pattern(pattern: str) -> tuple[str, str] | None:
    """Return the patterns of table and area in `telemetry[7]`, None for a pattern of tables."""
    table, bracket, rest = pattern.partition("[")
    return (table, rest[:-1]) if bracket and rest.endswith("]") else None


def pattern_fault(pattern: str, *, classes: bool = False) -> str:
    """Return why a pattern that a person has just written would match nothing, "" if it is fine.

    With `classes`, brackets within the name of a table may be a set of characters, as in config.toml. Patterns of old
    certificates do not come here: they go on being read as they are.
    """
    plain, colon, right = pattern.rpartition(":")
    if colon and right in ("rw", "r", "w", "-") and not (classes and not plain.endswith("]")):
        return f"{pattern!r} ends with a right, which does not belong to a pattern: write {plain!r}"
    table, bracket, rest = pattern.partition("[")
    if not bracket:
        return ""
    if "]" not in rest:
        closed = f"{pattern}]" if table and rest else "telemetry[7]"
        return f"{pattern!r} lacks the closing bracket: write {closed!r} for an area"
    if rest == "]" or (not table and rest.endswith("]")):
        table = table or "telemetry"
        return f"{pattern!r} needs a table and an area: write {table}[7], or {table}[*] for all areas"
    if not classes and not rest.endswith("]"):
        return (
            f"{pattern!r} goes on after the bracket: write telemetry[7] for an area, ? for a bracket in a table's name"
        )
    return ""


def _literal(pattern: str) -> str:
    """Return a pattern in which only `*` and `?` match more than themselves."""
    return pattern.replace("[", "[[]")


def topic_of(payload: bytes) -> tuple[str, str] | None:
    """Return (table, area) of the area that a live batch begins with, None for a batch that every member gets.

    An origin puts areas into one batch only if the same members want them (`replication.priority`), so the first one says for
    whom the batch is, and no relay has to decode rows. A payload that is no bundle is for every member: they refuse it.
    """
    if payload[:2] != b"\x83\x01":  # an array of three, and the version
        return None
    sites, at = _array_head(payload, 2)
    sections, at = _array_head(payload, at + sites * _SITE_BYTES)
    if sections < 1 or payload[at : at + 1] != b"\x83":
        return None
    return split_unit(_text(payload, at + 1))


def _array_head(data: bytes, at: int) -> tuple[int, int]:
    """Return (number of items, where they begin) of a CBOR array; (0, the end) for anything else."""
    first = data[at] if at < len(data) else 0
    return _argument(data, at, first & 31) if first >> 5 == 4 else (0, len(data))


def _text(data: bytes, at: int) -> str:
    """Return a CBOR text, "" for anything else and for one that is too long for a name."""
    first = data[at] if at < len(data) else 0
    length, begin = _argument(data, at, first & 31) if first >> 5 == 3 else (0, at)
    return data[begin : begin + length].decode("utf-8", "replace") if length <= 4 * NAME_MAX else ""


def _argument(data: bytes, at: int, low: int) -> tuple[int, int]:
    """Return (argument, where the content begins) of a CBOR head with these five low bits."""
    size = 1 << (low - 24) if 24 <= low < 28 else 0
    return int.from_bytes(data[at + 1 : at + 1 + size], "big") if size else low, at + 1 + size
