"""Rows that go with time in a table that is cut into areas, on real files and exchanges (ADR 80)."""

from __future__ import annotations

import pytest

from mycomesh.sync.crdt.hlc import hlc_from_ms
from mycomesh.sync.events import CommitSeen
from mycomesh.sync.exchange.area_audit import TRIES_MAX, AreaAudit
from mycomesh.sync.merge import cut as cutting
from mycomesh.sync.merge import section_merge
from mycomesh.sync.replica import ReplicaConfig
from mycomesh.sync.wire import messages as wire
from tests.stories.test_areas import Fleet, interest
from tests.sync.peers import Peer
from tests.sync.retained import DAY_MS, HOUR_MS, WALL_MS, confirm, horizon, pin, retain

TABLE = "CREATE TABLE t(area INTEGER, uid TEXT, n INTEGER)"  # n is the time of a row, in seconds
OLD, YOUNG = (WALL_MS - 9 * DAY_MS) // 1_000, (WALL_MS - DAY_MS) // 1_000


@pytest.fixture
def fleet_of(tmp_path):
    fleets = []

    def begin(keeps, by="n"):
        fleet = Fleet.begin(tmp_path, keeps, TABLE)
        fleets.append(fleet)
        later(fleet, 0)
        retain(fleet, fleet.nodes[0], "t", 7 * DAY_MS, by)
        fleet.run(5_000)
        return fleet

    yield begin
    for fleet in fleets:
        fleet.close()


def later(fleet, ms, nodes=None):
    for node in fleet.nodes if nodes is None else nodes:
        node.peer.wall_ms += ms
        confirm(fleet, node)
    fleet.run(5_000)


def uids(fleet, number):
    return [uid for _, uid, _ in fleet.rows(number)]


def sent(node, kind):
    return [message for _, _, payload in node.sent if isinstance(message := wire.decode(payload), kind)]


def test_rows_of_each_area_go_everywhere_at_once(fleet_of):
    fleet = fleet_of([None, ("1",), None])
    values = f"(1, 'old', {OLD}), (1, 'young', {YOUNG}), (2, 'old too', {OLD}), (2, 'young too', {YOUNG}), (NULL, 'none', {OLD})"
    fleet.write(fleet.nodes[0], f"INSERT INTO t VALUES {values}")
    fleet.run(20_000)
    assert uids(fleet, 0) == uids(fleet, 2) == ["young", "young too"]
    assert uids(fleet, 1) == ["young"]
    later(fleet, 7 * DAY_MS)
    fleet.run(20_000)
    assert uids(fleet, 0) == uids(fleet, 1) == uids(fleet, 2) == []
    fleet.check_shared()
    fleet.check_sums()
    fleet.check_unrepaired()


def test_without_a_column_a_move_is_a_new_insert(fleet_of):
    fleet = fleet_of([None, None], by="")
    fleet.write(fleet.nodes[0], "INSERT INTO t VALUES(1, 'stays', 0), (1, 'moves', 0)")
    later(fleet, 5 * DAY_MS)
    # The triggers note the machine's time, which is before that of this world.
    fleet.nodes[0].peer.replica.store.clock.witness(hlc_from_ms(WALL_MS + 5 * DAY_MS))
    fleet.write(fleet.nodes[0], "UPDATE t SET area = 2 WHERE uid = 'moves'")
    later(fleet, 3 * DAY_MS)
    fleet.run(20_000)
    assert uids(fleet, 0) == uids(fleet, 1) == ["moves"]
    fleet.check_shared()


def test_who_comes_back_late_brings_no_row_again(fleet_of):
    fleet = fleet_of([None, ("1",), ("1", "2")])
    for link in list(fleet.links):
        fleet.cut(link)
    away = fleet.nodes[1]
    fleet.write(away, f"INSERT INTO t VALUES(1, 'kept here', {YOUNG}), (2, 'not kept here', {YOUNG})")
    later(fleet, 8 * DAY_MS, [fleet.nodes[0], fleet.nodes[2]])
    fleet.link_all()
    later(fleet, 8 * DAY_MS, [away])
    fleet.run(60_000)
    assert [uids(fleet, number) for number in range(3)] == [[], [], []]
    fleet.check_shared()


def _younger_while_away(fleet):
    """A node without the area makes its row younger while keepers, which have not heard of it, remove the row."""
    away = fleet.nodes[2]
    fleet.write(away, f"INSERT INTO t VALUES(1, 'renewed', {YOUNG})")
    fleet.run(6_000)  # the others have it, and nothing was released yet
    assert uids(fleet, 0) == uids(fleet, 1) == uids(fleet, 2) == ["renewed"]
    for link in list(fleet.links):
        fleet.cut(link)
    fleet.write(away, f"UPDATE t SET n = {YOUNG + 8 * 86_400}")
    later(fleet, 7 * DAY_MS)
    assert uids(fleet, 0) == uids(fleet, 1) == []
    fleet.link_all()
    fleet.run(60_000)


def test_a_row_in_parts_is_sent_before_its_release(fleet_of):
    fleet = fleet_of([None, ("1",), ("2",)])
    _younger_while_away(fleet)
    assert uids(fleet, 0) == uids(fleet, 1) == ["renewed"]
    assert uids(fleet, 2) == []
    fleet.check_shared()


def test_without_the_audit_such_a_row_is_lost(fleet_of, monkeypatch):
    monkeypatch.setattr(AreaAudit, "needs", lambda *_: False)
    fleet = fleet_of([None, ("1",), ("2",)])
    _younger_while_away(fleet)
    assert uids(fleet, 0) == uids(fleet, 1) == uids(fleet, 2) == []


