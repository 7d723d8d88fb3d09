"""The state as SQL: what the three tables say, that they are written only for news, and that nobody replicates them."""

from __future__ import annotations

from dataclasses import replace

import apsw
import pytest

from mycomesh.sync.admin.state_tables import FIGURES_MS, AreaState, NodeState, PeerState, ReaderState
from mycomesh.sync.errors import DatabaseBusyError
from mycomesh.sync.exchange.intake import FileTrouble
from tests.sync.exchanges import BusyFile
from tests.sync.peers import WALL_MS, Peer, converge


@pytest.fixture
def peer(tmp_path):
    peer = Peer(tmp_path / "a.db", 0)
    peer.sql("CREATE TABLE drones(id INTEGER PRIMARY KEY, v); INSERT INTO drones VALUES(1, 1), (2, 2)")
    peer.drain()
    yield peer
    peer.close()


def other(**changed):
    values = {
        "node_id": "bb", "name": "humvee", "roles": "member", "state": "linked", "equal": True, "address": "10.0.0.1:7447",
        "rtt_ms": 1.5, "offset_ms": 0.0, "sent_bytes": 10, "received_bytes": 20, "seen_at": "2027-01-15T08:00:00.000+00:00",
    }  # fmt: skip
    return PeerState(**{**values, **changed})


def node(*peers, phase="serving", equal_on=None):
    return NodeState(phase, "fleet", "m", "ground", "aa", 7, 7447, None, peers, len(peers), equal_on or {})


def rows(peer, sql):
    """As any program reads them; not by the stock module, because two SQLite libraries must not share a file in a process."""
    db = apsw.Connection(str(peer.path))
    try:
        return db.execute(sql).fetchall()
    finally:
        db.close()


def test_any_client_reads_status_peers_and_tables(peer):
    assert peer.replica.state.refresh(node(other(), equal_on={"drones": 1}), WALL_MS)
    told = rows(peer, "SELECT phase, mesh, node, pid, port, pending, linked, members, as_of FROM mycomesh_status")
    assert told == [("serving", "fleet", "ground", 7, 7447, 0, 1, 2, "2027-01-15T08:00:00.000+00:00")]
    assert rows(peer, "SELECT name, state, equal, received_bytes FROM mycomesh_peers") == [("humvee", "linked", 1, 20)]
    (table,) = rows(peer, "SELECT name, rows, hash, conflicts, parked, equal_on, linked FROM mycomesh_tables")
    status = peer.replica.status().tables[0]
    assert table == ("drones", 2, status.digest, 0, 0, 1, 1)


def test_full_disk_is_row_as_long_as_it_lasts(peer):
    trouble = FileTrouble("disk.low", "the disk is full except for 0.1 MB", WALL_MS)
    peer.replica.state.refresh(replace(node(), trouble=trouble), WALL_MS)
    found = rows(peer, "SELECT code, text, since FROM mycomesh_trouble")
    assert found == [("disk.low", trouble.text, "2027-01-15T08:00:00.000+00:00")]
    peer.replica.state.refresh(node(), WALL_MS)
    assert rows(peer, "SELECT * FROM mycomesh_trouble") == []


READER = ReaderState(
    "reports", "drones", 3, "2027-01-15T07:59:58.000+00:00", "2027-01-15T07:00:00.000+00:00", idle=False
)
LAG = "SELECT cursor, table_name, behind, round((julianday(?) - julianday(oldest_at)) * 86400, 3) FROM mycomesh_readers"


def test_lag_of_readers_is_rows_that_any_client_reads(peer):
    peer.replica.state.refresh(node(), WALL_MS)
    assert rows(peer, "SELECT 1 FROM sqlite_schema WHERE name = 'mycomesh_readers'") == [], (
        "without a reader it costs nothing"
    )
    peer.replica.state.refresh(replace(node(), readers=(READER, replace(READER, table="other"))), WALL_MS)
    db = apsw.Connection(str(peer.path))
    assert db.execute(LAG, ("2027-01-15T08:00:00.500",)).fetchall()[0] == ("reports", "drones", 3, 2.5)
    db.close()
    assert not peer.replica.state.refresh(replace(node(), readers=(READER, replace(READER, table="other"))), WALL_MS)
    assert peer.replica.state.refresh(replace(node(), readers=(READER,)), WALL_MS)
    assert rows(peer, "SELECT table_name FROM mycomesh_readers") == [("drones",)]
    peer.close()
    peer.open()
    assert peer.replica.state.refresh(node(), WALL_MS)
    assert rows(peer, "SELECT * FROM mycomesh_readers") == [], "the reader was removed while no node ran"


def test_an_earlier_versions_file_gets_the_table_undamaged(peer):
    peer.close()
    db = apsw.Connection(str(peer.path))
    db.execute("DROP TABLE mycomesh_trouble")
    db.close()
    peer.open()
    assert peer.replica.recreated == ()
    assert peer.replica.state.refresh(node(), WALL_MS)
    assert rows(peer, "SELECT * FROM mycomesh_trouble") == []


