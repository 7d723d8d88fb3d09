"""Repairs find rows that differ although the vectors are equal, and both sides end with the same row."""

from __future__ import annotations

import json

import apsw
import pytest

from mycomesh.sync.replication.rights import Rights
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section
from tests.sync.attackers import FILL, all_equal, chained
from tests.sync.peers import WALL_MS


@pytest.mark.parametrize("damaged", [0, 1])
@pytest.mark.parametrize("victims", [1, 40, 700])
def test_rows_that_vanished_with_their_entries_are_brought_back(world_of, damaged, victims):
    world = world_of(2)
    world.write(world.nodes[0], FILL, 1, 1_000)
    (link,) = chained(world)
    world.cut(link)
    node = world.nodes[damaged]
    node.peer.close()
    damage = node.peer.open().app
    damage.config(
        apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0
    )  # SQLITE_DBCONFIG_ENABLE_TRIGGER: the damage goes past capture
    damage.execute(f"DELETE FROM t WHERE id <= {victims}")
    log = node.peer.replica.tables["t"].log
    with node.peer.replica.store.transaction():
        for stored_entries in log.entries_of_rows(range(1, victims + 1)).values():
            log.remove(*stored_entries)
        log.flush()
    node.reopen()
    assert not world.equal()
    world.link(*world.nodes)
    world.run(60_000)
    all_equal(world)
    assert len(node.sql("SELECT * FROM t")) == 1_000
    assert "repair.done" in [notice for each in world.nodes for notice in each.noticed()]


def lose_rows_and_meet(world, node):
    """Take 40 of 100 rows, and what is known of them, from a node's file; it has them again after it has met the other."""
    table = node.peer.replica.tables["t"]
    with node.peer.replica.store.transaction() as db:
        for stored_entries in table.log.entries_of_rows(range(1, 41)).values():
            table.log.remove(*stored_entries)
        table.log.flush()
        db.execute("DELETE FROM t WHERE id <= 40")
    assert not world.equal()
    world.link(*world.nodes)
    world.run(60_000)
    all_equal(world)
    assert len(node.sql("SELECT * FROM t")) == 100


@pytest.mark.parametrize("damaged", [0, 1])
def test_a_member_that_may_only_read_is_repaired(world_of, damaged):
    world = world_of(2)
    world.write(world.nodes[0], FILL, 1, 100)
    (link,) = chained(world)
    world.cut(link)
    node = world.nodes[damaged]
    grants = ((node.peer.node_id, (("t", "r"), ("*", "rw"))),)
    for each in world.nodes:
        each.peer.replica.set_rights(Rights(each.peer.node_id, grants))
    lose_rows_and_meet(world, node)


def test_a_keep_both_table_is_repaired_too(world_of):
    world = world_of(2)
    node = world.nodes[1]
    world.write(world.nodes[0], FILL, 1, 100)
    world.nodes[0].peer.replica.decisions.decide_policy("t", "keep-both")
    (link,) = chained(world)
    world.cut(link)
    lose_rows_and_meet(world, node)


def test_a_number_becoming_its_equal_keeps_replicas_equal(world_of):
    world = world_of(2)
    world.write(world.nodes[0], "CREATE TABLE n(id INTEGER PRIMARY KEY, b, c); INSERT INTO n VALUES(1, 0, 1.0)")
    chained(world)
    world.write(world.nodes[0], "UPDATE n SET b = 7, c = 1")  # 1 IS 1.0: only b counts as changed
    world.run(60_000)
    all_equal(world)
    assert [node.sql("SELECT b, c FROM n") for node in world.nodes] == [[(7, 1.0)]] * 2
    assert not any(node.peer.recorded("mycomesh_conflicts") for node in world.nodes)


def test_a_waiting_row_takes_the_same_equal_number(world_of):
    world = world_of(3)
    one, two, three = world.nodes
    world.write(one, "CREATE TABLE n(id INTEGER PRIMARY KEY, u UNIQUE, b, c)")
    links = chained(world)
    for link in links:
        world.cut(link)
    world.write(three, "INSERT INTO n(id, u) VALUES(1, 5)")
    world.write(one, FILL, 1, 1_000)  # its clock goes ahead of the other's
    world.write(one, "INSERT INTO n VALUES(2, 5, 0, 1.0)")
    link = world.link(one, two)
    world.run(1_000)
    world.cut(link)
    world.write(one, "UPDATE n SET b = 7, c = 1")
    chained(world, ms=60_000)
    assert [node.sql("SELECT id FROM n") for node in world.nodes] == [[(1,)]] * 3  # it claimed the place first
    world.write(three, "DELETE FROM n WHERE id = 1")
    world.run(60_000)
    all_equal(world)
    assert one.sql("SELECT id, b, c, typeof(c) FROM n") == [(2, 7, 1.0, "real")]


def test_two_values_of_one_write_end_as_one_recorded(world_of):
    world = world_of(2)
    world.write(
        world.nodes[0], "CREATE TABLE n(id INTEGER PRIMARY KEY, b, c); INSERT INTO n VALUES(1, 0, 'as written')"
    )
    chained(world)
    app = world.nodes[0].peer.app
    app.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    app.execute("UPDATE n SET c = 'behind its back'")
    app.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 1)
    world.write(world.nodes[0], "UPDATE n SET b = 7")  # which digests the rest of the first entry again
    world.run(60_000)
    all_equal(world)
    kept, lost = sorted(("as written", "behind its back"), key=len, reverse=True)
    assert [node.sql("SELECT b, c FROM n") for node in world.nodes] == [[(7, kept)]] * 2
    (record,) = [row for node in world.nodes for row in node.sql("SELECT lost, reason FROM mycomesh_conflicts")]
    assert record == (json.dumps({"c": lost}), "two files had different values of one write")


LIAR = b"z" * 16
LIE_MS = WALL_MS + 50_000
HLC = LIE_MS << 16


def lie(table, kind, columns, key, row):
    """A batch of a member that stamps another row elsewhere with the same clock."""
    keys = None if kind is Kind.INSERT else [key]
    group = Group(LIAR, kind, columns, [HLC], keys, [row], None)
    return Bundle([Section(table, [(LIAR, 0, HLC)], [group])]).encode()


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", [Kind.INSERT, Kind.UPDATE, Kind.DELETE])
def test_two_rows_of_one_stamp_end_as_one(world_of, kind, turned):
    world = world_of(2)
    world.write(
        world.nodes[0], "CREATE TABLE n(id INTEGER PRIMARY KEY, b, c); INSERT INTO n VALUES(1, 0, 0), (2, 0, 0)"
    )
    chained(world)
    first = 11 if kind is Kind.INSERT else 1
    columns = {Kind.INSERT: ("b", "c", "id"), Kind.UPDATE: ("b",), Kind.DELETE: ()}[kind]
    for node, key in zip(world.nodes, (first + 1, first) if turned else (first, first + 1), strict=True):
        row = {"b": f"lie {key}", "c": 0, "id": key}
        batch = lie("n", kind, columns, key, [row[name] for name in columns])
        node.peer.replica.apply(batch, LIE_MS, origin=LIAR)
    world.run(120_000)
    all_equal(world)
    rows = world.nodes[0].sql("SELECT id, b FROM n ORDER BY id")
    expected = {
        Kind.INSERT: [(1, 0), (2, 0), (12, "lie 12")],
        Kind.UPDATE: [(1, 0), (2, "lie 2")],
        Kind.DELETE: [(1, 0)],
    }
    assert rows == expected[kind]
