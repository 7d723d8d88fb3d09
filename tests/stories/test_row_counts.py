"""Rows are counted for people once, and again only where somebody has written."""

from __future__ import annotations


def rows_of(peer):
    return {table.name: table.rows for table in peer.replica.status().tables}


def counting(peer):
    """Notes each count of a user table."""
    seen = []
    table = peer.replica.tables["t"]
    db = peer.replica.store.db

    def tracer(_cursor, sql, _bindings):
        if 'count(*) FROM "t"' in sql:
            seen.append(sql)
        return True

    db.exec_trace = tracer
    assert table.store.db is db
    return seen


def test_counts_follow_the_application_the_peers_and_parked_rows(pair):
    one, two = pair
    for peer in pair:
        peer.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v UNIQUE)")
        peer.drain()
    seen = counting(one)
    assert [rows_of(one) for _ in range(5)] == [{"t": 0}] * 5
    assert len(seen) == 1
    one.sql("INSERT INTO t VALUES(1, 'a'), (2, 'b')")
    assert rows_of(one) == {"t": 2}  # not yet drained
    batches = one.drain()
    assert rows_of(one) == {"t": 2}
    two.sql("INSERT INTO t VALUES(9, 'a')")
    mine = two.drain()
    two.take(batches, one.node_id)
    one.take(mine, two.node_id)
    assert rows_of(one) == rows_of(two) == {"t": 2}  # one of the two claims of 'a' is parked
    one.sql("DELETE FROM t WHERE v = 'a'")
    one.drain()
    assert rows_of(one)["t"] == len(one.sql("SELECT 1 FROM t"))
    before = len(seen)
    assert rows_of(one) == rows_of(one)
    assert len(seen) == before
