"""Any client drops a column, with the node up or down: writes go on and are captured, and the column is dropped on all nodes."""

from __future__ import annotations

import sqlite3

import apsw
import pytest

from mycomesh.sync.capture import triggers
from tests.sync.peers import Peer, assert_equal, converge
from tests.sync.templates import equal_peers

NO_ROWID = "CREATE TABLE t(id INT, j INT, gone, a, b, PRIMARY KEY(j, id)) WITHOUT ROWID"
# (name, the table and its indexes, what has to be dropped before column `gone`)
TABLES = (
    ("rowid", "CREATE TABLE t(id INTEGER PRIMARY KEY, gone, a, b)", ""),
    ("keyed", "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a, gone, b) WITHOUT ROWID", ""),
    ("nocase", "CREATE TABLE t(id TEXT PRIMARY KEY COLLATE NOCASE, a, b, gone TEXT DEFAULT 'x')", ""),
    ("bag", "CREATE TABLE t(gone, id, a, b)", ""),
    ("unique", "CREATE TABLE t(id INTEGER PRIMARY KEY, gone, a UNIQUE, b); CREATE UNIQUE INDEX i ON t(gone)", "i"),
    ("no rowid", f"{NO_ROWID}; CREATE UNIQUE INDEX i ON t(b, gone)", "i"),
    ("partial", "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, gone); CREATE UNIQUE INDEX i ON t(b) WHERE gone > 0", "i"),
    ("computed", "CREATE TABLE t(id INTEGER PRIMARY KEY, gone, a, b); CREATE UNIQUE INDEX i ON t(b || gone)", "i"),
    ("other", "CREATE TABLE t(id INTEGER PRIMARY KEY, gone, a, b); CREATE UNIQUE INDEX i ON t(abs(b)) WHERE b", ""),
    ("wide", f"CREATE TABLE t(id INTEGER PRIMARY KEY, a, {', '.join(f'c{n}' for n in range(70))}, gone, b)", ""),
)  # fmt: skip


@pytest.fixture(params=TABLES, ids=[name for name, _, _ in TABLES])
def case(request):
    return request.param[1:]


@pytest.fixture
def pair(tmp_path, case):
    """Two equal replicas with three rows."""
    more = "j, " if "j INT" in case[0] else ""
    rows = ", ".join(f"({n}, {f'{n}, ' * bool(more)}{n}, 'a{n}', {n})" for n in (1, 2, 3))
    made = equal_peers(tmp_path, 2, f"{case[0]}; INSERT INTO t(id, {more}gone, a, b) VALUES{rows}")
    yield made
    for peer in made:
        peer.close()


def drop(index):
    return f"BEGIN; {f'DROP INDEX {index};' * bool(index)} ALTER TABLE t DROP COLUMN gone; COMMIT;"


def columns(peer):
    return [name for _, name, *_ in peer.sql("PRAGMA table_info(t)")]


def stock(peer, script):
    """Write through the sqlite3 module of Python, another SQLite than the node's."""
    db = sqlite3.connect(peer.path, isolation_level=None)
    db.executescript(script)
    db.close()


@pytest.mark.each_value
@pytest.mark.parametrize("client", [Peer.shell, Peer.sql, stock], ids=["shell", "apsw", "python"])
@pytest.mark.parametrize("down", [False, True], ids=["node up", "node down"])
def test_writes_go_on_after_a_client_drops_a_column(pair, case, client, down):
    one, two = pair
    more, value = (", j", ", 9") if "j INT" in case[0] else ("", "")
    if down:
        one.replica.close()
    client(one, drop(case[1]))
    client(one, "UPDATE t SET a = 'dropped' WHERE id = 1; DELETE FROM t WHERE id = 2;")
    client(one, f"INSERT INTO t(id{more}, a, b) VALUES(9{value}, 'later', 9);")
    two.sql("UPDATE t SET b = 77 WHERE id = 1")
    two.sql("UPDATE t SET gone = 88 WHERE id = 3")
    if down:
        one.close()
        one.open()
    converge(pair)
    assert_equal(one, two)
    assert "gone" not in columns(one) + columns(two)
    assert one.sql("SELECT a, b FROM t ORDER BY a") == [("a3", 3), ("dropped", 77), ("later", 9)]
    assert not one.scrub().found + two.scrub().found
    for peer in pair:
        assert not [status.note for status in peer.replica.status().tables if status.note]


