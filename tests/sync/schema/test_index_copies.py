"""R-trees of GeoPackages and SpatiaLite files hold what other nodes write, whose geometries may be anything."""

from __future__ import annotations

import struct

import pytest

from mycomesh.sync.schema.index_copies import plain_trigger, temp_trigger
from mycomesh.sync.sqlite.geometry import bounding_box
from tests.sync.peers import assert_equal, converge

TABLE = "CREATE TABLE points(fid INTEGER PRIMARY KEY, geom BLOB, name TEXT)"
# As GDAL 3.6.2 makes them.
GEOPACKAGE = """
CREATE VIRTUAL TABLE "rtree_points_geom" USING rtree(id, minx, maxx, miny, maxy);
CREATE TRIGGER "rtree_points_geom_insert" AFTER INSERT ON "points" WHEN (new."geom" NOT NULL AND NOT ST_IsEmpty(NEW."geom"))
 BEGIN INSERT OR REPLACE INTO "rtree_points_geom" VALUES (NEW."fid",ST_MinX(NEW."geom"), ST_MaxX(NEW."geom"),
 ST_MinY(NEW."geom"), ST_MaxY(NEW."geom")); END;
CREATE TRIGGER "rtree_points_geom_update1" AFTER UPDATE OF "geom" ON "points" WHEN OLD."fid" = NEW."fid" AND
 (NEW."geom" NOTNULL AND NOT ST_IsEmpty(NEW."geom")) BEGIN INSERT OR REPLACE INTO "rtree_points_geom" VALUES (NEW."fid",
 ST_MinX(NEW."geom"), ST_MaxX(NEW."geom"),ST_MinY(NEW."geom"), ST_MaxY(NEW."geom")); END;
CREATE TRIGGER "rtree_points_geom_update2" AFTER UPDATE OF "geom" ON "points" WHEN OLD."fid" = NEW."fid" AND
 (NEW."geom" ISNULL OR ST_IsEmpty(NEW."geom")) BEGIN DELETE FROM "rtree_points_geom" WHERE id = OLD."fid"; END;
CREATE TRIGGER "rtree_points_geom_update3" AFTER UPDATE ON "points" WHEN OLD."fid" != NEW."fid" AND
 (NEW."geom" NOTNULL AND NOT ST_IsEmpty(NEW."geom")) BEGIN DELETE FROM "rtree_points_geom" WHERE id = OLD."fid";
 INSERT OR REPLACE INTO "rtree_points_geom" VALUES (NEW."fid",ST_MinX(NEW."geom"), ST_MaxX(NEW."geom"),
 ST_MinY(NEW."geom"), ST_MaxY(NEW."geom")); END;
CREATE TRIGGER "rtree_points_geom_update4" AFTER UPDATE ON "points" WHEN OLD."fid" != NEW."fid" AND
 (NEW."geom" ISNULL OR ST_IsEmpty(NEW."geom")) BEGIN DELETE FROM "rtree_points_geom" WHERE id IN (OLD."fid", NEW."fid"); END;
CREATE TRIGGER "rtree_points_geom_delete" AFTER DELETE ON "points" WHEN old."geom" NOT NULL
 BEGIN DELETE FROM "rtree_points_geom" WHERE id = OLD."fid"; END;
"""
# As SpatiaLite 5.0.1 makes them.
SPATIALITE = """
CREATE VIRTUAL TABLE "rtree_points_geom" USING rtree(pkid, xmin, xmax, ymin, ymax);
CREATE TRIGGER "gii_points_geom" AFTER INSERT ON "points"
FOR EACH ROW BEGIN
DELETE FROM "rtree_points_geom" WHERE pkid=NEW.ROWID;
SELECT RTreeAlign('rtree_points_geom', NEW.ROWID, NEW."geom");
END;
CREATE TRIGGER "giu_points_geom" AFTER UPDATE OF "geom" ON "points"
FOR EACH ROW BEGIN
DELETE FROM "rtree_points_geom" WHERE pkid=NEW.ROWID;
SELECT RTreeAlign('rtree_points_geom', NEW.ROWID, NEW."geom");
END;
CREATE TRIGGER "gid_points_geom" AFTER DELETE ON "points"
FOR EACH ROW BEGIN
DELETE FROM "rtree_points_geom" WHERE pkid=OLD.ROWID;
END;
"""


def geopackage(x, y):
    return b"GP" + struct.pack("<BBiBIdd", 0, 1, 4326, 1, 1, x, y)


def spatialite(x, y):
    return struct.pack("<BBi4d", 0, 1, 4326, x, y, x, y) + b"\x7c" + struct.pack("<Idd", 1, x, y) + b"\xfe"


def with_functions(peer):
    """Give the application's connection the functions of a GIS program."""
    db = peer.app
    for place, name in enumerate(("ST_MinX", "ST_MaxX", "ST_MinY", "ST_MaxY")):
        db.create_scalar_function(name, lambda blob, place=place: (bounding_box(blob) or [None] * 4)[place], 1)
    db.create_scalar_function("ST_IsEmpty", lambda blob: None if (box := bounding_box(blob)) is None else not box, 1)

    def align(index, row, blob):
        box = bounding_box(blob)
        if box:
            db.execute(f"INSERT INTO {index} VALUES(?, ?, ?, ?, ?)", (row, *box))

    db.create_scalar_function("RTreeAlign", align, 3)


