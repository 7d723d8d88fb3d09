"""A drain stamps one chunk at a time over all tables, before anything remote is merged."""

from __future__ import annotations

import pytest

from mycomesh.sync.merge.work_budget import CHUNK_ROWS_MAX
from tests.sync.pairs import handed_over
from tests.sync.peers import assert_equal, converge
from tests.sync.scans import FILL, ROWS, SHAPES, before_the_mesh


def test_every_existing_row_is_stamped_before_remote_merges(scanned, tmp_path):
    before_the_mesh(tmp_path / "0.db", SHAPES["rowid"], FILL.format(ROWS))
    before_the_mesh(tmp_path / "1.db", SHAPES["rowid"], f"INSERT INTO t VALUES({ROWS}, 'theirs', 9)")
    one, two = scanned(0), scanned(1)
    theirs = two.drain()
    mine = one.take(theirs)
    assert one.replica.tables["t"].log.count == ROWS
    two.take(mine, one.node_id)
    converge([one, two])
    assert_equal(one, two)
    lost = "".join(record[4] for record in one.recorded("mycomesh_conflicts"))
    assert ("theirs" in lost) != (f"v{ROWS}" in lost)  # one of both, and on record


def test_a_drain_of_many_tables_is_one_chunk(scanned):
    one = scanned()
    for number in range(6):
        one.sql(f"CREATE TABLE t{number}(id INTEGER PRIMARY KEY, v)")
    one.drain()
    for number in range(6):
        one.sql(f"INSERT INTO t{number}(v) {FILL.format(1_000).split('INSERT')[0]} SELECT i FROM n")
    taken = []
    more = True
    while more:
        before = sum(table.log.count for table in one.replica.tables.values())
        _, more = one.replica.drain(one.wall_ms)
        taken.append(sum(table.log.count for table in one.replica.tables.values()) - before)
    assert sum(taken) == 6_000
    assert max(taken) <= CHUNK_ROWS_MAX


@pytest.mark.slow
def test_a_transaction_larger_than_a_chunk_arrives_whole(both):
    first, second = both
    first.shell("""
        CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE bag(v); CREATE TABLE k(k TEXT PRIMARY KEY, v);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 5000)
        INSERT INTO t SELECT i, i || 'v' FROM n;
        INSERT INTO bag SELECT v FROM t; INSERT INTO k SELECT 'k' || id, v FROM t;""")
    handed_over(first, second)
    first.shell("BEGIN; UPDATE t SET v = v || '+'; UPDATE k SET k = k || 'x'; DELETE FROM bag WHERE v > '3'; COMMIT;")
    handed_over(first, second)
