"""A node that was away beyond the retention learns the deletes by an audit, and loses none of its own rows."""

from __future__ import annotations

import pytest

from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.errors import PolicyError
from mycomesh.sync.events import MessageReceived
from mycomesh.sync.exchange import tombstone_audit
from mycomesh.sync.exchange.catch_up_stream import CatchUpStream
from mycomesh.sync.wire import messages as wire
from tests.sync.fleets import DAY, HOUR, MINUTE, filled
from tests.sync.peers import WALL_MS
from tests.sync.scale import sweep


def notes(fleet, number):
    return fleet.nodes[number].peer.replica.registry.notes.by_name()


def lie(node, monkeypatch, *, keeps=()):
    """A member that claims to have collected tombstones of t, and to hold none of its entries but those of some rowids."""
    site, hlc = b"made up by a liar"[:16], (WALL_MS - 5_000) << 16
    read, told = CatchUpStream._read, node.exchange._digests_for

    def stream(self, chunk):
        read(self, chunk)
        if self._replica is node.peer.replica and "t" in chunk.vectors:
            chunk.vectors["t"] = chunk.vectors["t"].copy()
            chunk.vectors["t"].add(site, 0, hlc)
            chunk.collected["t"] = Vector({site: [(0, hlc)]})

    def serve(replica, link, request, turn):
        held = []
        if request.table == "t":
            log = node.peer.replica.tables["t"].log
            rows = {hlc: row for _, hlc, row, _ in log.scan(0, 0, 10_000)}
            held = sorted(hlc for hlc, row in rows.items() if row in keeps and request.after < hlc <= request.upto)
        runs = tuple(tombstone_audit._runs(request.after, held))
        turn.send(link, wire.AuditReply(request.table, request.site, request.after, request.upto, runs))

    honest = tombstone_audit.serve
    monkeypatch.setattr(CatchUpStream, "_read", stream)
    monkeypatch.setattr(
        tombstone_audit,
        "serve",
        lambda replica, *rest: (serve if replica is node.peer.replica else honest)(replica, *rest),
    )

    def digests(*link, **how):
        found = told(*link, **how)
        return found | {"t": (hlc.to_bytes(8, "big"), found["t"][1])} if "t" in found else found

    monkeypatch.setattr(node.exchange, "_digests_for", digests)


def test_one_member_that_lies_removes_no_rows(fleet_of, monkeypatch):
    fleet = fleet_of(3)
    filled(fleet)
    liar = fleet.nodes[2]
    lie(liar, monkeypatch)
    fleet.run(6 * HOUR)
    for number in (0, 1):
        assert fleet.sql(number, "SELECT count(*) FROM t") == [(20,)]
        assert fleet.sql(number, "SELECT 1 FROM sqlite_schema WHERE name = 'mycomesh_collected'") == []
        (doubted,) = {notice.text for notice in fleet.nodes[number].notices if notice.event == "round.doubted"}
        assert doubted.startswith(f"member {liar.peer.node_id.hex()[:8]} reports 20 change(s) of t as deleted")
        assert "'mycomesh accept-drop t'" in notes(fleet, number)["t"]
        assert not fleet.nodes[number].dropped
    fleet.write(0, "INSERT INTO t VALUES(1000, 'v', 'w')")
    fleet.run(HOUR)
    assert fleet.sql(1, "SELECT count(*) FROM t") == [(21,)]


def test_rows_dropped_on_one_word_are_recorded_and_bounded(fleet_of, monkeypatch):
    fleet = fleet_of(3)
    filled(fleet, rows=5)
    fleet.write(0, "WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n LIMIT 295)"
                   " INSERT INTO t SELECT i, 'v', 'w' FROM n")  # fmt: skip
    fleet.run(HOUR)
    fleet.isolate(2)  # two members had the rows, so they may have been deleted
    lie(fleet.nodes[1], monkeypatch, keeps=[row for (row,) in fleet.sql(0, "SELECT id FROM t")][3:])
    fleet.run(HOUR)
    assert fleet.sql(0, "SELECT count(*) FROM t") == [(297,)]  # three of 300
    assert fleet.sql(0, "SELECT row_key FROM mycomesh_conflicts ORDER BY row_key") == [("0",), ("1",), ("2",)]
    (removed,) = [notice for notice in fleet.nodes[0].notices if notice.event == "round.audited"]
    assert removed.detail == {"rows": 3, "node_id": fleet.nodes[1].peer.node_id.hex()}
    monkeypatch.undo()


