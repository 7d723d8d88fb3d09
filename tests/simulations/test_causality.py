"""Replicas that cover what they neither have nor have replaced are found while a run goes on, and others are not."""

from mycomesh.simulations.causality import Causality
from mycomesh.sync.merge import tombstones
from tests.sync.peers import converge


def nodes(*peers):
    return [(number, str(peer.path), peer.replica) for number, peer in enumerate(peers)]


def test_a_covered_change_that_is_missing_is_found(trio):
    one, two, three = trio
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 'old')")
    converge(trio)
    one.sql("UPDATE t SET v = 'written'")
    seen = one.drain()
    causality = Causality()
    causality.look(nodes(*trio), 1.0)
    two.take(seen, origin=one.node_id)
    two.sql("UPDATE t SET v = 'later'")
    two.drain()
    causality.look(nodes(*trio), 2.0)
    assert causality.violations == []
    three.wall_ms = 2_000  # nobody covers the future
    vectors = {name: one.replica.vector(name) for name in one.replica.tables}
    for name in vectors:
        three.replica.inbox.begin_round(name)
    three.replica.inbox.take_vectors(vectors, {}, three.wall_ms)
    causality.look(nodes(*trio), 3.0)
    assert causality.violations == ["node 2: at 3.0 s t covers a change of row 1 without its v, or a later one"]
    causality.look(nodes(*trio), 4.0)
    assert len(causality.violations) == 1, "its vector has not moved"


def test_collected_deletes_are_no_violation(pair):
    one, _ = pair
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 'old'), (2, 'kept')")
    converge(pair)
    causality = Causality()
    causality.look(nodes(*pair), 1.0)
    one.sql("DELETE FROM t WHERE id = 1")
    one.drain()
    causality.look(nodes(*pair), 2.0)
    table = one.replica.tables["t"]
    with one.replica.store.transaction():
        assert tombstones.collect(table, one.replica.store.clock.last, 10) == 1
    one.sql("INSERT INTO t VALUES(3, 'moves the vector')")
    one.drain()
    causality.look(nodes(*pair), 3.0)
    assert causality.violations == []


def test_cells_of_a_dropped_column_are_no_violation(pair):
    """A write that a drop of its column has met (mixed-load, seed 3)."""
    one, two = pair
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v, spare); INSERT INTO t VALUES(1, 'old', 1)")
    converge(pair)
    one.sql("UPDATE t SET spare = 2")
    one.drain()
    causality = Causality()
    causality.look(nodes(*pair), 1.0)
    two.sql("ALTER TABLE t DROP COLUMN spare")
    converge(pair)
    causality.look(nodes(*pair), 2.0)
    assert causality.violations == []
    assert one.sql("SELECT * FROM t") == [(1, "old")]
