"""The parts of a CREATE TABLE: cut where SQLite cuts, or not at all."""

from __future__ import annotations

import apsw
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from mycomesh.sync.sqlite.create_table import checks, columns, equivalent, without_storage
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.sqlite.tokens import without_comments

NAMES = st.sampled_from(
    ["a", '"a,b"', "[c)(]", "`d``--`", '"e""/*"', "'f''('", "as", "generated", "always", "stored", "B"]
)
BLANK = st.sampled_from([" ", "\n", "/* ), */", " --x,(\n", "\t/**/", "\t\ufeff"])
REST = st.sampled_from(
    ["", " INTEGER", " VARCHAR(10, 2)", " DEFAULT 5--x,y)\n", " DEFAULT '),('", " DEFAULT (1 -/*,*/ 2)", " COLLATE NOCASE",
     " CHECK(1)", " CHECK ('--' <> \")\")", " NOT NULL DEFAULT x'00'", " UNSIGNED BIG INT CONSTRAINT [x,] NOT NULL",
     " REFERENCES p(a, b)"]
)  # fmt: skip


def table_of(sql):
    db = apsw.Connection(":memory:")
    db.execute(sql)
    return db, db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchone()[0]


@given(
    st.lists(st.tuples(NAMES, BLANK, REST, BLANK), min_size=1, max_size=5, unique_by=lambda item: fold(item[0])),
    st.sampled_from(["", ", CHECK (1)", ", UNIQUE /*,*/ (a)", ", CONSTRAINT \"c,\" CHECK('(' > 1)"]),
)
def test_column_made_of_its_own_text_is_same_column(parts, tail):
    """Property: what is cut out of a definition defines, alone, what SQLite has read there."""
    sql = f"CREATE TABLE t({', '.join(blank.join(part) for *part, blank in parts)}{tail})"
    try:
        db, table = table_of(sql)
    except apsw.SQLError:
        reject()
    listing = 'SELECT name, type, "notnull", dflt_value FROM pragma_table_xinfo(?)'
    for place, text in enumerate(columns(db, table).values()):
        alone, name = table_of(f"CREATE TABLE alone({text})")
        expected = [db.execute(listing, (table,)).fetchall()[place]]
        assert [tuple(map(plain, row)) for row in alone.execute(listing, (name,)).fetchall()] == [
            tuple(map(plain, row)) for row in expected
        ]
    assert len(columns(db, table)) == len(parts)


def plain(cell):
    """SQLite keeps the comments and blanks of a default."""
    return "".join(without_comments(cell).split()) if isinstance(cell, str) else cell


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("g AS (a)", "g AS (a)"),
        ("g TEXT GENERATED ALWAYS AS (a || ')') STORED", "g TEXT AS (a || ')')"),
        ("g generated always as(a)virtual NOT NULL", "g AS (a) NOT NULL"),
        ("generated always AS (a) STORED", "generated always AS (a)"),
        ('"as" CHECK (CAST(a AS TEXT) > 1) AS(stored) stored', '"as" CHECK (CAST(a AS TEXT) > 1) AS (stored)'),
        ("g AS (a) /* STORED */ UNIQUE", "g AS (a) UNIQUE"),
        ("g INT \ufeffAS (a)", "g INT AS (a)"),
    ],
)  # fmt: skip
def test_generated_column_is_told_without_how_it_is_kept(text, shown):
    assert without_storage(text) == shown


def test_checks_are_found_wherever_they_stand():
    db, table = table_of(
        "CREATE TABLE t(a CHECK( a > 1 ) CHECK (a < ')'), b DEFAULT 'CHECK (0)', \"check\" ,"
        " CONSTRAINT c CHECK /*!*/ (b IN (1, 2)))"
    )
    assert checks(db, table) == ["(a > 1)", "(a < ')')", "(b IN (1, 2))"]


def test_quotes_that_a_rename_adds_change_nothing():
    assert equivalent('g AS (a||"b")', "G as (A||b)")
    assert not equivalent("g AS (a || 'b')", "g AS (a || 'B')")
    assert not equivalent('g AS ("a b")', "g AS (a b)")


@pytest.mark.parametrize("text", ["DEFAULT 5--why, not\n", "DEFAULT 5/*(*/ ", "DEFAULT 5 "])
def test_comment_that_touches_word_is_none_of_it(text):
    assert without_comments(text) == "DEFAULT 5"
