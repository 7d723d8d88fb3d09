"""The change feed: what a reader sees of a table, whatever happens to its rows, and where its cursor is."""

from __future__ import annotations

import json
import random
import shutil

import pytest

from mycomesh.sync.errors import DecodeError, FeedError
from mycomesh.sync.feed import feed as feed_module
from mycomesh.sync.feed import position as position_module
from mycomesh.sync.feed import touched
from mycomesh.sync.feed.letters_sql import CREATE_LETTERS
from mycomesh.sync.feed.position import Position
from tests.sync.peers import Peer, catch_up, converge
from tests.sync.scale import SCALE, sweep

TABLES = "CREATE TABLE t(id INTEGER PRIMARY KEY, v, u UNIQUE); CREATE TABLE k(k TEXT PRIMARY KEY, v); CREATE TABLE b(v)"


class Reader:
    """A program that keeps a copy of one table from what it reads, and may die between a page and its acknowledgement."""

    def __init__(self, peer, table, name="reader", *, from_now=False):
        self.peer, self.table, self.name = peer, table, name
        self.rows, self.ids = {}, []
        self.peer.published += peer.replica.feed.create(name, table, peer.wall_ms, from_now=from_now)[0]

    def page(self, rows_max=1_024):
        feed = self.peer.replica.feed
        page, published = feed.read(
            self.table, lambda: feed.position(self.name, self.table), self.peer.wall_ms, rows_max=rows_max
        )
        self.peer.published += published
        return page

    def take(self, page, count=None):
        """Take the first changes of a page."""
        count = len(page.changes) if count is None else count
        for change in page.changes[:count]:
            self.ids.append(change.id)
            if change.values is None:
                self.rows.pop(change.row, None)
            else:
                self.rows[change.row] = tuple(change.values.values())
        self.peer.replica.feed.move(self.name, self.table, page.after(count), self.peer.wall_ms)
        return page.changes[:count]

    def read(self, rows_max=1_024):
        found = []
        while True:
            page = self.page(rows_max)
            found += self.take(page)
            if not page.more:
                return found


def content(peer, table):
    return sorted(peer.sql(f"SELECT * FROM {table}"), key=repr)


def copy(reader):
    return sorted(reader.rows.values(), key=repr)


@pytest.fixture
def two(pair):
    one, other = pair
    one.sql(TABLES)
    one.drain()
    converge(pair)
    return one, other


@pytest.mark.parametrize("table", ["t", "k", "b"])
def test_a_reader_sees_local_and_remote_changes(two, table):
    one, other = two
    one.sql(
        "INSERT INTO t VALUES(1, 'a', 1), (2, 'b', 2); INSERT INTO k VALUES('x', 1), ('y', 2); INSERT INTO b VALUES('p'), ('q')"
    )
    one.drain()
    converge(two)
    readers = [Reader(one, table), Reader(other, table)]
    first = [reader.read() for reader in readers]
    assert [change.op for change in first[0]] == ["insert", "insert"]
    assert [change.id for change in first[0]] == [change.id for change in first[1]]
    gone = {"t": "id = 1", "k": "k = 'x'", "b": "v = 'p'"}[table]
    one.sql(f"UPDATE {table} SET v = 'new' WHERE NOT {gone}; DELETE FROM {table} WHERE {gone}")
    other.take(one.drain(), one.node_id)
    later = [reader.read() for reader in readers]
    assert sorted(change.op for change in later[0]) == ["delete", "update"]
    assert [change.to_json() for change in later[0]] == [change.to_json() for change in later[1]]
    (update,) = [change for change in later[1] if change.op == "update"]
    assert update.columns == ("v",)
    assert update.values["v"] == "new"
    assert update.site == one.replica.site
    assert [copy(reader) for reader in readers] == [content(one, table)] * 2
    assert readers[0].read() == []


def test_a_reader_from_now_skips_rows_already_there(two):
    one, _ = two
    one.sql("INSERT INTO t VALUES(1, 'a', 1)")
    reader = Reader(one, "t", from_now=True)
    assert reader.read() == []
    one.sql("INSERT INTO t VALUES(2, 'b', 2); UPDATE t SET v = 'c' WHERE id = 1")
    assert sorted((change.op, change.row) for change in reader.read()) == [("insert", "2"), ("update", "1")]


