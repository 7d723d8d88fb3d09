"""A repair may bring entries that this replica does not cover yet: it merges them and reports no damage."""

from __future__ import annotations

from mycomesh.sync.exchange.repair_session import read_bundles
from mycomesh.sync.wire.bundle import Bundle


def bundle_of(peer, table):
    """Every entry of a table, as a repair sends them: without ranges."""
    rows = list(dict.fromkeys(row for _, _, row, _ in peer.replica.tables[table].log.scan(-1, 0, 100)))
    (payload,), count = read_bundles(peer.replica, table, rows, bytes_max=1 << 20)
    assert count == len(rows)
    return payload


def shared(pair):
    one, two = pair
    for peer in pair:
        peer.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    one.drain()
    one.sql("INSERT INTO t VALUES(1, 'first')")
    two.drain()
    two.take(one.drain(), one.node_id)
    return one, two


def test_a_conflict_that_a_repair_brings_is_recorded(pair):
    one, two = shared(pair)
    one.wall_ms += 5
    one.sql("UPDATE t SET v = 'of one'")
    two.sql("UPDATE t SET v = 'of two'")
    one.drain()
    two.drain()
    applied = two.replica.apply(bundle_of(one, "t"), two.wall_ms, repair=True)
    assert applied.merged.conflicts == 1
    assert applied.merged.changes == 1
    assert applied.merged.repaired == 0
    assert two.sql("SELECT v FROM t") == [("of one",)]
    assert len(two.recorded("mycomesh_conflicts")) == 1


def test_only_what_was_covered_and_lost_counts_as_repaired(pair):
    one, two = shared(pair)
    lost = bundle_of(one, "t")
    table = two.replica.tables["t"]
    with table.store.transaction():
        for stored in table.log.entries_of_row(1):
            table.log.remove(stored)
        table.log.flush()
        table.rows.delete(1)
    one.sql("INSERT INTO t VALUES(2, 'news')")
    one.drain()
    assert Bundle.decode(lost).sections[0].rows == 1
    applied = two.replica.apply(bundle_of(one, "t"), two.wall_ms, repair=True)
    assert (applied.merged.changes, applied.merged.repaired) == (2, 1)
    assert two.tables() == one.tables()


def test_a_withheld_write_that_loses_is_on_record(pair):
    one, two = shared(pair)
    one.sql("UPDATE t SET v = 'of one'")
    one.drain()
    two.wall_ms += 5
    two.sql("UPDATE t SET v = 'of two'")
    two.drain()
    # A member that lies has said that it sent everything of the first one's, and has left this write out.
    two.replica.inbox.begin_round("t")
    two.replica.inbox.take_vectors({"t": one.replica.vector("t")}, {}, two.wall_ms)
    for _ in range(2):  # a record that is there already is not made again
        two.replica.apply(bundle_of(one, "t"), two.wall_ms, repair=True)
        assert two.sql("SELECT v FROM t") == [("of two",)]
        assert two.sql("SELECT lost FROM mycomesh_conflicts") == [('{"v": "of one"}',)]
