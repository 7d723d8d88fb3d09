"""Names of units on the wire: a table that is cut into areas is compared and sent area by area, each under a name of its own.

The name of an area begins as no user's table may, so a version that does not know areas takes it for a table that it lacks.
"""

from __future__ import annotations

from typing import Any

__all__ = ["AREA_CHARS_MAX", "CUT_NAME_CHARS_MAX", "area_of", "shown_unit", "split_unit", "table_of", "unit_name"]

_PREFIX = "mycomesh_area\0"
# Characters of an area. A row with a longer value belongs to no area, like one with NULL.
AREA_CHARS_MAX = 100
# Characters of the name of a table that is cut, so that the name of each of its units fits `NAME_MAX`.
CUT_NAME_CHARS_MAX = 140


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
    return f"{table}[{area}]" if area else table


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
