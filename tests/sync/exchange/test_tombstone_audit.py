"""A node that was away beyond the retention learns the deletes by an audit, and loses none of its own rows."""

from __future__ import annotations

import pytest

from mycomesh.sync.events import MessageReceived
from mycomesh.sync.wire import messages as wire
from tests.sync.fleets import DAY, MINUTE, filled


@pytest.mark.slow
def test_a_late_node_learns_the_deletes_and_loses_none_of_its_own_rows(fleet_of):
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
    recorded = fleet.sql(2, "SELECT row_key, lost FROM mycomesh_conflicts")
    assert [key for key, _ in recorded] == ["2"]
    assert "late" in recorded[0][1]
    assert "round.audited" in fleet.nodes[2].noticed()


@pytest.mark.slow
def test_what_others_got_from_a_late_node_is_audited_too(fleet_of):
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
    fleet.assert_equal()
    assert all(fleet.sql(number, "SELECT id FROM t") == [(2,)] for number in range(4))


@pytest.mark.slow
def test_a_link_that_dies_in_an_audit_costs_nothing_but_time(fleet_of):
    fleet = fleet_of(2)
    filled(fleet, rows=5)
    fleet.write(0, "WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n LIMIT 3000)"
                   " INSERT INTO t SELECT i, 'v', 'w' FROM n")  # fmt: skip
    fleet.run(MINUTE)
    fleet.isolate(1)
    fleet.write(0, "DELETE FROM t WHERE id % 3 = 0")
    fleet.run(35 * DAY, step=DAY)
    for delay in range(1, 60):
        fleet.link(0, 1)
        fleet.world.run(delay)
        fleet.cut(0, 1)
    fleet.link(0, 1)
    fleet.run(DAY)
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


def test_answers_to_audits_that_nobody_asked_or_that_lie_do_no_harm(fleet_of):
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
