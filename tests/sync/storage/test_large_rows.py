"""Rows that are too large for one message: told in portions, or but for one value, and never in the way of others."""

from __future__ import annotations

import contextlib
import random

import apsw
import pytest

from mycomesh.sync.capture import drain, drain_uniform, pending_rows
from mycomesh.sync.replication import priority
from mycomesh.sync.storage import large_rows
from mycomesh.sync.storage.large_rows import KEY_BYTES_MAX
from mycomesh.sync.storage.row_view import RowView
from tests.sync.exchanges import World
from tests.sync.peers import assert_equal, converge
from tests.sync.scale import sweep

LIMIT = 4_000
KEYED = {
    "one": "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v) WITHOUT ROWID",
    "nullable": "CREATE TABLE t(k TEXT PRIMARY KEY, v UNIQUE)",
    "blob": "CREATE TABLE t(k BLOB PRIMARY KEY, v)",
    "two": "CREATE TABLE t(k TEXT, l TEXT DEFAULT 'l', v, PRIMARY KEY(k, l))",
}
# Bytes of an encoded key besides those of its first value.
HEAD = {"one": 1 + 3, "nullable": 1 + 3, "blob": 1 + 3, "two": 1 + 3 + 2}
TABLES = {
    "rowid": "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, c NOT NULL)",
    "keyed": "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a, b, c NOT NULL) WITHOUT ROWID",
    "nullable": "CREATE TABLE t(id TEXT PRIMARY KEY, a, b, c NOT NULL)",
    "bag": "CREATE TABLE t(id, a, b, c NOT NULL)",
}


