"""Accounts by origin count what the writes of each other node bring, without a scan, and follow each transaction."""

from __future__ import annotations

import pytest

from mycomesh.sync.crdt.hlc import time_text
from mycomesh.sync.errors import DecodeError
from mycomesh.sync.storage import accounts
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section
from tests.sync.peers import catch_up, converge

TABLE = "CREATE TABLE t(id INTEGER PRIMARY KEY, v, u UNIQUE)"


@pytest.fixture
def began(pair):
    pair[0].sql(TABLE)
    converge(pair)
    for peer in pair:
        peer.sql("DELETE FROM mycomesh_accounts")
    return pair


def figures(peer):
    return {node: (each.rows, each.conflicts, each.parked) for node, each, _ in peer.replica.status().accounts}


def name(peer):
    return peer.node_id[:8].hex()


def test_changes_count_for_their_origin_once(began):
    one, two = began
    one.sql("INSERT INTO t VALUES(1, 'x', 1), (2, 'y', 2)")
    batches = one.drain()
    two.take(batches, one.node_id)
    two.take(batches, one.node_id)
    assert figures(two) == {name(one): (2, 0, 0)}
    assert figures(one) == {}
    (row,) = two.sql("SELECT node, rows, conflicts, parked, since FROM mycomesh_accounts")
    assert row == (name(one), 2, 0, 0, time_text(two.wall_ms))


def test_definitions_are_named_by_who_states_them(began):
    one, two = began
    two.sql("CREATE VIEW w AS SELECT id FROM t; CREATE INDEX i ON t(v)")
    two.sql("CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; END")
    converge([one, two])
    assert one.replica.status().stated[name(two)] == {"index": 1, "trigger": 1, "view": 1}
    assert two.replica.status().stated[name(one)] == {"table": 1}


def test_a_round_counts_for_writers_not_sender(trio):
    one, two, three = trio
    one.sql(TABLE)
    converge(trio)
    three.sql("DELETE FROM mycomesh_accounts")
    one.sql("INSERT INTO t(id) VALUES(1), (2), (3)")
    two.sql("INSERT INTO t(id) VALUES(4)")
    catch_up(two, one)
    catch_up(three, two)
    assert figures(three) == {name(one): (3, 0, 0), name(two): (1, 0, 0)}


def test_conflicts_and_parked_rows_count_for_their_cause(began):
    one, two = began
    two.sql("INSERT INTO t VALUES(1, 'y', 2), (7, 'z', 9)")
    two.drain()
    one.replica.store.clock.witness(two.replica.store.clock.last + 100)
    one.sql("INSERT INTO t VALUES(1, 'x', 1), (5, 'later', 9)")
    two.take(one.drain(), one.node_id)
    assert figures(two) == {name(one): (2, 1, 1)}


@pytest.mark.parametrize("size", [1, 5_000, 3 << 20])
def test_bytes_are_about_those_of_the_values(began, size):
    one, two = began
    one.sql("INSERT INTO t VALUES(1, ?, 1)", "x" * size)
    batches = one.drain()
    two.take(batches, one.node_id)
    ((_, each, _),) = two.replica.status().accounts
    assert size <= each.bytes <= sum(map(len, batches)) + 100


def test_what_is_rolled_back_does_not_count(began):
    one, two = began
    site, hlc = one.node_id[:8] + bytes(8), one.wall_ms << 16
    good = Group(site, Kind.INSERT, ("id", "u", "v"), [hlc + 1], None, [[8, 1, "x"]], None)
    bad = Group(site, Kind.INSERT, ("id", "u", "v"), [hlc + 2], None, [["no id", 2, "x"]], None)
    with pytest.raises(DecodeError):
        two.replica.apply(
            Bundle([Section("t", [(site, hlc, hlc + 9)], [good, bad])]).encode(), two.wall_ms, origin=one.node_id
        )
    assert figures(two) == {}


def test_accounts_outlive_the_run_and_add_up(began):
    one, two = began
    for number in range(3):
        one.sql("INSERT INTO t(id) VALUES(?)", number)
        two.take(one.drain(), one.node_id)
        two.close()
        two.open()
    assert figures(two) == {name(one): (3, 0, 0)}


@pytest.mark.parametrize("most", [1, 2, 3])
def test_accounts_beyond_the_limit_are_kept_together(trio, monkeypatch, most):
    monkeypatch.setattr(accounts, "ACCOUNTS_MAX", most)
    one, two, three = trio
    one.sql(TABLE)
    converge(trio)
    three.sql("DELETE FROM mycomesh_accounts")
    three.close()
    three.open()
    for number, peer in enumerate((one, two)):
        peer.sql("INSERT INTO t(id) VALUES(?)", number)
        three.take(peer.drain(), peer.node_id)
    expected = {name(one): (1, 0, 0), name(two) if most > 1 else accounts.OTHERS: (1, 0, 0)}
    assert figures(three) == expected


def test_a_file_of_an_earlier_version_gets_accounts(began):
    one, two = began
    two.sql("DROP TABLE mycomesh_accounts")
    two.close()
    two.open()
    assert two.replica.recreated == ()
    one.sql("INSERT INTO t(id) VALUES(1)")
    two.take(one.drain(), one.node_id)
    assert figures(two) == {name(one): (1, 0, 0)}


def test_an_idle_status_reads_accounts_and_writes_nothing(began):
    one, two = began
    one.sql("INSERT INTO t(id) VALUES(1)")
    two.take(one.drain(), one.node_id)
    before = two.replica.store.db.total_changes()
    two.replica.status()
    two.drain()
    assert two.replica.store.db.total_changes() == before
