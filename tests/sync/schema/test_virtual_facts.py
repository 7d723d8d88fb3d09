"""A file that a node began empty gets the indexes of the mesh; what a peer states about one is tried first."""

from __future__ import annotations

import json
import re

import apsw
import pytest

from mycomesh.sync.schema.index_refill import FILLED_ROWS_MAX
from mycomesh.sync.schema.virtual_facts import INDEXES_MAX, TRIGGERS_MAX, IndexFact, index_refusal
from tests.sync.peers import assert_equal, converge
from tests.sync.schema.test_index_copies import GEOPACKAGE, SPATIALITE, TABLE, geopackage, spatialite, with_functions
from tests.sync.schema.test_index_triggers import FTS5

DOCS = "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT)"
MAP = "CREATE TABLE gpkg_geometry_columns(table_name TEXT PRIMARY KEY)"
AREA = "CREATE VIRTUAL TABLE area USING rtree(id, low, high)"
INSERT = "CREATE TRIGGER area_i AFTER INSERT ON t BEGIN INSERT INTO area VALUES(new.id, new.id, new.id); END"


def schema(peer, kind):
    listing = "SELECT name, sql FROM sqlite_schema WHERE type = ? AND name NOT LIKE 'mycomesh%' ORDER BY name"
    return peer.sql(listing, kind)


def facts(peer):
    return [name for (name,) in peer.sql("SELECT name FROM mycomesh_schema WHERE kind = 'virtual' ORDER BY 1")]


def notes(peer):
    return {table.name: table.note for table in peer.replica.status().tables}


def test_an_empty_file_gets_the_index_of_a_map(pair):
    one, two = pair
    with_functions(one)
    one.sql(f"{MAP}; {TABLE}; {GEOPACKAGE}")
    one.sql("INSERT INTO points VALUES(1, ?, 'a'), (2, ?, 'b')", geopackage(1, 1), geopackage(2, 2))
    converge(pair)
    with_functions(two)
    assert schema(two, "trigger") == schema(one, "trigger")
    assert two.sql("SELECT id, minx FROM rtree_points_geom") == [(1, 1), (2, 2)]
    two.sql("INSERT INTO points VALUES(3, ?, 'c')", geopackage(3, 3))
    one.sql("DELETE FROM points WHERE fid = 1")
    converge(pair)
    for peer in pair:
        assert peer.sql("SELECT id, minx FROM rtree_points_geom") == [(2, 2), (3, 3)]
    assert_equal(one, two)
    assert not any(notes(two)[name] for name in ("points",))


def test_a_file_without_layers_gets_no_gis_triggers(pair):
    """The programs beside it may lack the functions, and their writes must not fail because of another node."""
    one, two = pair
    with_functions(one)
    one.sql(f"{TABLE}; {GEOPACKAGE}")
    converge(pair)
    assert schema(two, "trigger") == facts(two) == []
    two.sql("INSERT INTO points VALUES(1, ?, 'plain')", geopackage(1, 1))
    converge(pair)
    assert one.sql("SELECT id FROM rtree_points_geom") == [(1,)]
    assert schema(two, "trigger") == []


def test_an_empty_file_gets_the_index_of_spatialite(pair):
    one, two = pair
    with_functions(one)
    one.sql(f"{MAP.replace('gpkg_', '')}; {TABLE}; {SPATIALITE}")
    one.sql("INSERT INTO points VALUES(1, ?, 'a'), (2, NULL, 'b')", spatialite(1, 1))
    converge(pair)
    with_functions(two)
    assert schema(two, "trigger") == schema(one, "trigger")
    two.sql("INSERT INTO points VALUES(3, ?, 'c')", spatialite(3, 3))
    converge(pair)
    for peer in pair:
        assert peer.sql("SELECT pkid, xmin FROM rtree_points_geom") == [(1, 1), (3, 3)]


def test_an_index_of_words_comes_with_its_content(pair):
    one, two = pair
    one.shell(f"{DOCS}; INSERT INTO t VALUES(1, 'alpha'), (2, 'beta'); {FTS5}")
    converge(pair)
    assert two.shell("SELECT rowid FROM t_fts WHERE t_fts MATCH 'beta'") == b"2\n"
    two.shell("INSERT INTO t VALUES(3, 'gamma'); DELETE FROM t WHERE id = 1")
    converge(pair)
    for peer in pair:
        peer.shell("INSERT INTO t_fts(t_fts, rank) VALUES('integrity-check', 1)")
        assert peer.shell("SELECT rowid FROM t_fts WHERE t_fts MATCH 'alpha OR gamma'") == b"3\n"