@pytest.fixture
def small(monkeypatch):
    """As if a change could hold no more than LIMIT bytes."""
    for module in (drain, pending_rows, large_rows):
        monkeypatch.setattr(module, "CHANGE_BYTES_MAX", LIMIT)
    monkeypatch.setattr(drain_uniform, "CHUNK_BYTES_MAX", LIMIT // 4)  # the real one is far less than a change
    monkeypatch.setattr(priority, "BUNDLE_BYTES_MAX", 2 * LIMIT)


def assert_small(peer):
    """Every change that the log holds can be sent."""
    table = peer.replica.tables["t"]
    table.log.flush()
    rows = table.store.db.execute(f"SELECT DISTINCT row FROM {table.log.name} ORDER BY row").fetchall()
    for view in RowView.read_many(table, [row for (row,) in rows]):
        for stored, entry in zip(view.stored, view.entries, strict=True):
            sizes = [len(value) for value in view.values(stored, entry.mask).values() if type(value) in (str, bytes)]
            assert sum(sizes) <= LIMIT


@pytest.mark.parametrize("drained", ["each", "once"])
@pytest.mark.parametrize("shape", TABLES)
def test_rows_of_several_large_values_arrive_whole(pair, small, shape, drained):
    rng = random.Random(f"{shape} {drained}")
    pair[0].sql(TABLES[shape])
    converge(pair)
    for step in range(40):
        writer = rng.choice(pair)
        writer.wall_ms += 1
        key, column = rng.choice("123"), rng.choice("abc")
        cells = [rng.choice(("x", "ü", "é" * 1_900, "y" * 3_900, "z" * 2_000)) + str(step) for _ in range(3)]
        match rng.randrange(4):
            case 0:
                writer.sql("INSERT OR REPLACE INTO t VALUES(?, ?, ?, ?)", key, *cells)
            case 1:
                writer.sql(f"UPDATE t SET {column} = ? WHERE id = ?", cells[0], key)
            case 2:
                writer.sql("UPDATE t SET a = ?, b = ?, c = ? WHERE id = ?", *cells, key)
            case _:
                writer.sql("DELETE FROM t WHERE id = ? AND a > 'y'", key)
        if drained == "each":
            writer.drain()
        if step % 10 == 9:
            converge(pair)
    assert_equal(*pair)
    assert_small(pair[0])
    assert not pair[0].recorded("mycomesh_parked")
    assert pair[0].scrub().found == pair[1].scrub().found == 0
    assert [table.note for table in pair[0].replica.status().tables] == [""]


@pytest.mark.parametrize("shape", TABLES)
def test_value_too_large_for_messages_stays_and_is_reported(pair, small, shape):
    one, two = pair
    huge = "h" * (LIMIT + 1)
    one.sql(f"{TABLES[shape]}; INSERT INTO t VALUES(1, 'a', 'b', 'c'), (2, 'a', 'b', 'c')")
    converge(pair)
    one.sql("UPDATE t SET a = ?, b = 'told' WHERE id = '1' OR id = 1", huge)
    one.sql("INSERT INTO t VALUES(3, 'a', ?, 'c'), (4, 'after', 'b', 'c')", huge)
    converge(pair)
    [note] = [table.note for table in one.replica.status().tables]
    assert note.startswith("column 'a' has values of more than")
    assert one.sql("SELECT length(a), b FROM t WHERE id IN (1, '1')") == [(LIMIT + 1, "told")]
    assert two.sql("SELECT a, b FROM t WHERE id IN (1, '1')") == [(None, "told")]
    assert two.sql("SELECT a, b, c FROM t WHERE id NOT IN (1, 2, '1', '2') ORDER BY id") == [
        ("a", None, "c"),
        ("after", "b", "c"),
    ]
    assert one.digests() == two.digests()
    assert one.scrub().found == two.scrub().found == 0
    two.sql("UPDATE t SET c = 'theirs' WHERE id IN (3, '3')")
    one.sql("UPDATE t SET a = 'small again' WHERE id IN (1, '1')")
    converge(pair)
    assert one.sql("SELECT length(b), c FROM t WHERE id IN (3, '3')") == [(LIMIT + 1, "theirs")]
    assert two.sql("SELECT a FROM t WHERE id IN (1, '1')") == [("small again",)]
    one.sql("UPDATE t SET b = 'small' WHERE id IN (3, '3')")
    converge(pair)
    assert_equal(one, two)


@pytest.mark.slow
def test_a_row_of_two_large_blobs_arrives(tmp_path):
    world = World.made(tmp_path, 2)
    one, two = world.nodes
    world.write(one, "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)")
    world.link(one, two)
    world.run(2_000)
    size = 13 << 20
    world.write(one, "INSERT INTO t VALUES(1, zeroblob(?1), zeroblob(?1)), (2, 'after', 0)", size)
    world.run(20_000)
    assert two.sql("SELECT id, length(a), length(b) FROM t") == [(1, size, size), (2, 5, 1)]
    assert one.dropped == two.dropped == []
    assert world.equal()
    world.close()


@pytest.mark.slow
@pytest.mark.parametrize(("lost", "damaged"), sweep([("row", 0), ("row", 1), ("portion", 1), ("portion", 0)], 1))
def test_a_damaged_row_too_large_for_messages_is_repaired(tmp_path, damaged, lost):
    world = World.made(tmp_path, 2)
    one, two = world.nodes
    world.write(one, "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)")
    link = world.link(one, two)
    world.run(2_000)
    size = 13 << 20
    world.write(one, "INSERT INTO t VALUES(1, zeroblob(?1), zeroblob(?1)), (2, 'beside', 0)", size)
    world.run(20_000)
    world.cut(link)
    node = world.nodes[damaged]
    node.peer.close()
    damage = node.peer.open().app
    damage.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)  # past capture
    damage.execute("DELETE FROM t WHERE id = 1" if lost == "row" else "UPDATE t SET b = NULL WHERE id = 1")
    log = node.peer.replica.tables["t"].log
    with node.peer.replica.store.transaction():
        stored_entries = log.entries_of_row(1)
        assert len(stored_entries) == 2, "a portion each"
        for stored in stored_entries if lost == "row" else stored_entries[1:]:
            log.remove(stored)
        log.flush()
    node.reopen()
    assert not world.equal()
    world.link(one, two)
    world.run(60_000)
    assert node.sql("SELECT id, length(a), length(b) FROM t ORDER BY id") == [(1, size, size), (2, 6, 1)]
    assert one.dropped == two.dropped == []
    assert world.equal()
    world.close()


def key_of(shape, over):
    """Return a value that makes a key of so many bytes more than the limit."""
    text = "k" * (KEY_BYTES_MAX - HEAD[shape] + over)
    return text.encode() if shape == "blob" else text


@pytest.fixture
def unlimited(monkeypatch):
    """A way to act as a version without a limit on keys does: `with unlimited():`."""

    @contextlib.contextmanager
    def lift():
        with monkeypatch.context() as patch:
            patch.setattr(large_rows, "KEY_BYTES_MAX", 1 << 30)
            yield

    return lift


@pytest.mark.parametrize("over", [-1, 0, 1])
@pytest.mark.parametrize("shape", KEYED)
def test_row_with_too_large_a_key_stays(pair, shape, over):
    one, two = pair
    key = key_of(shape, over)
    one.sql(f"{KEYED[shape]}; INSERT INTO t(k, v) VALUES('before', 1)")
    converge(pair)
    one.sql("INSERT INTO t(k, v) VALUES(?, 2); INSERT INTO t(k, v) VALUES('after', 3)", key)
    converge(pair)
    one.sql("UPDATE t SET v = 4 WHERE k = ?", key)
    two.sql("UPDATE t SET v = 5 WHERE k = 'after'")
    converge(pair)
    there = [(1,), (5,)] if over > 0 else [(1,), (4,), (5,)]
    assert two.sql("SELECT v FROM t ORDER BY v") == there
    assert one.sql("SELECT v FROM t ORDER BY v") == [(1,), (4,), (5,)]
    note = "rows whose primary key takes more than 64 KiB stay on this node" if over > 0 else ""
    assert [table.note for table in one.replica.status().tables] == [note]
    assert one.digests() == two.digests()
    assert one.scrub().found == two.scrub().found == 0
    one.sql("UPDATE t SET k = 'shorter' WHERE k = ?", key)
    converge(pair)
    assert_equal(one, two)
    one.sql("INSERT INTO t(k, v) VALUES(?, 6)", key)
    converge(pair)
    one.sql("DELETE FROM t WHERE k = ?", key)
    converge(pair)
    assert_equal(one, two)


