"""Tombstones: collected when nothing older can arrive, never before; nothing resurrected, nothing lost, however late one is."""

from __future__ import annotations

import random
import re
from itertools import pairwise

import pytest

from mycomesh.sync.crdt.hlc import hlc_from_ms
from mycomesh.sync.events import MembersKnown, MessageReceived
from mycomesh.sync.exchange.config import ExchangeConfig
from mycomesh.sync.wire import messages as wire
from tests.sync.exchanges import World
from tests.sync.peers import WALL_MS, assert_equal
from tests.sync.scale import SCALE

DAY = 86_400_000
MINUTE = 60_000
HOUR = 60 * MINUTE
# Days pass without an event each second: what is tested is the order of things.
SLOW = ExchangeConfig(safety_ms=DAY, scrub_ms=DAY, compare_ms=HOUR, beat_ms=HOUR, collect_ms=3 * HOUR)
DDL = (
    "CREATE TABLE t(id INTEGER PRIMARY KEY, v, w); CREATE TABLE bag(v, w); CREATE TABLE words(k TEXT PRIMARY KEY, v, w)"
)


class Fleet:
    """A world whose nodes are told who the members are, and when they were heard of, as the mesh does."""

    def __init__(self, folder, count, config=SLOW):
        self.world = World.made(folder, count, config)
        self.nodes = self.world.nodes
        self.heard = {(one.number, two.number): 0 for one in self.nodes for two in self.nodes if one is not two}
        self.links = {}
        self.world.write(self.nodes[0], DDL)

    def link(self, one, two):
        pair = tuple(sorted((one, two)))
        if pair not in self.links:
            self.links[pair] = self.world.link(self.nodes[pair[0]], self.nodes[pair[1]])

    def cut(self, one, two):
        link = self.links.pop(tuple(sorted((one, two))), None)
        if link is not None:
            self.world.cut(link)

    def isolate(self, number):
        for pair in [pair for pair in self.links if number in pair]:
            self.cut(*pair)

    def link_all(self):
        for one in range(len(self.nodes)):
            for two in range(one):
                self.link(one, two)

    def run(self, ms, step=HOUR):
        end = self.world.now + ms
        while self.world.now < end:
            self.tell()
            self.world.run(min(step, end - self.world.now))

    def tell(self):
        now = self.world.now
        for node in self.nodes:
            for other in self.reached(node.number):
                self.heard[node.number, other] = now
        for node in self.nodes:
            members = tuple(
                (other.peer.node_id, now - self.heard[node.number, other.number])
                for other in self.nodes
                if other is not node
            )
            self.world.do(node, MembersKnown(members))

    def reached(self, number):
        """Whoever there is a path to: the mesh relays what it hears."""
        found, front = [number], [number]
        while front:
            here = front.pop()
            for pair in self.links:
                if here in pair:
                    there = sum(pair) - here
                    if there not in found:
                        found.append(there)
                        front.append(there)
        return found[1:]

    def sql(self, number, script, *values):
        return self.nodes[number].sql(script, *values)

    def write(self, number, script, *values):
        self.world.write(self.nodes[number], script, *values)

    def tombstones(self, number, table="t"):
        log = self.nodes[number].peer.replica.tables[table].log.name
        return self.sql(number, f"SELECT count(*) FROM {log} WHERE mask = 0")[0][0]

    def assert_equal(self):
        for one, two in pairwise(self.nodes):
            assert_equal(one.peer, two.peer)

    def close(self):
        self.world.close()


@pytest.fixture
def fleet_of(tmp_path):
    fleets = []

    def make(count, config=SLOW):
        folder = tmp_path / str(len(fleets))
        folder.mkdir()
        fleets.append(Fleet(folder, count, config))
        return fleets[-1]

    yield make
    for fleet in fleets:
        fleet.close()


def filled(fleet, rows=20):
    fleet.link_all()
    fleet.run(MINUTE)
    for number in range(rows):
        fleet.write(0, "INSERT INTO t VALUES(?, 'v', 'w')", number)
    fleet.run(MINUTE)
    fleet.assert_equal()


# ---- when they go


def test_a_tombstone_goes_once_every_member_has_passed_it_and_the_hashes_stay_equal(fleet_of):
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


def test_nothing_is_collected_before_the_mesh_has_said_who_its_members_are(fleet_of):
    fleet = fleet_of(2)
    fleet.link_all()
    fleet.world.run(MINUTE)
    fleet.write(0, "INSERT INTO t VALUES(1, 'v', 'w')")
    fleet.write(0, "DELETE FROM t")
    fleet.world.run(3 * DAY)
    assert [fleet.tombstones(number) for number in range(2)] == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize(("days", "left"), [(5, 15), (29, 15), (32, 0)])
def test_a_member_away_holds_tombstones_up_until_the_retention_is_over(fleet_of, days, left):
    fleet = fleet_of(3)
    filled(fleet)
    fleet.isolate(2)
    fleet.write(0, "DELETE FROM t WHERE id < 15")
    fleet.run(days * DAY, step=DAY)
    assert [fleet.tombstones(number) for number in range(2)] == [left, left]


@pytest.mark.slow
def test_when_a_member_was_heard_of_is_known_after_a_restart(fleet_of):
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


# ---- who comes late


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


# ---- random histories


class History:
    """What the users did: every value is a token; who overwrites or deletes it has seen it."""

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
def test_the_more_members_the_rarer_an_idle_site_says_that_it_has_nothing_older(fleet_of, members, periods):
    """Everybody's word goes to everybody: what a node hears of them a second stays the same."""
    fleet = fleet_of(2)
    fleet.link_all()
    writer, idle = fleet.nodes
    fleet.world.do(idle, MembersKnown(tuple((bytes([number]) * 16, 0) for number in range(1, members))))
    said = {}
    for number in range(400):
        fleet.write(0, "INSERT INTO t VALUES(?, 'v', 'w')", number)
        fleet.write(0, "DELETE FROM t WHERE id = ?", number)
        fleet.world.run(MINUTE)
        said[writer.peer.replica.vector("t").upto(idle.peer.replica.site)] = None
    expected = 400 * MINUTE // (periods * SLOW.beat_ms)
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


@pytest.mark.parametrize("seed", range(round(40 * SCALE)))
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
    fleet.assert_equal()
    history.check()
    fleet.run(15 * MINUTE, step=MINUTE)
    fleet.assert_equal()
    history.check()
    assert all(fleet.tombstones(number, table) == 0 for number in numbers for table in ("t", "bag", "words"))


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
