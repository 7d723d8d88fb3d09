"""Bounding boxes of geometries in the blobs of GeoPackage and SpatiaLite, as functions for index triggers.

A GeoPackage keeps an R-tree current by triggers that call ST_IsEmpty, ST_MinX and others, which only GIS programs define. The
node's connection has them under private names, for copies of these triggers alone: under their own names an index of the
user's could use them, and a value that differs in the last bit from the application's would damage it.

Blobs come from peers. Nothing in one makes the reader read beyond its end, recurse or loop without bound; what is malformed is no
geometry. A box is always in order, since the R-tree refuses one that is not.

OGC 12-128r18 (GeoPackage), section 2.1.3; SpatiaLite, "BLOB-Geometry" and "TinyPoint"; ISO 13249-3 for the types of WKB.
"""

from __future__ import annotations

import array
import hashlib
import math
import struct
import sys
from collections.abc import Sequence
from typing import Any

import apsw

from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.sqlite.tokens import BLANKS, COMMENTS, TOKEN

__all__ = ["FUNCTIONS", "Box", "bounding_box", "register", "with_private_names"]

Box = tuple[
    float, float, float, float
]  # smallest x, largest x, smallest y, largest y; () for a geometry without points

PREFIX = "mycomesh_"
# By the folded name in triggers: the arguments, and the place in the box; None for whether there is one.
FUNCTIONS = {"st_isempty": None, "st_minx": 0, "st_maxx": 1, "st_miny": 2, "st_maxy": 3}
# Parts of one geometry that are read one by one, some 0.1 s; GIS programs write the box of such a one into its header.
PARTS_MAX = 65_536
HASHED_BYTES_MIN = 64  # a longer blob is remembered by its hash
_ENVELOPE_BYTES = (0, 32, 48, 48, 64)
_EXTENDED, _EMPTY = 0x20, 0x10  # flags of a GeoPackage's header: not WKB; no points
_Z, _M, _SRID = 0x8000_0000, 0x4000_0000, 0x2000_0000  # flags of PostGIS's extended WKB
_POINT, _LINE, _POLYGON, _ARCS, _TRIANGLE = 1, 2, 3, 8, 17
_COLLECTIONS = frozenset((4, 5, 6, 7, 9, 10, 11, 12, 15, 16))
_TINY_DIMENSIONS = (0, 2, 3, 3, 4)


def bounding_box(blob: Any) -> Box | tuple[()] | None:
    """Return the box of a geometry, () for one without points, None for a value that is no geometry."""
    if not isinstance(blob, bytes):
        return None
    try:
        if blob[:2] == b"GP":
            return _geopackage_box(blob)
        return _spatialite_box(blob)
    except (ValueError, struct.error):
        return None


def with_private_names(sql: str) -> str:
    """Return SQL that calls these functions by the names under which the node's connection has them."""
    pieces = TOKEN.findall(sql)
    for at, piece in enumerate(pieces):
        if fold(piece) in FUNCTIONS and _is_called(pieces, at):
            pieces[at] = f"{PREFIX}{fold(piece)}"
    return "".join(pieces)


def _is_called(pieces: Sequence[str], at: int) -> bool:
    after = (piece for piece in pieces[at + 1 :] if piece[0] not in BLANKS and not piece.startswith(COMMENTS))
    return next(after, "") == "("


def register(db: Any) -> None:
    """Give a connection the functions of `FUNCTIONS`, each with `PREFIX` before its name."""
    last: tuple[bytes, Box | tuple[()] | None] = b"", None

    def box_of(blob: Any) -> Box | tuple[()] | None:
        """Return the box; triggers ask four times for that of one row."""
        nonlocal last
        if not isinstance(blob, bytes):
            return None
        key = blob if len(blob) <= HASHED_BYTES_MIN else hashlib.blake2b(blob).digest()
        if last[0] != key:
            last = key, bounding_box(blob)
        return last[1]

    def is_empty(blob: Any) -> int | None:
        box = box_of(blob)
        return None if box is None else int(not box)

    def side(name: str, place: int) -> Any:
        def value(blob: Any) -> float | None:
            box = box_of(blob)
            if box is None and blob is not None:
                raise apsw.SQLError(f"{name} of a value that is no geometry")  # others would pass through the merge
            return box[place] if box else None

        return value

    for name, place in FUNCTIONS.items():
        function = is_empty if place is None else side(name, place)
        db.create_scalar_function(f"{PREFIX}{name}", function, 1, deterministic=True)


def _geopackage_box(blob: bytes) -> Box | tuple[()]:
    version, flags = struct.unpack_from("BB", blob, 2)
    envelope = flags >> 1 & 7
    if version or envelope >= len(_ENVELOPE_BYTES):
        raise ValueError
    order = "<" if flags & 1 else ">"
    start = 8 + _ENVELOPE_BYTES[envelope]
    if len(blob) < start:
        raise ValueError
    if flags & _EMPTY:
        return ()
    if envelope:
        sides = struct.unpack_from(f"{order}4d", blob, 8)
        if _is_ordered(sides):
            return sides
    if flags & _EXTENDED:
        raise ValueError
    return _wkb_box(blob, start)


