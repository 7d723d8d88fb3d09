"""Extents and counts of a GeoPackage's layers end right on all nodes, however GDAL has written them on each."""

from __future__ import annotations

import struct

import apsw
import pytest

from mycomesh.sync.replication.map_extents import LAYERS_MAX, root_box
from tests.sync.peers import assert_equal, converge
from tests.sync.schema.test_index_copies import GEOPACKAGE, TABLE, geopackage, with_functions

LAYERS = """
CREATE TABLE gpkg_contents(table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL, min_x DOUBLE, min_y DOUBLE,
 max_x DOUBLE, max_y DOUBLE, srs_id INTEGER);
CREATE TABLE gpkg_geometry_columns(table_name TEXT NOT NULL, column_name TEXT NOT NULL,
 CONSTRAINT pk_geom_cols PRIMARY KEY (table_name, column_name));
INSERT INTO gpkg_contents VALUES('points', 'features', NULL, NULL, NULL, NULL, 4326);
INSERT INTO gpkg_geometry_columns VALUES('points', 'geom');
"""
COUNT = """
CREATE TABLE gpkg_ogr_contents(table_name TEXT NOT NULL PRIMARY KEY, feature_count INTEGER DEFAULT NULL);
INSERT INTO gpkg_ogr_contents VALUES('points', (SELECT count(*) FROM points));
CREATE TRIGGER "trigger_insert_feature_count_points" AFTER INSERT ON "points" BEGIN
 UPDATE gpkg_ogr_contents SET feature_count = feature_count + 1 WHERE lower(table_name) = lower('points'); END;
CREATE TRIGGER "trigger_delete_feature_count_points" AFTER DELETE ON "points" BEGIN
 UPDATE gpkg_ogr_contents SET feature_count = feature_count - 1 WHERE lower(table_name) = lower('points'); END;
"""


@pytest.fixture
def maps(equals):
    """Two GeoPackages of one mesh, as GDAL would have them after it has opened both."""
    both = equals(2, f"{TABLE}; {LAYERS}")
    for peer in both:
        with_functions(peer)
        peer.sql(GEOPACKAGE + COUNT)
        peer.drain()
    return both


def add(peer, *numbers):
    """Write features as GDAL does: the rows, and at the end the extent that this program knows."""
    for number in numbers:
        peer.sql("INSERT INTO points VALUES(?, ?, 'x')", number, geopackage(number, -number))
    ends = min(numbers), max(numbers)
    peer.sql(
        "UPDATE gpkg_contents SET min_x = ifnull(min(min_x, ?1), ?1), min_y = ifnull(min(min_y, ?3), ?3),"
        " max_x = ifnull(max(max_x, ?2), ?2), max_y = ifnull(max(max_y, ?4), ?4)",
        *ends, -ends[1], -ends[0],
    )  # fmt: skip


def extent(peer):
    return peer.sql("SELECT min_x, min_y, max_x, max_y FROM gpkg_contents")[0]


def count(peer):
    return peer.sql("SELECT feature_count FROM gpkg_ogr_contents")[0][0]


def test_an_extent_holds_the_features_of_all(maps):
    one, two = maps
    add(one, 1, 2)
    two.wall_ms += 1_000
    add(two, 8, 9)
    converge(maps)
    assert extent(one) == extent(two) == (1, -9, 9, -1)
    assert_equal(one, two)
    before = one.digests()
    converge(maps)
    assert one.digests() == before, "nodes answer each other without end"


def test_a_stale_extent_that_comes_late_is_widened(maps):
    """GDAL read the extent before the features of the other node came, and writes it after that."""
    one, two = maps
    add(one, 1)
    converge(maps)
    two.wall_ms += 1_000
    add(two, 5)
    two.sql("UPDATE gpkg_contents SET min_x = 5, min_y = -5, max_x = 5, max_y = -5")
    converge(maps)
    assert extent(one) == extent(two) == (1, -5, 5, -1)


def test_an_extent_that_holds_all_is_left_alone(maps):
    one, two = maps
    one.sql("UPDATE gpkg_contents SET min_x = -180, min_y = -90, max_x = 180, max_y = 90")
    add(two, 1)
    two.sql("UPDATE gpkg_contents SET min_x = 4.05, max_x = 4.05, min_y = -4.05, max_y = -4.05")
    two.sql("UPDATE points SET geom = ?", geopackage(4.05, -4.05))
    one.sql("UPDATE gpkg_contents SET min_x = -180, min_y = -90, max_x = 180, max_y = 90")
    converge(maps)
    assert extent(one) == extent(two)
    assert extent(one) in ((4.05, -4.05, 4.05, -4.05), (-180, -90, 180, 90)), (
        "rounding of the R-tree is no reason to write"
    )


