"""Definitions of peers are read without being run, and tried on made-up rows under limits."""

from __future__ import annotations

import apsw
import pytest

from mycomesh.sync.sqlite.definitions import SCRATCH_STEPS_MAX, execute_one, read_definition, scratch
from mycomesh.sync.sqlite.trial import refusal_of

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
QUADRATIC = "instr(zeroblob(900000), zeroblob(450000) || x'01')"


@pytest.mark.parametrize(
    "sql",
    [
        f"{ENDLESS}; CREATE TABLE t(a)",
        f"CREATE TABLE t(a); {ENDLESS}",
        f"CREATE TABLE t AS {ENDLESS}",
        f"EXPLAIN CREATE TABLE t(a); {ENDLESS}",
        "CREATE TABLE t(a); CREATE TABLE u(a)",
        "CREATE TABLE t(a); DROP TABLE t; CREATE TABLE u(a)",
        f"CREATE TABLE t(a CHECK (a IN ({ENDLESS})))",
        f"CREATE TABLE t(a DEFAULT ({ENDLESS}))",
        f"CREATE TABLE t(a CHECK ({'+'.join('a' * 500)}))",
    ],
)
def test_more_than_one_create_table_defines_and_runs_nothing(sql):
    assert read_definition(sql) is None


@pytest.mark.parametrize("sql", ["CREATE TABLE t(a);", "CREATE TABLE t(a) -- end", "CREATE TABLE t(a); /* end */"])
def test_blanks_and_comments_behind_a_definition_do_not_matter(sql):
    assert read_definition(sql).name == "t"


def test_a_text_for_a_column_runs_one_statement():
    with scratch("CREATE TABLE t(a)") as db, pytest.raises(apsw.SQLError, match="more than one"):
        execute_one(db, f"ALTER TABLE t ADD COLUMN b; {ENDLESS}", lambda *_: apsw.SQLITE_OK)


def test_statement_on_scratch_database_ends_after_so_many_steps():
    with scratch("CREATE TABLE t(a)") as db, pytest.raises(apsw.InterruptError):
        db.execute(ENDLESS).fetchall()
    assert SCRATCH_STEPS_MAX <= 10_000_000


@pytest.mark.parametrize(
    ("table", "index"),
    [
        ("CREATE TABLE t(a, g AS (hex(zeroblob(499999990))))", ""),
        ("CREATE TABLE t(a, g AS (hex(zeroblob(499999990))) STORED)", ""),
        ("CREATE TABLE t(a, CHECK(length(hex(zeroblob(499999990)))))", ""),
        ("CREATE TABLE t(a, CHECK(0), CHECK(length(hex(zeroblob(499999990)))))", ""),
        ("CREATE TABLE t(a DEFAULT (hex(zeroblob(499999990))))", ""),
        ("CREATE TABLE t(a, g AS (zeroblob(a)))", ""),
        ("CREATE TABLE t(a, g AS (printf('%*d', a, 1)))", ""),
        (f"CREATE TABLE t(a, CHECK({QUADRATIC}))", ""),
        (f"CREATE TABLE t(a, {', '.join([f'CHECK({QUADRATIC} IS a)'] * 100)})", ""),
        ("CREATE TABLE t(a)", "CREATE INDEX i ON t(zeroblob(2000000000))"),
        ("CREATE TABLE t(a, CHECK(a = 7))", "CREATE INDEX i ON t(zeroblob(a))"),
        ("CREATE TABLE t(a)", f"CREATE INDEX i ON t(a) WHERE {QUADRATIC}"),
    ],
)
def test_expression_that_makes_much_of_small_row_is_refused(table, index):
    assert "too costly" in refusal_of(table, index)


@pytest.mark.parametrize("index", ["CREATE INDEX i ON t(a); SELECT 1", "CREATE INDEX i ON u(a)", "DROP TABLE t"])
def test_sql_that_is_not_one_index_is_refused(index):
    assert refusal_of("CREATE TABLE t(a)", index)


@pytest.mark.parametrize(
    ("table", "index"),
    [
        ("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a TEXT NOT NULL UNIQUE CHECK(length(a) < 10))", ""),
        ("CREATE TABLE t(d JSON CHECK(json_valid(d)), g AS (json_extract(d, '$.a')) STORED)", ""),
        ("CREATE TABLE t(d)", "CREATE UNIQUE INDEX i ON t(json_extract(d, '$.a')) WHERE d IS NOT NULL"),
        ("CREATE TABLE t(k DEFAULT (lower(hex(randomblob(16)))), at DEFAULT CURRENT_TIMESTAMP)", ""),
        ("CREATE TABLE t(a, b AS (printf('%06d', a)), c AS (substr('000000' || a, -6)))", ""),
        (f"CREATE TABLE t(a CHECK(a IN ({', '.join(map(str, range(5_000)))})))", ""),
        (f"CREATE TABLE t({', '.join(f'c{n} NOT NULL DEFAULT 0 CHECK(json_valid(c{n}))' for n in range(900))})", ""),
        ("CREATE TABLE t(a INTEGER, b TEXT, PRIMARY KEY(a, b)) STRICT, WITHOUT ROWID", ""),
    ],
)
def test_honest_definitions_pass(table, index):
    assert refusal_of(table, index) == ""
