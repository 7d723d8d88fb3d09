"""Files and tables that the stock shell rebuilds from SQL: reloaded dumps, clones, a table dropped and loaded again.

SQLite's catalogue is the same afterwards, but rows without a key have other rowids.
"""

from __future__ import annotations

import subprocess
from collections import Counter

import pytest

from mycomesh.sync.capture import rebuild_mark, rebuilt_rows
from tests.sync.peers import Peer, assert_equal, converge, shell
from tests.sync.scale import each_pair

DDL = (
    "CREATE TABLE bag(v, w); CREATE TABLE nullkey(k TEXT PRIMARY KEY, v);"
    " CREATE TABLE auto(id INTEGER PRIMARY KEY AUTOINCREMENT, v, r REAL);"
    " CREATE TABLE norowid(k TEXT PRIMARY KEY, v) WITHOUT ROWID"
)
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 40)"
FILL = (
    f"{NUMBERS} INSERT INTO bag SELECT i, i FROM n; {NUMBERS} INSERT INTO nullkey SELECT iif(i % 3, NULL, 'k' || i), i FROM n;"
    " INSERT INTO auto(v, r) VALUES('a', 1.0), ('b', 9e999), (CAST(x'ff41' AS TEXT), 0.1), ('d', 1e300);"
    " INSERT INTO norowid VALUES('a', 1), ('b', x'00ff')"
)
GAPS = (
    "DELETE FROM bag WHERE v IN (3, 4, 11, 30); UPDATE bag SET w = 'changed' WHERE v % 5 = 0;"
    " DELETE FROM nullkey WHERE v IN (2, 9, 25); UPDATE nullkey SET v = 100 WHERE v = 22; DELETE FROM auto WHERE id = 1"
)
UNSTAMPED = (
    "INSERT INTO bag VALUES('new', 1), ('newer', 2); UPDATE bag SET w = 'unstamped' WHERE v = 7; DELETE FROM bag WHERE v = 1;"
    " INSERT INTO nullkey VALUES(NULL, 'new'); DELETE FROM nullkey WHERE v = 5; UPDATE nullkey SET v = 'u' WHERE v = 8;"
    " INSERT INTO auto(v) VALUES('new')"
)
THEIRS = (
    "UPDATE bag SET w = 'theirs' WHERE v = 15; DELETE FROM bag WHERE v IN (18, 19); INSERT INTO bag VALUES('theirs', 1);"
    " DELETE FROM nullkey WHERE v IN (10, 12); UPDATE nullkey SET v = 'theirs' WHERE v = 14"
)


def sqlite(path, command):
    done = subprocess.run(["sqlite3", str(path), command], capture_output=True, check=False, timeout=60)
    return done.stdout


def dumped(source, target, options=""):
    dump = sqlite(source, f".dump {options}")
    done = subprocess.run(["sqlite3", "-batch", str(target)], input=dump, capture_output=True, check=False, timeout=60)
    assert not done.stderr


WAYS = {
    "dump": dumped,
    "rowids": lambda source, target: dumped(source, target, "--preserve-rowids"),
    "clone": lambda source, target: sqlite(source, f".clone {target}"),
    "backup": lambda source, target: sqlite(source, f".backup {target}"),
    "vacuum": lambda source, target: shell(source, f"VACUUM INTO '{target}';"),
}


def expected(one, scripts):
    """Return the rows of each table in a plain database after the same writes, without their keys."""
    plain = Peer.__new__(Peer)
    plain.path = one.path.with_name("plain.db")
    shell(plain.path, "; ".join([DDL, *scripts]) + ";")
    return held(plain.path)


def held(path):
    return {
        table: Counter(shell(path, f"SELECT {columns} FROM {table};").splitlines())
        for table, columns in (("bag", "*"), ("nullkey", "*"), ("auto", "id, hex(v), r"), ("norowid", "k, hex(v)"))
    }


