"""Positions in tables: which columns hold them, and what a geometry of any form becomes."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.tools.web.geometry import DEPTH_MAX, POINTS_MAX, Layer, geometry_of, layer_of


def wkb_point(x, y, order="<"):
    return (b"\1" if order == "<" else b"\0") + struct.pack(order + "Idd", 1, x, y)


def gpkg(wkb, flags=1):
    return b"GP\0" + bytes([flags]) + struct.pack("<i", 4326) + wkb


def line(*points, code=2):
    return b"\1" + struct.pack("<II", code, len(points)) + b"".join(struct.pack("<dd", *point) for point in points)


POINT = {"type": "Point", "coordinates": [7.5, 46.5]}


@pytest.mark.parametrize(
    "blob",
    [
        wkb_point(7.5, 46.5),
        wkb_point(7.5, 46.5, ">"),
        gpkg(wkb_point(7.5, 46.5)),
        gpkg(struct.pack("<4d", 7.5, 7.5, 46.5, 46.5) + wkb_point(7.5, 46.5), flags=3),
        b"\1" + struct.pack("<Iddd", 1001, 7.5, 46.5, 900.0),
        b"\1" + struct.pack("<IIdd", 0x2000_0001, 4326, 7.5, 46.5),
    ],
    ids=["little", "big", "geopackage", "with envelope", "with height", "postgis"],
)
def test_points_of_every_form_are_read(blob):
    assert geometry_of("blob", blob) == POINT


def test_lines_and_collections_become_geojson():
    assert geometry_of("blob", line((0, 1), (2, 3))) == {"type": "LineString", "coordinates": [[0, 1], [2, 3]]}
    many = b"\1" + struct.pack("<II", 4, 2) + wkb_point(0, 1) + wkb_point(2, 3)
    assert geometry_of("blob", many) == {"type": "MultiPoint", "coordinates": [[0, 1], [2, 3]]}


@given(st.binary(max_size=200))
def test_no_blob_breaks_the_reader(blob):
    for data in (blob, b"GP\0\1" + blob, b"\1" + struct.pack("<I", 7) + blob):
        found = geometry_of("blob", data)
        assert found is None or json.dumps(found)


def test_geometry_with_too_many_points_is_left_out():
    assert geometry_of("blob", line(*[(0, 0)] * POINTS_MAX)) is not None
    assert geometry_of("blob", line(*[(0, 0)] * (POINTS_MAX + 1))) is None
    assert geometry_of("blob", b"\1" + struct.pack("<II", 2, 1 << 31) + bytes(64)) is None


def test_collections_in_collections_have_a_limit():
    def nested(depth):
        return wkb_point(1, 2) if depth == 0 else b"\1" + struct.pack("<II", 7, 1) + nested(depth - 1)

    assert geometry_of("blob", nested(DEPTH_MAX)) is not None
    assert geometry_of("blob", nested(DEPTH_MAX + 1)) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (json.dumps(POINT), POINT),
        (json.dumps({"type": "Feature", "geometry": POINT, "properties": {}}), POINT),
        ('{"type": "Point", "coordinates": [200, 0]}', None),
        ('{"type": "Point", "coordinates": ["7", 0]}', None),
        ('{"type": "Point"}', None),
        ('{"a": 1}', None),
        ("[" * 10_000, None),
        (None, None),
    ],
)
def test_geojson_is_checked(text, found):
    assert geometry_of("geojson", text) == found


@pytest.mark.parametrize(
    ("columns", "key", "values", "layer"),
    [
        (["icao24", "latitude", "longitude", "seen"], ["icao24"], {}, ("pair", "latitude", "longitude", "", "seen")),
        (["id", "Lat", "Lon", "callsign", "at"], ["id"], {}, ("pair", "Lat", "Lon", "callsign", "at")),
        (["drone", "at", "lat", "lng"], ["drone", "at"], {}, ("pair", "lat", "lng", "drone", "at")),
        (["lat", "lon", "name"], [], {}, ("pair", "lat", "lon", "name", "")),
        (["id", "place"], ["id"], {"place": [json.dumps(POINT)]}, ("geojson", "place", "", "", "")),
        (["fid", "geom"], ["fid"], {"geom": [gpkg(wkb_point(1, 2))]}, ("blob", "geom", "", "", "")),
        (["id", "lat", "lon"], ["id"], {"lat": ["north"], "lon": [1]}, None),
        (["id", "lat", "lon"], ["id"], {"lat": [91], "lon": [1]}, None),
        (["id", "note"], ["id"], {"note": ["{not json"]}, None),
        (["x"], ["x"], {}, None),
    ],
)
def test_layer_is_found_by_names_and_values(columns, key, values, layer):
    found = layer_of("t", columns, key, lambda column: values.get(column, []))
    assert found == (None if layer is None else Layer("t", *layer))