def test_refused_rows_are_sent_a_few_times(fleet_of, monkeypatch):
    fleet = fleet_of([None, ("1",), ("2",)])
    original = cutting.admitted
    refused = []

    def refuse(table, group):
        if refused and table.areas is not None and "uid" in group.columns:
            return None
        return original(table, group)

    monkeypatch.setattr(section_merge, "admitted", refuse)
    away = fleet.nodes[2]
    fleet.write(away, f"INSERT INTO t VALUES(1, 'renewed', {YOUNG})")
    fleet.run(6_000)
    for link in list(fleet.links):
        fleet.cut(link)
    fleet.write(away, f"UPDATE t SET n = {YOUNG + 8 * 86_400}")
    later(fleet, 7 * DAY_MS)
    refused.append(True)
    fleet.link_all()
    fleet.run(120_000)
    assert uids(fleet, 2) == []  # not for ever
    assert 1 <= len(sent(away, wire.RepairRows)) <= 4 * TRIES_MAX  # two members, two windows


def test_a_pinned_member_is_no_holder(fleet_of):
    fleet = fleet_of([None, ("1",), ("2",)])
    pin(fleet, fleet.nodes[1], "t", HOUR_MS)
    fleet.write(fleet.nodes[2], f"INSERT INTO t VALUES(1, 'mine', {YOUNG})")
    fleet.run(60_000)
    assert uids(fleet, 0) == uids(fleet, 2) == ["mine"]  # one other member has it for good
    pin(fleet, fleet.nodes[1], "t", 0)
    fleet.run(60_000)
    assert uids(fleet, 0) == uids(fleet, 1) == ["mine"]
    assert uids(fleet, 2) == []
    fleet.check_shared()


def test_no_witness_of_a_pin_without_the_area(fleet_of):
    fleet = fleet_of([("1",), ("2",), ("2",)])
    pin(fleet, fleet.nodes[0], "t", HOUR_MS)
    fleet.write(fleet.nodes[1], f"INSERT INTO t VALUES(1, 'only kept there', {YOUNG})")
    fleet.run(60_000)
    assert uids(fleet, 0) == ["only kept there"]
    assert uids(fleet, 1) == ["only kept there"]  # a pinned member does not confirm that it has the row


def test_a_pin_ends_area_by_area(fleet_of):
    fleet = fleet_of([None, None, None])
    fleet.write(fleet.nodes[0], f"INSERT INTO t VALUES(1, 'a', {YOUNG}), (2, 'b', {YOUNG}), (NULL, 'c', {YOUNG})")
    fleet.run(5_000)
    pinned = fleet.nodes[1]
    pin(fleet, pinned, "t", HOUR_MS)
    fleet.run(60_000)
    assert uids(fleet, 1) == []
    assert uids(fleet, 0) == uids(fleet, 2) == ["c", "a", "b"]
    pin(fleet, pinned, "t", 0)
    fleet.run(60_000)
    assert uids(fleet, 1) == ["c", "a", "b"]
    assert not horizon(pinned).pin.dropped
    fleet.check_shared()


def test_many_areas_stay_one_comparison_over_horizons(fleet_of):
    fleet = fleet_of([None, None])
    rows = ", ".join(f"({number}, 'x', {YOUNG + number})" for number in range(200))
    fleet.write(fleet.nodes[0], f"INSERT INTO t VALUES {rows}")
    fleet.run(30_000)
    assert fleet.equal()
    for node in fleet.nodes:
        node.sent.clear()
    for _ in range(3):
        later(fleet, DAY_MS)
        fleet.run(60_000)
    assert fleet.equal()
    assert sum(len(payload) for node in fleet.nodes for _, _, payload in node.sent) < 40_000
    assert fleet.unit(0, "7").vector_digest == fleet.unit(1, "7").vector_digest != fleet.unit(0, "7").vector.digest()
    fleet.check_unrepaired()


def test_a_restart_brings_back_horizon_and_areas(fleet_of):
    fleet = fleet_of([None, ("1",)])
    fleet.write(fleet.nodes[1], f"INSERT INTO t VALUES(1, 'a', {YOUNG}), (2, 'b', {YOUNG})")
    fleet.run(30_000)
    before = [fleet.unit(0, area).vector_digest for area in ("1", "2")]
    for link in list(fleet.links):
        fleet.cut(link)
    fleet.nodes[0].reopen()
    assert [fleet.unit(0, area).vector_digest for area in ("1", "2")] == before
    fleet.link_all()
    later(fleet, 7 * DAY_MS)
    fleet.run(30_000)
    assert uids(fleet, 0) == uids(fleet, 1) == []
    fleet.check_shared()


def test_a_table_with_a_rule_is_cut_too(tmp_path):
    peers = [
        Peer(tmp_path / f"{number}.db", number, config=ReplicaConfig(interest=interest(None))) for number in range(2)
    ]
    fleet = Fleet(peers)
    fleet.keeps = [None, None]
    fleet.write(fleet.nodes[0], TABLE)
    fleet.link_all()
    later(fleet, 0)
    retain(fleet, fleet.nodes[0], "t", 7 * DAY_MS, "n")
    fleet.write(fleet.nodes[0], f"INSERT INTO t VALUES(1, 'before', {YOUNG})")
    fleet.run(3_000)
    peers[0].replica.decisions.decide_area("t", "area")
    fleet.do(fleet.nodes[0], CommitSeen())
    fleet.run(3_000)
    fleet.write(fleet.nodes[1], f"INSERT INTO t VALUES(1, 'after', {YOUNG}), (1, 'old', {OLD})")
    fleet.run(20_000)
    assert uids(fleet, 0) == uids(fleet, 1) == ["after", "before"]
    later(fleet, 7 * DAY_MS)
    fleet.run(20_000)
    assert uids(fleet, 0) == uids(fleet, 1) == []
    fleet.check_shared()
    fleet.close()
