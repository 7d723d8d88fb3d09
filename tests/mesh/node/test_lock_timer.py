"""How long a node holds the write lock: the longest time at a time, from the opening of the file on."""

from __future__ import annotations

import pytest

from mycomesh.mesh.node.lock_timer import LockTimer
from mycomesh.sync.replica import Hooks, Replica, ReplicaConfig


def test_the_longest_hold_stands():
    times = iter([1.0, 1.5, 10.0, 12.0, 20.0, 20.25])
    watch = LockTimer(lambda: next(times))
    longest = []
    for _ in range(3):
        watch(True)
        watch(False)
        longest.append(watch.longest_s)
    assert longest == [0.5, 2.0, 2.0]


def test_replica_tells_of_every_hold_and_of_its_end(tmp_path):
    told = []
    replica = Replica.open(
        str(tmp_path / "fleet.db"),
        node_id=bytes(16),
        mesh_key=bytes(32),
        entropy=bytes,
        config=ReplicaConfig(),
        hooks=Hooks(on_lock=told.append),
    )
    assert told == [True, False]
    with pytest.raises(ZeroDivisionError):
        replica.outbox.write_drained(1_700_000_000_000, lambda: 1 // 0)
    assert told == [True, False] * 2
    replica.close()