def test_saves_of_every_column_still_merge_by_column(pair, case):
    """An object mapper writes each column of a row that it saves, also after another program has dropped one."""
    one, two = pair
    one.sql("UPDATE t SET a = 'before' WHERE id = 1")  # so `a` and `b` are in two entries
    converge(pair)
    one.replica.close()
    one.shell(drop(case[1]))
    one.shell("UPDATE t SET a = 'one', b = b WHERE id = 1;")
    two.sql("UPDATE t SET a = a, b = 55, gone = gone WHERE id = 1")
    one.close()
    one.open()
    converge(pair)
    assert_equal(one, two)
    assert one.sql("SELECT a, b FROM t WHERE id = 1") == [("one", 55)]
    assert not one.recorded("mycomesh_conflicts")


def test_a_dropped_column_returns_only_when_added(pair, case):
    one, two = pair
    one.shell(drop(case[1]))
    converge(pair)
    two.shell("ALTER TABLE t ADD COLUMN gone DEFAULT 'new'")
    two.shell("UPDATE t SET gone = 'set' WHERE id = 2")
    converge(pair)
    assert_equal(one, two)
    assert one.sql("SELECT gone FROM t ORDER BY id") == [("new",), ("set",), ("new",)]


def test_both_nodes_may_drop_the_same_column(pair, case):
    one, two = pair
    for peer in pair:
        peer.shell(drop(case[1]))
        peer.shell(f"UPDATE t SET a = '{peer.number}' WHERE id = {peer.number + 1};")
    converge(pair)
    assert_equal(one, two)
    assert "gone" not in columns(one) + columns(two)
    assert one.sql("SELECT a FROM t ORDER BY id") == [("0",), ("1",), ("a3",)]


@pytest.mark.each_value
@pytest.mark.parametrize("down", [False, True], ids=["node up", "node down"])
def test_one_is_dropped_while_others_are_renamed_and_added(pair, case, down):
    one, two = pair
    if down:
        one.replica.close()
    if "(b" not in case[0]:
        one.shell(
            f"{drop(case[1])} ALTER TABLE t RENAME COLUMN b TO c; ALTER TABLE t ADD COLUMN d DEFAULT 4;"
            " UPDATE t SET c = 'c', d = 5 WHERE id = 3;"
        )
    if down:
        one.close()
        one.open()
    converge(pair)
    assert_equal(one, two)
    if "(b" not in case[0]:
        assert two.sql("SELECT a, c, d FROM t ORDER BY id") == [("a1", 1, 4), ("a2", 2, 4), ("a3", "c", 5)]


def test_triggers_of_an_earlier_version_are_replaced(pair, case):
    """The file comes from a version whose triggers refuse DROP COLUMN."""
    one, _ = pair
    one.replica.close()
    update = one.sql("SELECT name, sql FROM sqlite_schema WHERE name GLOB 'mycomesh_*_update'")[0]
    old = triggers._ABSENT.sub("", update[1])
    one.sql(f"DROP TRIGGER {update[0]}; {old}")
    with pytest.raises(apsw.SQLError, match="after drop column"):
        one.sql(drop(case[1]))
    one.sql("ROLLBACK")
    one.sql("UPDATE t SET a = 'unstamped' WHERE id = 1")
    one.close()
    one.open()
    one.drain()
    one.shell(drop(case[1]))
    converge(pair)
    assert_equal(*pair)
    assert one.sql("SELECT a FROM t WHERE id = 1") == [("unstamped",)]