@pytest.mark.slow
def test_a_late_node_learns_deletes_and_keeps_its_rows(fleet_of):
    fleet = fleet_of(3)
    filled(fleet)
    fleet.write(0, "INSERT INTO bag SELECT 'bag ' || id, 'w' FROM t; INSERT INTO words SELECT 'k' || id, v, w FROM t")
    fleet.run(MINUTE)
    fleet.isolate(2)
    fleet.run(MINUTE)
    for table in ("t", "bag", "words"):
        fleet.write(0, f"DELETE FROM {table} WHERE rowid % 2 = 0")
    fleet.write(2, "INSERT INTO t VALUES(1000, 'its own', 'w'); INSERT INTO bag VALUES('its own', 'w')")
    fleet.write(2, "INSERT INTO words VALUES('its own', 'v', 'w'); UPDATE t SET v = 'late' WHERE id IN (2, 3)")
    fleet.run(40 * DAY, step=DAY)
    assert [fleet.tombstones(0, table) for table in ("t", "bag", "words")] == [0, 0, 0]
    kept = [fleet.sql(0, f"SELECT count(*) FROM {table}")[0][0] for table in ("t", "bag", "words")]
    fleet.link(0, 2)
    fleet.run(MINUTE)
    fleet.link(1, 2)
    fleet.run(DAY)
    fleet.assert_equal()
    for number in range(3):
        assert [fleet.sql(number, f"SELECT count(*) FROM {table}")[0][0] for table in ("t", "bag", "words")] == [
            rows + 1 for rows in kept
        ]
        assert fleet.sql(number, "SELECT v FROM t WHERE id IN (2, 3, 1000) ORDER BY id") == [("late",), ("its own",)]
    recorded = (
        "SELECT row_key, lost FROM mycomesh_conflicts WHERE reason {} LIKE 'deleted elsewhere, as member%reports'"
    )
    ((key, lost),) = fleet.sql(2, recorded.format("NOT"))
    assert key == "2"
    assert "late" in lost
    assert len(fleet.sql(2, recorded.format(""))) == 30  # ten rows of each table
    # The first member alone was not believed, and the second confirmed it.
    told = [notice for notice in fleet.nodes[2].notices if notice.event in ("round.doubted", "round.audited")]
    assert [notice.event for notice in told] == ["round.doubted"] * 3 + ["round.audited"]
    assert [notice.detail["node_id"] for notice in told] == [
        fleet.nodes[number].peer.node_id.hex() for number in (0, 0, 0, 1)
    ]
    assert notes(fleet, 2) == {}


@pytest.mark.slow
def test_what_others_got_from_late_node_is_audited_too(fleet_of):
    """The late node hands its dead rows to a newcomer, before either has met who deleted them."""
    fleet = fleet_of(4)
    fleet.isolate(3)
    for one, two in ((0, 1), (1, 2), (0, 2)):
        fleet.link(one, two)
    fleet.run(MINUTE)
    fleet.write(0, "INSERT INTO t VALUES(1, 'dead', 'w'), (2, 'alive', 'w')")
    fleet.run(MINUTE)
    fleet.isolate(2)
    fleet.write(0, "DELETE FROM t WHERE id = 1")
    fleet.run(35 * DAY, step=DAY)
    assert fleet.tombstones(0) == 0
    fleet.link(2, 3)
    fleet.run(MINUTE)
    assert fleet.sql(3, "SELECT id FROM t") == [(1,), (2,)]
    fleet.link(0, 2)
    fleet.run(MINUTE)
    fleet.run(DAY)
    fleet.accept_drops(2 * HOUR)
    fleet.run(DAY)
    fleet.assert_equal()
    assert all(fleet.sql(number, "SELECT id FROM t") == [(2,)] for number in range(4))


