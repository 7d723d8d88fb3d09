"""The box of a geometry is right for every form of it, and no blob that a peer can send reads, loops or recurses too far."""

from __future__ import annotations

import math
import struct

import apsw
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mycomesh.sync.sqlite.geometry import FUNCTIONS, PARTS_MAX, PREFIX, bounding_box, register

NUMBERS = st.floats(-1e9, 1e9, allow_nan=False)
POINTS = st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS)


def head(kind, order="<", dimensions="", *, extended=False):
    """The head of a WKB geometry, with the type in ISO's form or in PostGIS's."""
    z, m = "z" in dimensions, "m" in dimensions
    code = kind + 0x8000_0000 * z + 0x4000_0000 * m if extended else kind + 1000 * (z + 2 * m)
    return struct.pack(f"{order}BI", order == "<", code)


def point(values, order="<", dimensions="", *, extended=False):
    numbers = values[: 2 + len(dimensions)]
    return head(1, order, dimensions, extended=extended) + struct.pack(f"{order}{len(numbers)}d", *numbers)


def run(points, order="<", dimensions=""):
    """A count and points, as in lines and rings."""
    size = 2 + len(dimensions)
    return struct.pack(f"{order}I", len(points)) + b"".join(
        struct.pack(f"{order}{size}d", *each[:size]) for each in points
    )


def many(kind, parts, order="<"):
    return head(kind, order) + struct.pack(f"{order}I", len(parts)) + b"".join(parts)


def geopackage(wkb, flags=1, envelope=()):
    order = "<" if flags & 1 else ">"
    code = {0: 0, 4: 1, 6: 2, 8: 4}[len(envelope)]
    return b"GP" + struct.pack(f"{order}BBi{len(envelope)}d", 0, flags | code << 1, 4326, *envelope) + wkb


def spatialite(box, order="<"):
    x_min, x_max, y_min, y_max = box
    return (
        struct.pack(f"{order}BBi4d", 0, order == "<", 4326, x_min, y_min, x_max, y_max) + b"\x7c" + bytes(20) + b"\xfe"
    )


def box_of(points):
    xs, ys = [each[0] for each in points], [each[1] for each in points]
    return min(xs), max(xs), min(ys), max(ys)


@given(
    st.lists(POINTS, min_size=1, max_size=6),
    st.sampled_from("<>"),
    st.sampled_from(["", "z", "m", "zm"]),
    st.sampled_from(["point", "line", "polygon", "points", "nested"]),
)
def test_a_box_holds_all_points(points, order, dimensions, form):
    match form:
        case "point":
            points = points[:1]
            wkb = point(points[0], order, dimensions, extended=len(dimensions) == 1)
        case "line":
            wkb = head(2, order, dimensions) + run(points, order, dimensions)
        case "polygon":
            wkb = head(3, order, dimensions) + struct.pack(f"{order}I", 1) + run(points, order, dimensions)
        case "points":
            wkb = many(4, [point(each, order, dimensions) for each in points], order)
        case _:
            wkb = many(7, [many(7, [point(each, order, dimensions)]) for each in points], order)
    flags = int(order == "<")
    assert bounding_box(geopackage(wkb, flags)) == box_of(points)
    x_min, x_max, y_min, y_max = box_of(points)
    assert bounding_box(geopackage(b"", flags, (x_min, x_max, y_min, y_max, 0, 0))) == box_of(points)
    assert bounding_box(spatialite(box_of(points), order)) == box_of(points)


@given(
    st.one_of(
        st.binary(max_size=120),
        st.binary(max_size=120).map(geopackage),
        st.tuples(st.integers(0, 255), st.binary(max_size=80)).map(lambda each: b"GP\0" + bytes([each[0]]) + each[1]),
        st.binary(max_size=80).map(lambda middle: b"\0\1" + middle + b"\xfe"),
    )
)
@example(geopackage(many(7, [])))
@example(geopackage(head(3) + struct.pack("<I", 0xFFFF_FFFF)))
@example(geopackage(head(2) + struct.pack("<I", 0xFFFF_FFFF)))
@example(geopackage(b"", 1, (2.0, 1.0, 0.0, 0.0)))
@example(geopackage(b"", 1, (math.nan, 1.0, 0.0, 0.0)))
@example(geopackage(point((math.nan, math.nan))))
@example(geopackage(head(2) + run([(-1e308, 0), (1e308, 0), (1e308, math.inf)])))
@example(geopackage(head(8) + run([(1e200, 0), (-1e200, 1e200), (1e200, -1e200)])))
def test_any_blob_has_an_ordered_box_or_none(blob):
    box = bounding_box(blob)
    if box:
        assert box[0] <= box[1]
        assert box[2] <= box[3]
        assert all(map(math.isfinite, box))
    else:
        assert box in ((), None)


