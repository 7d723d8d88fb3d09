"""A GeoPackage in the field: GDAL on both sides of a mesh, as docs/geopackage.md tells it."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess

import pytest

from mycomesh.sync.schema.index_remedies import remedy
from mycomesh.sync.sqlite.virtual_tables import VirtualTable
from tests.integration.machines import ROOT, SQLITE, WAIT_S, eventually

pytestmark = pytest.mark.skipif(
    not (SQLITE and shutil.which("ogr2ogr") and shutil.which("ogrinfo")), reason="needs GDAL (apt-get install gdal-bin)"
)


def gdal(*words):
    """Run a program of GDAL; return what it prints. A warning is the test's."""
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def write(machine, *points, into=()):
    """Write features (name, x, y) with ogr2ogr: a layer of a new file, or with `-append` into one."""
    features = [
        {"type": "Feature", "properties": {"name": name}, "geometry": {"type": "Point", "coordinates": [x, y]}}
        for name, x, y in points
    ]
    source = machine.dir / "points.geojson"
    source.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    gdal("ogr2ogr", *into, "-f", "GPKG", machine.file, source, "-nln", "points")


def names(machine, *box):
    """Return the names of the features that GDAL finds in a box, by the R-tree."""
    return sorted(re.findall(r"name \(String\) = (\w+)", gdal("ogrinfo", "-ro", machine.file, "points", "-spat", *box)))


def summary(machine):
    """Return (count of features, extent) as GDAL reports them."""
    text = gdal("ogrinfo", "-ro", "-so", machine.file, "points")
    extent = re.search(r"Extent: \(([-\d.]+), ([-\d.]+)\) - \(([-\d.]+), ([-\d.]+)\)", text)
    return int(re.search(r"Feature Count: (\d+)", text)[1]), tuple(map(float, extent.groups()))


def rows(machine, select):
    db = sqlite3.connect(machine.file, timeout=10)
    try:
        return db.execute(select).fetchall()
    except sqlite3.OperationalError:  # the table has not come yet
        return None
    finally:
        db.close()


def settled(*machines, features):
    """Wait until all have so many features and equal tables."""
    for machine in machines:
        eventually(
            lambda machine=machine: rows(machine, "SELECT count(*) FROM points") == [(features,)],
            f"{machine.name} has {features} features",
        )
    for machine in machines:
        machine.done("wait", "--replicas", str(len(machines)), "--timeout", "60")
    first = machines[0]
    eventually(lambda: all(rows(m, CONTENTS) == rows(first, CONTENTS) for m in machines), "equal extents")


PAGE = (ROOT / "docs" / "geopackage.md").read_text()
CONTENTS = "SELECT table_name, min_x, min_y, max_x, max_y FROM gpkg_contents"


@pytest.fixture
def mapped(machine, joined, tmp_path):
    """Alpha serves a GeoPackage that GDAL made; bravo began with an empty file."""
    for name in ("alpha", "bravo"):
        shutil.copytree(joined / name, tmp_path / name)
    alpha, bravo = machine("alpha"), machine("bravo")
    for one in (alpha, bravo):
        one.file = one.dir / "map.gpkg"
    write(alpha, *((f"a{number}", 4.05 + number / 10, 49) for number in range(40)))
    alpha.up()
    bravo.up("--port", "0", "--peer", alpha.address)
    settled(alpha, bravo, features=40)
    # GDAL reads the header past SQLite, and a reader may have delayed the checkpoint.
    eventually(lambda: bravo.file.read_bytes()[68:72] == b"GPKG", "the header is in the file itself")
    return alpha, bravo


def test_maps_of_both_sides_find_all_features(mapped):
    alpha, bravo = mapped
    assert names(bravo, 4.04, 48, 4.26, 50) == ["a0", "a1", "a2"]
    assert summary(bravo) == summary(alpha) == (40, (4.05, 49, 7.95, 49))
    write(bravo, *((f"b{number}", 0.05 + number / 10, 10 + number) for number in range(20)), into=["-append"])
    settled(alpha, bravo, features=60)
    for one in mapped:
        assert names(one, 0.04, 9, 0.26, 13) == ["b0", "b1", "b2"]
        assert names(one, 4.04, 48, 4.26, 50) == ["a0", "a1", "a2"]
        assert summary(one) == (60, (0.05, 10, 7.95, 49))
    gdal("ogrinfo", alpha.file, "-sql", "DELETE FROM points WHERE name IN ('b0', 'a1')")
    gdal(
        "ogrinfo",
        bravo.file,
        "-sql",
        "UPDATE points SET geom = (SELECT geom FROM points WHERE name = 'a9') WHERE name = 'b1'",
    )
    settled(alpha, bravo, features=58)
    write(alpha, ("c", -7, 60), into=["-append"])
    settled(alpha, bravo, features=59)
    eventually(lambda: all(names(one, 0.04, 9, 0.26, 13) == ["b2"] for one in mapped), "the moved feature is away")
    for one in mapped:
        assert names(one, 4.9, 48, 4.96, 50) == ["a9", "b1"]
        assert summary(one) == (59, (-7, 10, 7.95, 60))
        assert rows(one, "SELECT rtreecheck('rtree_points_geom')") == [("ok",)]
        assert rows(one, "SELECT application_id FROM pragma_application_id") == [(0x47504B47,)]
        tables = one.status()["tables"]
        assert not [table for table in tables if table["parked"]]
        # GDAL writes an extent after its rows: a node that widens it in between writes another one at the same time.
        assert not [table for table in tables if table["conflicts"] and table["name"] != "gpkg_contents"]
        assert "index" not in " ".join(table["note"] for table in tables)
    gdal("ogrinfo", bravo.file, "-sql", "DELETE FROM points WHERE name = 'c'")
    settled(alpha, bravo, features=58)
    gdal("ogrinfo", bravo.file, "-sql", re.search(r"```\n(UPDATE gpkg_contents.*?)```", PAGE, re.DOTALL)[1])
    eventually(lambda: [summary(one) for one in mapped] == [(58, (0.25, 12, 7.95, 49))] * 2, "a narrower extent")


