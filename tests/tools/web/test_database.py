"""Queries under limits: nothing is written, nothing runs long, and any value of a file comes out."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading

import apsw
import pytest

from mycomesh.tools.web import database
from mycomesh.tools.web.bounded import PATTERN_BYTES_MAX, PRODUCT_MAX
from mycomesh.tools.web.database import (
    BYTES_MAX,
    HEAP_BYTES_MAX,
    QUERIES_MAX,
    QUERY_S_MAX,
    ROWS_MAX,
    SQL_BYTES_MAX,
    VALUE_BYTES_MAX,
    Database,
)
from mycomesh.tools.web.errors import BusyError, HttpError, QueryError, UnknownError
from mycomesh.tools.web.values import csv_text, plain


@pytest.fixture
def made(tmp_path):
    path = tmp_path / "a.db"
    with sqlite3.connect(path) as db:
        db.executescript(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 'a'), (2, NULL), (3, x'00ff');"
            "CREATE TABLE pair(a TEXT, b TEXT, PRIMARY KEY(a, b)) WITHOUT ROWID; INSERT INTO pair VALUES('x', 'y');"
            'CREATE TABLE "rowid; <b>"(rowid TEXT, "o""k" TEXT); INSERT INTO "rowid; <b>" VALUES(\'z\', \'w\');'
            "CREATE TABLE bag(v); INSERT INTO bag VALUES(CAST(x'41ff' AS TEXT));"
            "CREATE TABLE mycomesh_conflicts(x); CREATE VIEW seen AS SELECT * FROM t"
        )
    db.close()
    return Database(path)


def run(base, work):
    return asyncio.run(base.run(work))


def refused(base, sql):
    with pytest.raises(QueryError) as caught:
        run(base, lambda: base.query(sql))
    return str(caught.value)


def test_a_select_returns_columns_and_rows(made):
    found = run(made, lambda: made.query("SELECT id, v AS word FROM t WHERE id < 3 ORDER BY id"))
    assert (found.columns, found.rows, found.more) == (("id", "word"), [(1, "a"), (2, None)], False)
    assert run(made, lambda: made.query("SELECT id FROM t WHERE 0")).columns == ("id",)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES(9, 9)",
        "CREATE TABLE other(x)",
        "CREATE TEMP TABLE other(x)",
        "DROP TABLE t",
        "ATTACH ':memory:' AS m",
        "DETACH main",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA user_version = 7",
        "PRAGMA temp_store_directory = '/tmp'",
        "PRAGMA wal_checkpoint",
        "SELECT load_extension('x')",
        "BEGIN",
        "SAVEPOINT s",
        "VACUUM INTO '/tmp/x'",
        "REINDEX",
        "ANALYZE",
        "SELECT 1; SELECT 2",
        "WITH x AS (SELECT 1) DELETE FROM t",
    ],
)
def test_nothing_but_a_select_is_run(made, sql, tmp_path):
    before = (tmp_path / "a.db").read_bytes()
    refused(made, sql)
    assert (tmp_path / "a.db").read_bytes() == before
    assert run(made, lambda: made.query("SELECT count(*) FROM t")).rows == [(3,)]


def test_endless_query_is_ended(made, monkeypatch):
    assert QUERY_S_MAX <= 5
    monkeypatch.setattr(database, "QUERY_S_MAX", 0.05)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    assert "took longer" in refused(made, endless)
    assert run(made, lambda: made.query("SELECT 1")).rows == [(1,)]


def test_rows_and_bytes_of_an_answer_are_limited(made, monkeypatch):
    count = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) SELECT i FROM n"
    for rows, more in ((ROWS_MAX - 1, False), (ROWS_MAX, False), (ROWS_MAX + 1, True)):
        found = run(made, lambda rows=rows: made.query(count.format(rows)))
        assert (len(found.rows), found.more) == (min(rows, ROWS_MAX), more)
    monkeypatch.setattr(database, "BYTES_MAX", 10_000)
    assert BYTES_MAX <= 1 << 26
    found = run(made, lambda: made.query(f"SELECT zeroblob(4000) FROM ({count.format(10)})"))
    assert (len(found.rows), found.more) == (2, True)
    assert "first row" in refused(made, "SELECT zeroblob(4000), zeroblob(6000)")
    assert "first row" in refused(made, "SELECT CAST(zeroblob(2000) AS TEXT)")  # six bytes each in JSON
    assert len(run(made, lambda: made.query("SELECT hex(zeroblob(2000))")).rows) == 1


def test_one_value_and_one_statement_are_limited(made):
    assert run(made, lambda: made.query(f"SELECT length(zeroblob({VALUE_BYTES_MAX}))")).rows == [(VALUE_BYTES_MAX,)]
    assert "too big" in refused(made, f"SELECT length(zeroblob({VALUE_BYTES_MAX + 1}))")
    fits = "SELECT 1".ljust(SQL_BYTES_MAX - 1)
    assert run(made, lambda: made.query(fits)).rows == [(1,)]
    assert refused(made, fits + "  ")


def test_queries_beyond_the_limit_are_turned_away(made, monkeypatch):
    monkeypatch.setattr(database, "QUERIES_MAX", 4)
    assert QUERIES_MAX >= 16
    release = threading.Event()

    async def crowd():
        waiting = [asyncio.create_task(made.run(release.wait)) for _ in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await made.run(release.wait)
        release.set()
        return await asyncio.gather(*waiting)

    assert asyncio.run(crowd()) == [True] * 4


def test_internal_tables_are_left_out(made):
    found = run(made, made.tables)
    assert list(found) == ["bag", "pair", "rowid; <b>", "t"]
    assert (found["pair"].key, found["pair"].rowid) == (("a", "b"), "")
    assert (found["rowid; <b>"].key, found["rowid; <b>"].rowid) == ((), "_rowid_")


def test_page_has_keys_of_rows_in_order(made):
    def page(name, **options):
        return run(made, lambda: made.page(made.table(name), **options))

    assert [row[0] for row in page("t", limit=2).rows] == [(1,), (2,)]
    assert page("t", limit=2).more
    assert [row[1] for row in page("t", order="id", descending=True, limit=2, offset=1).rows] == [2, 1]
    assert page("t", where="v IS NULL -- a comment").rows == [((2,), 2, None)]
    assert page("pair").rows == [(("x", "y"), "x", "y")]
    assert page("rowid; <b>").rows == [((1,), "z", "w")]
    assert page("bag").rows == [((1,), [b"A\xff"])]
    with pytest.raises(HttpError, match="no column"):
        page("t", order="id; DROP TABLE t")
    with pytest.raises(UnknownError):
        page("absent")


@pytest.mark.parametrize("where", ["1); SELECT (1", "1) UNION SELECT 1, 2, 3 --", "(", "1 ORDER BY", "'"])
def test_condition_cannot_leave_its_parentheses(made, where):
    with pytest.raises(QueryError):
        run(made, lambda: made.page(made.table("t"), where=where))


def test_execute_writes_as_any_client_does(made):
    assert run(made, lambda: made.execute("INSERT INTO t(v) VALUES(?), (?)", ["x", 1.5])).rows == [(2,)]
    assert run(made, lambda: made.execute("DELETE FROM t WHERE id = ? RETURNING id", [1])).rows == [(1,)]
    for sql in (
        "INSERT INTO mycomesh_conflicts VALUES(1)",
        "DROP TABLE t",
        "ATTACH 'x' AS y",
        "PRAGMA user_version = 1",
    ):
        with pytest.raises(QueryError):
            run(made, lambda sql=sql: made.execute(sql, []))
    with pytest.raises(QueryError, match="one statement"):
        run(made, lambda: made.execute("DELETE FROM t WHERE id = 2; DELETE FROM t", []))


def test_statement_that_fails_changes_nothing(made, tmp_path):
    with pytest.raises(QueryError):
        run(made, lambda: made.execute("INSERT INTO t VALUES(10, 1), (1, 2)", []))
    db = apsw.Connection(str(tmp_path / "a.db"))
    assert db.execute("SELECT count(*) FROM t").fetchone() == (3,)


@pytest.mark.parametrize(
    "call",
    [
        "instr(zeroblob(15000000), zeroblob(7000000) || x'01')",
        "replace(hex(zeroblob(4000000)), hex(zeroblob(2000000)) || 'x', 'y')",
        "trim(hex(zeroblob(4000000)), hex(randomblob(1000000)))",
        "ltrim(hex(zeroblob(4000000)), hex(randomblob(1000000)))",
        "rtrim(hex(zeroblob(4000000)), hex(randomblob(1000000)))",
        "unhex(hex(zeroblob(4000000)), hex(randomblob(1000000)))",
        "hex(zeroblob(4000000)) LIKE '%' || hex(zeroblob(1000)) || 'x'",
        "hex(zeroblob(4000000)) GLOB '*' || hex(zeroblob(1000)) || 'x'",
    ],
)
def test_function_that_would_take_hours_is_refused(made, call):
    text = refused(made, f"SELECT {call}")
    assert "too long" in text or "too complex" in text
    assert PRODUCT_MAX > PATTERN_BYTES_MAX


def test_bounded_functions_are_those_of_sqlite(made):
    values = ("'aXbX'", "1e20", "12.5", "x'004241'", "NULL", "'X'", "''", "7")
    calls = [f"{name}({a}, {b})" for name in ("instr", "trim", "ltrim", "rtrim") for a in values for b in values]
    calls += [f"replace({a}, {b}, {c})" for a in values for b in values for c in ("'y'", "NULL", "1.5")]
    calls += ["unhex('41 42', ' ')", "unhex('41-42', ' ')", "'aXbX' LIKE '%xb%'", "'aXbX' GLOB '*Xb*'"]
    plain = apsw.Connection(":memory:")
    for call in calls:
        sql = f"SELECT {call}, typeof({call})"
        assert run(made, lambda sql=sql: made.query(sql)).rows == plain.execute(sql).fetchall(), call


def test_index_on_a_bounded_function_is_used(tmp_path):
    with sqlite3.connect(tmp_path / "i.db") as db:
        db.executescript(
            "CREATE TABLE t(v, g AS (replace(v, '-', ''))); CREATE INDEX i ON t(instr(v, 'x'));"
            "INSERT INTO t(v) VALUES('a-x')"
        )
    db.close()
    base = Database(tmp_path / "i.db")
    assert run(base, lambda: base.query("SELECT g FROM t WHERE instr(v, 'x') = 3")).rows == [("ax",)]
    assert run(base, lambda: base.execute("INSERT INTO t(v) VALUES(?)", ["b-x"])).rows == [(1,)]


HEAVY = """
import asyncio, sys
from pathlib import Path
from mycomesh.tools.web import database
from mycomesh.tools.web.errors import QueryError
database.HEAP_BYTES_MAX = int(sys.argv[2])
database.limit_heap()
base = database.Database(Path(sys.argv[1]))
for sql in sys.argv[3:]:
    try:
        print(len(asyncio.run(base.run(lambda: base.query(sql))).rows))
    except QueryError as error:
        print(error)