def test_a_file_that_made_an_index_notes_nothing(pair):
    one, two = pair
    one.shell(f"{DOCS}; {FTS5}")
    converge(pair)
    two.shell("CREATE TABLE other(v); ALTER TABLE t ADD COLUMN added")
    converge(pair)
    assert not [each.note for peer in pair for each in peer.replica.status().tables if each.name.startswith("index")]


def test_triggers_that_come_one_by_one_reach_the_others(pair):
    """sqlite-utils commits each trigger by itself, and a node may look in between."""
    one, two = pair
    for step in re.split(r";\s*(?=CREATE)", f"{DOCS}; {FTS5.strip().removesuffix(';')}"):
        one.shell(f"{step};")
        converge(pair)
    assert schema(two, "trigger") == schema(one, "trigger") != []
    two.shell(
        "INSERT INTO t VALUES(1, 'alpha'), (2, 'beta'); UPDATE t SET name = 'gamma' WHERE id = 1; DELETE FROM t WHERE id = 2"
    )
    converge(pair)
    for peer in pair:
        peer.shell("INSERT INTO t_fts(t_fts, rank) VALUES('integrity-check', 1)")
        assert peer.shell("SELECT rowid FROM t_fts WHERE t_fts MATCH 'alpha OR beta OR gamma'") == b"1\n"
    (dropped, _), *_ = schema(two, "trigger")
    two.shell(f'DROP TRIGGER "{dropped}"')
    converge(pair)
    one.shell("CREATE TABLE later(v)")
    converge(pair)
    assert dropped not in dict(schema(two, "trigger"))


def test_the_index_of_androids_room_comes_with_its_triggers(pair):
    """Room writes its names in backquotes, and it makes nothing on a device whose `user_version` is set already."""
    one, two = pair
    change = "CREATE TRIGGER room_fts_content_sync_SongFts_{0}_{1} {0} {1} ON `Song` BEGIN {2}; END"
    delete = "DELETE FROM `SongFts` WHERE `docid`=OLD.`rowid`"
    insert = "INSERT INTO `SongFts`(`docid`, `title`) VALUES (NEW.`rowid`, NEW.`title`)"
    triggers = [change.format("BEFORE", verb, delete) for verb in ("UPDATE", "DELETE")]
    triggers += [change.format("AFTER", verb, insert) for verb in ("UPDATE", "INSERT")]
    one.shell(
        "CREATE TABLE `Song` (`songId` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `title` TEXT NOT NULL);"
        f" CREATE VIRTUAL TABLE `SongFts` USING FTS4(`title` TEXT NOT NULL, content=`Song`); {'; '.join(triggers)};"
        " INSERT INTO Song(title) VALUES('alpha'), ('beta')"
    )
    converge(pair)
    two.shell("UPDATE Song SET title = 'gamma' WHERE songId = 1; DELETE FROM Song WHERE songId = 2")
    converge(pair)
    for peer in pair:
        assert len(schema(peer, "trigger")) == 4
        assert peer.shell("SELECT docid FROM SongFts WHERE SongFts MATCH 'gamma OR beta OR alpha'") == b"1\n"


def test_an_index_that_comes_later_has_earlier_rows(pair):
    one, two = pair
    one.shell(f"{DOCS}; INSERT INTO t VALUES(1, 'alpha'), (2, 'beta')")
    converge(pair)
    one.shell(f"{AREA}; INSERT INTO area SELECT id, id, id FROM t; {INSERT}")
    one.shell("CREATE VIRTUAL TABLE w USING fts5(name, content=''); INSERT INTO w(rowid, name) SELECT id, name FROM t;"
              "CREATE TRIGGER wi AFTER INSERT ON t BEGIN INSERT INTO w(rowid, name) VALUES(new.id, new.name); END")  # fmt: skip
    converge(pair)
    assert two.shell("SELECT id FROM area; SELECT rowid FROM w WHERE w MATCH 'beta'") == b"1\n2\n2\n"