@pytest.fixture(params=["geopackage", "spatialite"])
def mapped(request, equals):
    """Two nodes with an indexed table, and how its geometries are encoded."""
    both = equals(2, TABLE)
    for peer in both:
        with_functions(peer)
        peer.sql(GEOPACKAGE if request.param == "geopackage" else SPATIALITE)
        peer.drain()
    return *both, geopackage if request.param == "geopackage" else spatialite


def entries(peer):
    return [(int(row), x, y) for row, x, _, y, _ in peer.sql("SELECT * FROM rtree_points_geom ORDER BY 1")]


def note(peer):
    return next(each.note for each in peer.replica.status().tables if each.name == "points")


def test_an_index_of_a_map_holds_what_others_write(mapped):
    one, two, point = mapped
    two.sql(
        "INSERT INTO points VALUES(1, ?, 'a'), (2, ?, 'b'), (3, ?, 'c'), (4, NULL, 'd')",
        point(1, 1), point(2, 2), point(3, 3),
    )  # fmt: skip
    converge([one, two])
    assert entries(one) == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]
    two.sql("UPDATE points SET geom = ? WHERE fid = 1", point(9, 9))
    two.sql("UPDATE points SET geom = NULL, name = 'x' WHERE fid = 2; DELETE FROM points WHERE fid = 3")
    two.sql("UPDATE points SET geom = ? WHERE fid = 4", point(4, 4))
    two.sql("UPDATE points SET name = 'moved' WHERE fid = 4")
    converge([one, two])
    assert entries(one) == entries(two) == [(1, 9, 9), (4, 4, 4)]
    assert not note(one)
    assert_equal(one, two)


def test_many_geometries_at_once_enter_the_index(mapped):
    one, two, point = mapped
    two.app.executemany(
        "INSERT INTO points VALUES(?, ?, 'x')", [(number, point(number, 0)) for number in range(1, 2_001)]
    )
    converge([one, two])
    assert len(entries(one)) == 2_000
    two.app.executemany(
        "UPDATE points SET geom = ? WHERE fid = ?", [(point(number, 7), number) for number in range(1, 2_001)]
    )
    converge([one, two])
    assert {y for _, _, y in entries(one)} == {7}
    assert one.sql("SELECT rtreecheck('rtree_points_geom')") == [("ok",)]


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"GP",
        b"GP\0\1" + bytes(4) + b"\1" * 40,
        b"\0\1" + b"\xff" * 50 + b"\xfe",
        "text",
        5,
        geopackage(1, float("nan")),
    ],
)
def test_a_blob_that_is_no_geometry_stops_no_upkeep(mapped, blob):
    """A peer without the index may write anything: the row comes in, has no entry, and the next rows have theirs."""
    one, two, point = mapped
    for name in ("insert", "update1", "update2", "update3", "update4", "delete"):
        two.sql(f"DROP TRIGGER IF EXISTS rtree_points_geom_{name}")
    for name in ("gii", "giu"):
        two.sql(f"DROP TRIGGER IF EXISTS {name}_points_geom")
    two.sql("INSERT INTO points VALUES(1, ?, 'bad')", blob)
    two.sql("INSERT INTO points VALUES(2, ?, 'good'), (3, ?, 'good')", point(2, 2), point(3, 3))
    converge([one, two])
    two.sql("UPDATE points SET geom = ? WHERE fid = 2", blob)
    two.sql("UPDATE points SET geom = ? WHERE fid = 1", point(1, 1))
    converge([one, two])
    assert_equal(one, two)
    assert not note(one)
    assert [row for row, *_ in entries(one) if row != 2] == [1, 3]


def test_an_index_on_an_application_function_stays_its_own(equals):
    """The node's functions have other names: a value that differs in its last bit would damage that index."""
    one, two = equals(2, TABLE)
    with_functions(one)
    one.app.create_scalar_function("ST_MinX", lambda blob: 1.0, 1, deterministic=True)
    one.sql("CREATE INDEX west ON points(ST_MinX(geom))")
    two.sql("INSERT INTO points VALUES(1, ?, 'a')", geopackage(1, 1))
    converge([one, two])
    assert "ST_MinX" in note(one)
    assert one.sql("SELECT count(*) FROM points") == [(0,)]


def test_a_copy_calls_functions_by_private_names():
    sql = "CREATE TRIGGER a AFTER INSERT ON t WHEN NOT st_IsEmpty (new.g) BEGIN SELECT ST_MinX(new.st_minx), 'ST_MinX(x)'; END"
    assert temp_trigger(sql, "b").replace("  ", " ") == (
        "CREATE TEMP TRIGGER b AFTER INSERT ON t WHEN NOT mycomesh_st_isempty (new.g)"
        " BEGIN SELECT mycomesh_st_minx(new.st_minx), 'ST_MinX(x)'; END"
    )
    with pytest.raises(ValueError, match="RAISE"):
        temp_trigger("CREATE TRIGGER a BEFORE INSERT ON t BEGIN SELECT raise(ABORT, ''); END", "b")


def test_calls_in_strings_and_comments_stay():
    """A peer's trigger is tried with its calls replaced, and made as it is: both have to be the same statements."""
    call = "SELECT RTreeAlign('area', NEW.ROWID, NEW.\"geom\")"
    assert 'INSERT INTO "area" VALUES(NEW.ROWID, ' in plain_trigger(f"BEGIN {call}; END")
    for text in (
        "'" + call.replace("'", "''") + "'",
        "INSERT INTO area VALUES('SELECT RTreeAlign(''', 1); DELETE FROM t; --', NEW.a, NEW.b)",
        f"/* {call} */",
        f'"{call[:7]}"  -- {call}',
    ):
        assert plain_trigger(text) == text
