"""Sweeps and scrubs: whole tables in short steps, whatever their shape, and nothing lost when one is interrupted."""

from __future__ import annotations

import pytest

from mycomesh.sync import replica
from mycomesh.sync.merge.work_budget import CHUNK_ROWS_MAX
from mycomesh.sync.storage import store
from tests.sync.peers import assert_equal, converge
from tests.sync.scans import FILL, ROWS, SHAPES, before_the_mesh


def test_large_table_is_adopted_in_chunks_and_arrives_whole(scanned, shape, tmp_path):
    before_the_mesh(tmp_path / "0.db", shape, FILL.format(ROWS))
    one, two = scanned(0), scanned(1)
    steps = 0
    more = True
    while more:
        before = one.replica.tables["t"].log.count
        bundles, more = one.replica.drain(one.wall_ms)
        assert one.replica.tables["t"].log.count - before <= CHUNK_ROWS_MAX
        assert one.replica.status().pending == ROWS - one.replica.tables["t"].log.count  # as `mycomesh status` shows it
        two.take(bundles, one.node_id)
        steps += 1
    assert steps > 2
    assert_equal(one, two)
    assert len(two.sql("SELECT * FROM t")) == ROWS
    assert not one.replica.outbox.has_unstamped()


def test_writes_during_an_adoption_are_stamped_once(scanned, shape, tmp_path):
    before_the_mesh(tmp_path / "0.db", shape, FILL.format(ROWS))
    one, two = scanned(0), scanned(1)
    bundles, more = one.replica.drain(one.wall_ms)
    assert more
    one.sql("UPDATE t SET v = 'early' WHERE v = 'v1'; UPDATE t SET v = 'late' WHERE v = ?", f"v{ROWS}")
    one.sql("DELETE FROM t WHERE v = 'v7'; INSERT INTO t(id, v, w) VALUES('99999', 'between', 0)")
    two.take([*bundles, *one.drain()], one.node_id)
    assert_equal(one, two)
    assert len(two.sql("SELECT * FROM t")) == ROWS
    assert one.recorded("mycomesh_conflicts") == []


def test_an_adoption_goes_on_where_a_node_was_ended(scanned, shape, tmp_path):
    before_the_mesh(tmp_path / "0.db", shape, FILL.format(ROWS))
    one, two = scanned(0), scanned(1)
    assert one.replica.drain(one.wall_ms)[1]
    held = one.replica.tables["t"].log.count
    one.close()
    one.open()
    assert one.replica.outbox.has_unstamped()
    one.drain()
    assert one.replica.tables["t"].log.count == ROWS > held
    converge([one, two])
    assert_equal(one, two)


def test_columns_added_during_a_long_scan_are_captured(scanned):
    one, two = scanned(0), scanned(1)
    one.sql(SHAPES["rowid"])
    two.take(one.drain(), one.node_id)
    one.sql(FILL.format(ROWS))
    one.sql("ALTER TABLE t ADD COLUMN extra DEFAULT 7")
    one.sql("UPDATE t SET extra = 'set' WHERE id > ?", ROWS - 5)
    two.take(one.drain(), one.node_id)
    one.sql("UPDATE t SET extra = 'later' WHERE id = 1")
    two.take(one.drain(), one.node_id)
    assert_equal(one, two)
    assert two.sql("SELECT count(*) FROM t WHERE extra = 'set'") == [(5,)]


def steps_under_the_lock(path):
    """How many steps of SQLite's virtual machine the opening of a file takes in its transaction."""
    steps, marks = [0], []

    def count():
        steps[0] += 1
        return False

    class Counted(store.Store):
        def __init__(self, path, **options):
            super().__init__(path, **options)
            self.db.set_progress_handler(count, 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replica, "Store", Counted)
        opened = replica.Replica.open(
            str(path),
            node_id=bytes(16),
            mesh_key=bytes(32),
            entropy=bytes,
            config=replica.ReplicaConfig(),
            hooks=replica.Hooks(on_lock=lambda held: marks.append(steps[0])),
        )
        opened.close()
    start, end = marks
    return end - start


def test_opening_a_large_file_holds_the_lock_briefly(shape, tmp_path):
    for rows in (10, 10_000):
        before_the_mesh(tmp_path / f"{rows}.db", shape, FILL.format(rows))
    small, large = (steps_under_the_lock(tmp_path / f"{rows}.db") for rows in (10, 10_000))
    assert large < small + 1_000
