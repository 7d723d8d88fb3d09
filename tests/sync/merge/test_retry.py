"""Rows that could not be shown: many of them find their place in short steps, whatever comes between two of these."""

from __future__ import annotations

import itertools

import pytest

from mycomesh.sync.replication.outbox import ROWS_TRIED_MAX
from tests.sync.peers import assert_equal, converge

ROWS = 3 * ROWS_TRIED_MAX + 7


def fill(peer, prefix):
    numbers = f"WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})"
    peer.sql(f"INSERT INTO t(id, name) {numbers} SELECT '{prefix}' || i, i FROM n")


def shown(peer):
    return peer.sql("SELECT count(*) FROM t")[0][0]


def parked(peer):
    return len(peer.recorded("mycomesh_parked"))


@pytest.fixture
def rivals(pair):
    """Two files whose rows claim the same values, of each as many as take several steps; the second's are parked."""
    one, two = pair
    one.sql("CREATE TABLE t(id PRIMARY KEY, name UNIQUE)")
    converge(pair)
    fill(one, "a")
    one.drain()
    two.wall_ms += 1_000
    fill(two, "b")
    converge(pair)
    assert [shown(peer) for peer in pair] == [parked(peer) for peer in pair] == [ROWS, ROWS]
    return pair


def test_each_step_shows_a_bounded_number_of_rows(rivals):
    one, two = rivals
    one.sql("DELETE FROM t")
    counts = [parked(one)]
    more = True
    while more:
        _, more = one.replica.drain(one.wall_ms)
        counts.append(parked(one))
    assert max(before - after for before, after in itertools.pairwise(counts)) <= ROWS_TRIED_MAX
    assert (counts[-1], shown(one)) == (0, ROWS)
    converge(rivals)
    assert_equal(one, two)


def test_an_interrupted_retry_continues_at_the_next_opening(rivals):
    one, two = rivals
    one.sql("DELETE FROM t")
    while parked(one) == ROWS:
        one.replica.drain(one.wall_ms)
    assert parked(one) > ROWS_TRIED_MAX
    one.close()
    one.open()
    one.drain()
    assert (parked(one), shown(one)) == (0, ROWS)
    converge(rivals)
    assert_equal(one, two)


def test_a_write_between_two_steps_keeps_its_place_everywhere(rivals):
    one, two = rivals
    one.sql("DELETE FROM t")
    while parked(one) == ROWS:
        one.replica.drain(one.wall_ms)
    name = ROWS  # whose parked row's turn has not come: the row written here claims it later
    assert one.sql("SELECT count(*) FROM t WHERE name = ?", name) == [(0,)]
    one.wall_ms += 5_000
    one.sql("INSERT INTO t VALUES('late', ?)", name)
    one.drain()
    converge(rivals)
    assert_equal(one, two)
    assert one.sql("SELECT id FROM t WHERE name = ?", name) == [(f"b{name}",)]
    assert parked(one) == 1


def test_an_undone_step_loses_no_waiting_row(rivals):
    one, two = rivals
    one.sql("DELETE FROM t")

    def fail():
        assert parked(one) == ROWS, "seen from outside the transaction"
        raise RuntimeError("undone")

    with pytest.raises(RuntimeError):
        one.replica.outbox.write_drained(one.wall_ms, fail)
    assert parked(one) == ROWS
    one.drain()
    assert (parked(one), shown(one)) == (0, ROWS)
    converge(rivals)
    assert_equal(one, two)


def test_values_of_a_late_column_are_shown_in_steps(pair):
    one, two = pair
    one.sql("CREATE TABLE t(id PRIMARY KEY, name)")
    fill(one, "a")
    converge(pair)
    two.sql("ALTER TABLE t ADD COLUMN more")
    (definition,) = two.drain()
    two.sql("UPDATE t SET more = name * 2")
    one.take(two.drain())  # the column is not here yet
    assert "more" not in one.sql("SELECT sql FROM sqlite_schema WHERE name = 't'")[0][0]
    one.take([definition])
    counts = [one.sql("SELECT count(more) FROM t")[0][0]]
    more = True
    while more:
        _, more = one.replica.drain(one.wall_ms)
        counts.append(one.sql("SELECT count(more) FROM t")[0][0])
    assert max(after - before for before, after in itertools.pairwise([0, *counts])) <= ROWS_TRIED_MAX
    assert counts[-1] == ROWS
    assert one.sql("SELECT count(*) FROM mycomesh_held") == [(0,)]
    converge(pair)
    assert_equal(one, two)


@pytest.mark.parametrize("how", ["hand", "migrate"])
def test_rows_return_when_their_constraint_is_gone(pair, how):
    one, two = pair

    def change(peer, script):
        if how == "hand":
            peer.shell(f"BEGIN; {script} COMMIT;")
        else:
            peer.replica.migrate(script, peer.wall_ms)
        while peer.replica.drain(peer.wall_ms)[1]:
            pass

    loose = "CREATE TABLE r(id INTEGER PRIMARY KEY, v);"
    rebuilt = "INSERT INTO r SELECT * FROM t; DROP TABLE t; ALTER TABLE r RENAME TO t;"
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v CHECK (v < 100)); INSERT INTO t VALUES(1, 1)")
    converge(pair)
    two.sql("CREATE UNIQUE INDEX i ON t(v)")
    two.drain()
    one.sql("INSERT INTO t VALUES(5, 1)")
    two.take(one.drain(), one.node_id)
    assert [row[1] for row in two.recorded("mycomesh_parked")] == ["5"]
    change(two, "DROP INDEX i;")
    assert not two.recorded("mycomesh_parked")
    one.wall_ms += 1_000
    change(one, f"{loose} {rebuilt} INSERT INTO t VALUES(4, 400);")
    converge(pair)  # the looser definition travels, so the row gets in
    assert one.tables() == two.tables()
    assert (4, 400) in two.sql("SELECT * FROM t")
    assert not two.recorded("mycomesh_parked")