def test_each_node_counts_the_features_of_all(maps):
    one, two = maps
    add(one, 1, 2, 3)
    add(two, 7, 8)
    two.sql("DELETE FROM points WHERE fid = 7")
    converge(maps)
    one.sql("DELETE FROM points WHERE fid IN (1, 8)")
    converge(maps)
    assert count(one) == count(two) == one.sql("SELECT count(*) FROM points")[0][0] == 2
    assert "gpkg_ogr_contents" not in one.digests()
    notes = {table.name: table.note for table in one.replica.status().tables}
    assert "each node keeps its own count" in notes["gpkg_ogr_contents"]
    assert not notes["points"]


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE gpkg_geometry_columns",
        "UPDATE gpkg_geometry_columns SET column_name = x'00'",
        "UPDATE gpkg_geometry_columns SET column_name = '\"; DROP TABLE points'",
        "UPDATE gpkg_contents SET min_x = 'west'",
        "DROP TABLE rtree_points_geom",
        "DELETE FROM gpkg_contents",
    ],
)
def test_a_file_that_is_no_geopackage_is_left_alone(maps, change):
    one, two = maps
    for peer in maps:
        peer.sql("DROP TRIGGER rtree_points_geom_insert")
    one.sql(change)
    one.drain()
    before = one.sql("SELECT * FROM gpkg_contents")
    two.sql("INSERT INTO points VALUES(1, ?, 'x')", geopackage(1, 1))
    converge(maps)
    assert one.sql("SELECT * FROM gpkg_contents") == before
    assert one.sql("SELECT count(*) FROM points") == [(1,)]


def test_a_refused_extent_stops_no_merge(equals):
    layers = LAYERS.replace("min_x DOUBLE", "min_x DOUBLE CHECK (min_x IS NULL OR min_x > 5)")
    one, two = equals(2, f"{TABLE}; {layers}")
    for peer in (one, two):
        with_functions(peer)
        peer.sql(GEOPACKAGE)
    two.sql("INSERT INTO points VALUES(1, ?, 'x')", geopackage(1, 1))
    converge([one, two])
    assert_equal(one, two)
    assert extent(one)[0] is None


def test_of_many_layers_some_are_looked_at(maps):
    one, two = maps
    two.app.executemany(
        "INSERT INTO gpkg_contents VALUES(?, 'features', 0, 0, 0, 0, 1)", [(f"a{n:03}",) for n in range(LAYERS_MAX)]
    )
    two.app.executemany(
        "INSERT INTO gpkg_geometry_columns VALUES(?, 'geom')", [(f"a{n:03}",) for n in range(LAYERS_MAX)]
    )
    two.sql("INSERT INTO points VALUES(1, ?, 'x')", geopackage(1, 1))
    converge(maps)
    assert one.sql("SELECT min_x FROM gpkg_contents WHERE table_name = 'points'") == [(None,)]
    two.sql("DELETE FROM gpkg_contents WHERE table_name = 'a000'")
    converge(maps)
    assert one.sql("SELECT min_x FROM gpkg_contents WHERE table_name = 'points'") == [(1,)]


def test_the_root_of_an_rtree_has_its_box():
    db = apsw.Connection(":memory:")
    db.execute("CREATE VIRTUAL TABLE r USING rtree(id, x0, x1, y0, y1)")
    node = "SELECT data FROM r_node WHERE nodeno = 1"
    assert root_box(db.execute(node).fetchone()[0]) is None
    db.executemany("INSERT INTO r VALUES(?1, ?1, ?1 + 1, -?1, 7)", [(number,) for number in range(1, 1_001)])
    assert root_box(db.execute(node).fetchone()[0]) == (1, -1_000, 1_001, 7)


@pytest.mark.parametrize(
    "node",
    [
        None,
        5,
        "x",
        b"",
        b"\0\0",
        b"\0\0\0\1",
        b"\0\0\xff\xff" + bytes(24),
        struct.pack(">HHq4f", 0, 1, 1, 0, float("inf"), 0, 0),
    ],
)
def test_what_is_no_node_has_no_box(node):
    assert root_box(node) is None