def test_a_rewound_reader_sees_later_changes_again(two):
    one, _ = two
    one.sql("INSERT INTO t VALUES(1, 'a', 1)")
    reader = Reader(one, "t")
    reader.read()
    one.wall_ms += 10_000
    one.sql("INSERT INTO t VALUES(2, 'b', 2)")
    reader.read()
    assert one.replica.feed.rewind("reader", one.wall_ms - 5_000) == 1
    assert [change.row for change in reader.read()] == ["2"]
    one.replica.feed.rewind("reader", 0)
    assert [change.row for change in reader.read()] == ["1", "2"]
    with pytest.raises(FeedError, match="no cursor 'none'"):
        one.replica.feed.rewind("none", 0)


def test_a_reader_follows_one_of_another_node(two):
    one, other = two
    one.sql("INSERT INTO t VALUES(1, 'a', 1), (2, 'b', 2)")
    one.drain()
    converge(two)
    readers = [Reader(peer, "t") for peer in two]
    readers[0].read()
    seen = Position.decode(one.replica.feed.position("reader", "t").encode())
    seen.touched, seen.start = 0, None
    other.replica.feed.move("reader", "t", seen, other.wall_ms)
    assert readers[1].read() == []
    other.sql("INSERT INTO t VALUES(3, 'c', 3)")
    assert [change.row for change in readers[1].read()] == ["3"]


def test_deletes_of_before_the_start_are_left_out(two):
    one, _ = two
    one.sql("INSERT INTO t VALUES(1, 'a', 1), (2, 'b', 2); INSERT INTO t VALUES(3, 'c', 3)")
    one.drain()
    one.sql("DELETE FROM t WHERE id = 1")
    reader = Reader(one, "t")
    one.sql("DELETE FROM t WHERE id = 2")
    assert [(change.op, change.row) for change in reader.read()] == [("insert", "3"), ("delete", "2")]


def test_packed_inserts_come_one_by_one_over_pages(two):
    one, _ = two
    one.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) INSERT INTO b SELECT i FROM n"
    )
    one.drain()
    assert one.replica.tables["b"].log.runs.sums()[0] == 500  # all in runs
    reader = Reader(one, "b")
    page = reader.page(rows_max=64)
    assert page.more
    assert len(page.changes) == 64
    assert len(reader.read(rows_max=64)) == 500
    assert copy(reader) == content(one, "b")


def test_half_a_page_can_be_acknowledged(two):
    one, other = two
    one.sql("INSERT INTO t VALUES(1, 'a', 1), (3, 'c', 3)")
    one.drain()
    other.sql("INSERT INTO t VALUES(2, 'b', 2), (4, 'd', 4)")
    converge(two)
    reader = Reader(one, "t")
    ids = []
    while page := reader.page().changes:
        ids.append(page[0].id)
        reader.take(reader.page(), 1)
    assert len(ids) == len(set(ids)) == 4
    assert copy(reader) == content(one, "t")


def test_rows_that_a_constraint_refuses_leave_and_return(two):
    one, other = two
    other.wall_ms += 1_000
    other.sql("INSERT INTO t VALUES(50, 'mine', 7)")
    other.drain()
    reader = Reader(other, "t")
    reader.read()
    one.sql("INSERT INTO t VALUES(60, 'other', 7)")  # the earlier claim wins, and row 50 is parked
    other.take(one.drain(), one.node_id)
    seen = [(change.op, change.row) for change in reader.read()]
    assert copy(reader) == content(other, "t")
    assert seen == [("insert", "60"), ("delete", "50")]
    other.sql("DELETE FROM t WHERE id = 60")
    other.drain()
    other.drain()
    assert [(change.op, change.row) for change in reader.read()] == [("delete", "60"), ("insert", "50")]
    assert len(set(reader.ids)) == len(reader.ids)
    assert copy(reader) == content(other, "t") == [(50, "mine", 7)]


