"""Rows that a codec yields: the kind of a row, and its values by column.

`KEYS` names the key of each kind, and `TYPES` the columns' types, so that a table can be made for them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["KEYS", "TYPES", "Row", "definition", "sql_value", "within"]

Value = str | int | float | bytes | None

KEYS: Final[dict[str, tuple[str, ...]]] = {
    "vehicles": ("source", "sysid", "compid"),
    "track": ("source", "sysid", "compid", "boot", "boot_ms"),
    "texts": ("source", "sysid", "compid", "at", "n"),
    "aircraft": ("icao24",),
    "ships": ("mmsi",),
    "position": ("node", "device"),
    "items": ("uid",),
    "chat": ("message_id",),
    "alerts": ("uid",),
}
TYPES: Final[dict[str, dict[str, str]]] = {
    "vehicles": {
        "source": "TEXT", "sysid": "INTEGER", "compid": "INTEGER", "at": "INTEGER", "boot": "INTEGER", "boot_ms": "INTEGER",
        "lat": "REAL", "lon": "REAL", "alt_m": "REAL", "height_m": "REAL", "speed_mps": "REAL", "climb_mps": "REAL",
        "heading_deg": "REAL", "fix": "INTEGER", "satellites": "INTEGER", "battery_v": "REAL", "battery_pct": "INTEGER",
        "type": "INTEGER", "armed": "INTEGER", "mode": "INTEGER", "status": "INTEGER", "mission": "INTEGER", "text": "TEXT",
    },
    "track": {
        "source": "TEXT", "sysid": "INTEGER", "compid": "INTEGER", "boot": "INTEGER", "boot_ms": "INTEGER", "at": "INTEGER",
        "lat": "REAL", "lon": "REAL", "alt_m": "REAL", "height_m": "REAL", "speed_mps": "REAL", "climb_mps": "REAL",
        "heading_deg": "REAL", "fix": "INTEGER", "satellites": "INTEGER", "battery_v": "REAL", "battery_pct": "INTEGER",
    },
    "texts": {
        "source": "TEXT", "sysid": "INTEGER", "compid": "INTEGER", "at": "INTEGER", "n": "INTEGER", "severity": "INTEGER",
        "text": "TEXT",
    },
    "aircraft": {
        "icao24": "TEXT", "at": "INTEGER", "callsign": "TEXT", "lat": "REAL", "lon": "REAL", "alt_m": "REAL",
        "speed_mps": "REAL", "track_deg": "REAL", "climb_mps": "REAL", "squawk": "TEXT", "alert": "INTEGER",
        "emergency": "INTEGER", "ident": "INTEGER", "on_ground": "INTEGER",
    },
    "ships": {
        "mmsi": "INTEGER", "at": "INTEGER", "lat": "REAL", "lon": "REAL", "speed_mps": "REAL", "course_deg": "REAL",
        "heading_deg": "REAL", "status": "INTEGER", "type": "INTEGER", "name": "TEXT", "callsign": "TEXT", "imo": "INTEGER",
        "destination": "TEXT",
    },
    "position": {
        "node": "TEXT", "device": "TEXT", "at": "INTEGER", "lat": "REAL", "lon": "REAL", "alt_m": "REAL", "speed_mps": "REAL",
        "course_deg": "REAL", "climb_mps": "REAL", "fix": "INTEGER", "error_m": "REAL", "satellites": "INTEGER",
    },
    "items": {
        "uid": "TEXT", "type": "TEXT", "how": "TEXT", "at": "INTEGER", "start": "INTEGER", "stale": "INTEGER", "lat": "REAL",
        "lon": "REAL", "alt_m": "REAL", "ce_m": "REAL", "le_m": "REAL", "callsign": "TEXT", "team": "TEXT", "role": "TEXT",
        "course_deg": "REAL", "speed_mps": "REAL", "battery_pct": "INTEGER", "remarks": "TEXT", "parent": "TEXT",
        "marks": "TEXT", "detail": "TEXT",
    },
    "chat": {
        "message_id": "TEXT", "at": "INTEGER", "room": "TEXT", "sender_uid": "TEXT", "sender": "TEXT", "text": "TEXT",
        "lat": "REAL", "lon": "REAL",
    },
    "alerts": {
        "uid": "TEXT", "type": "TEXT", "at": "INTEGER", "stale": "INTEGER", "lat": "REAL", "lon": "REAL", "callsign": "TEXT",
        "cancelled": "INTEGER", "remarks": "TEXT", "marks": "TEXT", "detail": "TEXT",
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a kind; a row to be deleted has only the values of its key."""

    kind: str
    values: dict[str, Value]
    delete: bool = False


def definition(kind: str, table: str) -> str:
    """Return the CREATE TABLE statement of a table for rows of that kind."""
    columns = ", ".join(f"{name} {type_}" for name, type_ in TYPES[kind].items())
    quoted = '"' + table.replace('"', '""') + '"'
    return f"CREATE TABLE IF NOT EXISTS {quoted}({columns}, PRIMARY KEY({', '.join(KEYS[kind])}))"


def within(lat: float | None, lon: float | None) -> bool:
    """Return True for a place on Earth other than 0, 0, which receivers report before they know better."""
    if lat is None or lon is None or not (math.isfinite(lat) and math.isfinite(lon)):
        return False
    return -90 <= lat <= 90 and -180 <= lon <= 180 and (lat, lon) != (0, 0)


def sql_value(value: Any) -> Value:
    """Return a decoded value as SQLite stores it: NaN as NULL, lists as JSON, integers beyond 64 bits as text."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes | bytearray):
        stripped = bytes(value).rstrip(b"\0")
        try:
            text = stripped.decode()
        except UnicodeDecodeError:
            return bytes(value)
        return text if text.isprintable() else bytes(value)
    if isinstance(value, list | tuple):
        return json.dumps([sql_value(each) if not isinstance(each, bytes) else each.hex() for each in value])
    return str(value)