def test_a_file_of_an_application_keeps_its_own(pair):
    """A trigger of another node could make the writes of this application fail."""
    one, two = pair
    two.close()
    two.path.unlink()
    app = apsw.Connection(str(two.path))
    app.execute(DOCS)
    app.close()
    two.open()
    one.shell(f"{DOCS}; {AREA}; {INSERT}")
    converge(pair)
    assert facts(two) == ["virtual:area"]
    assert schema(two, "trigger") == []


def test_an_index_that_a_person_dropped_stays_away(pair):
    one, two = pair
    one.shell(f"{DOCS}; {AREA}; {INSERT}")
    converge(pair)
    two.shell("DROP TRIGGER area_i; DROP TABLE area")
    one.shell("CREATE TABLE other(a)")
    converge(pair)
    assert schema(two, "trigger") == []
    assert "other" in two.tables()


def test_a_large_table_is_not_indexed_under_the_lock(pair):
    one, two = pair
    one.shell(DOCS)
    rows = f"WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i <= {FILLED_ROWS_MAX})"
    two.shell(f"{DOCS}; {rows} INSERT INTO t SELECT i, 'x' FROM n")
    converge(pair)
    one.shell(f"{AREA}; {INSERT}")
    converge(pair)
    assert f"more than {FILLED_ROWS_MAX:,} rows" in notes(two)["index area"]
    assert schema(two, "trigger") == []


def test_many_filled_indexes_take_several_passes(pair):
    """One transaction fills no more than the limit, or a member could keep the file locked."""
    one, two = pair
    rows = FILLED_ROWS_MAX * 2 // 3
    one.shell(
        f"{DOCS}; WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) INSERT INTO t SELECT i, 'x' FROM n"
    )
    converge(pair)
    for number in range(3):
        name = f"area{number}"
        one.sql(AREA.replace("area", name) + ";" + INSERT.replace("area", name))
    bundles = one.drain()
    two.take(bundles)
    made = [len(schema(two, "trigger"))]
    while two.replica.catalog.changed():
        two.replica.drain(two.wall_ms)
        made.append(len(schema(two, "trigger")))
    assert made[:3] == [1, 2, 3]
    assert two.sql("SELECT count(*) FROM area2") == [(rows,)]


def test_an_index_of_a_missing_column_stays_out(pair):
    """Its trigger would make each INSERT of the application fail."""
    one, two = pair
    one.shell(DOCS)
    converge(pair)
    two.shell("ALTER TABLE t RENAME COLUMN name TO label")
    converge(pair)
    with one.replica.store.transaction():
        fact = IndexFact("t", AREA, (INSERT.replace("new.id, new.id)", "new.name, new.name)"),))
        one.replica.registry.facts.write("virtual:area", "virtual", fact.text())
    converge(pair)
    assert "no such column" in notes(two)["index area"]
    two.shell("INSERT INTO t VALUES(1, 'x')")


def test_an_index_of_a_renamed_table_stays_out(pair):
    one, two = pair
    one.shell(DOCS)
    converge(pair)
    two.replica.migrate("ALTER TABLE t RENAME TO u; CREATE TABLE t(other)", two.wall_ms)
    with one.replica.store.transaction():
        one.replica.registry.facts.write("virtual:area", "virtual", IndexFact("t", AREA, (INSERT,)).text())
    converge(pair)
    assert schema(two, "trigger") == []
    two.shell("INSERT INTO t VALUES(1)")


def test_a_name_that_is_taken_is_told(pair):
    one, two = pair
    one.shell(DOCS)
    converge(pair)
    two.shell("CREATE VIEW area AS SELECT 1")
    one.shell(f"{AREA}; {INSERT}")
    converge(pair)
    assert "already" in notes(two)["index area"]


def test_more_indexes_than_the_limit_have_no_effect(pair):
    one, two = pair
    one.shell(DOCS)
    converge(pair)
    for number in range(INDEXES_MAX + 1):
        name = f"area{number:03}"
        one.sql(AREA.replace("area", name) + ";" + INSERT.replace("area", name))
    converge(pair)
    assert len(facts(two)) == INDEXES_MAX + 1
    assert len(schema(two, "trigger")) == INDEXES_MAX