def test_a_program_moves_its_cursor_with_its_own_effect(two):
    one, _ = two
    one.sql("INSERT INTO t VALUES(1, 'a', 1); CREATE TABLE mine(id)")
    reader = Reader(one, "t")
    page = reader.page()
    one.app.execute("BEGIN; INSERT INTO mine VALUES(1)")
    one.app.execute("UPDATE mycomesh_cursors SET position = ? WHERE name = 'reader'", (page.position.encode(),))
    one.app.execute("ROLLBACK")
    assert [change.row for change in reader.page().changes] == ["1"]
    one.app.execute("BEGIN; INSERT INTO mine VALUES(1)")
    one.app.execute("UPDATE mycomesh_cursors SET position = ? WHERE name = 'reader'", (page.position.encode(),))
    one.app.execute("COMMIT")
    assert reader.page().changes == []


def test_a_file_without_cursor_has_no_feed_tables(two):
    one, _ = two
    listing = "SELECT name FROM sqlite_schema WHERE name GLOB 'mycomesh_[ct]o[uu]*' OR name = 'mycomesh_cursors' ORDER BY name"
    assert not one.replica.feed.active
    assert one.sql(listing) == []
    Reader(one, "t")
    assert one.replica.feed.active
    assert one.replica.feed.drop("reader") == 1
    assert not one.replica.feed.active
    one.close()
    one.open()
    assert not one.replica.feed.active


def test_a_cursor_outlives_a_restart_and_a_rename(two):
    one, _ = two
    one.sql("INSERT INTO t VALUES(1, 'a', 1)")
    reader = Reader(one, "t")
    reader.read()
    one.close()
    one.open()
    one.sql("INSERT INTO t VALUES(2, 'b', 2)")
    one.drain()
    one.replica.migrate("ALTER TABLE t RENAME TO fleet", one.wall_ms)
    reader.table = "fleet"
    assert [(change.table, change.row) for change in reader.read()] == [("fleet", "2")]
    assert [cursor.table for cursor in one.replica.feed.cursors(1)] == ["fleet"]


def test_a_cursor_of_a_dropped_table_stays(two):
    one, _ = two
    reader = Reader(one, "t")
    one.replica.migrate("DROP TABLE t", one.wall_ms)
    one.drain()
    with pytest.raises(FeedError, match="no replicated table 't'"):
        reader.page()
    (cursor,) = one.replica.feed.cursors(1)
    assert (cursor.name, cursor.table, cursor.behind) == ("reader", "t", 0)


def test_a_restored_file_repeats_and_skips_nothing(two, tmp_path):
    one, other = two
    one.sql("INSERT INTO t VALUES(1, 'a', 1)")
    reader = Reader(one, "t")
    reader.read()
    one.drain()
    one.close()
    shutil.copy(one.path, tmp_path / "backup.db")
    one.open()
    one.sql("INSERT INTO t VALUES(2, 'b', 2)")
    other.take(one.drain(), one.node_id)
    reader.read()
    one.close()
    shutil.copy(tmp_path / "backup.db", one.path)
    one.open()
    one.drain()
    catch_up(one, other)
    assert [change.row for change in reader.read()] == ["2"]
    assert copy(reader) == content(one, "t")


def test_unread_deletes_keep_their_tombstones(two):
    one, _ = two
    one.sql("INSERT INTO t VALUES(1, 'a', 1)")
    one.drain()
    reader = Reader(one, "t")
    reader.read()
    assert one.replica.feed.oldest_unread("t", one.wall_ms) is None
    one.sql("DELETE FROM t")
    one.drain()
    unread = one.replica.feed.oldest_unread("t", one.wall_ms)
    assert unread is not None
    assert unread < max(hlc for _, hlc, _, _ in one.replica.tables["t"].log.scan(-1, 0, 99))
    month = one.wall_ms + 31 * 86_400_000
    assert one.replica.feed.oldest_unread("t", month) is None
    assert [cursor.idle for cursor in one.replica.feed.cursors(month)] == [True]


def test_a_cursor_moved_by_sql_becomes_idle_from_then(two):
    one, _ = two
    reader = Reader(one, "t")
    one.sql("INSERT INTO t VALUES(1, 'a', 1)")
    page, feed = reader.page(), one.replica.feed
    one.app.execute("UPDATE mycomesh_cursors SET position = ?", (page.position.encode(),))
    month = one.wall_ms + 31 * 86_400_000
    assert feed.tidy(month) == [], "it moved since it was last looked at"
    assert [cursor.moved_ms for cursor in feed.cursors(month)] == [month]
    assert [cursor.name for cursor in feed.tidy(2 * month)] == ["reader"]
    assert feed.tidy(2 * month) == [], "it is named once"
    reader.take(reader.page())
    assert feed.tidy(one.wall_ms) == []
    assert [cursor.name for cursor in feed.tidy(2 * month)] == ["reader"]