def _spatialite_box(blob: bytes) -> Box | tuple[()]:
    zero, order = struct.unpack_from("BB", blob)
    if zero or blob[-1] != 0xFE:
        raise ValueError
    if order in (0x80, 0x81) and len(blob) > 6 and 0 < blob[6] < len(_TINY_DIMENSIONS):
        if len(blob) != 8 + 8 * _TINY_DIMENSIONS[blob[6]]:
            raise ValueError
        x, y = struct.unpack_from(f"{'<' if order & 1 else '>'}2d", blob, 7)
        return _box((x,), (y,))
    if order > 1 or len(blob) < 44 or blob[38] != 0x7C:
        raise ValueError
    x_min, y_min, x_max, y_max = struct.unpack_from(f"{'<' if order else '>'}4d", blob, 6)
    box = x_min, x_max, y_min, y_max
    if not _is_ordered(box):
        raise ValueError
    return box


def _is_ordered(box: Sequence[float]) -> bool:
    return all(map(math.isfinite, box)) and box[0] <= box[1] and box[2] <= box[3]


def _box(xs: Sequence[float], ys: Sequence[float]) -> Box | tuple[()]:
    """Return the box of points; those with a coordinate that is no finite number are left out."""
    if not (math.isfinite(sum(xs)) and math.isfinite(sum(ys))):
        points = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
        xs, ys = [x for x, _ in points], [y for _, y in points]
    return (min(xs), max(xs), min(ys), max(ys)) if xs else ()


def _wkb_box(blob: bytes, at: int) -> Box | tuple[()]:
    """Return the box of WKB. Parts are read one after another: nesting needs no stack, as each one names its own type."""
    box: Box | tuple[()] = ()
    geometries, parts = 1, 0  # that are still to be read, and that were
    while geometries:
        geometries -= 1
        order, dimensions, kind, at = _wkb_head(blob, at)
        rings = int(kind in (_POINT, _LINE, _ARCS))
        if kind in _COLLECTIONS or kind in (_POLYGON, _TRIANGLE):
            (count,) = struct.unpack_from(f"{order}I", blob, at)
            at += 4
            geometries += count * (kind in _COLLECTIONS)
            rings = count * (kind not in _COLLECTIONS)
        elif not rings:
            raise ValueError
        parts += max(rings, 1)
        if parts + geometries > PARTS_MAX:
            raise ValueError
        for _ in range(rings):
            part, at = _points_box(blob, at, order, dimensions, kind)
            box = _joined(box, part)
    return box


def _wkb_head(blob: bytes, at: int) -> tuple[str, int, int, int]:
    """Return (byte order, coordinates of a point, type, where the content begins) of the geometry at an offset."""
    (little,) = struct.unpack_from("B", blob, at)
    if little > 1:
        raise ValueError
    order = "<" if little else ">"
    (code,) = struct.unpack_from(f"{order}I", blob, at + 1)
    at += 9 if code & _SRID else 5
    dimensions = 2 + bool(code & _Z) + bool(code & _M)
    thousands, kind = divmod(code & 0x1FFF_FFFF, 1000)
    if thousands > 3:
        raise ValueError
    return order, dimensions + (0, 1, 1, 2)[thousands], kind, at


def _points_box(blob: bytes, at: int, order: str, dimensions: int, kind: int) -> tuple[Box | tuple[()], int]:
    """Return (the box of the points at an offset, where they end); a point has no count before it."""
    count = 1
    if kind != _POINT:
        (count,) = struct.unpack_from(f"{order}I", blob, at)
        at += 4
    end = at + count * dimensions * 8
    if end > len(blob) or (kind == _ARCS and count > PARTS_MAX):
        raise ValueError
    numbers = array.array("d")
    numbers.frombytes(blob[at:end])
    if (order == "<") != (sys.byteorder == "little"):
        numbers.byteswap()
    xs, ys = numbers[::dimensions], numbers[1::dimensions]
    box = _box(xs, ys)
    if kind == _ARCS and count > 2:
        for start in range(0, count - 2, 2):
            box = _joined(box, _circle_box(xs[start : start + 3], ys[start : start + 3]))
    return box, end


def _circle_box(xs: Sequence[float], ys: Sequence[float]) -> Box | tuple[()]:
    """Return the box of the circle through three points, which holds their arc; () for points on one line."""
    ax, ay, bx, by = xs[1] - xs[0], ys[1] - ys[0], xs[2] - xs[0], ys[2] - ys[0]
    if not (bx or by):  # a full circle: the second point is opposite
        centre_x, centre_y = ax / 2, ay / 2
    else:
        area = 2 * (ax * by - ay * bx)
        if not area or not math.isfinite(area):
            return ()
        a, b = ax * ax + ay * ay, bx * bx + by * by
        centre_x, centre_y = (by * a - ay * b) / area, (ax * b - bx * a) / area
    radius = math.hypot(centre_x, centre_y)
    x, y = xs[0] + centre_x, ys[0] + centre_y
    return _box((x - radius, x + radius), (y - radius, y + radius))


def _joined(one: Box | tuple[()], two: Box | tuple[()]) -> Box | tuple[()]:
    if not one or not two:
        return one or two
    return min(one[0], two[0]), max(one[1], two[1]), min(one[2], two[2]), max(one[3], two[3])
