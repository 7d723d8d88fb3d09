"""Python's garbage collector waits while a replica holds the write lock."""

from __future__ import annotations

import gc

import pytest

from mycomesh.sync.storage.collector import CollectorPause
from tests.sync.peers import Peer


@pytest.fixture
def collections():
    """The collections of the process, as they happen."""
    found = []

    def note(phase, info):
        found.append(phase)

    gc.callbacks.append(note)
    yield found
    gc.callbacks.remove(note)
    gc.enable()


def litter():
    return [[] for _ in range(10 * gc.get_threshold()[0])]


def test_no_collection_falls_into_a_pause(collections):
    pause = CollectorPause()
    gc.collect()
    pause.begin()
    del collections[:]
    garbage = [litter()]
    assert not collections
    pause.end()
    garbage.append(litter())
    assert collections


def test_collector_that_program_has_turned_off_stays_off(collections):
    pause = CollectorPause()
    gc.disable()
    pause.begin()
    pause.end()
    assert not gc.isenabled()


def test_collector_waits_for_the_end_of_a_transaction(tmp_path, collections):
    peer = Peer(tmp_path / "fleet.db", 1)
    store = peer.replica.store
    with store.transaction():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), store.transaction():
        raise ZeroDivisionError
    assert gc.isenabled()
    peer.close()
