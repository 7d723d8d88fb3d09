"""How long a node holds the write lock: the longest time at a time, from the opening of the file on."""

from __future__ import annotations

import gc

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


def test_the_collector_waits_while_the_lock_is_held():
    collections = []
    gc.callbacks.append(lambda phase, info: collections.append(phase))
    watch = LockTimer(lambda: 0.0)
    gc.collect()
    try:
        watch(True)
        del collections[:]
        garbage = [[] for _ in range(10 * gc.get_threshold()[0])]
        assert not collections
        watch(False)
        garbage = [garbage, [[] for _ in range(2 * gc.get_threshold()[0])]]
        assert collections
    finally:
        gc.enable()
        gc.callbacks.pop()


def test_collector_that_program_has_turned_off_stays_off():
    watch = LockTimer(lambda: 0.0)
    gc.disable()
    try:
        watch(True)
        watch(False)
        assert not gc.isenabled()
    finally:
        gc.enable()


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
