"""The remedy in a note fills the index again, as printed."""

from __future__ import annotations

import apsw
import pytest

from mycomesh.sync.schema.index_remedies import SQL_SHOWN_MAX, filling_of, remedy
from mycomesh.sync.sqlite.virtual_tables import virtual_tables

DOCS = "CREATE TABLE docs(id INTEGER PRIMARY KEY, body TEXT); INSERT INTO docs VALUES(1, 'one'), (2, 'two'), (3, NULL);"
GEOPACKAGE = """CREATE TRIGGER "r_insert" AFTER INSERT ON "docs" WHEN (new."body" NOT NULL
 AND NOT ST_IsEmpty(NEW."body")) BEGIN INSERT OR REPLACE INTO "r" VALUES (NEW."id",ST_MinX(NEW."body"), 9); END"""


def trigger(body, when=""):
    return f"CREATE TRIGGER t AFTER INSERT ON docs {when} BEGIN {body}; END"


WORDS = trigger("INSERT INTO f(rowid, body) VALUES(new.id, new.body)", "WHEN new.body IS NOT NULL")


@pytest.mark.parametrize(
    ("index", "insert"),
    [
        ("fts5(body, content='docs', content_rowid='id')", WORDS),
        ('fts4(body, content="docs")', WORDS.replace("rowid", "docid")),
        ("fts5(body)", WORDS),
        ("fts5(body, content='')", WORDS),
        (
            "rtree(id, a, b)",
            trigger("INSERT INTO f VALUES(new.id, new.id, new.id + 1)", "FOR EACH ROW WHEN new.id < 3"),
        ),
    ],
    ids=["fts5", "fts4", "fts5-own-content", "fts5-contentless", "rtree"],
)
def test_the_remedy_of_a_module_works_as_printed(index, insert):
    db = apsw.Connection(":memory:")
    db.execute(f"{DOCS} CREATE VIRTUAL TABLE f USING {index}; {insert}")
    db.execute("DROP TRIGGER t")  # while it was gone, the index missed rows
    (found,) = virtual_tables(db)
    text = remedy(found, "docs", [insert])
    assert " does it" in text
    db.execute(text.partition(" does it")[0])
    if index.startswith("fts"):
        assert db.execute("SELECT rowid FROM f WHERE f MATCH 'two'").fetchall() == [(2,)]
    else:
        assert db.execute("SELECT id, a FROM f ORDER BY id").fetchall() == [(1, 1), (2, 2)]


def test_the_functions_of_a_program_stay_in_its_sql():
    assert filling_of(GEOPACKAGE, "r", "docs") == (
        'INSERT OR REPLACE INTO r SELECT NEW."id",ST_MinX(NEW."body"), 9 FROM docs AS new'
        ' WHERE (new."body" NOT NULL AND NOT ST_IsEmpty(NEW."body"))'
    )
    db = apsw.Connection(":memory:")
    db.create_scalar_function("ST_MinX", len, 1)
    db.create_scalar_function("ST_IsEmpty", lambda body: not body, 1)
    db.execute(f"{DOCS} CREATE VIRTUAL TABLE r USING rtree(id, a, b)")
    db.execute(filling_of(GEOPACKAGE, "r", "docs"))
    assert db.execute("SELECT * FROM r ORDER BY id").fetchall() == [(1, 3, 9), (2, 3, 9)]


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TRIGGER t AFTER DELETE ON docs BEGIN INSERT INTO r VALUES(old.id, 1, 1); END",
        trigger("INSERT INTO other VALUES(new.id)"),
        trigger("INSERT INTO r VALUES(new.id, 1, 1); INSERT INTO r VALUES(new.id, 2, 2)"),
        trigger("INSERT INTO r VALUES(new.id, 1, 1), (new.id, 2, 2)"),
        trigger("INSERT INTO r SELECT new.id, 1, 1"),
        trigger("UPDATE r SET a = 1 WHERE id = new.id"),
        "CREATE TRIGGER",
        "",
    ],
)
def test_other_triggers_have_no_insert_for_all_rows(sql):
    assert filling_of(sql, "r", "docs") == ""


def test_other_modules_send_a_person_to_their_program():
    db = apsw.Connection(":memory:")
    db.execute("CREATE VIRTUAL TABLE idx_t_geom USING rtree(pkid, xmin, xmax, ymin, ymax)")
    (found,) = virtual_tables(db)
    align = trigger("SELECT RTreeAlign('idx_t_geom', NEW.ROWID, NEW.geom)")
    assert "RecoverSpatialIndex() does it, in SpatiaLite" in remedy(found, "t", [align])
    assert "with the program that made it" in remedy(found, "t", [])
    long = trigger(f"INSERT INTO idx_t_geom VALUES({', '.join(['new.id'] * (SQL_SHOWN_MAX // 8))})")
    assert "with the program that made it" in remedy(found, "t", [long])
