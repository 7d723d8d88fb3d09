"""Tombstones are collected when nothing older can arrive, never before: nothing is resurrected and nothing is lost."""

from __future__ import annotations

import random
import re

import pytest

from mycomesh.sync.crdt.hlc import hlc_from_ms
from mycomesh.sync.events import MembersKnown
from mycomesh.sync.exchange.config import ExchangeConfig
from mycomesh.sync.merge import tombstones
from tests.sync.fleets import DAY, HOUR, MINUTE, SLOW, Fleet, filled
from tests.sync.peers import WALL_MS, shell
from tests.sync.scale import SCALE, sweep


def test_a_tombstone_goes_once_every_member_passed_it(fleet_of):
    fleet = fleet_of(3)
    filled(fleet)
    fleet.write(1, "DELETE FROM t WHERE id < 15")
    fleet.run(MINUTE)
    assert [fleet.tombstones(number) for number in range(3)] == [15, 15, 15]
    before = [node.peer.digests()["t"][1] for node in fleet.nodes]
    for _ in range(24):
        fleet.run(HOUR)
        assert [node.peer.digests()["t"][1] for node in fleet.nodes] == before  # collected here, not yet there: equal
    assert [fleet.tombstones(number) for number in range(3)] == [0, 0, 0]
    fleet.assert_equal()
    assert not any(notice.startswith("repair") for node in fleet.nodes for notice in node.noticed())


def test_rows_from_before_the_mesh_hold_no_tombstone_up(tmp_path):
    """Two copies of a file: an early site never passes a tombstone, so the present site of its node answers for it."""
    for number in range(2):
        shell(
            tmp_path / f"{number}.db",
            "CREATE TABLE old(id INTEGER PRIMARY KEY, v); INSERT INTO old VALUES(1, 1), (2, 2);",
        )
    fleet = Fleet(tmp_path, 2)
    fleet.link_all()
    fleet.run(MINUTE)
    fleet.write(1, "DELETE FROM old WHERE id = 1")
    fleet.run(MINUTE)
    counts = [node.sql("SELECT count(*) FROM old") for node in fleet.nodes]
    assert counts == [[(1,)], [(1,)]]
    tables = [node.peer.replica.tables["old"] for node in fleet.nodes]
    assert all(map(tombstones.newest_hlc, tables))
    fleet.run(DAY)
    assert not any(map(tombstones.newest_hlc, tables))
    fleet.assert_equal()
    fleet.close()


def test_idle_nodes_say_something_only_where_tombstones_wait(fleet_of):
    fleet = fleet_of(2)
    filled(fleet)
    fleet.run(2 * DAY)
    vectors = [node.peer.replica.vector("t") for node in fleet.nodes]
    fleet.run(2 * DAY)
    assert [node.peer.replica.vector("t") for node in fleet.nodes] == vectors
    fleet.write(0, "DELETE FROM t WHERE id = 1")
    fleet.run(DAY)
    moved = [node.peer.replica.vector("t") for node in fleet.nodes]
    assert moved[0] == moved[1] != vectors[0]
    fleet.run(5 * DAY)
    assert [node.peer.replica.vector("t") for node in fleet.nodes] == moved


def test_nothing_is_collected_before_the_members_are_known(fleet_of):
    fleet = fleet_of(2)
    fleet.link_all()
    fleet.world.run(MINUTE)
    fleet.write(0, "INSERT INTO t VALUES(1, 'v', 'w')")
    fleet.write(0, "DELETE FROM t")
    fleet.world.run(3 * DAY)
    assert [fleet.tombstones(number) for number in range(2)] == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize(("days", "left"), [(5, 15), (29, 15), (32, 0)])
def test_member_away_holds_tombstones_up_until_retention_is_over(fleet_of, days, left):
    fleet = fleet_of(3)
    filled(fleet)
    fleet.isolate(2)
    fleet.write(0, "DELETE FROM t WHERE id < 15")
    fleet.run(days * DAY, step=DAY)
    assert [fleet.tombstones(number) for number in range(2)] == [left, left]


@pytest.mark.slow
def test_when_member_was_heard_of_is_known_after_restart(fleet_of):
    """A node that restarts every week must not wait for a lost one for ever."""
    fleet = fleet_of(3)
    filled(fleet)
    fleet.isolate(2)
    fleet.write(0, "DELETE FROM t WHERE id < 15")
    fleet.run(3 * DAY)
    lost = fleet.nodes[2].peer.node_id
    for _ in range(5):
        fleet.cut(0, 1)
        fleet.nodes[0].reopen()
        fleet.link(0, 1)
        for _ in range(7):
            fleet.heard[1, 0] = fleet.world.now
            fleet.world.do(fleet.nodes[0], MembersKnown(((fleet.nodes[1].peer.node_id, 0), (lost, None))))
            fleet.world.run(DAY)
    assert fleet.tombstones(0) == 0


