"""Memory of large transactions: a node holds a chunk of one, on the side that captures it and on the side that merges it."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from tests.sync.peers import Peer, assert_equal

FILL = (
    "INSERT INTO t(v) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {}) SELECT 'v' || i FROM n"
)


def peak_bytes(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def handed_over(one, two):
    """Drain chunk by chunk, as a node's thread does; garbage that waits for its collector is not what a node holds.

    When the collector runs depends on all that the process has made before, other tests among it. `gc.freeze` spares each
    collection a walk over all that.
    """
    gc.collect()
    gc.freeze()
    more = True
    while more:
        bundles, more = one.replica.drain(one.wall_ms)
        two.take(bundles, one.node_id)
        gc.collect()


@pytest.mark.slow
def test_a_long_transaction_takes_no_more_memory(tmp_path):
    peaks = []
    for number, rows in enumerate((6_000, 24_000)):
        one, two = (Peer(tmp_path / f"{number}.{side}.db", side) for side in range(2))
        one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
        handed_over(one, two)
        one.sql(FILL.format(rows))
        born = peak_bytes(lambda one=one, two=two: handed_over(one, two))
        one.sql("UPDATE t SET v = v || '!' WHERE id % 8 = 0")
        changed = peak_bytes(lambda one=one, two=two: handed_over(one, two))
        assert_equal(one, two)
        peaks.append((born, changed))
        one.close()
        two.close()
    few, many = peaks
    assert many[0] < 1.5 * few[0] < 16 << 20
    assert many[1] < 1.5 * few[1] < 16 << 20
