"""A power cut takes a tail of what was not synced, and nothing else."""

from __future__ import annotations

import random
import sqlite3

from mycomesh.simulations.disk import Disk


def rows(path):
    db = sqlite3.connect(path)
    try:
        return [value for (value,) in db.execute("SELECT v FROM t ORDER BY v")]
    finally:
        db.close()


def written(path, *values):
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("CREATE TABLE IF NOT EXISTS t(v)")
    for value in values:
        db.execute("INSERT INTO t VALUES (?)", (value,))
    return db


def test_a_cut_leaves_a_prefix_that_holds_everything_synced(tmp_path):
    path = str(tmp_path / "a.db")
    db = written(path, 1, 2, 3)
    disk = Disk()
    disk.watch(path, 7)
    assert disk.synced_us == 7
    for value in range(4, 20):
        db.execute("INSERT INTO t VALUES (?)", (value,))
    kept = []
    for seed in range(20):
        copy = str(tmp_path / f"cut{seed}.db")
        disk.watched = True
        lost = disk.cut_power(path, copy, random.Random(seed))
        kept.append(rows(copy))
        assert kept[-1] == list(range(1, len(kept[-1]) + 1))
        assert lost > 0 or len(kept[-1]) == 19
    assert min(map(len, kept)) >= 3
    assert len({len(each) for each in kept}) > 5
    assert rows(path) == list(range(1, 20)), "the machine's own file is not touched"


def test_what_is_synced_later_is_kept_too(tmp_path):
    path = str(tmp_path / "a.db")
    db = written(path, 1)
    disk = Disk()
    disk.watch(path, 0)
    db.execute("INSERT INTO t VALUES (2)")
    disk.record_sync(path, 9)
    db.execute("INSERT INTO t VALUES (3)")
    for seed in range(10):
        copy = str(tmp_path / f"cut{seed}.db")
        disk.cut_power(path, copy, random.Random(seed))
        assert rows(copy) in ([1, 2], [1, 2, 3])
    assert disk.synced_us == 9


def test_what_a_checkpoint_moved_into_the_file_is_kept(tmp_path):
    path = str(tmp_path / "a.db")
    db = written(path, 1, 2)
    disk = Disk()
    disk.watch(path, 0)
    db.execute("PRAGMA wal_checkpoint(RESTART)")
    db.execute("INSERT INTO t VALUES (3)")
    for seed in range(10):
        copy = str(tmp_path / f"cut{seed}.db")
        disk.cut_power(path, copy, random.Random(seed))
        assert rows(copy) in ([1, 2], [1, 2, 3])
