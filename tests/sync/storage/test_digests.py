"""The digest of an entry is over its encoded values, however large they are."""

from __future__ import annotations

from mycomesh.sync import codec
from mycomesh.sync.storage.digests import COPIED_BYTES_MAX
from tests.sync.peers import Peer


def test_values_of_any_size_are_hashed_as_encoded(tmp_path):
    peer = Peer(tmp_path / "one.db", 0)
    peer.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)")
    peer.drain()
    digests, site_number = peer.replica.tables["t"].digests, 0
    for size in (0, COPIED_BYTES_MAX - 1, COPIED_BYTES_MAX, COPIED_BYTES_MAX + 1):
        values = ["text", b"v" * size, None, 1.5, [b"\xff"]]
        state = digests.prefix(site_number, 7)[0].new_state()
        state.update((9).to_bytes(8, "big") + codec.encode(3) + codec.encode(values))
        assert digests.entry(site_number, 9, 7, 3, values) == int.from_bytes(state.digest(), "big", signed=True)
    peer.close()
