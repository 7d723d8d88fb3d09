"""Status warns at a share of each limit of the state, and not before."""

from __future__ import annotations

import pytest

from mycomesh.sync.admin import limits
from mycomesh.sync.replication.site_limit import NODE_SITES_MAX, SITES_MAX
from mycomesh.sync.storage.conflict_room import ConflictLimits
from tests.sync.peers import Peer


@pytest.fixture
def peer(tmp_path):
    peer = Peer(tmp_path / "a.db", 0)
    peer.sql("CREATE TABLE t(id INTEGER PRIMARY KEY)")
    peer.drain()
    yield peer
    peer.close()


def warning(peer):
    return peer.replica.status().warning


def add_sites(peer, names):
    with peer.replica.store.transaction():
        for name in names:
            peer.replica.store.site_number_or_new(name)


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_many_sites_of_one_node_are_warned_of(peer, over):
    add_sites(peer, [b"a" * 8 + bytes([number]) * 8 for number in range(NODE_SITES_MAX // 4 + over)])
    found = warning(peer)
    assert found.startswith(f"node {'61' * 4} has written under {NODE_SITES_MAX // 4 + over} sites, of 64") is (
        over >= 0
    )
    assert (found == "") is (over < 0)


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_many_sites_in_all_are_warned_of(peer, monkeypatch, over):
    monkeypatch.setattr(limits, "SITES_MAX", 400)
    known = len(peer.replica.store.sites)
    add_sites(peer, [number.to_bytes(8, "big") * 2 for number in range(100 - known + over)])
    assert warning(peer).startswith(f"the file knows {100 + over} sites, of 400") is (over >= 0)
    assert SITES_MAX > 400


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_many_tables_are_warned_of(peer, monkeypatch, over):
    monkeypatch.setattr(limits, "PART_TABLES_MAX", 2 * (len(peer.replica.tables) - over))
    assert ("tables are replicated" in warning(peer)) is (over >= 0)


@pytest.mark.parametrize(("records", "full"), [(6, False), (5, False), (4, True)])
def test_a_record_of_conflicts_that_fills_is_warned_of(peer, records, full):
    for number in range(3):
        peer.sql(
            "INSERT INTO mycomesh_conflicts(seen_at, table_name, row_key, lost, lost_hlc) VALUES('9', 't', 1, 'x', ?)",
            number,
        )
    peer.replica.store.conflict_room.limits = ConflictLimits(records=records)
    assert ("more than half full" in warning(peer)) is full
    peer.replica.store.conflict_room.limits = ConflictLimits(size=1_000)
    assert "more than half full" in warning(peer)