def test_crews_that_are_apart_lose_no_feature(mapped):
    """The recipe of the page: own ids for the layer, so that two crews do not number two features alike."""
    alpha, bravo = mapped
    alpha.done("policy", "points", "own-ids")
    settled(alpha, bravo, features=40)
    for one in mapped:
        one.terminate()
    write(alpha, *((f"north{number}", 20 + number, 70) for number in range(5)), into=["-append"])
    write(bravo, *((f"south{number}", 20 + number, -70) for number in range(5)), into=["-append"])
    alpha.up()
    bravo.up("--port", "0", "--peer", alpha.address)
    settled(alpha, bravo, features=50)
    for one in mapped:
        assert names(one, 19, 60, 30, 80) == [f"north{number}" for number in range(5)]
        assert names(one, 19, -80, 30, -60) == [f"south{number}" for number in range(5)]
        assert summary(one) == (50, (4.05, -70, 24, 70))


def test_the_remedy_for_a_stale_index_works_in_gdal(machine):
    """`status` prints SQL that calls GDAL's functions: ogrinfo runs it as printed."""
    alone = machine("alone")
    alone.file = alone.dir / "map.gpkg"
    write(alone, *((f"a{number}", number, 49) for number in range(10)))
    ((trigger,),) = rows(alone, "SELECT sql FROM sqlite_schema WHERE name = 'rtree_points_geom_insert'")
    index = VirtualTable("rtree_points_geom", "rtree", "")
    statements = remedy(index, "points", [trigger]).partition(" does it")[0].split(";")
    gdal("ogrinfo", alone.file, "-sql", "DELETE FROM rtree_points_geom WHERE id < 8")
    assert names(alone, 4.5, 48, 8.5, 50) == ["a7", "a8"]
    for statement in statements:
        gdal("ogrinfo", alone.file, "-sql", statement.strip())
    assert names(alone, 4.5, 48, 8.5, 50) == ["a5", "a6", "a7", "a8"]


