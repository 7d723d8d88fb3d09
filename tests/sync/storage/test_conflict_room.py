"""The record of conflicts stays within its limits, and keeps what can be restored longest."""

from __future__ import annotations

import json

import pytest

from mycomesh.sync.replica import ReplicaConfig
from mycomesh.sync.storage.conflict_room import ROW_CHECK, ROW_RECORDS_MAX, ConflictLimits
from tests.sync.peers import Peer, converge

DAY_MS = 86_400_000
COUNT = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?)"


@pytest.fixture
def limited(tmp_path):
    opened = []

    def make(**limits):
        config = ReplicaConfig(conflicts=ConflictLimits(**limits))
        opened.extend(Peer(tmp_path / f"{number}.db", number, config=config) for number in range(2))
        opened[0].sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
        converge(opened)
        return opened

    yield make
    for peer in opened:
        peer.close()


def filled(peers, rows):
    peers[0].sql(f"{COUNT} INSERT INTO t SELECT i, 0 FROM n", rows)
    converge(peers)
    return peers


def conflict(peers, first, second, *values):
    """The first write loses on both sides."""
    one, two = peers
    one.sql(first, *values)
    mine = one.drain()
    two.replica.store.clock.witness(one.replica.store.clock.last)
    two.sql(second)
    theirs = two.drain()
    one.take(theirs, two.node_id)
    two.take(mine, one.node_id)


def records(peer):
    return peer.sql("SELECT seq, row_key, lost FROM mycomesh_conflicts ORDER BY seq")


def test_number_of_records_is_limited_and_oldest_go(limited):
    one, two = peers = filled(limited(records=100), 400)
    for start in range(0, 400, 50):
        rows = f"WHERE id BETWEEN {start + 1} AND {start + 50}"
        conflict(peers, f"UPDATE t SET v = 'first' {rows}", f"UPDATE t SET v = 'second' {rows}")
        assert all(len(records(peer)) <= 100 for peer in peers)
    for peer in (one, two):
        keys = [int(key) for _, key, _ in records(peer)]
        assert len(keys) > 90
        assert keys == list(range(400 - len(keys) + 1, 401))


def test_records_without_a_value_go_first(limited):
    one, two = peers = filled(limited(records=100), 200)
    conflict(peers, "UPDATE t SET v = 'value' WHERE id <= 60", "UPDATE t SET v = 'second' WHERE id <= 60")
    conflict(peers, "DELETE FROM t WHERE id > 60", "REPLACE INTO t SELECT id, 'second' FROM t WHERE id > 60")
    for peer in (one, two):
        kept = [json.loads(lost) for _, _, lost in records(peer)]
        assert kept.count({"v": "value"}) == 60
        assert len(kept) <= 100


def test_one_contested_document_does_not_grow_record_without_bound(limited):
    one, two = peers = filled(limited(size=1 << 20), 3)
    conflict(peers, "UPDATE t SET v = 'other' WHERE id = 2", "UPDATE t SET v = 'second' WHERE id = 2")
    for number in range(ROW_RECORDS_MAX + 2 * ROW_CHECK):
        conflict(peers, "UPDATE t SET v = ? WHERE id = 1", f"UPDATE t SET v = {number} WHERE id = 1", f"{number:10000}")
    for peer in (one, two):
        found = records(peer)
        assert sum(2 * len(lost) for _, _, lost in found) <= 1 << 20
        assert 20 < len(found) <= ROW_RECORDS_MAX + ROW_CHECK + 1


def test_one_row_does_not_push_out_the_others(limited):
    one, two = peers = filled(limited(records=100), 3)
    conflict(peers, "UPDATE t SET v = 'other' WHERE id = 2", "UPDATE t SET v = 'second' WHERE id = 2")
    for number in range(ROW_RECORDS_MAX + 2 * ROW_CHECK + 1):
        conflict(peers, f"UPDATE t SET v = 'a{number}' WHERE id = 1", f"UPDATE t SET v = 'b{number}' WHERE id = 1")
    for peer in (one, two):
        keys = [key for _, key, _ in records(peer)]
        assert keys.count("2") == 1
        assert ROW_RECORDS_MAX <= keys.count("1") <= ROW_RECORDS_MAX + ROW_CHECK


def test_records_go_after_some_days(limited):
    one, two = peers = filled(limited(age_days=30), 3)
    conflict(peers, "UPDATE t SET v = 'old' WHERE id = 1", "UPDATE t SET v = 'second' WHERE id = 1")
    for peer in peers:
        peer.wall_ms += 31 * DAY_MS
    conflict(peers, "UPDATE t SET v = 'fresh' WHERE id = 2", "UPDATE t SET v = 'second' WHERE id = 2")
    for peer in (one, two):
        assert [lost for _, _, lost in records(peer)] == ['{"v": "fresh"}']


def test_old_records_go_when_the_file_is_opened(limited):
    one, two = peers = filled(limited(age_days=30), 3)
    conflict(peers, "UPDATE t SET v = 'old' WHERE id = 1", "UPDATE t SET v = 'second' WHERE id = 1")
    with one.replica.store.transaction():
        one.replica.store.clock.tick(one.wall_ms + 31 * DAY_MS)
    one.close()
    one.open()
    assert records(one) == []
    assert len(records(two)) == 1


def test_records_that_a_person_deletes_make_room(limited):
    one, _ = peers = filled(limited(records=100), 300)
    conflict(peers, "UPDATE t SET v = 'a' WHERE id <= 90", "UPDATE t SET v = 'b' WHERE id <= 90")
    one.sql("DELETE FROM mycomesh_conflicts")
    conflict(peers, "UPDATE t SET v = 'a' WHERE id > 220", "UPDATE t SET v = 'b' WHERE id > 220")
    assert len(records(one)) == 80
