"""Two files compared as any client reads them: every kind of difference found, every kind of table read, nothing written."""

from __future__ import annotations

import hashlib
import random
import sqlite3
import tracemalloc

import pytest

from mycomesh.sync.admin.verify import compare_files
from mycomesh.sync.errors import DatabaseError
from tests.sync.peers import Peer, catch_up, content
from tests.sync.scale import SCALE
from tests.sync.shapes import SHAPES


@pytest.fixture
def files(tmp_path):
    first, second = tmp_path / "a.db", tmp_path / "b.db"

    def fill(path, script):
        db = sqlite3.connect(path, isolation_level=None)
        db.executescript(script)
        db.close()

    def make(one, two):
        fill(first, one)
        fill(second, two)
        return {table.table: table for table in compare_files(first, second, shown_max=10)}

    make.paths = (first, second)
    return make


DDL = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE bag(v, w); CREATE TABLE words(k TEXT PRIMARY KEY, v);"
ROWS = """
    INSERT INTO t VALUES(1, 'a'), (2, NULL), (3, x'00ff'), (4, 1.5);
    INSERT INTO bag VALUES(1, 2), (1, 2), (NULL, NULL), ('x', 0.1), (0.0, -7);
    INSERT INTO words VALUES('k', 1), ('K', 2);
"""


def test_equal_files_compare_equal_in_any_fill_order(files):
    other = (
        "INSERT INTO words VALUES('K', 2), ('k', 1); INSERT INTO t VALUES(4, 1.5), (3, x'00ff'), (2, NULL), (1, 'a');"
    )
    other += "INSERT INTO bag VALUES(0.0, -7), ('x', 0.1), (NULL, NULL), (1, 2), (1, 2);"
    found = files(DDL + ROWS, "CREATE TABLE words(v, k TEXT PRIMARY KEY);" + DDL.rpartition("CREATE")[0]
                  + other.replace("words VALUES('K', 2), ('k', 1)", "words VALUES(2, 'K'), (1, 'k')"))  # fmt: skip
    assert all(table.equal for table in found.values())
    assert {name: (table.rows_first, table.rows_second) for name, table in found.items()} == {
        "bag": (5, 5),
        "t": (4, 4),
        "words": (2, 2),
    }


@pytest.mark.parametrize(
    ("change", "table", "counts"),
    [
        ("DELETE FROM t WHERE id = 2", "t", (1, 0, 0)),
        ("INSERT INTO t VALUES(9, 9)", "t", (0, 1, 0)),
        ("UPDATE t SET v = 'A' WHERE id = 1", "t", (0, 0, 1)),
        ("UPDATE t SET v = '' WHERE id = 2", "t", (0, 0, 1)),  # NULL is not the empty text
        ("UPDATE t SET v = CAST(x'00ff' AS TEXT) WHERE id = 3", "t", (0, 0, 1)),  # a text is not a blob, valid or not
        ("UPDATE bag SET w = 2.0 WHERE rowid = 1", "bag", (1, 1, 0)),  # 2.0 is not 2
        ("UPDATE bag SET v = -0.0 WHERE w = -7", "bag", (0, 0, 1)),  # nor is -0.0 0.0
        ("DELETE FROM bag WHERE rowid = 1", "bag", (1, 0, 0)),  # one of two equal rows
        ("UPDATE words SET k = 'kk' WHERE k = 'k'", "words", (1, 1, 0)),
    ],
)
def test_each_kind_of_difference_is_found_and_counted(files, change, table, counts):
    found = files(DDL + ROWS, DDL + ROWS + change)
    assert [name for name, each in found.items() if not each.equal] == [table]
    assert (found[table].only_first, found[table].only_second, found[table].differing) == counts
    assert len(found[table].shown) == sum(counts)


