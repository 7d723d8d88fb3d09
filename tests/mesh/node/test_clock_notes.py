"""A file that was put back from a backup is known by what was noted outside it."""

from __future__ import annotations

import shutil

from mycomesh.mesh.node.clock_notes import SITES_MAX, ClockNotes
from mycomesh.sync.replica import Replica, ReplicaConfig
from tests.sync.peers import MESH_KEY, Peer


def test_notes_outlive_process_and_damaged_file_is_no_harm(tmp_path):
    path = tmp_path / "clocks"
    notes = ClockNotes(path)
    for number in range(SITES_MAX + 5):
        notes.record(bytes([number]) * 16, 1_000 + number)
    known = ClockNotes(path).clocks()
    assert len(known) == SITES_MAX
    assert known[bytes([SITES_MAX + 4]) * 16] == 1_000 + SITES_MAX + 4
    path.write_bytes(b'{"zz": 1')
    assert ClockNotes(path).clocks() == {}


def test_file_behind_its_noted_clock_gets_a_new_site(tmp_path):
    peer = Peer(tmp_path / "0.db", 0)
    peer.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 'kept')")
    peer.drain()
    peer.close()
    shutil.copy(tmp_path / "0.db", tmp_path / "backup.db")
    peer.open()
    peer.sql("INSERT INTO t VALUES(2, 'after')")
    peer.drain()
    site, clock = peer.replica.noted
    peer.close()

    def opened():
        return Replica.open(
            str(peer.path),
            node_id=peer.node_id,
            mesh_key=MESH_KEY,
            entropy=peer._entropy,
            config=ReplicaConfig(),
            recalled={site: clock},
        )

    again = opened()
    assert again.site == site
    again.close()
    shutil.copy(tmp_path / "backup.db", peer.path)
    again = opened()
    assert again.site != site
    assert again.site[:8] == site[:8]
    again.close()