@pytest.mark.parametrize(
    ("way", "running", "unstamped", "late"), each_pair(WAYS, [False, True], [False, True], [False, True])
)
def test_any_copy_continues_as_the_replica_it_was(pair, way, running, unstamped, late):
    one, two = pair
    one.sql(f"{DDL}; {FILL}")
    converge(pair)
    one.sql(GAPS)
    converge(pair)
    scripts = [FILL, GAPS]
    if unstamped:
        one.sql(UNSTAMPED)
        scripts.append(UNSTAMPED)
    if not running:
        one.close()
    copy = one.path.with_name("copy.db")
    WAYS[way](one.path, copy)
    one.close()
    if late:
        script = (
            "INSERT INTO bag VALUES('late', 1); DELETE FROM bag WHERE v = 6; INSERT INTO nullkey VALUES(NULL, 'late');"
        )
        shell(copy, script)
        scripts.append(script[:-1])
    two.sql(THEIRS)
    scripts.append(THEIRS)
    one.path = copy
    one.open()
    converge(pair)
    assert_equal(one, two)
    assert held(copy) == expected(one, scripts)
    assert one.recorded("mycomesh_conflicts") == two.recorded("mycomesh_conflicts") == []
    assert one.scrub().found == two.scrub().found == 0
    one.sql("INSERT INTO bag VALUES('later', 1); UPDATE bag SET w = 'later' WHERE v = 20")
    two.sql("DELETE FROM bag WHERE v = 21")
    converge(pair)
    assert_equal(one, two)


@pytest.mark.parametrize("unstamped", [False, True], ids=["", "unstamped"])
def test_too_many_rows_to_compare_are_matched_by_position(pair, monkeypatch, unstamped):
    monkeypatch.setattr(rebuilt_rows, "COMPARED_MAX", 10)
    one, two = pair
    one.sql(f"{DDL}; {FILL}")
    converge(pair)
    one.sql(GAPS)
    converge(pair)
    scripts = [FILL, GAPS]
    if unstamped:  # before the dump, under other numbers than the rows have in it
        one.sql(UNSTAMPED)
        scripts.append(UNSTAMPED)
    one.close()
    copy = one.path.with_name("copy.db")
    dumped(one.path, copy)
    shell(copy, "INSERT INTO bag VALUES('late', 1); DELETE FROM bag WHERE v = 6;")
    two.sql(THEIRS)
    one.path = copy
    one.open()
    converge(pair)
    assert_equal(one, two)
    assert one.scrub().found == two.scrub().found == 0
    here = held(copy)
    wanted = expected(one, [*scripts, "INSERT INTO bag VALUES('late', 1); DELETE FROM bag WHERE v = 6", THEIRS])
    if not unstamped:
        assert here == wanted
        return
    for table, rows in wanted.items():  # a peer's write to a row that got a new identity is kept, not shown
        assert all(row.endswith(b"|theirs") for row in rows - here[table]), rows - here[table]
    assert str(one.recorded("mycomesh_conflicts")).count("theirs") == 2


def test_text_that_a_dump_cut_is_equal_everywhere(pair):
    one, two = pair
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 'a' || char(0) || 'b'), (2, 'c')")
    converge(pair)
    one.close()
    copy = one.path.with_name("copy.db")
    dumped(one.path, copy, "--preserve-rowids")
    one.path = copy
    one.open()
    converge(pair)
    assert_equal(one, two)
    assert one.scrub().found == 0


def test_vacuum_and_the_nodes_own_tables_make_nothing_anew(pair):
    one, two = pair
    one.sql(f"{DDL}; {FILL}")
    converge(pair)
    one.sql("CREATE TABLE another(v)")
    one.drain()
    one.shell("VACUUM;")
    assert rebuild_mark.rebuilt_tables(one.app) == frozenset()
    two.sql("CREATE TABLE further(v); ALTER TABLE bag ADD COLUMN x; DROP TABLE nullkey")
    assert rebuild_mark.rebuilt_tables(two.app) == {"further"}
    converge(pair)
    assert rebuild_mark.rebuilt_tables(two.app) == rebuild_mark.rebuilt_tables(one.app) == frozenset()