def test_touched_rows_go_where_sql_moves_readers(two):
    one, _ = two
    reader = Reader(one, "t")
    one.sql("INSERT INTO t VALUES(1, 'a', 1), (2, 'b', 2), (3, 'c', 3)")
    reader.read()
    with one.replica.store.transaction():
        for row in (1, 2, 3):
            one.replica.feed._touched.repeat(one.replica.tables["t"], row, str(row))
    position = reader.page().position.encode()
    one.app.execute("UPDATE mycomesh_cursors SET position = ?", (position,))
    one.replica.feed.tidy(one.wall_ms)
    assert one.sql("SELECT count(*) FROM mycomesh_touched") == [(1,)], "the last keeps its number"
    changes = one.replica.store.db.total_changes()
    one.replica.feed.tidy(one.wall_ms)
    assert one.replica.store.db.total_changes() == changes, "at rest it writes nothing"


@pytest.mark.parametrize("name", ["mycomesh_cursors", "mycomesh_touched", "mycomesh_readers", "mycomesh_dead_letters"])
def test_tables_dropped_by_hand_stop_no_node(two, name):
    one, other = two
    reader = Reader(one, "t")
    one.sql("INSERT INTO t VALUES(1, 'a', 1)")
    converge(two)
    reader.read()
    touched_rows = one.replica.feed._touched
    with one.replica.store.transaction():
        touched_rows.repeat(one.replica.tables["t"], 1, "1")
    before = touched_rows.last()
    one.app.execute(f"DROP TABLE IF EXISTS {name}")
    other.sql("INSERT INTO t VALUES(2, 'other', 2)")
    converge(two)
    with one.replica.store.transaction():
        touched_rows.repeat(one.replica.tables["t"], 1, "1")
    one.replica.feed.tidy(one.wall_ms)
    assert content(one, "t") == content(other, "t")
    if name == "mycomesh_cursors":
        with pytest.raises(FeedError, match="no cursor 'reader' for t"):
            reader.page()
        assert not one.replica.feed.active
        return
    reader.read()
    assert copy(reader) == content(one, "t")
    assert touched_rows.last() > before > 0, "no number is given twice"


def test_lag_is_told_in_rows_and_time(two):
    one, _ = two
    reader = Reader(one, "b")
    one.sql("INSERT INTO b VALUES(1), (2), (3), (4), (5)")
    one.drain()
    (cursor,) = one.replica.feed.cursors(one.wall_ms)
    assert cursor.behind == 5
    assert cursor.oldest_ms is not None
    reader.read()
    (cursor,) = one.replica.feed.cursors(one.wall_ms)
    assert (cursor.behind, cursor.oldest_ms) == (0, None)


@pytest.mark.parametrize(
    ("name", "table", "text"),
    [
        ("", "t", "a cursor cannot be called ''"),
        ("a\nb", "t", "a cursor cannot be called"),
        ("x" * 129, "t", "1 to 128 printable characters"),
        ("reader", "nowhere", "no replicated table 'nowhere' in .*; there are: b, k, t"),
        ("reader", "mycomesh_schema", "no replicated table"),
    ],
)
def test_a_cursor_that_cannot_be_is_refused(two, name, table, text):
    with pytest.raises(FeedError, match=text):
        two[0].replica.feed.create(name, table, 1)
    assert two[0].replica.feed.cursors(1) == []


@pytest.mark.parametrize(
    "data", [None, "text", b"", b"\x00", Position().encode()[:-1], b"\x84\x01\x00\x81\x82\x41x\x80\xf6"]
)
def test_a_cursor_with_other_bytes_is_told(two, data):
    reader = Reader(two[0], "t")
    two[0].app.execute("UPDATE mycomesh_cursors SET position = ?", (data,))
    with pytest.raises(FeedError, match="cursor 'reader' holds no position"):
        reader.page()