def test_collations_hide_nothing(files):
    ddl = "CREATE TABLE t(k TEXT COLLATE NOCASE PRIMARY KEY, v COLLATE NOCASE);"
    found = files(
        ddl + "INSERT INTO t VALUES('a', 'x'), ('b', 'y')", ddl + "INSERT INTO t VALUES('b', 'Y'), ('A', 'x')"
    )
    assert (found["t"].only_first, found["t"].only_second, found["t"].differing) == (1, 1, 1)


def test_tables_and_columns_of_one_file_alone_are_said(files):
    found = files(DDL + "CREATE TABLE mine(a)", DDL + "ALTER TABLE t ADD COLUMN more; CREATE TABLE theirs(a)")
    notes = {name: table.note for name, table in found.items() if not table.equal}
    assert notes == {
        "mine": "only in the first file",
        "theirs": "only in the second file",
        "t": "columns differ: id, v in the first file, id, more, v in the second",
    }


def test_a_replica_equals_its_plain_copy(tmp_path):
    peer = Peer(tmp_path / "a.db", 0)
    peer.sql(DDL + ROWS + "CREATE VIRTUAL TABLE search USING fts5(body); INSERT INTO search VALUES('text')")
    peer.drain()
    plain = sqlite3.connect(tmp_path / "b.db", isolation_level=None)
    plain.executescript(DDL + ROWS)
    before = [hashlib.sha256(path.read_bytes()).digest() for path in (tmp_path / "a.db", tmp_path / "b.db")]
    compared = list(compare_files(tmp_path / "a.db", tmp_path / "b.db", shown_max=0))
    assert [(table.table, table.equal) for table in compared] == [("bag", True), ("t", True), ("words", True)]
    assert before == [hashlib.sha256(path.read_bytes()).digest() for path in (tmp_path / "a.db", tmp_path / "b.db")]
    peer.close()
    plain.close()


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
def test_replicas_of_every_shape_of_table_are_equal(tmp_path, shape):
    one, two = Peer(tmp_path / "a.db", 0), Peer(tmp_path / "b.db", 1)
    one.sql(shape.ddl)
    for number in range(3):
        columns = ", ".join([*shape.key, "v"])
        one.sql(f"INSERT INTO {shape.t}({columns}) VALUES({shape.keys[number]}, 'value {number}')")
    one.drain()
    for _ in range(2):
        catch_up(two, one)
    assert content(one.app).keys() == {table.table for table in compare_files(one.path, two.path, shown_max=0)}
    assert all(table.equal for table in compare_files(one.path, two.path, shown_max=0))
    one.close()
    two.close()


@pytest.mark.parametrize("seed", range(round(30 * SCALE)))
def test_random_tables_differ_exactly_as_sets_of_rows_do(files, seed):
    rng = random.Random(seed)
    values = ["NULL", "1", "1.0", "0.0", "-0.0", "-5", "''", "'a'", "'A'", "x''", "x'61'", "1e300", "9007199254740993"]

    def script():
        rows = [f"INSERT INTO bag VALUES({rng.choice(values)}, {rng.choice(values)});" for _ in range(30)]
        rows += [f"INSERT OR IGNORE INTO t VALUES({rng.randrange(9)}, {rng.choice(values)});" for _ in range(9)]
        return DDL + "".join(rows)

    one = script()
    found = files(one, rng.choice([one, script()]))
    contents = []
    for path in files.paths:
        db = sqlite3.connect(path)
        listing = "SELECT v, w, typeof(v), typeof(w) FROM bag"
        contents.append(sorted(map(repr, db.execute(listing))))
        db.close()
    assert found["bag"].equal == (contents[0] == contents[1])


def test_zeros_of_both_signs_in_keyless_rows_count_separately(files):
    assert files(
        f"{DDL} INSERT INTO bag VALUES(0.0, 1), (-0.0, 1), (-0.0, 1)",
        f"{DDL} INSERT INTO bag VALUES(-0.0, 1), (-0.0, 1), (0.0, 1)",
    )["bag"].equal


