"""The interest of a member, which is what it keeps of tables that are cut: as a value, and as the fact that states it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["INTEREST", "INTEREST_BYTES_MAX", "Interest", "interest_fact", "interest_name", "interest_of", "member_of"]

INTEREST = "interest"  # the kind of the fact
# Of one statement: some thousand areas. Each member states one, and all are read.
INTEREST_BYTES_MAX = 16_384


@dataclass(frozen=True, slots=True)
class Interest:
    """Which areas a node keeps, by name of the table; all areas of tables that it does not name."""

    areas: Mapping[str, frozenset[str]]

    def keeps(self, table: str, area: str) -> bool:
        """Return True if an area is kept; the table by the name that `areas` has for it."""
        kept = self.areas.get(table)
        return kept is None or area in kept


def interest_name(member: bytes) -> str:
    """Return the name of the fact about a member, by the first 8 bytes of its node id."""
    return f"{INTEREST}:{json.dumps([member.hex()])}"


def member_of(name: object) -> bytes | None:
    """Return the member that a fact of that name is about, None for any other name."""
    if type(name) is not str or not name.startswith(f'{INTEREST}:["'):
        return None
    try:
        member = bytes.fromhex(name[len(INTEREST) + 3 : -2])
    except ValueError:
        return None
    return member if interest_name(member) == name else None


def interest_fact(member: bytes, interest: Interest, again: int = 0) -> tuple[str, str, str]:
    """Return the fact (name, kind, sql) that a member keeps this; a greater `again` states it once more."""
    stated: dict[str, Any] = {"keeps": {table: sorted(areas) for table, areas in sorted(interest.areas.items())}}
    sql = json.dumps(stated | ({"again": again} if again else {}), ensure_ascii=False, separators=(",", ":"))
    return interest_name(member), INTEREST, sql


def interest_of(sql: str | None) -> tuple[Interest, int] | None:
    """Return what a fact states, and its `again`; None if it has another form or is longer than `INTEREST_BYTES_MAX`."""
    if sql is None or len(sql.encode("utf-8", "replace")) > INTEREST_BYTES_MAX:
        return None
    try:
        stated = json.loads(sql)
    except (ValueError, RecursionError):
        return None
    if type(stated) is not dict:
        return None
    areas, again = stated.get("keeps"), stated.get("again", 0)
    if type(areas) is not dict or type(again) is not int or not all(map(_is_texts, areas.values())):
        return None
    return Interest({table: frozenset(values) for table, values in areas.items()}), again


def _is_texts(values: Any) -> bool:
    return type(values) is list and all(type(value) is str for value in values)