class History:
    """The history of the users: every value is a token; a user that overwrites or deletes it has seen it."""

    def __init__(self, fleet, rng):
        self.fleet, self.rng = fleet, rng
        self.tokens = {}  # token -> writes that replaced it having seen it
        self.count = 0

    def token(self):
        self.count += 1
        self.tokens[f"<{self.count}>"] = []
        return f"<{self.count}>"

    def act(self, number):
        table = self.rng.choice(["t", "bag", "words"])
        if self.fleet.sql(number, "SELECT count(*) FROM sqlite_schema WHERE name = ?", table) == [(0,)]:
            return
        key = self.rng.randrange(5)
        name = {"t": "id", "words": "k", "bag": "rowid"}[table]
        rows = self.fleet.sql(number, f"SELECT {name}, v, w FROM {table} ORDER BY 1")
        found = [row for row in rows if row[0] == (f"k{key}" if table == "words" else key)]
        if table == "bag":
            found = [rows[key]] if key < len(rows) else []
        if not found:
            value, other = self.token(), self.token()
            keys = {"t": (key,), "words": (f"k{key}",), "bag": ()}[table]
            marks = ", ".join("?" * (len(keys) + 2))
            self.fleet.write(number, f"INSERT INTO {table} VALUES({marks})", *keys, value, other)
            return
        (row, *old) = found[0]
        if self.rng.random() < 0.5:
            end = self.token()
            for token in old:
                self.tokens[token].append(end)
            del self.tokens[end]
            self.fleet.write(number, f"DELETE FROM {table} WHERE {name} = ?", row)
            return
        column = self.rng.randrange(2)
        value = self.token()
        self.tokens[old[column]].append(value)
        self.fleet.write(number, f"UPDATE {table} SET {'vw'[column]} = ? WHERE {name} = ?", value, row)

    def check(self):
        visible, traced = [], set()
        for table in ("t", "bag", "words"):
            for row in self.fleet.sql(0, f"SELECT v, w FROM {table}"):
                visible += row
        for node in self.fleet.nodes:
            for table in ("mycomesh_conflicts", "mycomesh_parked"):
                for row in node.peer.recorded(table):
                    traced.update(re.findall(r"<\d+>", repr(row)))
        assert len(visible) == len(set(visible)), "a value is there twice"
        for token, replaced in self.tokens.items():
            if token in visible:
                assert not replaced, f"{token} is back, though {replaced} replaced it"
            else:
                assert replaced or token in traced, f"{token} is lost"


@pytest.mark.slow
@pytest.mark.parametrize(("members", "periods"), [(2, 1), (9, 1), (10, 2), (50, 10)])
def test_in_a_larger_mesh_idle_sites_report_more_rarely(fleet_of, members, periods):
    """All sites report to all: a node receives the same number of reports a second in a mesh of any size."""
    fleet = fleet_of(2)
    fleet.link_all()
    writer, idle = fleet.nodes
    fleet.world.do(idle, MembersKnown(tuple((bytes([number]) * 16, 0) for number in range(1, members))))
    said = {}
    for number in range(80):
        fleet.write(0, "INSERT INTO t VALUES(?, 'v', 'w')", number)
        fleet.write(0, "DELETE FROM t WHERE id = ?", number)
        fleet.world.run(5 * MINUTE)
        said[writer.peer.replica.vector("t").upto(idle.peer.replica.site)] = None
    expected = 80 * 5 * MINUTE // (periods * SLOW.beat_ms)
    assert expected - 1 <= len(said) - 1 <= expected


HASTY = ExchangeConfig(
    safety_ms=DAY,
    scrub_ms=DAY,
    compare_ms=30_000,
    beat_ms=10_000,
    collect_ms=20_000,
    retention_ms=10 * MINUTE,
    claim_ms=20_000,
)


@pytest.mark.parametrize("seed", sweep(range(round(40 * SCALE)), 8))
def test_random_histories_resurrect_nothing_and_lose_nothing(fleet_of, seed):
    rng = random.Random(seed)
    fleet = fleet_of(rng.choice([2, 3, 4]), HASTY)
    history = History(fleet, rng)
    numbers = range(len(fleet.nodes))
    fleet.link_all()
    fleet.run(MINUTE, step=MINUTE)
    for _ in range(50):
        what = rng.random()
        if what < 0.55:
            history.act(rng.choice(numbers))
        elif what < 0.65:
            fleet.link(*rng.sample(numbers, 2))
        elif what < 0.75:
            fleet.cut(*rng.sample(numbers, 2))
        elif what < 0.8:
            fleet.isolate(rng.choice(numbers))
        elif what < 0.83:
            fleet.world.publishing = not fleet.world.publishing
        else:
            # Mostly moments, sometimes longer than the retention.
            fleet.run(rng.choice([1, 20, 1_000, 15_000, MINUTE, 15 * MINUTE]), step=MINUTE)
    fleet.world.publishing = True
    fleet.link_all()
    fleet.run(5 * MINUTE, step=MINUTE)
    fleet.accept_drops()
    fleet.assert_equal()
    history.check()
    fleet.run(15 * MINUTE, step=MINUTE)
    fleet.assert_equal()
    history.check()
    assert all(fleet.tombstones(number, table) == 0 for number in numbers for table in ("t", "bag", "words"))


def test_a_reader_away_for_long_is_named_once(fleet_of):
    fleet = fleet_of(2)
    filled(fleet)
    feed = fleet.nodes[0].peer.replica.feed
    feed.create("reports", "t", WALL_MS)
    fleet.write(0, "DELETE FROM t WHERE id < 5")
    fleet.run(28 * DAY, step=DAY)
    assert fleet.tombstones(0) == 5
    fleet.run(5 * DAY, step=DAY)
    told = [notice.text for notice in fleet.nodes[0].notices if notice.event == "cursor.idle"]
    assert told == [
        "cursor 'reports' of t has not moved since 2027-01-15T08:00:00.000+00:00: deletes do not wait for it any more"
    ]
    assert fleet.tombstones(0) == 0


def test_random_histories_do_collect(fleet_of):
    """The property above would hold as well if nothing were ever collected."""
    fleet = fleet_of(3, HASTY)
    history = History(fleet, random.Random(7))
    fleet.link_all()
    for _ in range(120):
        history.act(history.rng.randrange(3))
        fleet.run(20_000, step=20_000)
    collected = [notice.detail["count"] for node in fleet.nodes for notice in node.notices
                 if notice.event == "tombstones.collected"]  # fmt: skip
    assert sum(collected) > 30
    assert hlc_from_ms(WALL_MS) > WALL_MS
