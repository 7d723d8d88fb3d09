"""Tables that hold the content of virtual tables are recognised with and without their module."""

from __future__ import annotations

import apsw
import pytest

from mycomesh.sync.sqlite.table_spec import CONTENT_SHOWN_MAX, user_tables
from mycomesh.sync.sqlite.virtual_tables import module_of, virtual_tables

FOREIGN = "CREATE VIRTUAL TABLE vdocs USING vec0(emb float[4])"
CONTENT = ("vdocs_chunks", "vdocs_info", "vdocs_rowids", "vdocs_vector_chunks00")


def forged(db, sql):
    """Enter a virtual table whose module is not here, as another program would have made it."""
    name = sql.split()[3].strip('"')
    db.execute("PRAGMA writable_schema = 1")
    db.execute("INSERT INTO sqlite_schema VALUES('table', ?1, ?1, 0, ?2)", (name, sql))
    db.execute("PRAGMA writable_schema = RESET")


@pytest.fixture
def file(tmp_path):
    def opened():
        return apsw.Connection(str(tmp_path / "t.db"))

    return opened


def test_tables_beside_an_unknown_module_are_content(file):
    db = file()
    for name in ("docs", "vdocsx", "other_vdocs_chunks", *CONTENT):
        db.execute(f"CREATE TABLE {name}(id INTEGER PRIMARY KEY)")
    forged(db, FOREIGN)
    db = file()
    (found,) = virtual_tables(db)
    assert (found.name, found.module, found.content) == ("vdocs", "vec0", CONTENT)
    tables, skipped = user_tables(db)
    assert tables == ["docs", "other_vdocs_chunks", "vdocsx"]
    assert [name for name, _ in skipped] == ["vdocs"]
    assert ", ".join(CONTENT) in skipped[0][1]
    assert "begin with vdocs_" in skipped[0][1]


def test_own_modules_of_sqlite_name_their_content(file):
    """The user's tables beside an index of words replicate, although their names begin with its name."""
    db = file()
    db.execute("CREATE VIRTUAL TABLE words USING fts5(body); CREATE VIRTUAL TABLE box USING rtree(id, a, b)")
    db.execute("CREATE TABLE words_mine(a); CREATE TABLE box_mine(a); VACUUM")
    assert [(each.name, each.content) for each in virtual_tables(db)] == [("box", ()), ("words", ())]
    assert user_tables(file())[0] == ["box_mine", "words_mine"]


def test_names_are_compared_without_their_case(file):
    db = file()
    db.execute("CREATE TABLE VDOCS_Chunks(a)")
    forged(db, FOREIGN)
    assert user_tables(file())[0] == []


def test_a_note_names_some_of_many_content_tables(file):
    db = file()
    for number in range(CONTENT_SHOWN_MAX + 1):
        db.execute(f"CREATE TABLE vdocs_chunks{number:02}(a)")
    forged(db, FOREIGN)
    (entry,) = user_tables(file())[1]
    assert entry[1].count("vdocs_chunks") == CONTENT_SHOWN_MAX
    assert "..." in entry[1]


@pytest.mark.parametrize(
    ("sql", "module"),
    [
        ("CREATE VIRTUAL TABLE t USING fts5(a)", "fts5"),
        ("CREATE VIRTUAL TABLE IF NOT EXISTS t USING Vec0", "vec0"),
        ('CREATE VIRTUAL TABLE "using" USING "my mod"(using x)', "my mod"),
        ("CREATE VIRTUAL TABLE t /* using no */ USING\n[rtree] (id, a, b)", "rtree"),
        ("CREATE VIRTUAL TABLE t", ""),
    ],
)
def test_a_definition_names_the_module(sql, module):
    assert module_of(sql) == module


def test_sqlite_vec_gets_equal_answers_with_and_without(file):
    """SQLite itself marks none of these tables without the module, and all but one with it."""
    sqlite_vec = pytest.importorskip("sqlite_vec")
    db = file()
    db.enable_load_extension(True)
    db.load_extension(sqlite_vec.loadable_path())
    db.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY)")
    db.execute("CREATE VIRTUAL TABLE vdocs USING vec0(emb float[4], +more text, kind text)")
    assert user_tables(db)[0] == user_tables(file())[0] == ["docs"]