@given(st.lists(POINTS, min_size=1, max_size=4), st.data())
def test_a_cut_blob_is_no_geometry(points, data):
    blob = geopackage(many(4, [point(each) for each in points]))
    assert bounding_box(blob[: data.draw(st.integers(0, len(blob) - 1))]) is None


@pytest.mark.parametrize(
    "value", [None, "1.5", 7, 2.5, b"", b"G", b"GP", b"GP\1\1" + bytes(40), b"GP\0\x0b" + bytes(80), b"\0", bytes(60)]
)
def test_other_values_are_no_geometry(value):
    assert bounding_box(value) is None


@pytest.mark.parametrize(
    "blob",
    [
        geopackage(b"", 0x11),
        geopackage(point((math.nan, math.nan))),
        geopackage(head(2) + run([])),
        geopackage(many(7, [])),
    ],
    ids=["flag", "point", "line", "collection"],
)
def test_a_geometry_without_points_is_empty(blob):
    assert bounding_box(blob) == ()


def test_a_header_in_disorder_gives_way_to_points():
    """An R-tree refuses a box whose sides are crossed: one such row would switch its upkeep off."""
    assert bounding_box(geopackage(point((3, 4)), 1, (9.0, 1.0, 9.0, 1.0))) == (3, 3, 4, 4)
    assert bounding_box(spatialite((9, 1, 0, 0))) is None


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiny_point_of_spatialite_is_read(order):
    for kind, more in ((1, ()), (2, (7,)), (4, (7, 8))):
        blob = struct.pack(f"{order}BBiB", 0, 0x81 if order == "<" else 0x80, 4326, kind)
        blob += struct.pack(f"{order}{2 + len(more)}d", 1.5, 2.5, *more) + b"\xfe"
        assert bounding_box(blob) == (1.5, 1.5, 2.5, 2.5)
        assert bounding_box(blob[:-9] + b"\xfe") is None


def test_the_box_of_an_arc_holds_its_curve():
    half = geopackage(head(8) + run([(-1, 0), (0, 1), (1, 0)]))
    x_min, x_max, y_min, y_max = bounding_box(half)
    assert (x_min, x_max, y_max) == pytest.approx((-1, 1, 1))
    assert y_min <= 0
    assert bounding_box(geopackage(head(8) + run([(0, 0), (2, 0), (0, 0)]))) == pytest.approx((0, 2, -1, 1))
    assert bounding_box(geopackage(head(8) + run([(0, 0), (1, 0), (2, 0)]))) == (0, 2, 0, 0)


def test_a_geometry_of_too_many_parts_is_none():
    def points(count):
        return geopackage(many(4, [point((1, 2))] * count))

    assert bounding_box(points(PARTS_MAX - 2)) == (1, 1, 2, 2)
    assert bounding_box(points(PARTS_MAX)) is None
    nested = b"".join(head(7) + struct.pack("<I", 1) for _ in range(PARTS_MAX)) + point((1, 2))
    assert bounding_box(geopackage(nested)) is None
    rings = many(6, [head(3) + struct.pack("<I", 60_000) + struct.pack("<I", 0) * 60_000] * 2)
    assert bounding_box(geopackage(rings)) is None


def test_functions_are_sqlite_ones_under_private_names():
    db = apsw.Connection(":memory:")
    register(db)
    blob = geopackage(many(4, [point((1, 2)), point((3, 5))]))
    names = ", ".join(f"{PREFIX}{name}(?1)" for name in FUNCTIONS)
    assert db.execute(f"SELECT {names}", (blob,)).fetchone() == (0, 1, 3, 2, 5)
    assert db.execute(f"SELECT {names}", (None,)).fetchone() == (None,) * 5
    assert db.execute(f"SELECT {names}", (geopackage(b"", 0x11),)).fetchone() == (1, None, None, None, None)
    assert db.execute(f"SELECT {PREFIX}st_isempty(?)", (b"GP no",)).fetchone() == (None,)
    with pytest.raises(apsw.SQLError, match="no geometry"):
        db.execute(f"SELECT {PREFIX}st_minx(?)", (b"GP no",))
    with pytest.raises(apsw.SQLError, match="no such function"):
        db.execute("SELECT ST_MinX(?)", (blob,))