def test_tables_of_applications_own_functions_compare_by_bytes(files):
    for number, path in enumerate(files.paths):
        db = sqlite3.connect(path, isolation_level=None)
        db.create_collation("unicase", lambda one, two: (one.lower() > two.lower()) - (one.lower() < two.lower()))
        db.create_function("appfn", 1, lambda value: value, deterministic=True)
        db.executescript(
            "CREATE TABLE a(id INTEGER PRIMARY KEY, v TEXT COLLATE unicase UNIQUE);"
            "CREATE TABLE b(k TEXT COLLATE unicase PRIMARY KEY, v) WITHOUT ROWID;"
            "CREATE TABLE c(v, g AS (appfn(v)), h AS (v || '!') CHECK (appfn(v) > '')); CREATE INDEX ic ON c(appfn(v));"
            "CREATE TABLE d(v); CREATE INDEX id ON d(v COLLATE unicase);"
        )
        word = ("Word", "word")[number]
        for table, *values in (("a", 1, "X"), ("b", word, 1), ("b", "y", 2), ("c", word), ("d", "same")):
            columns = "(v)" if table == "c" else ""
            db.execute(f"INSERT INTO {table}{columns} VALUES({', '.join('?' * len(values))})", values)
        db.close()
    found = {table.table: table for table in compare_files(*files.paths, shown_max=10)}
    assert {name: table.missing for name, table in found.items()} == {
        "a": ("collation unicase",),
        "b": ("collation unicase",),
        "c": ("function for column g",),
        "d": ("collation unicase",),
    }
    assert [name for name, table in found.items() if table.equal] == ["a", "d"]
    assert (found["b"].only_first, found["b"].only_second, found["b"].rows_first) == (1, 1, 2)
    assert found["c"].shown[0].first == {"v": "'Word'", "h": "'Word!'"}


@pytest.mark.slow
def test_a_large_table_is_not_held_in_memory(files):
    fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 10000) INSERT INTO {} FROM n;"
    script = DDL + fill.format("bag SELECT i * 7919 % 10000, printf('%0200d', i)") + fill.format("t SELECT i, i")
    files(script, script + "UPDATE bag SET v = -1 WHERE rowid = 5000")
    tracemalloc.start()
    found = {table.table: table for table in compare_files(*files.paths, shown_max=10)}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found["bag"].rows_first, found["bag"].only_first, found["bag"].only_second) == (10_000, 1, 1)
    assert peak < 1_000_000


@pytest.mark.parametrize("content", [None, b"no database at all, but long enough to be read as one" * 100])
def test_an_incomparable_file_is_reported_in_one_line(files, content):
    files(DDL, DDL)
    if content is None:
        files.paths[1].unlink()
    else:
        files.paths[1].write_bytes(content)
    with pytest.raises(DatabaseError) as caught:
        list(compare_files(*files.paths, shown_max=0))
    assert "\n" not in str(caught.value)
    assert str(files.paths[1]) in str(caught.value)


def test_names_that_need_quoting_and_paths_with_odd_signs(tmp_path):
    first, second = tmp_path / "a ?#%.db", tmp_path / "b'\".db"
    for path, value in ((first, 1), (second, 2)):
        db = sqlite3.connect(path, isolation_level=None)
        db.execute('CREATE TABLE "odd ""name"("key col" TEXT PRIMARY KEY, "va\'l")')
        db.execute('INSERT INTO "odd ""name" VALUES(?, ?)', ("k", value))
        db.close()
    (found,) = compare_files(first, second, shown_max=1)
    assert found.differing == 1
    assert found.shown[0].second == {"key col": "'k'", "va'l": "2"}


def test_names_that_sqlite_tells_apart_are_two_tables(files):
    found = files(
        'CREATE TABLE "É"(v); CREATE TABLE "é"(v); INSERT INTO "É" VALUES(1);',
        'CREATE TABLE "É"(v); CREATE TABLE "é"(v);',
    )
    assert {name: table.equal for name, table in found.items()} == {"É": False, "é": True}