def test_too_many_touched_rows_let_readers_start_again(two, monkeypatch):
    monkeypatch.setattr(touched, "TOUCHED_MAX", 3)
    monkeypatch.setattr(touched, "CHECK_EVERY", 1)
    one, other = two
    other.wall_ms += 1_000
    other.sql("INSERT INTO t VALUES(1, 'a', 1), (2, 'b', 2), (3, 'c', 3), (4, 'd', 4), (5, 'e', 5)")
    other.drain()
    reader, slow = Reader(other, "t"), Reader(other, "t", "slow")
    reader.read()
    slow.read()
    one.sql("INSERT INTO t VALUES(11, 'A', 1), (12, 'B', 2), (13, 'C', 3), (14, 'D', 4), (15, 'E', 5)")
    other.take(one.drain(), one.node_id)
    reader.read()
    reader.read()
    slow.read()
    assert content(other, "t") == [
        row for row in copy(slow) if row[0] > 10
    ]  # rows that went unseen stay with such a reader
    assert other.sql("SELECT count(*) FROM mycomesh_touched")[0][0] <= 3


def test_cursors_and_names_have_a_limit(two, monkeypatch):
    feed = two[0].replica.feed
    monkeypatch.setattr(feed_module, "CURSORS_MAX", 3)
    for number in range(2):
        assert feed.create(f"{number}" * feed_module.NAME_MAX, "t", 1)[1]
    assert feed.create("third", "t", 1)[1]
    with pytest.raises(FeedError, match="has 3 cursors"):
        feed.create("fourth", "t", 1)
    with pytest.raises(FeedError, match="1 to 128 printable"):
        feed.create("x" * (feed_module.NAME_MAX + 1), "t", 1)
    assert feed.create("third", "t", 1) == ([], False)


def test_a_position_has_a_limit(monkeypatch):
    data = Position().encode()
    for spare, fits in ((1, True), (0, True), (-1, False)):
        monkeypatch.setattr(position_module, "POSITION_BYTES_MAX", len(data) + spare)
        if fits:
            assert Position.decode(data).touched == 0
        else:
            with pytest.raises(DecodeError):
                Position.decode(data)


WRITES = (
    "INSERT OR REPLACE INTO t VALUES({a}, 'v{n}', {b})",
    "INSERT OR IGNORE INTO t VALUES({a}, 'v{n}', {b})",
    "UPDATE OR REPLACE t SET u = {b} WHERE id = {a}",
    "UPDATE t SET v = 'w{n}' WHERE id = {a}",
    "UPDATE OR IGNORE t SET id = {b} + 20 WHERE id = {a}",
    "DELETE FROM t WHERE id = {a}",
    "REPLACE INTO k VALUES('k{a}', 'v{n}')",
    "UPDATE k SET v = 'w{n}' WHERE k = 'k{a}'",
    "DELETE FROM k WHERE k = 'k{a}'",
    "INSERT INTO b VALUES('v{n}'), ('x{n}')",
    "UPDATE b SET v = 'w{n}' WHERE rowid = {a}",
    "DELETE FROM b WHERE rowid = {a}",
)


@pytest.mark.parametrize("seed", sweep(range(round(60 * SCALE)), 20))
def test_copies_that_readers_keep_end_equal_to_the_tables(tmp_path, seed):
    rng = random.Random(seed)
    nodes = [Peer(tmp_path / f"{number}.db", number, wall_ms=1_000) for number in range(2)]
    nodes[0].sql(TABLES)
    nodes[0].drain()
    converge(nodes)
    readers = [Reader(node, table, name) for node in nodes for table in "tkb" for name in ("one", "two")]
    for number in range(40):
        node, peer = rng.sample(nodes, 2)
        node.wall_ms += rng.randrange(3)
        match rng.randrange(8):
            case 0 | 1 | 2 | 3:
                node.sql(rng.choice(WRITES).format(a=rng.randrange(1, 6), b=rng.randrange(1, 5), n=number))
            case 4:
                peer.take(node.drain(), node.node_id)
            case 5:
                catch_up(node, peer)
            case 6:
                reader = rng.choice(readers)
                page = reader.page(rows_max=rng.choice([1, 3, 1_024]))
                if rng.random() < 0.8:  # else it dies before the acknowledgement
                    reader.take(page, rng.randrange(len(page.changes) + 1))
            case 7:
                node.close()
                node.open()
    converge(nodes)
    for reader in readers:
        reader.read(rows_max=rng.choice([2, 1_024]))
        assert copy(reader) == content(reader.peer, reader.table), (seed, reader.table)
    for node in nodes:
        node.close()