def refusal(*triggers, sql=AREA, name="area", table="t"):
    return index_refusal(DOCS, IndexFact(table, sql, triggers), name)


def body(statement, head="AFTER INSERT ON t"):
    return f"CREATE TRIGGER a {head} BEGIN {statement}; END"


def test_what_keeps_an_index_is_taken():
    assert refusal(INSERT) == ""
    assert refusal(body("DELETE FROM area WHERE id = old.id", "AFTER DELETE ON t WHEN lower(old.name) <> ''")) == ""


@pytest.mark.parametrize(
    "trigger",
    [
        body("INSERT INTO t VALUES(new.id + 1, '')"),
        body("DELETE FROM t"),
        body("INSERT INTO area SELECT a.id, 1, 1 FROM t a, t b, t c"),
        body("INSERT INTO area VALUES((SELECT max(id) FROM t), 1, 1)"),
        body("UPDATE area SET low = 1 WHERE id IN (WITH RECURSIVE n(i) AS (VALUES(1)) TABLE n)"),
        body("INSERT INTO area VALUES(new.id, random(), randomblob(1000000000))"),
        body("SELECT RTreeAlign('t', NEW.ROWID, NEW.name)"),
        body("SELECT RTreeAlign('area', max(NEW.ROWID), NEW.name)"),
        body("INSERT INTO area VALUES(new.id, load_extension('x'), 1)"),
        body("INSERT INTO area VALUES(new.id, mine(), 1)"),
        body("SELECT raise(ABORT, '')"),
        "CREATE TEMP TRIGGER a AFTER INSERT ON t BEGIN INSERT INTO area VALUES(new.id, 1, 1); END",
        "CREATE TABLE a(b)",
        "CREATE VIEW a AS VALUES(1)",
        f"{INSERT}; DROP TABLE t",
        "ATTACH ':memory:' AS x",
        "PRAGMA writable_schema = 1",
        "DELETE FROM t",
        "nothing",
        "",
    ],
)
def test_what_does_more_is_refused(trigger):
    assert refusal(INSERT, trigger)


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("CREATE TABLE area(id, low, high)", "area"),
        ("CREATE VIRTUAL TABLE area USING fts5(name, content='mycomesh_meta')", "area"),
        ("CREATE VIRTUAL TABLE area USING fts5(name, tokenize='mine')", "area"),
        ("CREATE VIRTUAL TABLE area USING dbstat(main)", "area"),
        ("CREATE VIRTUAL TABLE area USING vec0(emb float[4])", "area"),
        (AREA, "other"),
        (AREA.replace("area", "mycomesh_area"), "mycomesh_area"),
        (AREA.replace("area", "t"), "t"),
        (f"{AREA}; {AREA.replace('area', 'more')}", "area"),
        (f"{AREA} -- ", "area"),
        ("", "area"),
    ],
)
def test_other_virtual_tables_are_refused(sql, name):
    assert bool(refusal(sql=sql, name=name)) == (sql != f"{AREA} -- ")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '["t", "x"]',
        '["t", 1, "x"]',
        '[[], "x", "y"]',
        "[" * 100_000,
        json.dumps(["t"] * (3 + TRIGGERS_MAX)),
    ],
)
def test_a_fact_of_another_form_is_none(text):
    assert IndexFact.parse(text) is None


def test_a_fact_is_its_own_text():
    fact = IndexFact("t", AREA, (INSERT,))
    assert IndexFact.parse(fact.text()) == fact
    assert IndexFact.parse(json.dumps(["t"] * (2 + TRIGGERS_MAX))) is not None


def test_facts_of_a_peer_run_nothing_in_the_file(pair):
    one, two = pair
    one.shell(DOCS)
    converge(pair)
    evil = IndexFact("t", AREA, (body("DELETE FROM t"),))
    with one.replica.store.transaction():
        one.replica.registry.facts.write("virtual:area", "virtual", evil.text())
        one.replica.registry.facts.write("virtual:b", "virtual", "[]")
    converge(pair)
    assert facts(two) == ["virtual:area", "virtual:b"]
    assert schema(two, "trigger") == []
    assert "not created: trigger a writes t" in notes(two)["index area"]