@pytest.mark.parametrize("shape", KEYED)
def test_rows_with_large_keys_from_before_stay(pair, shape):
    one, two = pair
    one.close()
    key = key_of(shape, 1)
    app = apsw.Connection(str(one.path))
    app.execute(f"{KEYED[shape]}; INSERT INTO t(k, v) VALUES('a', 1), (?, 2), ('z', 3)", (key,))
    app.close()
    one.open()
    converge(pair)
    assert two.sql("SELECT v FROM t ORDER BY v") == [(1,), (3,)]
    assert one.sql("SELECT v FROM t ORDER BY v") == [(1,), (2,), (3,)]
    one.sql("DELETE FROM t WHERE k = ?", key)
    converge(pair)
    assert_equal(one, two)


@pytest.mark.parametrize("over", [-1, 0, 1])
@pytest.mark.parametrize("kind", ["INSERT", "UPDATE", "DELETE"])
@pytest.mark.parametrize("shape", KEYED)
def test_received_rows_with_too_large_keys_are_left_out(pair, unlimited, shape, kind, over):
    one, two = pair
    key = key_of(shape, over)
    one.sql(f"{KEYED[shape]}; INSERT INTO t(k, v) VALUES('before', 1)")
    converge(pair)
    with unlimited():
        one.sql("INSERT INTO t(k, v) VALUES(?, 2)", key)
        first = one.drain()
        if kind != "INSERT":
            one.sql("UPDATE t SET v = 3 WHERE k = ?" if kind == "UPDATE" else "DELETE FROM t WHERE k = ?", key)
            first = one.drain()  # the insert itself is lost
        one.sql("INSERT INTO t(k, v) VALUES('after', 4)")
        second = one.drain()
    taken = [two.replica.apply(bundle, two.wall_ms, origin=one.node_id) for bundle in [*first, *second]]
    left_out = over > 0 and kind != "DELETE"
    assert sum(applied.merged.large_keys for applied in taken) == left_out
    assert two.sql("SELECT count(*) FROM t WHERE k IN ('before', 'after')") == [(2,)]
    log = two.replica.tables["t"].log
    log.flush()
    longest = f"SELECT max(length(row)) FROM {log.name} WHERE typeof(row) = 'blob'"
    assert (two.sql(longest)[0][0] == KEY_BYTES_MAX + over) == (over <= 0)
    [note] = [table.note for table in two.replica.status().tables]
    said = f"rows of {one.node_id.hex()[:8]} whose primary key takes more than 64 KiB are left out"
    assert note == (said if left_out else "")


def test_version_without_limit_is_told_and_goes_on(tmp_path, unlimited):
    world = World.made(tmp_path, 2)
    one, two = world.nodes
    world.link(one, two)
    world.write(one, KEYED["nullable"])
    world.run(2_000)
    with unlimited():
        world.write(one, "INSERT INTO t VALUES(?, 1), ('short', 2)", key_of("nullable", 1))
    world.run(120_000)
    assert two.sql("SELECT k, v FROM t") == [("short", 2)]
    assert "rows.large_key" in two.noticed()
    before = len(one.sent)
    world.run(60_000)
    assert len(one.sent) - before < 200
    world.write(one, "UPDATE t SET k = 'shorter' WHERE v = 1")
    world.run(300_000)
    assert world.equal()
    assert two.sql("SELECT k, v FROM t ORDER BY v") == [("shorter", 1), ("short", 2)]
    assert one.dropped == two.dropped == []
    world.close()


def test_rows_with_large_keys_on_all_nodes_go_on(pair, unlimited):
    one, two = pair
    key = key_of("nullable", 1)
    with unlimited():
        one.sql(f"{KEYED['nullable']}; INSERT INTO t VALUES(?, 1), ('short', 2)", key)
        converge(pair)
    two.sql("UPDATE t SET v = 3 WHERE v = 1")
    converge(pair)
    assert one.sql("SELECT k, v FROM t WHERE v = 3") == [(key, 3)]
    assert_equal(one, two)
    one.sql("DELETE FROM t WHERE v = 3")
    converge(pair)
    assert_equal(one, two)
