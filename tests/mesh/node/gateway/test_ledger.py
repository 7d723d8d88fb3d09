"""The ledger: it comes back from the file as it was stored, and an edited one begins at the start."""

from mycomesh.mesh.node.gateway.ledger import Ledger
from mycomesh.sync.crdt.version_vector import Vector
from tests.sync.peers import Peer

SITE, OTHER = b"s" * 16, b"o" * 16
STREAM = b"stream 1"


def loaded(peer, url="dir:/share"):
    ledger = Ledger(url)
    ledger.load(peer.replica)
    return ledger


def peer_of(tmp_path):
    peer = Peer(tmp_path / "one.db", 1)
    peer.sql("CREATE TABLE t(id INTEGER PRIMARY KEY)")
    peer.drain()
    return peer


def test_a_ledger_comes_back_from_the_file(tmp_path):
    peer = peer_of(tmp_path)
    ledger = loaded(peer)
    assert (ledger.own, ledger.passed, ledger.stated, ledger.is_changed) == (0, {}, {}, False)
    ledger.on_stated("t", Vector({SITE: [(0, 9)]}))
    ledger.on_own(7)
    ledger.on_passed(STREAM, 5)
    assert ledger.is_changed
    ledger.store(peer.replica)
    assert not ledger.is_changed
    again = loaded(peer)
    assert (again.own, again.passed) == (7, {STREAM: 5})
    assert again.stated == {"t": Vector({SITE: [(0, 9)]})}
    assert again.inside("t") == Vector({SITE: [(0, 9)]})
    assert loaded(peer, "dir:/another").own == 0
    peer.close()


def test_a_reading_is_inside_and_not_stated():
    ledger = Ledger("dir:/share")
    ledger.on_stated("t", Vector({SITE: [(0, 9)]}))
    assert ledger.holds("t", Vector({SITE: [(0, 9)]}).digest())
    ledger.on_read("t", Vector({OTHER: [(3, 4)]}))
    assert ledger.inside("t") == Vector({SITE: [(0, 9)], OTHER: [(3, 4)]})
    assert ledger.stated["t"] == Vector({SITE: [(0, 9)]})
    assert not ledger.holds("t", Vector({SITE: [(0, 9)]}).digest())
    ledger.forget()
    assert (ledger.stated, ledger.inside("t")) == ({}, Vector())


def test_an_edited_ledger_begins_at_the_start(tmp_path):
    peer = peer_of(tmp_path)
    ledger = loaded(peer)
    ledger.on_stated("t", Vector({SITE: [(0, 9)]}))
    ledger.on_own(7)
    ledger.store(peer.replica)
    for value in (b"", b"\xff", b"\x81\x40", b"\x82\x00\x01", "text"):
        with peer.replica.store.transaction():
            for name in (ledger._key, f"{ledger._key} t"):
                peer.replica.store.meta_set(name, value)
        again = loaded(peer)
        assert (again.own, again.passed, again.stated) == (0, {}, {}), value
    peer.close()
