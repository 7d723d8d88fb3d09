"""Finds the positions in a table: a pair of columns, GeoJSON, or a geometry as GeoPackage, SpatiaLite or plain WKB store it.

A layer of the map is a table with positions. Names of columns decide first; a look at some values confirms text and blobs.
Blobs come from peers: nothing in one makes the reader read beyond its end, recurse or loop without bound.

RFC 7946 (GeoJSON); OGC 12-128r18 section 2.1.3 (GeoPackage); OGC 06-103r4 section 8 (WKB).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mycomesh.sync.sqlite.geometry import bounding_box
from mycomesh.sync.sqlite.identifiers import fold

__all__ = ["POINTS_MAX", "Layer", "geometry_of", "layer_of"]

POINTS_MAX = 100_000  # of one geometry; a longer one is left out of GeoJSON
DEPTH_MAX = 4  # of collections in collections
_PAIRS = (
    ("lat", "lon"),
    ("lat", "lng"),
    ("lat", "long"),
    ("latitude", "longitude"),
    ("lat_deg", "lon_deg"),
    ("gps_lat", "gps_lon"),
    ("y", "x"),
)
_GEOMETRIES = (
    "geom",
    "geometry",
    "geojson",
    "the_geom",
    "location",
    "position",
    "shape",
    "wkb_geometry",
    "wkb",
    "point",
)
_TIMES = (
    "timestamp",
    "unix_ms",
    "time",
    "at",
    "ts",
    "seen_at",
    "seen",
    "updated_at",
    "updated",
    "date",
    "datetime",
    "t",
    "when",
)
_NAMES = (
    "icao24",
    "callsign",
    "drone_id",
    "drone",
    "vehicle_id",
    "vehicle",
    "uid",
    "sortie",
    "sysid",
    "device",
    "device_id",
    "node",
    "name",
    "track_id",
)
_ENVELOPE_BYTES = (0, 32, 48, 48, 64)
_WKB_POINT, _WKB_LINE, _WKB_POLYGON = 1, 2, 3
_NAMES_OF_WKB = {1: "Point", 2: "LineString", 3: "Polygon", 4: "MultiPoint", 5: "MultiLineString", 6: "MultiPolygon"}
_COLLECTION = 7


@dataclass(frozen=True, slots=True)
class Layer:
    """A table with positions.

    kind: `pair` (columns `lat` and `lon`), `geojson`, or `blob` (column `lat` has the geometry, `lon` is "").
    entity: the column that says which thing a row is about; rows with one value of it are its track. "" for the key of the row.
    time: the column that says when; "" for the time of the write.
    """

    table: str
    kind: str
    lat: str
    lon: str
    entity: str
    time: str


def layer_of(
    table: str, columns: Sequence[str], key: Sequence[str], sample: Callable[[str], Sequence[Any]]
) -> Layer | None:
    """Return how a table holds positions, None if it has none.

    `sample` returns some values of a column, without NULL.
    """
    here = {fold(name): name for name in columns}
    for lat, lon in _PAIRS:
        if lat in here and lon in here and _is_pair(sample(here[lat]), sample(here[lon])):
            return Layer(table, "pair", here[lat], here[lon], *_roles(here, key))
    for folded in (*_GEOMETRIES, *here):
        if folded not in here:
            continue
        values = sample(here[folded])
        kind = _kind_of(values) if values else ""
        if kind:
            return Layer(table, kind, here[folded], "", *_roles(here, key))
    return None


def _is_pair(lats: Sequence[Any], lons: Sequence[Any]) -> bool:
    return _most(lats, lambda lat: _is_number(lat, 90)) and _most(lons, lambda lon: _is_number(lon, 180))


def _most(values: Sequence[Any], is_position: Callable[[Any], bool]) -> bool:
    """Return whether the greater part are positions; a receiver without a fix may have sent the others."""
    return 2 * sum(map(is_position, values)) > len(values) or not values


def _is_number(value: Any, limit: float) -> bool:
    return isinstance(value, int | float) and abs(value) <= limit


def _kind_of(values: Sequence[Any]) -> str:
    if _most(values, lambda value: bool(geometry_of("geojson", value))):
        return "geojson"
    return "blob" if _most(values, lambda value: bool(geometry_of("blob", value))) else ""


def _roles(here: dict[str, str], key: Sequence[str]) -> tuple[str, str]:
    """Return the columns for the entity and the time."""
    time = next((here[name] for name in _TIMES if name in here), "")
    parts = [name for name in key if name != time]
    if len(key) == 1 and parts and not (fold(parts[0]) in ("id", "rowid", "fid") and time):
        return "", time  # one row for each thing
    named = next((here[name] for name in _NAMES if name in here), "")
    return (parts[0] if len(key) > 1 and parts else named), time


def geometry_of(kind: str, value: Any, lon: Any = None) -> dict[str, Any] | None:
    """Return a value as a geometry of GeoJSON, None if it has another form; `lon` is the second column of a pair."""
    match kind:
        case "pair":
            if not _is_number(value, 90) or not _is_number(lon, 180):
                return None
            return {"type": "Point", "coordinates": [lon, value]}
        case "geojson":
            return _of_text(value)
        case _:
            return _of_blob(value)


def _of_text(text: Any) -> dict[str, Any] | None:
    if not isinstance(text, str) or text.lstrip()[:1] != "{":
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict) and value.get("type") == "Feature":
        value = value.get("geometry")
    if not isinstance(value, dict) or value.get("type") not in (*_NAMES_OF_WKB.values(), "GeometryCollection"):
        return None
    if value["type"] == "Point" and not _is_position(value.get("coordinates")):
        return None
    return value


def _is_position(value: Any) -> bool:
    return isinstance(value, list) and len(value) >= 2 and _is_number(value[0], 180) and _is_number(value[1], 90)


def _of_blob(blob: Any) -> dict[str, Any] | None:
    if not isinstance(blob, bytes):
        return None
    try:
        if blob[:2] == b"GP":
            return _Wkb(blob, 8 + _ENVELOPE_BYTES[(blob[3] >> 1) & 7]).geometry()
        if blob[:1] in (b"\0", b"\1") and len(blob) >= 9 and blob[38:39] != b"\x7c":
            return _Wkb(blob, 0).geometry()
    except (ValueError, IndexError, struct.error):
        return None
    box = bounding_box(blob)  # SpatiaLite, whose bytes differ from WKB
    if not box or not all(map(math.isfinite, box)):
        return None
    return {"type": "Point", "coordinates": [(box[0] + box[1]) / 2, (box[2] + box[3]) / 2]}


class _Wkb:
    """Reads one geometry. Every count is compared with the bytes that are left before anything is read."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data = data
        self._at = start
        self._points = 0

    def geometry(self, depth: int = 0) -> dict[str, Any]:
        if depth > DEPTH_MAX:
            raise ValueError("too deep")
        order = "<" if self._take("B")[0] else ">"
        (code,) = self._take(order + "I")
        if code & 0x2000_0000:
            self._take(order + "I")  # the reference system of PostGIS's form
        code, dimensions = _plain_type(code)
        if code == _WKB_POINT:
            return {"type": "Point", "coordinates": self._positions(order, dimensions, 1)[0]}
        (count,) = self._take(order + "I")
        if code == _WKB_LINE:
            return {"type": "LineString", "coordinates": self._positions(order, dimensions, count)}
        if count * 4 > len(self._data) - self._at:
            raise ValueError("more parts than bytes")
        if code == _WKB_POLYGON:
            rings = [self._positions(order, dimensions, self._take(order + "I")[0]) for _ in range(count)]
            return {"type": "Polygon", "coordinates": rings}
        parts = [self.geometry(depth + 1) for _ in range(count)]
        if code == _COLLECTION:
            return {"type": "GeometryCollection", "geometries": parts}
        if code not in _NAMES_OF_WKB:
            raise ValueError("not a type of GeoJSON")
        return {"type": _NAMES_OF_WKB[code], "coordinates": [part["coordinates"] for part in parts]}

    def _positions(self, order: str, dimensions: int, count: int) -> list[list[float]]:
        self._points += count
        if self._points > POINTS_MAX or count * 8 * dimensions > len(self._data) - self._at:
            raise ValueError("too many points")
        values = self._take(f"{order}{count * dimensions}d")
        if not all(map(math.isfinite, values[:2])):
            raise ValueError("empty point")
        return [list(values[at : at + 2]) for at in range(0, len(values), dimensions)]

    def _take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return values


def _plain_type(code: int) -> tuple[int, int]:
    """Return the type without the flags for height and measure, and the number of coordinates of a point."""
    dimensions = 2 + bool(code & 0x8000_0000) + bool(code & 0x4000_0000)
    code &= 0x0FFF_FFFF
    thousands, code = divmod(code, 1000)  # 1001 is a point with height, 2001 with measure, 3001 with both
    return code, dimensions + (0, 1, 1, 2)[thousands] if thousands < 4 else dimensions