def test_rows_that_a_person_keeps_come_back_everywhere(fleet_of):
    fleet = fleet_of(2)
    filled(fleet)
    fleet.write(0, "INSERT INTO bag SELECT 'bag ' || id, 'w' FROM t; INSERT INTO words SELECT 'k' || id, v, w FROM t")
    fleet.run(MINUTE)
    fleet.isolate(1)
    for table in ("t", "bag", "words"):
        fleet.write(0, f"DELETE FROM {table} WHERE rowid % 2 = 0" if table != "words" else "DELETE FROM words")
    fleet.write(1, "UPDATE t SET v = 'late' WHERE id = 2")
    fleet.run(40 * DAY, step=DAY)
    before = [fleet.sql(1, f"SELECT * FROM {table} ORDER BY 1, 2") for table in ("t", "bag", "words")]
    fleet.link(0, 1)
    fleet.run(2 * HOUR)
    guard = fleet.nodes[1].peer.replica.drop_guard
    assert sorted(guard.waiting()) == ["bag", "t", "words"]
    for table in guard.waiting():
        guard.accept(table)
        guard.refuse(table)  # the later decision counts
    fleet.run(DAY)
    fleet.assert_equal()
    for number in (0, 1):
        found = [fleet.sql(number, f"SELECT * FROM {table} ORDER BY 1, 2") for table in ("t", "bag", "words")]
        assert found == before, number
    assert {notice.event for notice in fleet.nodes[1].notices} >= {"round.doubted", "round.kept"}
    assert guard.waiting() == []
    assert notes(fleet, 1) == {}
    with pytest.raises(PolicyError, match="no member reports"):
        guard.refuse("t")


@pytest.mark.slow
def test_link_that_dies_in_audit_costs_nothing_but_time(fleet_of):
    fleet = fleet_of(2)
    filled(fleet, rows=5)
    fleet.write(0, "WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n LIMIT 3000)"
                   " INSERT INTO t SELECT i, 'v', 'w' FROM n")  # fmt: skip
    fleet.run(MINUTE)
    fleet.isolate(1)
    fleet.write(0, "DELETE FROM t WHERE id % 3 = 0")
    fleet.run(35 * DAY, step=DAY)
    for delay in sweep(range(1, 60), 20):
        fleet.link(0, 1)
        fleet.world.run(delay)
        fleet.cut(0, 1)
    fleet.link(0, 1)
    fleet.run(DAY)
    fleet.accept_drops(2 * HOUR)
    fleet.assert_equal()
    assert fleet.sql(1, "SELECT count(*) FROM t WHERE id % 3 = 0") == [(0,)]
    assert fleet.sql(1, "SELECT count(*) FROM t") == [(2003,)]


@pytest.mark.slow
def test_an_audit_costs_some_bytes_a_row(fleet_of):
    fleet = fleet_of(2)
    filled(fleet, rows=5)
    fleet.write(0, "WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n LIMIT 10000)"
                   " INSERT INTO t SELECT i, 'v', 'w' FROM n")  # fmt: skip
    fleet.run(MINUTE)
    fleet.isolate(1)
    fleet.write(0, "DELETE FROM t WHERE id % 1000 = 0")
    fleet.run(35 * DAY, step=DAY)
    start = fleet.world.now
    fleet.link(0, 1)
    fleet.run(MINUTE)
    fleet.assert_equal()
    sent = [payload for node in fleet.nodes for at, _, payload in node.sent if at >= start]
    audits = [payload for payload in sent if isinstance(wire.decode(payload), (wire.AuditRequest, wire.AuditReply))]
    assert audits
    assert sum(map(len, audits)) < 1_000  # a bulk load is one run between two holes


def test_unrequested_or_lying_audit_replies_do_no_harm(fleet_of):
    fleet = fleet_of(2)
    filled(fleet)
    site = fleet.nodes[0].peer.replica.site
    link = next(iter(fleet.world.links))
    node = fleet.world.links[link][0]
    for reached in (6, 1 << 62):
        payload = wire.encode(wire.AuditReply("t", site, 5, reached, (1, 1)))
        fleet.world.do(node, MessageReceived(link, payload))
    fleet.run(MINUTE)
    fleet.assert_equal()
    assert fleet.sql(1, "SELECT count(*) FROM t") == [(20,)]
    for after in (0, 1 << 62):
        fleet.world.do(
            node, MessageReceived(link, wire.encode(wire.AuditRequest("none", b"?" * 16, after, (1 << 63) - 1)))
        )
    fleet.run(MINUTE)
    assert not node.dropped
