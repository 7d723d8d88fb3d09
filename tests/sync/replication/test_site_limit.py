"""The limit on sites: a replica takes in so many of one node and so many in all, and refuses the rest."""

from __future__ import annotations

import pytest

from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.errors import BatchRefusedError
from mycomesh.sync.replica import ReplicaConfig
from mycomesh.sync.replication import site_limit
from mycomesh.sync.replication.site_limit import NODE_SITES_MAX, refused_sites
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section
from mycomesh.sync.wire.interest import Interest
from mycomesh.sync.wire.units import unit_name
from tests.sync.peers import WALL_MS, Peer

HLC = WALL_MS << 16
OTHER = bytes([99]) * 16


@pytest.fixture
def peer(tmp_path):
    peer = Peer(tmp_path / "a.db", 0)
    peer.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    peer.drain()
    yield peer
    peer.close()


def site(number, node=OTHER):
    return node[:8] + number.to_bytes(8, "big")


def rows(first, count, *, seen=None):
    """One bundle: a row under each of these sites; with `seen`, the writers had seen a write of that site."""
    ranges, groups = [], []
    priors = None if seen is None else [[(None, seen, HLC - 1)]]
    for number in range(first, first + count):
        ranges.append((site(number), 0, HLC + number))
        groups.append(Group(site(number), Kind.INSERT, ("id", "x"), [HLC + number], None, [[number, "x"]], priors))
    return Bundle([Section("t", ranges, groups)]).encode()


def ids(peer):
    return [number for (number,) in peer.sql("SELECT id FROM t ORDER BY id")]


def test_a_node_has_so_many_sites_and_no_more(peer):
    peer.take([rows(0, NODE_SITES_MAX - 1)], origin=OTHER)
    peer.take([rows(NODE_SITES_MAX - 1, 1)], origin=OTHER)
    with pytest.raises(BatchRefusedError, match="no room for its site: 64 sites a node, 65536 in all"):
        peer.take([rows(NODE_SITES_MAX, 1)], origin=OTHER)
    peer.take([rows(0, NODE_SITES_MAX)], origin=OTHER)  # those that are known are taken
    assert ids(peer) == list(range(NODE_SITES_MAX))


def test_a_batch_over_the_limit_is_refused_whole(peer):
    with pytest.raises(BatchRefusedError):
        peer.take([rows(0, NODE_SITES_MAX + 1)], origin=OTHER)
    assert ids(peer) == []
    assert refused_sites(peer.replica.store, [site(0)]) == set()


def test_a_round_brings_what_fits_and_covers_no_more(peer):
    applied = peer.replica.apply(rows(0, NODE_SITES_MAX + 3), WALL_MS + 1, sender=OTHER)
    assert applied.crowded == 3
    assert ids(peer) == list(range(NODE_SITES_MAX))
    claimed = Vector({site(number): [(0, HLC + number)] for number in range(NODE_SITES_MAX + 3)})
    peer.replica.inbox.take_vectors({"t": claimed}, {"t": claimed}, WALL_MS + 1)
    assert len([each for each, _ in peer.replica.vector("t").items() if each[:8] == OTHER[:8]]) == NODE_SITES_MAX
    kept = peer.sql("SELECT count(*) FROM mycomesh_sites WHERE substr(site, 1, 8) = ?", OTHER[:8])
    assert kept == [(NODE_SITES_MAX,)]


def test_prior_of_refused_site_costs_only_prior(peer):
    peer.take([rows(0, NODE_SITES_MAX)], origin=OTHER)
    writer = bytes([98]) * 16
    section = Section(
        "t",
        [(site(1, writer), 0, HLC + 999)],
        [Group(site(1, writer), Kind.UPDATE, ("x",), [HLC + 999], [3], [["y"]], [[(None, site(5_000), HLC)]])],
    )
    peer.take([Bundle([section]).encode()], origin=writer)
    assert peer.sql("SELECT x FROM t WHERE id = 3") == [("y",)]
    assert peer.replica.store.site_number(site(5_000)) is None


def test_all_nodes_together_have_so_many_sites(peer, monkeypatch):
    known = len(peer.replica.store.sites)
    monkeypatch.setattr(site_limit, "SITES_MAX", known + 2)
    names = [site(1, bytes([node]) * 16) for node in (50, 51, 52)]
    assert refused_sites(peer.replica.store, names[:2]) == set()
    assert refused_sites(peer.replica.store, names) == {names[2]}


def test_sites_of_a_transaction_that_failed_do_not_count(peer):
    store, member = peer.replica.store, bytes([60]) * 8

    def fail():
        with store.transaction():
            for number in range(3):
                store.site_number_or_new(site(number, bytes([60]) * 16))
            assert store.sites_of_node(member) == 3
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert store.sites_of_node(member) == 0
    assert refused_sites(store, [site(number, bytes([60]) * 16) for number in range(NODE_SITES_MAX)]) == set()


def test_sites_of_areas_are_counted_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(site_limit, "NODE_AREA_SITES_MAX", 3)
    peer = Peer(tmp_path / "b.db", 0, config=ReplicaConfig(interest=Interest({})))
    peer.sql("CREATE TABLE t(area, x)")
    peer.drain()
    peer.replica.decisions.decide_area("t", "area")
    peer.drain()

    def batch(number):
        group = Group(site(number), Kind.INSERT, ("area", "x"), [HLC], None, [["7", number]], None)
        return Bundle([Section(unit_name("t", "7"), [(site(number), 0, HLC)], [group])]).encode()

    for number in range(NODE_SITES_MAX):
        with peer.replica.store.transaction():
            peer.replica.store.site_number_or_new(site(number + 100))
    for number in range(3):
        peer.take([batch(number)], origin=OTHER)
    with pytest.raises(BatchRefusedError, match="no room"):
        peer.take([batch(3)], origin=OTHER)
    assert peer.sql("SELECT x FROM t ORDER BY x") == [(0,), (1,), (2,)]
    peer.close()