def spatialite(machine, sql):
    """Run SQL in the sqlite3 shell with SpatiaLite; return the last lines that it prints, or None if it has no such module."""
    load = ["-cmd", ".timeout 5000", "-cmd", "SELECT load_extension('mod_spatialite')"]
    done = subprocess.run(
        [SQLITE, str(machine.file), *load, sql], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    return None if "mod_spatialite" in done.stderr else done.stdout.strip() + done.stderr


@pytest.fixture
def served(machine, joined, tmp_path):
    """Return a function that makes a file on alpha, serves it, and lets bravo begin with an empty one."""

    def serve(make, name_of_file):
        for name in ("alpha", "bravo"):
            shutil.copytree(joined / name, tmp_path / name)
        alpha, bravo = machine("alpha"), machine("bravo")
        for one in (alpha, bravo):
            one.file = one.dir / name_of_file
        make(alpha)
        alpha.up()
        bravo.up("--port", "0", "--peer", alpha.address)
        return alpha, bravo

    return serve


def definitions(machine):
    """Return (type, name, SQL) of the views and triggers of programs."""
    kinds = "type IN ('view', 'trigger') AND name NOT GLOB 'mycomesh*'"
    return set(rows(machine, f"SELECT type, name, sql FROM sqlite_schema WHERE {kinds}") or ())


def notes(machine, kind):
    """Return what `status` says about a kind, "view" or "trigger", by the whole name."""
    return {each["name"]: each["note"] for each in machine.status()["tables"] if each["name"].startswith(f"{kind} ")}


OF_USERS = """
CREATE TABLE journal(id TEXT PRIMARY KEY NOT NULL, what TEXT);
CREATE VIEW named AS SELECT ogc_fid, name FROM pois WHERE name IS NOT NULL;
CREATE TRIGGER journals AFTER INSERT ON pois BEGIN INSERT INTO journal VALUES(hex(randomblob(8)), NEW.name); END;
CREATE VIEW placed AS SELECT name, ST_X(geometry) AS x FROM pois;
"""


def test_spatialite_indexes_views_and_triggers_are_on_both_sides(served):
    """A file that ogr2ogr made has 80 triggers and views of SpatiaLite; a user's that calls its functions stays at home."""

    def make(alpha):
        source = alpha.dir / "points.geojson"
        point = {"type": "Feature", "properties": {"name": "a"}, "geometry": {"type": "Point", "coordinates": [1, 49]}}
        source.write_text(json.dumps({"type": "FeatureCollection", "features": [point]}))
        gdal("ogr2ogr", "-f", "SQLite", "-dsco", "SPATIALITE=YES", alpha.file, source, "-nln", "pois")
        if spatialite(alpha, OF_USERS) is None:
            pytest.skip("needs SpatiaLite (apt-get install libsqlite3-mod-spatialite)")

    alpha, bravo = served(make, "map.sqlite")
    here = {found for found in definitions(alpha) if found[1] != "placed"}
    eventually(lambda: definitions(bravo) == here, lambda: f"views and triggers: {here ^ definitions(bravo)}")
    assert len(here) > 80
    assert notes(alpha, "view") == {"view placed": "it stays on this node: no such function: ST_X"}
    assert notes(alpha, "trigger") == notes(bravo, "trigger") == notes(bravo, "view") == {}
    line = "INSERT INTO pois(name, geometry) VALUES('line', ST_GeomFromText('LINESTRING(0 0, 1 1)', 4326))"
    for number, one in enumerate((alpha, bravo)):
        assert "violates Geometry constraint" in spatialite(one, line)
        point = f"INSERT INTO pois(ogc_fid, name, geometry) VALUES({number + 10}, '{one.name}', MakePoint(9, {number}, 4326))"
        assert spatialite(one, point) == ""
    # One virtual table of SpatiaLite, made as the page says; a program finds features of the other node through it.
    (create,) = re.findall(r"CREATE VIRTUAL TABLE SpatialIndex .*", PAGE)
    assert spatialite(bravo, create) == ""
    frame = "search_frame = BuildMbr(8, -1, 10, 2)"
    listing = f"SELECT count(*) FROM SpatialIndex WHERE f_table_name = 'pois' AND {frame}; SELECT count(*) FROM journal"
    for one in (alpha, bravo):
        eventually(lambda one=one: spatialite(one, listing) == "2\n2", lambda one=one: spatialite(one, listing))
        one.shows("SELECT name FROM named ORDER BY 1", "a\nalpha\nbravo\n")  # the stock client reads it
    moved = "UPDATE pois SET geometry = MakePoint(7, 9, 4326) WHERE ogc_fid = 10; DELETE FROM pois WHERE ogc_fid = 1"
    assert spatialite(alpha, moved) == ""
    index = "SELECT pkid, xmin FROM idx_pois_geometry ORDER BY 1; SELECT CheckSpatialIndex('pois', 'geometry')"
    for one in (alpha, bravo):
        eventually(lambda one=one: spatialite(one, index).endswith("10|7.0\n11|9.0\n1"), f"the index of {one.name}")
    alpha.done("wait", "--replicas", "2", "--timeout", "60")
    said = "equal on this node and 1 linked peer(s)"
    eventually(lambda: said in alpha.run("verify").stderr, lambda: alpha.run("verify").stderr)


def test_views_and_triggers_of_mbtiles_are_on_both_sides(served):
    def make(alpha):
        grid = alpha.dir / "grid.asc"
        grid.write_text("ncols 2\nnrows 2\nxllcorner 0\nyllcorner 0\ncellsize 9000\n1 2\n3 4\n")
        gdal("gdal_translate", "-q", "-ot", "Byte", "-a_srs", "EPSG:3857", "-of", "MBTILES", grid, alpha.file)
        alpha.sql(
            "CREATE VIEW levels AS SELECT zoom_level, count(*) AS n FROM tiles GROUP BY 1;"
            "CREATE TRIGGER dates AFTER INSERT ON tiles BEGIN UPDATE metadata SET value = 'new' WHERE name = 'description'; END"
        )

    alpha, bravo = served(make, "map.mbtiles")
    here = definitions(alpha)
    assert len(here) == 2
    eventually(lambda: definitions(bravo) == here, lambda: f"views and triggers: {here ^ definitions(bravo)}")
    alpha.sql("INSERT INTO tiles VALUES(20, 1, 1, x'00')")
    bravo.sql("INSERT INTO tiles VALUES(21, 1, 1, x'00')")
    for one in (alpha, bravo):
        one.shows("SELECT * FROM levels WHERE zoom_level >= 20", "20|1\n21|1\n")
        one.shows("SELECT value FROM metadata WHERE name = 'description'", "new\n")
        assert "Driver: MBTiles/MBTiles" in gdal("gdalinfo", one.file)
        assert not notes(one, "view") | notes(one, "trigger")
    alpha.done("wait", "--replicas", "2", "--timeout", "60")
    said = "equal on this node and 1 linked peer(s)"
    eventually(lambda: said in alpha.run("verify").stderr, lambda: alpha.run("verify").stderr)