def test_a_change_is_one_line_of_json(two):
    one, _ = two
    one.app.execute("INSERT INTO t VALUES(1, ?, 'a \"quote\"')", (b"\x00\xff",))
    (change,) = Reader(one, "t").read()
    change.who = "kestrel"
    line = change.to_json()
    assert "\n" not in line
    assert json.loads(line) == {
        "id": change.id,
        "table": "t",
        "op": "insert",
        "row": "1",
        "who": "kestrel",
        "at": "1970-01-01T00:00:01.000+00:00",
        "key": {"id": 1},
        "values": {"id": 1, "v": {"base64": "AP8="}, "u": 'a "quote"'},
        "columns": ["id", "u", "v"],
    }


ODD = (None, 7, -1, 1.5, "text", b"\x00\xff", b"", 2**62, "x" * 5_000, "\x1b[2J")
ROWS_OF_PROGRAMS = [
    *(("mycomesh_cursors", ("reader", "t", "", None, value, None)) for value in ODD),
    *(("mycomesh_cursors", ("reader", "t", "", value, 1, value)) for value in ODD),
    *(("mycomesh_cursors", (value, other, "", b"", None, b"")) for value in ODD[1:] for other in ("t", *ODD[1:4])),
    *(("mycomesh_touched", (1 << 40, 1, value, "1", 0, 0)) for value in ODD),
    *(("mycomesh_touched", (1 << 40, 1, 1, value, 0, 0)) for value in ODD),
    *(("mycomesh_touched", (1 << 40, 1, 99, "1", value, other)) for value in ODD for other in (1, *ODD[:4])),
    *(("mycomesh_dead_letters", (5, value, "i", "t", "r", value, "w", value, "a", value)) for value in ODD),
]


def test_rows_that_programs_write_break_no_reader(two):
    """They may write anything into the tables of the feed: nothing but their own rows comes to harm."""
    one, _ = two
    feed = one.replica.feed
    reader = Reader(one, "t", "honest")
    one.sql("INSERT INTO t VALUES(1, 'a', 1)")
    one.drain()
    with one.replica.store.transaction():
        one.replica.store.db.execute(CREATE_LETTERS)
    number = one.replica.tables["t"].table_id
    reader.read()
    for table, given in ROWS_OF_PROGRAMS:
        values = [number if (table, at) == ("mycomesh_touched", 1) else value for at, value in enumerate(given)]
        one.sql(f"INSERT OR IGNORE INTO {table} VALUES({', '.join('?' * len(values))})", *values)
        feed.tidy(one.wall_ms)
        feed.oldest_unread("t", one.wall_ms)
        assert "honest" in [cursor.name for cursor in feed.cursors(one.wall_ms)]
        feed.letters.all()
        one.sql("UPDATE t SET v = v || 'b'")
        one.drain()
        assert [change.row for change in reader.read() if not change.touched] == ["1"]
        others = "name IS NOT ?" if table == "mycomesh_cursors" else "? IS NOT NULL"
        one.sql(f"DELETE FROM {table} WHERE {others}", "honest")
        one.sql("UPDATE mycomesh_cursors SET moved_ms = 'no time' WHERE name = 'honest'")
    one.sql(
        "INSERT INTO mycomesh_cursors VALUES(CAST(x'ff' AS TEXT), 't', '', CAST(x'ff' AS TEXT), 1, CAST(x'ff' AS TEXT))"
    )
    one.sql("INSERT INTO mycomesh_dead_letters VALUES(9, CAST(x'ff' AS TEXT), 'i', 't', 'r', 'b', 'w', 1, 'a', 'a')")
    one.sql(f"INSERT INTO mycomesh_touched VALUES({1 << 41}, {number}, 1, CAST(x'ff' AS TEXT), 0, 0)")
    assert [change.row for change in reader.read()] == ["\udcff"]
    assert feed.tidy(one.wall_ms) == []
    assert [cursor.name for cursor in feed.cursors(one.wall_ms)] == ["honest"]
    assert feed.letters.all() == []
    assert reader.rows["1"] == content(one, "t")[0]
