"""The ledger: it comes back from the file as it was stored, and an edited one begins at the start."""

from mycomesh.mesh.node.gateway.ledger import Ledger
from mycomesh.sync import codec
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


def seen(peer):
    """Return what the file covers of its table, cut in two: up to the first row, and beyond it."""
    peer.sql("INSERT INTO t VALUES(1)")
    peer.drain()
    first = peer.replica.vector("t")
    peer.sql("INSERT INTO t VALUES(2)")
    peer.drain()
    return first.copy(), peer.replica.vector("t").copy()


def test_what_others_have_brought_comes_back_too(tmp_path):
    peer = peer_of(tmp_path)
    first, both = seen(peer)
    ledger = loaded(peer)
    ledger.on_stated("t", first)
    ledger.on_read("t", both)
    ledger.on_own(7)
    ledger.on_news()
    ledger.store(peer.replica)
    again = loaded(peer)
    assert (again.inside("t"), again.stated["t"], again.news) == (both, first, True)
    again.on_read("t", first)
    assert not again.is_changed  # it is inside already
    again.on_stated("t", both)
    again.on_said()
    again.store(peer.replica)
    last = loaded(peer)
    assert (last.inside("t"), last.stated["t"], last.news) == (both, both, False)
    peer.close()


def test_an_older_version_makes_its_record_void(tmp_path):
    """It appends, and moves the position; it may also have begun with an empty mailbox."""
    peer = peer_of(tmp_path)
    first, both = seen(peer)
    ledger = loaded(peer)
    ledger.on_stated("t", first)
    ledger.on_read("t", both)
    ledger.on_own(7)
    ledger.store(peer.replica)
    with peer.replica.store.transaction():
        peer.replica.store.meta_set(ledger._key, codec.encode([8, [STREAM, 5]]))
    again = loaded(peer)
    assert (again.own, again.inside("t")) == (8, first)
    again.store(peer.replica)
    assert loaded(peer).inside("t") == first
    peer.close()


def test_a_file_that_covers_less_counts_less(tmp_path):
    peer = peer_of(tmp_path)
    first, _ = seen(peer)
    ledger = loaded(peer)
    ledger.on_stated("t", first)
    ledger.on_read("t", Vector({OTHER: [(3, 4)]}))
    ledger.store(peer.replica)
    assert loaded(peer).inside("t") == first
    peer.close()


def test_an_emptied_mailbox_leaves_no_record(tmp_path):
    peer = peer_of(tmp_path)
    first, both = seen(peer)
    ledger = loaded(peer)
    ledger.on_stated("t", first)
    ledger.on_read("t", both)
    ledger.on_own(7)
    ledger.store(peer.replica)
    ledger.forget()
    assert ledger.is_changed
    ledger.store(peer.replica)
    again = loaded(peer)
    assert (again.own, again.stated, again.inside("t")) == (7, {}, Vector())
    peer.close()


def test_an_edited_ledger_begins_at_the_start(tmp_path):
    peer = peer_of(tmp_path)
    ledger = loaded(peer)
    ledger.on_stated("t", Vector({SITE: [(0, 9)]}))
    ledger.on_own(7)
    ledger.store(peer.replica)
    for value in (b"", b"\xff", b"\x81\x40", b"\x82\x00\x01", "text"):
        with peer.replica.store.transaction():
            for key in (ledger._key, ledger._beyond):
                for name in (key, f"{key} t"):
                    peer.replica.store.meta_set(name, value)
        again = loaded(peer)
        assert (again.own, again.passed, again.stated, again.inside("t")) == (0, {}, {}, Vector()), value
    peer.close()