"""


def test_query_that_takes_much_memory_is_refused(made):
    """In a process of its own, since the limit is of the whole process."""
    assert HEAP_BYTES_MAX == 128 << 20
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60)"
    queries = [
        "SELECT " + ", ".join(["zeroblob(1000000)"] * 60),
        f"{numbers} SELECT length(v) FROM (SELECT randomblob(1000000) AS v, i FROM n ORDER BY v DESC, i)",
        f"{numbers} SELECT json_group_array(hex(zeroblob(100000))) FROM n",
        "SELECT length(zeroblob(1000000))",
    ]

    def answers(limit):
        command = [sys.executable, "-c", HEAVY, str(made.path), str(limit), *queries]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()

    *heavy, light = answers(8 << 20)
    assert light == "1"  # the next query has its memory again
    assert heavy == ["the query needs more than 8 MiB of memory; narrow it, or sort by a shorter column"] * 3
    assert "memory" not in "".join(answers(HEAP_BYTES_MAX))


def test_table_with_a_cell_beyond_the_limit_is_shown(made, monkeypatch):
    monkeypatch.setattr(database, "VALUE_BYTES_MAX", 100_000)
    with sqlite3.connect(made.path) as db:
        db.execute("CREATE TABLE deep(id INTEGER PRIMARY KEY, a, b TEXT)")
        rows = [(1, bytes(100_000), "x"), (2, bytes(100_001), "y"), (3, "é" * 50_001, "z"), (4, 1.5, None)]
        db.executemany("INSERT INTO deep VALUES(?, ?, ?)", rows)
    db.close()
    base = Database(made.path)
    found = run(base, lambda: base.page(base.table("deep"))).rows
    assert found == [((1,), *rows[0]), ((2,), 2, 100_001, "y"), ((3,), 3, 100_002, "z"), ((4,), *rows[3])]
    assert plain(found[1][2]) == {"too long": 100_001}
    assert csv_text(found[1][2]) == "(100001 bytes)"
    assert run(base, base.tables)["deep"].key == ("id",)


def test_table_of_two_thousand_columns_is_shown(made):
    names = [f"c{number}" for number in range(1_999)]
    with sqlite3.connect(made.path) as db:
        db.execute(f"CREATE TABLE wide(id INTEGER PRIMARY KEY, {', '.join(names)})")
        db.execute("INSERT INTO wide(id, c1998) VALUES(7, 'last')")
    db.close()
    (row,) = run(made, lambda: made.page(made.table("wide"))).rows
    assert (row[0], row[1], row[-1], len(row)) == ((7,), 7, "last", 2_001)


def test_virtual_table_of_an_absent_extension_hides_no_other(made):
    with sqlite3.connect(made.path) as db:
        db.execute("PRAGMA writable_schema = ON")
        text = "CREATE VIRTUAL TABLE knn USING VirtualKNN2()"
        db.execute("INSERT INTO sqlite_schema VALUES('table', 'knn', 'knn', 0, ?)", (text,))
    db.close()
    base = Database(made.path)
    assert list(run(base, base.tables)) == ["bag", "pair", "rowid; <b>", "t"]
    with pytest.raises(QueryError, match="no such module"):
        run(base, lambda: base.table("knn"))


def test_thousands_of_tables_are_listed_at_once(tmp_path):
    """Looking each of them up in the list of all took 40 s of CPU for 10,000."""
    with sqlite3.connect(tmp_path / "many.db") as db:
        db.executescript(
            "BEGIN;" + "".join(f"CREATE TABLE t{number}(id INTEGER PRIMARY KEY, v);" for number in range(300))
        )
    db.close()
    base, listings = Database(tmp_path / "many.db"), []
    ask = base.query

    def query(sql, *values, **options):
        listings.append("pragma_table_list" in sql)
        return ask(sql, *values, **options)

    base.query = query
    assert len(run(base, base.tables)) == 300
    assert sum(listings) == 1