def test_the_last_scrub_is_told_and_outlives_the_run(peer):
    peer.replica.state.refresh(node(), WALL_MS)
    told = "SELECT scrub_found, scrubbed_at FROM mycomesh_status"
    assert peer.sql(told) == [(None, None)]
    peer.scrub()
    peer.replica.scrub.save()
    assert peer.replica.state.refresh(node(), WALL_MS)
    assert peer.sql(told) == [(0, "2027-01-15T08:00:00.000+00:00")]
    peer.close()
    peer.open()
    assert peer.replica.status().scrubbed.found == 0
    peer.app.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    peer.sql("UPDATE drones SET v = 7 WHERE id = 2")
    peer.scrub()
    assert peer.replica.state.refresh(node(), WALL_MS)
    assert peer.sql(told)[0][0] == 1
    scrubbed = peer.replica.status().scrubbed
    assert (scrubbed.found, scrubbed.tables) == (1, ("drones",))


def test_nothing_is_written_where_nothing_has_changed(peer):
    state = peer.replica.state
    assert state.refresh(node(other()), WALL_MS)
    before = peer.replica.store.db.total_changes()
    assert not state.refresh(node(other()), WALL_MS + 10 * FIGURES_MS)
    assert not state.refresh(node(other(rtt_ms=9.0, received_bytes=99)), WALL_MS + 10 * FIGURES_MS)
    assert peer.replica.store.db.total_changes() == before


def test_only_rows_with_news_are_written_and_say_when(peer):
    state = peer.replica.state
    state.refresh(node(other(), other(node_id="cc", name="drone")), WALL_MS)
    later = WALL_MS + FIGURES_MS // 2
    assert state.refresh(node(other(state="down"), other(node_id="cc", name="drone", rtt_ms=9.0)), later)
    found = {name: (told, rtt, as_of[14:23]) for name, told, rtt, as_of in rows(
        peer, "SELECT name, state, rtt_ms, as_of FROM mycomesh_peers"
    )}  # fmt: skip
    assert found == {"humvee": ("down", 1.5, "00:30.000"), "drone": ("linked", 1.5, "00:00.000")}
    assert state.refresh(node(other(node_id="cc", name="drone", rtt_ms=9.0)), WALL_MS + FIGURES_MS)
    assert rows(peer, "SELECT name, rtt_ms FROM mycomesh_peers") == [("drone", 9.0)]


def test_a_write_is_news_for_its_table(peer):
    state = peer.replica.state
    state.refresh(node(), WALL_MS)
    peer.sql("INSERT INTO drones VALUES(3, 3)")
    peer.drain()
    assert state.refresh(node(), WALL_MS + 1_000)
    assert rows(peer, "SELECT rows, substr(as_of, 18, 6) FROM mycomesh_tables") == [(3, "01.000")]


def test_a_restarted_node_says_nothing_of_the_run_before(peer):
    peer.replica.state.refresh(node(other()), WALL_MS)
    peer.close()
    peer.open()
    assert peer.replica.state.refresh(node(phase="serving"), WALL_MS + 1)
    assert rows(peer, "SELECT count(*) FROM mycomesh_peers") == [(0,)]
    assert rows(peer, "SELECT count(*) FROM mycomesh_status") == [(1,)]


def test_the_state_belongs_to_this_file_and_is_removed(peer, tmp_path):
    second = Peer(tmp_path / "b.db", 1)
    peer.replica.state.refresh(node(other()), WALL_MS)
    converge([peer, second])
    assert second.tables() == peer.tables()
    assert rows(second, "SELECT count(*) FROM mycomesh_peers") == [(0,)]
    assert not peer.replica.outbox.has_unstamped()
    second.close()
    peer.replica.remove()
    peer.replica = None
    assert rows(peer, "SELECT name FROM sqlite_schema WHERE name LIKE 'mycomesh%'") == []


def test_a_busy_file_is_left_alone_and_written_later(peer):
    class Served:
        pass

    served = Served()
    served.peer, served.sql = peer, peer.sql
    peer.replica.state.refresh(node(), WALL_MS)
    busy = BusyFile(served)
    with pytest.raises(DatabaseBusyError):
        peer.replica.state.refresh(node(other()), WALL_MS)
    busy.release()
    assert peer.replica.state.refresh(node(other()), WALL_MS)
    assert rows(peer, "SELECT name FROM mycomesh_peers") == [("humvee",)]


def test_any_client_reads_who_wrote_an_area(peer):
    area = AreaState("drones", "7", True, 1, 0, 2, 5, "00", (("aa", 3), ("bb", 2)))
    listing = "SELECT table_name, area, node_id, changes FROM mycomesh_area_writers ORDER BY node_id"
    peer.replica.state.refresh(node(), WALL_MS)
    assert rows(peer, "SELECT name FROM sqlite_schema WHERE name LIKE 'mycomesh_area_%'") == []
    peer.replica.state.refresh(replace(node(), areas=(area,)), WALL_MS)
    assert rows(peer, listing) == [("drones", "7", "aa", 3), ("drones", "7", "bb", 2)]
    peer.replica.state.refresh(
        replace(node(), areas=(replace(area, equal_on=0, writers=(("bb", 4),)),)), WALL_MS + FIGURES_MS
    )
    assert rows(peer, listing) == [("drones", "7", "bb", 4)]
    assert peer.drain() == []
