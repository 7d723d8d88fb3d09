"""Rows that very many nodes have written: bundles of them stay within their limits."""

from __future__ import annotations

import pytest

from mycomesh.sync.storage import log_reader
from mycomesh.sync.storage.log_reader import read_rows
from mycomesh.sync.storage.row_view import PRIORS_MAX
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section
from tests.sync.peers import WALL_MS, Peer

HLC = WALL_MS << 16


@pytest.fixture
def peer(tmp_path):
    peer = Peer(tmp_path / "a.db", 0)
    peer.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, x, y); INSERT INTO t VALUES(1, 0, 0)")
    peer.drain()
    yield peer
    peer.close()


def writer(number):
    return (1_000 + number).to_bytes(8, "big") + bytes(8)


def write(peer, number, *, column="x", seen=()):
    """A change of the one row by another node, which had seen the writes of the nodes `seen`."""
    site, hlc = writer(number), HLC + 1_000 + number
    prior = [[(None, writer(other), HLC + 1_000 + other) for other in seen]] if seen else None
    group = Group(site, Kind.UPDATE, (column,), [hlc], [1], [[number]], prior)
    peer.take([Bundle([Section("t", [(site, 0, hlc)], [group])]).encode()], origin=site)


@pytest.mark.parametrize("writers", [PRIORS_MAX - 1, PRIORS_MAX, PRIORS_MAX + 1])
def test_a_prior_names_the_newest_writes_seen(peer, writers):
    for number in range(writers - 1):
        peer.take([Bundle([Section("t", [(writer(number), 0, HLC + 1_000 + number)])]).encode()], origin=writer(number))
    write(peer, writers - 1, seen=range(writers - 1))
    peer.wall_ms += 60_000
    peer.sql("UPDATE t SET x = -1")
    (bundle,) = peer.drain()
    (parts,) = Bundle.decode(bundle).sections[0].groups[0].priors
    assert len(parts) == min(writers, PRIORS_MAX)
    assert {site for _, site, _ in parts} == {writer(number) for number in range(writers)[-PRIORS_MAX:]}


@pytest.mark.parametrize(("groups_max", "bundles"), [(1, 3), (2, 2), (3, 1), (4, 1)])
def test_row_of_many_writers_is_sent_in_several_bundles(peer, monkeypatch, groups_max, bundles):
    monkeypatch.setattr(log_reader, "PART_GROUPS_MAX", groups_max)
    write(peer, 1, column="x")
    write(peer, 2, column="y")
    found, rows = read_rows(peer.replica.tables["t"], [1], bytes_max=1_000)
    assert (len(found), rows) == (bundles, 1)
    assert sum(len(groups) for groups in found) == 3