@pytest.mark.parametrize("triggers", [False, True], ids=["", "with triggers"])
@pytest.mark.parametrize("looks", ["none", "between", "stopped"])
def test_dropped_and_reloaded_table_loses_no_row_or_name(pair, looks, triggers):
    one, two = pair
    one.sql(f"{DDL}; {FILL}")
    converge(pair)
    one.sql(GAPS)
    converge(pair)
    before = held(one.path)
    path = one.path
    if looks == "stopped":
        one.close()
    listing = "SELECT sql || ';' FROM sqlite_schema WHERE type = 'trigger' AND tbl_name IN ('bag', 'nullkey');"
    script = "".join(sqlite(path, f".dump {name}").decode() for name in ("bag", "nullkey"))
    if triggers:
        script += shell(path, listing).decode()
    shell(path, "DROP TABLE bag; DROP TABLE nullkey;")
    if looks == "between":
        one.drain()
    shell(path, script)
    assert held(path) == before
    if looks == "stopped":
        one.open()
    two.sql(THEIRS)
    converge(pair)
    assert_equal(one, two)
    assert held(path) == expected(one, [FILL, GAPS, THEIRS])
    for number in range(3):  # once more: the node still knows the end of the catalogue
        shell(path, f"BEGIN; DELETE FROM bag WHERE v = {20 + number}; COMMIT;")
        script = sqlite(path, ".dump bag").decode()
        one.drain()
        shell(path, f"DROP TABLE bag; {script}")
        two.sql(f"DELETE FROM bag WHERE v = {number + 22}")
        converge(pair)
        assert_equal(one, two)
        assert one.scrub().found == two.scrub().found == 0
    assert one.recorded("mycomesh_conflicts") == two.recorded("mycomesh_conflicts") == []


def test_a_csv_loaded_into_any_table_is_replicated(pair, tmp_path):
    one, two = pair
    one.sql("CREATE TABLE known(a, b)")
    converge(pair)
    file = tmp_path / "rows.csv"
    file.write_text("a,b\n1,x\n2,y\n")
    one.close()
    sqlite(tmp_path / "0.db", f".import --csv {file} imported")
    one.open()
    sqlite(one.path, f".import --csv --skip 1 {file} known")
    converge(pair)
    assert_equal(one, two)
    assert two.sql("SELECT * FROM imported") == [("1", "x"), ("2", "y")]
    assert two.sql("SELECT * FROM known") == [("1", "x"), ("2", "y")]


def test_rows_removed_from_a_dump_are_deleted_alone(pair):
    one, two = pair
    one.sql(f"{DDL}; {FILL}")
    converge(pair)
    one.sql(GAPS)
    converge(pair)
    dump = sqlite(one.path, ".dump").decode(errors="surrogateescape")
    lines = [
        line
        for line in dump.splitlines()
        if line not in ("INSERT INTO bag VALUES(8,8);", "INSERT INTO bag VALUES(9,9);")
    ]
    one.close()
    one.path = one.path.with_name("edited.db")
    done = subprocess.run(
        ["sqlite3", str(one.path)],
        input="\n".join(lines).encode(errors="surrogateescape"),
        capture_output=True,
        check=False,
    )
    assert not done.stderr
    two.sql(f"{THEIRS}; INSERT INTO bag VALUES('more', 1)")
    one.open()
    converge(pair)
    assert_equal(one, two)
    taken = "DELETE FROM bag WHERE v IN (8, 9); INSERT INTO bag VALUES('more', 1)"
    wanted = expected(one, [FILL, GAPS, THEIRS, taken])
    lost = {tuple(row) for row in one.sql("SELECT v, w FROM bag")}
    assert {(8, 8), (9, 9)}.isdisjoint(lost)
    assert all(rows <= held(one.path)[table] for table, rows in wanted.items() if table != "bag")
    assert wanted["bag"] - held(one.path)["bag"] <= Counter([b"15|theirs"])


def test_an_old_dump_gets_back_the_later_writes(pair):
    one, two = pair
    one.sql(f"{DDL}; {FILL}")
    converge(pair)
    one.sql(GAPS)
    converge(pair)
    copy = one.path.with_name("copy.db")
    dumped(one.path, copy)
    one.sql("DELETE FROM bag WHERE v IN (5, 33); INSERT INTO bag VALUES('since', 1); UPDATE auto SET v = 'since'")
    converge(pair)
    before, site = one.tables(), one.replica.site
    one.recalled = dict([one.replica.noted])
    one.close()
    shell(copy, "INSERT INTO bag VALUES('after', 1);")
    copy.replace(one.path)
    one.open()
    assert one.replica.site != site
    converge(pair)
    assert_equal(one, two)
    after = one.tables()
    after["bag"].remove(("text", b"after", "integer", 1))
    assert after == before
