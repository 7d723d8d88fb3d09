"""Rounds under virtual time: what they cost, how splits heal, and what a peer that breaks or lies can do (nothing)."""

from __future__ import annotations

import json
from dataclasses import fields
from itertools import pairwise

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.sync.codec import encode
from mycomesh.sync.crdt.hlc import HLC_MAX, hlc_from_ms
from mycomesh.sync.crdt.sketch import CELL_BYTES
from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.events import BatchReceived, LinkClosed, LinkOpened, LinkWritable, MessageReceived, ScrubRequested
from mycomesh.sync.exchange import fetch, repair_session
from mycomesh.sync.exchange.config import ExchangeConfig
from mycomesh.sync.exchange.flow_control import WINDOW_BYTES
from mycomesh.sync.storage.log_reader import FEED_BYTES_MAX
from mycomesh.sync.wire import messages as wire
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section
from tests.sync.exchanges import DELAY_MS, BusyFile, World
from tests.sync.peers import WALL_MS, assert_equal
from tests.sync.scale import examples
from tests.sync.wirestrategies import messages

DDL = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE bag(v); CREATE TABLE words(k TEXT PRIMARY KEY, v)"
TABLES = 4  # the three, and the schema
FILL = """
    WITH RECURSIVE n(i) AS (SELECT ? UNION ALL SELECT i + 1 FROM n LIMIT ?)
    INSERT INTO t SELECT i, 'value ' || i FROM n"""

NOISE = 800
INCOMPRESSIBLE = """
    WITH RECURSIVE n(i) AS (SELECT 100001 UNION ALL SELECT i + 1 FROM n LIMIT ?)
    INSERT INTO t SELECT i, randomblob(4000) FROM n"""


@pytest.fixture
def world_of(tmp_path):
    worlds = []

    def make(count, *, schema=True):
        folder = tmp_path / str(len(worlds))
        folder.mkdir()
        worlds.append(World.made(folder, count))
        if schema:
            worlds[-1].write(worlds[-1].nodes[0], DDL)
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


def chained(world, *, ms=3_000):
    links = [world.link(one, two) for one, two in pairwise(world.nodes)]
    world.run(ms)
    return links


def all_equal(world):
    for one, two in pairwise(world.nodes):
        assert_equal(one.peer, two.peer)


def sent(node, since=0):
    return [wire.decode(payload) for at, _, payload in node.sent if at >= since]


# ---- what equal replicas cost


def test_equal_replicas_cost_one_small_message_each_way(world_of):
    world = world_of(2)
    world.cut(chained(world)[0])
    assert world.equal()
    start = world.now
    world.link(*world.nodes)
    world.run(500)
    for node in world.nodes:
        payloads = [payload for at, _, payload in node.sent if at >= start]
        assert len(payloads) == 1
        assert len(payloads[0]) <= 64 * TABLES + 32


def test_idle_equal_replicas_only_compare_from_time_to_time(world_of):
    world = world_of(2)
    chained(world, ms=20_000)
    start = world.now
    world.run(600_000)
    for node in world.nodes:
        assert {type(message) for message in sent(node, start)} == {wire.Digests}
        assert 30 <= len(sent(node, start)) <= 80  # every 15 s less jitter; an answer to the other's is not needed
        assert not [notice for notice in node.noticed() if notice.startswith("repair")]


# ---- live, split and heal, relay


def test_a_write_is_there_one_delay_later(world_of):
    world = world_of(2)
    chained(world)
    world.write(world.nodes[0], "INSERT INTO t VALUES(1, 'live')")
    world.run(DELAY_MS)
    assert world.nodes[1].sql("SELECT v FROM t") == [("live",)]


def test_a_lost_batch_is_fetched_by_a_round(world_of):
    world = world_of(2)
    chained(world)
    world.publishing = False
    world.write(world.nodes[0], "INSERT INTO t VALUES(1, 'lost on the way')")
    world.publishing = True
    world.run(2_000)  # compared once it has settled, long before the periodic comparison
    assert world.nodes[1].sql("SELECT v FROM t") == [("lost on the way",)]
    all_equal(world)


def test_who_is_behind_is_asked_for_nothing(world_of):
    """Both compare while a batch is on its way: the one that has not got it asks, the other knows where its peer stands."""
    world = world_of(2)
    chained(world)
    start = world.now
    world.publishing = False
    for number in range(5):
        world.write(world.nodes[0], f"INSERT INTO t VALUES({number}, 'lost on the way')")
        world.run(1)
    world.publishing = True
    world.run(20_000)
    all_equal(world)
    asked = [[type(message) for message in sent(node, start)].count(wire.Vectors) for node in world.nodes]
    assert asked == [0, 1]


def test_who_is_behind_is_asked_all_the_same_when_its_link_opens(world_of):
    world = world_of(2)
    link = chained(world)[0]
    world.cut(link)
    world.write(world.nodes[0], "INSERT INTO t VALUES(1, 'ahead')")
    start = world.now
    world.link(*world.nodes)
    world.run(2_000)
    all_equal(world)
    assert all(wire.Vectors in [type(message) for message in sent(node, start)] for node in world.nodes)


def test_comparisons_with_all_peers_leave_together(world_of):
    world = world_of(4)
    for other in world.nodes[1:]:
        world.link(world.nodes[0], other)
    world.run(60_000)
    start = world.now
    world.run(120_000)
    times = [at for at, _, _ in world.nodes[0].sent if at >= start]
    assert len(times) >= 3 * 8
    assert len(times) == 3 * len(set(times))


def test_a_gap_between_batches_is_filled_soon(world_of):
    world = world_of(2)
    chained(world)
    world.publishing = False
    world.write(world.nodes[0], "INSERT INTO t VALUES(1, 'lost')")
    world.publishing = True
    world.write(world.nodes[0], "INSERT INTO t VALUES(2, 'shows the gap')")
    world.run(1_200)
    all_equal(world)
    assert len(world.nodes[1].sql("SELECT * FROM t")) == 2


def test_a_split_heals_both_ways_within_two_round_trips_at_the_cost_of_the_rows(world_of):
    """Issue 4: new rows on both sides and updates on one; the bytes do not depend on what was shared before."""
    costs = []
    for shared in (200, 2_000):
        world = world_of(2)
        world.write(world.nodes[0], FILL, 1, shared)
        (link,) = chained(world)
        assert world.equal()
        world.cut(link)
        one, two = world.nodes
        world.write(one, FILL, 1_000_001, 300)
        world.write(two, FILL, 2_000_001, 300)
        world.write(one, "UPDATE t SET v = v || '+' WHERE id <= 100")
        world.run(1_000)
        start = world.now
        world.link(one, two)
        world.run(4 * DELAY_MS)
        assert world.equal()
        all_equal(world)
        world.run(30_000)
        total = sum(len(payload) for node in world.nodes for at, _, payload in node.sent if at >= start)
        chunks = [message for node in world.nodes for message in sent(node, start) if isinstance(message, wire.Chunk)]
        assert sum(section.rows for chunk in chunks for section in Bundle.decode(chunk.bundle).sections) == 700
        rows = [[1_000_000 + number, f"value {1_000_000 + number}"] for number in range(600)]
        rows += [[number, f"value {number}+"] for number in range(100)]
        assert total <= 1.15 * len(encode(rows)) + 1_200  # eight comparisons, vectors and acknowledgements
        costs.append(total)
    assert abs(costs[0] - costs[1]) <= 400


def test_three_in_a_chain_hand_on_what_the_middle_learnt(world_of):
    """A sees B, B sees C: nobody sees everybody."""
    world = world_of(3)
    world.publishing = False
    chained(world)
    world.write(world.nodes[0], FILL, 1, 50)
    world.write(world.nodes[2], "INSERT INTO bag VALUES('from c'); INSERT INTO words VALUES('k', 'from c')")
    world.run(5_000)
    all_equal(world)
    world.write(world.nodes[2], "DELETE FROM t WHERE id <= 25; UPDATE words SET v = 'again'; DELETE FROM bag")
    world.run(5_000)
    all_equal(world)
    assert len(world.nodes[0].sql("SELECT * FROM t")) == 25


def test_an_empty_file_gets_tables_and_rows(world_of):
    world = world_of(2)
    world.write(world.nodes[0], FILL, 1, 3_000)
    world.write(world.nodes[0], "INSERT INTO bag SELECT v FROM t; INSERT INTO words SELECT v, id FROM t")
    world.run(100)
    chained(world)
    all_equal(world)
    assert len(world.nodes[1].sql("SELECT * FROM words")) == 3_000


def test_two_peers_do_not_send_the_same_rows_twice(world_of):
    world = world_of(3)
    one, two, late = world.nodes
    world.write(one, FILL, 1, 2_500)
    world.link(one, two)
    world.run(3_000)
    world.link(late, one)
    world.link(late, two)
    world.run(3_000)
    all_equal(world)
    assert sum(status.rows_received for status in late.exchange.links()) == 2_500 + 3  # the rows and three definitions


def test_a_link_that_dies_in_a_round_costs_nothing_but_time(world_of):
    world = world_of(2)
    world.write(world.nodes[0], FILL, 1, 5_000)
    world.run(100)
    while len(world.nodes[1].peer.tables().get("t", ())) < 5_000:
        link = world.link(*world.nodes)
        world.run(5 * DELAY_MS)
        world.cut(link)
        assert world.now < 20_000, "no progress from link to link"
    chained(world)
    all_equal(world)


def test_flapping_links_end_equal(world_of):
    world = world_of(3)
    one, two, three = world.nodes
    for number in range(12):
        links = [world.link(one, two), world.link(two, three)] if number % 2 else [world.link(three, one)]
        for node in world.nodes:
            world.write(node, "INSERT INTO bag VALUES(?)", f"{node.number} {number}") if node.sql(
                "SELECT 1 FROM sqlite_schema WHERE name = 'bag'"
            ) else None
            world.run(7 * number)
        for link in links:
            world.cut(link)
    chained(world, ms=10_000)
    all_equal(world)


# ---- a busy file


@pytest.mark.parametrize("busy", [0, 1])
def test_a_file_that_is_locked_for_long_is_served_afterwards(world_of, busy):
    world = world_of(2)
    world.write(world.nodes[1 - busy], FILL if busy else "SELECT 1", *((1, 2_000) if busy else ()))
    world.run(200)
    lock = BusyFile(world.nodes[busy])
    world.link(*world.nodes)
    world.run(30_000)
    assert not world.nodes[0].dropped
    lock.release()
    world.run(30_000)
    all_equal(world)


def test_a_live_batch_for_a_locked_file_comes_by_a_round(world_of):
    world = world_of(2)
    chained(world)
    lock = BusyFile(world.nodes[1])
    world.write(world.nodes[0], "INSERT INTO t VALUES(1, 'meanwhile')")
    world.run(1_000)
    assert world.nodes[1].sql("SELECT * FROM t") == []
    lock.release()
    world.run(20_000)
    all_equal(world)


# ---- damage


@pytest.mark.parametrize("damaged", [0, 1])
@pytest.mark.parametrize("victims", [1, 40, 700])
def test_rows_that_vanished_with_their_entries_are_brought_back(world_of, damaged, victims):
    world = world_of(2)
    world.write(world.nodes[0], FILL, 1, 1_000)
    (link,) = chained(world)
    world.cut(link)
    node = world.nodes[damaged]
    node.peer.close()
    damage = node.peer.open().app
    damage.config(
        apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0
    )  # SQLITE_DBCONFIG_ENABLE_TRIGGER: the damage goes past capture
    damage.execute(f"DELETE FROM t WHERE id <= {victims}")
    log = node.peer.replica.tables["t"].log
    with node.peer.replica.store.transaction():
        for stored_entries in log.entries_of_rows(range(1, victims + 1)).values():
            log.remove(*stored_entries)
        log.flush()
    node.reopen()
    assert not world.equal()
    world.link(*world.nodes)
    world.run(60_000)
    all_equal(world)
    assert len(node.sql("SELECT * FROM t")) == 1_000
    assert "repair.done" in [notice for each in world.nodes for notice in each.noticed()]


def test_a_table_that_keeps_both_rows_of_one_id_is_repaired_too(world_of):
    world = world_of(2)
    node = world.nodes[1]
    world.write(world.nodes[0], FILL, 1, 100)
    world.nodes[0].peer.replica.decisions.decide_policy("t", "keep-both")
    (link,) = chained(world)
    world.cut(link)
    damaged = node.peer.replica.tables["t"]
    with node.peer.replica.store.transaction() as db:
        for stored_entries in damaged.log.entries_of_rows(range(1, 41)).values():
            damaged.log.remove(*stored_entries)
        damaged.log.flush()
        db.execute("DELETE FROM t WHERE id <= 40")
    assert not world.equal()
    world.link(*world.nodes)
    world.run(60_000)
    all_equal(world)
    assert len(node.sql("SELECT * FROM t")) == 100


def test_a_number_that_becomes_its_equal_of_the_other_type_beside_a_change_keeps_nobody_apart(world_of):
    world = world_of(2)
    world.write(world.nodes[0], "CREATE TABLE n(id INTEGER PRIMARY KEY, b, c); INSERT INTO n VALUES(1, 0, 1.0)")
    chained(world)
    world.write(world.nodes[0], "UPDATE n SET b = 7, c = 1")  # 1 IS 1.0: only b counts as changed
    world.run(60_000)
    all_equal(world)
    assert [node.sql("SELECT b, c FROM n") for node in world.nodes] == [[(7, 1.0)]] * 2
    assert not any(node.peer.recorded("mycomesh_conflicts") for node in world.nodes)


def test_a_row_that_waits_for_its_place_takes_the_same_of_two_equal_numbers_as_others(world_of):
    world = world_of(3)
    one, two, three = world.nodes
    world.write(one, "CREATE TABLE n(id INTEGER PRIMARY KEY, u UNIQUE, b, c)")
    links = chained(world)
    for link in links:
        world.cut(link)
    world.write(three, "INSERT INTO n(id, u) VALUES(1, 5)")
    world.write(one, FILL, 1, 1_000)  # its clock goes ahead of the other's
    world.write(one, "INSERT INTO n VALUES(2, 5, 0, 1.0)")
    link = world.link(one, two)
    world.run(1_000)
    world.cut(link)
    world.write(one, "UPDATE n SET b = 7, c = 1")
    chained(world, ms=60_000)
    assert [node.sql("SELECT id FROM n") for node in world.nodes] == [[(1,)]] * 3  # it claimed the place first
    world.write(three, "DELETE FROM n WHERE id = 1")
    world.run(60_000)
    all_equal(world)
    assert one.sql("SELECT id, b, c, typeof(c) FROM n") == [(2, 7, 1.0, "real")]


def test_two_values_of_one_write_end_as_one_and_the_other_is_on_record(world_of):
    world = world_of(2)
    world.write(
        world.nodes[0], "CREATE TABLE n(id INTEGER PRIMARY KEY, b, c); INSERT INTO n VALUES(1, 0, 'as written')"
    )
    chained(world)
    app = world.nodes[0].peer.app
    app.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    app.execute("UPDATE n SET c = 'behind its back'")
    app.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 1)
    world.write(world.nodes[0], "UPDATE n SET b = 7")  # which digests what is left of the first entry anew
    world.run(60_000)
    all_equal(world)
    kept, lost = sorted(("as written", "behind its back"), key=len, reverse=True)
    assert [node.sql("SELECT b, c FROM n") for node in world.nodes] == [[(7, kept)]] * 2
    (record,) = [row for node in world.nodes for row in node.sql("SELECT lost, reason FROM mycomesh_conflicts")]
    assert record == (json.dumps({"c": lost}), "two files had different values of one write")


def test_writes_that_bypassed_the_triggers_are_found_by_a_scrub(world_of):
    world = world_of(2)
    world.write(world.nodes[0], FILL, 1, 20)
    chained(world)
    app = world.nodes[0].peer.app
    app.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    app.execute("DELETE FROM t WHERE id = 1; UPDATE t SET v = 'edited' WHERE id = 2; INSERT INTO t VALUES(99, 'more')")
    app.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 1)
    world.do(world.nodes[0], ScrubRequested())
    world.run(3_000)
    all_equal(world)
    assert world.nodes[1].sql("SELECT id, v FROM t WHERE id IN (1, 2, 99) ORDER BY id") == [(2, "edited"), (99, "more")]


# ---- peers that break the protocol, or lie


class Liar:
    """A peer that is no exchange: the test says what it sends, and sees what it is sent."""

    PEER = b"\xee" * 16

    def __init__(self, world, node, link=9_001):
        self.world, self.node, self.link = world, node, link
        self.acknowledged = 0
        world.do(node, LinkOpened(link, self.PEER))

    def say(self, *what, ms=0):
        for message in what:
            payload = message if isinstance(message, bytes) else wire.encode(message)
            self.world.do(self.node, MessageReceived(self.link, payload))
        self.world.run(ms)

    def answers(self):
        return [wire.decode(payload) for _, link, payload in self.node.sent if link == self.link]

    def acknowledge(self):
        """As an honest peer that has applied everything."""
        sent = [payload for _, link, payload in self.node.sent if link == self.link]
        rows = [len(payload) for payload in sent if isinstance(wire.decode(payload), (wire.Chunk, wire.RepairRows))]
        fresh, self.acknowledged = sum(rows) - self.acknowledged, sum(rows)
        self.say(*([wire.Ack(fresh)] if fresh else []), ms=1)

    def dropped(self):
        return [reason for link, reason in self.node.dropped if link == self.link]


# Digests that make a node ask this peer for its tables.
LURE = wire.Digests((("bag", bytes(8), bytes(16)), ("t", bytes(8), bytes(16))))


@pytest.fixture
def attacked(world_of):
    """One node with rows, one honest peer, and a liar."""
    world = world_of(2)
    world.write(world.nodes[0], FILL, 1, 3_000)
    world.write(world.nodes[0], "INSERT INTO bag VALUES('x'); INSERT INTO words VALUES('k', 'v')")
    chained(world)
    return world, world.nodes[0], Liar(world, world.nodes[0])


def unharmed(world, rows=3_000):
    """The honest two still agree, hold their rows, and go on replicating both ways."""
    for number, node in enumerate(world.nodes):
        world.write(node, "INSERT INTO t VALUES(?, 'after')", 7_000_000 + number)
        world.write(node, "UPDATE words SET v = ?", f"after {number}")
        world.run(10 * DELAY_MS)
    world.run(30_000)
    all_equal(world)
    for number, node in enumerate(world.nodes):
        world.write(node, "INSERT INTO t VALUES(?, 'later')", 8_000_000 + number)
        world.run(1_000)
    all_equal(world)
    assert len(world.nodes[1].sql("SELECT * FROM t")) == rows + 4
    assert world.nodes[0].sql("SELECT * FROM words") == [("k", "after 1")]


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff", b"\x00" * 100, b"\x9f" * 100, b"\xa1\x01\x02", encode([0]), encode([99, b""]), encode([3, 7]),
     encode([2, 1, b"\x80"]), encode([7, 0, 0, b"junk"]), encode([5, "t", bytes(8), b"odd"]),
     encode([5, "t", bytes(8), b""])],
    ids=lambda payload: payload[:12].hex() or "empty",
)  # fmt: skip
def test_a_malformed_message_drops_that_link_with_a_reason(attacked, payload):
    world, _, liar = attacked
    liar.say(payload)
    (reason,) = liar.dropped()
    assert reason.startswith("protocol error: ")
    assert "\n" not in reason
    world.do(liar.node, LinkClosed(liar.link))
    unharmed(world)


@pytest.mark.parametrize("payload", [b"", b"junk", encode([1, [], []]) + b"\x00", encode([1, [], [["t", [], [[]]]]])])
def test_a_malformed_batch_is_refused_with_a_notice(attacked, payload):
    world, node, liar = attacked
    world.do(node, BatchReceived(liar.link, liar.PEER, payload))
    assert node.noticed()[-1] == "batch.refused"
    assert "\n" not in node.notices[-1].text
    unharmed(world)


def batch_of(site, hlc, **changes):
    parts = {
        "table": "t",
        "columns": ("id", "v"),
        "rows": [[50_000, "forged"]],
        "keys": None,
        "kind": Kind.INSERT,
    } | changes
    group = Group(site, parts["kind"], parts["columns"], [hlc], parts["keys"], parts["rows"], None)
    return Bundle([Section(parts["table"], [(site, 0, hlc)], [group])])


PRESENT = hlc_from_ms(WALL_MS)
LIAR_SITE = Liar.PEER[:8] + b"anything"


def fact_of(columns, row, keys=None):
    return batch_of(LIAR_SITE, PRESENT, table="mycomesh_schema", columns=columns, rows=[row], keys=keys)


@pytest.mark.parametrize(
    ("bundle", "reason"),
    [
        (batch_of(b"\x01" * 16, PRESENT), "another node than its sender"),
        (batch_of(LIAR_SITE, hlc_from_ms(WALL_MS + 3_600_000)), "ahead of this clock"),
        (batch_of(LIAR_SITE, HLC_MAX), "ahead of this clock"),
        (batch_of(LIAR_SITE, PRESENT, rows=[["text", "v"]]), "not an integer"),
        (batch_of(LIAR_SITE, PRESENT, columns=("v",), rows=[["v"]]), "key columns"),
        (batch_of(LIAR_SITE, PRESENT, kind=Kind.UPDATE), "has no row key"),
        (batch_of(LIAR_SITE, PRESENT, kind=Kind.UPDATE, keys=[b"\x81\x01"]), "not an integer"),
        (batch_of(LIAR_SITE, PRESENT, table="words", columns=("k", "v"), rows=[[1 << 63, 1]]), "words"),
        (batch_of(LIAR_SITE, PRESENT, table="words", columns=("v",), rows=[[1]], keys=[b"\x81\xf5"]), "row key"),
        (batch_of(LIAR_SITE, PRESENT, table="words", columns=("v",), rows=[[1]], keys=[b"\x82\x01\x01"]), "row key"),
        (batch_of(LIAR_SITE, PRESENT, table="words", columns=("v",), rows=[[1]], keys=[b"\x00short"]), "of an insert"),
        (batch_of(LIAR_SITE, PRESENT, table="bag", columns=("v",), rows=[[1]], keys=[7]), "row key"),
        (fact_of(("kind", "more", "name", "sql"), ["odd", 1, "x", ""]), "columns kind, name and sql"),
        (fact_of(("kind", "name", "sql"), ["dropped", [b"\xff"], ""]), "not UTF-8"),
        (fact_of(("kind", "name", "sql"), ["odd", "x", [b"\xff"]]), "not UTF-8"),
        (fact_of(("kind",), ["odd"], keys=[encode([[b"\xff"]])]), "not UTF-8"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_batch_that_may_not_be_is_refused_as_a_whole(attacked, bundle, reason):
    world, node, liar = attacked
    before, digests = node.peer.tables(), node.peer.digests()
    world.do(node, BatchReceived(liar.link, liar.PEER, bundle.encode()))
    assert node.noticed()[-1] == "batch.refused"
    assert reason in node.notices[-1].text
    assert node.peer.tables() == before
    assert node.peer.digests() == digests
    unharmed(world)


def test_nothing_is_noted_of_a_table_that_a_refused_batch_spoke_of(attacked):
    world, node, liar = attacked
    odd = fact_of(("kind", "name", "sql"), ["table", "odd", "CREATE TABLE odd(a); DROP TABLE t"])
    odd.sections += batch_of(LIAR_SITE, PRESENT, rows=[["text", "v"]]).sections
    world.do(node, BatchReceived(liar.link, liar.PEER, odd.encode()))
    assert node.noticed()[-1] == "batch.refused"
    assert not any(table.note for table in node.peer.replica.status().tables)
    unharmed(world)


@pytest.mark.parametrize("ms", [0, 10, 5_000])
def test_a_table_that_a_refused_batch_has_made_is_forgotten(attacked, ms):
    world, node, liar = attacked
    made = fact_of(("kind", "name", "sql"), ["table", "odd", "CREATE TABLE odd(a)"])
    made.sections += batch_of(LIAR_SITE, PRESENT, rows=[["text", "v"]]).sections
    world.do(node, BatchReceived(liar.link, liar.PEER, made.encode()))
    assert node.noticed()[-1] == "batch.refused"
    world.run(ms)
    assert "odd" not in node.peer.digests()
    liar.say(wire.Vectors((("t", Vector()), ("odd", Vector()))), wire.AuditRequest("odd", LIAR_SITE, 0, 1))
    assert isinstance(liar.answers()[-1], wire.AuditReply)
    unharmed(world)


@pytest.mark.parametrize(
    "fact",
    [["dropped", 'dropped:["t", "v"]', ""], ["dropped", 'dropped:["t"]', ""], ["name", 'name:["t"]', "moved"]],
    ids=lambda fact: fact[1],
)
def test_tables_that_a_refused_batch_has_changed_are_as_they_were(attacked, fact):
    world, node, liar = attacked
    change = fact_of(("kind", "name", "sql"), fact)
    change.sections += batch_of(LIAR_SITE, PRESENT, table="words", rows=[["no key", 1]]).sections
    before, tables = node.peer.digests(), node.peer.tables()
    world.do(node, BatchReceived(liar.link, liar.PEER, change.encode()))
    assert node.noticed()[-1] == "batch.refused"
    assert node.peer.digests() == before
    assert node.peer.tables() == tables
    world.write(world.nodes[1], "UPDATE t SET v = 'elsewhere' WHERE id = 7")
    world.run(1_000)
    assert node.sql("SELECT v FROM t WHERE id = 7") == [("elsewhere",)]
    unharmed(world)


def test_columns_learnt_from_a_refused_batch_are_forgotten(attacked):
    """Were a column's bit kept in memory alone, entries would name it in the file, and a restart would not know it."""
    world, node, liar = attacked
    group = Group(LIAR_SITE, Kind.INSERT, ("id", "unknown", "v"), [PRESENT], None, [[60_001, "kept", "v"]], None)
    bad = Group(LIAR_SITE, Kind.INSERT, ("id", "v"), [PRESENT + 1], None, [["no integer", "v"]], None)
    world.do(node, BatchReceived(liar.link, liar.PEER, Bundle([Section("t", [], [group, bad])]).encode()))
    assert node.noticed()[-1] == "batch.refused"
    world.do(
        node, BatchReceived(liar.link, liar.PEER, Bundle([Section("t", [(LIAR_SITE, 0, PRESENT)], [group])]).encode())
    )
    digests = node.peer.digests()
    node.peer.close()
    node.peer.open()
    assert node.peer.digests() == digests
    assert node.peer.replica.tables["t"].columns.bits["unknown"]
    node.sql("ALTER TABLE t ADD COLUMN unknown")
    node.peer.drain()
    assert node.sql("SELECT unknown FROM t WHERE id = 60001") == [("kept",)]


@pytest.mark.parametrize("table", ["t", "bag"])
def test_one_stamp_for_two_rows_is_refused(attacked, table):
    world, node, liar = attacked
    before, digests = node.peer.tables(), node.peer.digests()
    columns, rows = (("id", "v"), [[60_001, "one"], [60_002, "two"]]) if table == "t" else (("v",), [["one"], ["two"]])
    keys = [None, None] if table == "t" else [[b"\x00" + LIAR_SITE + bytes(7) + bytes([number])] for number in (1, 2)]
    groups = [
        Group(LIAR_SITE, Kind.INSERT, columns, [PRESENT], key, [row], None) for key, row in zip(keys, rows, strict=True)
    ]
    bundle = Bundle([Section(table, [(LIAR_SITE, 0, PRESENT)], groups)]).encode()
    world.do(node, BatchReceived(liar.link, liar.PEER, bundle))
    assert node.noticed()[-1] == "batch.refused"
    assert "one stamp for two rows" in node.notices[-1].text
    assert node.peer.tables() == before
    assert node.peer.digests() == digests
    liar.say(LURE, wire.Chunk(bundle))
    assert "one stamp for two rows" in liar.dropped()[0]
    unharmed(world)


def test_a_chunk_from_the_future_is_left_out_and_covers_nothing(attacked):
    world, node, liar = attacked
    clock = node.peer.replica.status().clock_ms
    far = batch_of(LIAR_SITE, hlc_from_ms(WALL_MS + 3_600_000))
    liar.say(LURE, wire.Chunk(far.encode()))
    assert "round.refused" in node.noticed()
    assert node.peer.replica.status().clock_ms - clock < 60_000
    assert node.peer.replica.vector("t").top(LIAR_SITE) == 0
    unharmed(world)


def test_a_vector_that_nobody_asked_for_is_not_adopted(attacked):
    world, node, liar = attacked
    before = node.peer.digests()
    lie = Vector({node.peer.replica.site: [(0, HLC_MAX)], world.nodes[1].peer.replica.site: [(0, HLC_MAX)]})
    liar.say(wire.Done((("t", lie), ("words", lie))))
    assert node.peer.digests() == before
    unharmed(world)


def test_a_vector_that_covers_the_future_is_not_adopted(attacked):
    """Were it adopted, this node's own next writes would count as known to itself, and be told to nobody."""
    world, node, liar = attacked
    lie = Vector({node.peer.replica.site: [(0, HLC_MAX)], world.nodes[1].peer.replica.site: [(0, HLC_MAX)]})
    liar.say(wire.Digests((("t", b"lie" + bytes(5), bytes(16)), ("words", b"lie" + bytes(5), bytes(16)))))
    assert any(isinstance(answer, wire.Vectors) for answer in liar.answers())
    liar.say(wire.Done((("t", lie), ("words", lie))), ms=1_000)
    unharmed(world)


def test_digests_that_always_lie_cost_little(attacked):
    world, node, liar = attacked
    start = world.now
    for number in range(100):
        digest = number.to_bytes(8, "big")
        liar.say(wire.Digests((("t", digest, bytes(16)), (f"no such table {number}", digest, bytes(16)))), ms=100)
    assert len([payload for at, link, payload in node.sent if link == liar.link and at >= start]) <= 250
    unharmed(world)


def test_asking_for_everything_again_and_again_is_bounded_by_acknowledgements(attacked):
    world, node, liar = attacked
    world.write(node, INCOMPRESSIBLE, NOISE)
    liar.say(wire.Vectors((("t", Vector()),)), ms=5_000)
    assert WINDOW_BYTES <= chunk_bytes(liar) < WINDOW_BYTES + FEED_BYTES_MAX
    (status,) = [status for status in node.exchange.links() if status.peer == liar.PEER]
    assert status.streaming
    unharmed(world, 3_000 + NOISE)  # nobody waits for the one that never acknowledges


def chunk_bytes(liar):
    return sum(
        len(payload)
        for _, link, payload in liar.node.sent
        if link == liar.link and isinstance(wire.decode(payload), wire.Chunk)
    )


def test_a_peer_that_asks_again_before_its_stream_has_ended_is_dropped(attacked):
    world, node, liar = attacked
    world.write(node, INCOMPRESSIBLE, NOISE)
    liar.say(*[wire.Vectors((("t", Vector()),))] * 2)
    assert liar.dropped() == ["requests a stream before the last one has ended"]
    assert chunk_bytes(liar) < WINDOW_BYTES + FEED_BYTES_MAX
    unharmed(world, 3_000 + NOISE)


def test_a_peer_that_asks_for_everything_again_and_again_is_dropped(attacked):
    world, _, liar = attacked
    for _ in range(100):
        if liar.dropped():
            break
        liar.say(wire.Vectors((("t", Vector()),)))
        while not isinstance(liar.answers()[-1], wire.Done):
            liar.acknowledge()
    assert liar.dropped() == ["requests the same rows too often"]
    assert chunk_bytes(liar) < 20 * 3_000 * 40
    unharmed(world)


@pytest.mark.parametrize("size", [1, 1_024, wire.MESSAGE_BYTES_MAX])
def test_acknowledging_what_was_never_sent_ends_the_link(attacked, size):
    world, _, liar = attacked
    liar.say(wire.Ack(size))
    assert liar.dropped() == ["protocol error: acknowledges more than was sent"]
    unharmed(world)


@pytest.mark.slow
def test_a_peer_that_asks_for_repairs_again_and_again_is_dropped(attacked):
    world, node, liar = attacked
    vector = node.peer.digests()["t"][0]
    for message in (
        wire.TableSketch("t", vector, bytes(CELL_BYTES * 48)),
        wire.RepairRequest("t", b""),
        wire.RepairRequest("none", bytes(5)),
    ):
        liar.say(*[message] * 20)
    assert set(liar.dropped()) == {"requests repairs too often"}
    world.do(node, LinkClosed(liar.link))
    world.run(10_000)
    mends = [payload for _, _, payload in node.sent if isinstance(wire.decode(payload), wire.RepairRows)]
    assert sum(map(len, mends)) < WINDOW_BYTES + FEED_BYTES_MAX
    unharmed(world)


def test_rows_that_nobody_asked_for_end_the_link(attacked):
    world, node, liar = attacked
    before = node.peer.tables()
    liar.say(wire.Chunk(batch_of(LIAR_SITE, PRESENT).encode()))
    assert liar.dropped() == ["sends rows that were not requested"]
    assert node.peer.tables() == before
    unharmed(world)


def test_a_round_that_brings_nothing_and_never_ends_is_dropped(attacked, monkeypatch):
    world, _, liar = attacked
    monkeypatch.setattr(fetch, "NOOP_CHUNKS_MAX", 50)
    stale = Bundle([Section("t", [], [])]).encode()
    liar.say(LURE)
    for _ in range(1_000):
        if liar.dropped():
            break
        liar.say(wire.Chunk(stale))
    assert liar.dropped() == ["sends a round that changes nothing and does not end"]
    assert len([answer for answer in liar.answers() if isinstance(answer, wire.Ack)]) == 51
    unharmed(world)


def test_a_round_that_goes_on_for_ever_keeps_nobody_else_from_the_table(attacked):
    world, _, _ = attacked
    late = world.nodes[1]
    liar = Liar(world, late, link=9_002)
    world.publishing = False
    world.write(world.nodes[0], "INSERT INTO t VALUES(60000, 'elsewhere')")
    liar.say(LURE)
    for number in range(20):  # always something new, always before the round counts as stalled
        liar.say(wire.Chunk(batch_of(LIAR_SITE, PRESENT + number, rows=[[70_000 + number, "x"]]).encode()), ms=5_000)
    assert not liar.dropped()
    assert late.sql("SELECT v FROM t WHERE id = 60000") == [("elsewhere",)]


def test_a_peer_whose_digests_always_lie_has_the_table_scanned_less_and_less(attacked, monkeypatch):
    """Equal vectors and other digests look like damage; each repair is a scan of the table on both sides."""
    world, node, liar = attacked
    scans = []
    scan = repair_session._entries

    def counted(replica, *args):
        if replica is node.peer.replica:
            scans.append(world.now)
        return scan(replica, *args)

    monkeypatch.setattr(repair_session, "_entries", counted)
    for _ in range(1_000):
        vector = node.peer.digests()["t"][0]
        liar.say(wire.Digests((("t", vector, bytes(16)),)), ms=1_000)
    assert 1 <= len(scans) <= 10  # 5 s, 10 s, 20 s, ... apart
    assert not liar.dropped()
    unharmed(world)


def test_a_peer_that_falls_silent_in_a_round_is_given_up(attacked):
    world, _, liar = attacked
    late = world.nodes[1]
    liar = Liar(world, late, link=9_002)
    world.publishing = False
    world.write(world.nodes[0], "INSERT INTO t VALUES(60000, 'elsewhere')")
    liar.say(wire.Digests((("t", bytes(8), bytes(16)),)))  # asked first, and never answers
    assert any(isinstance(answer, wire.Vectors) for answer in liar.answers())
    world.run(40_000)
    assert late.sql("SELECT v FROM t WHERE id = 60000") == [("elsewhere",)]


def test_what_comes_after_a_long_silence_is_not_asked_for_again(attacked):
    """As from a peer that took a large file in meanwhile: it once sent a million rows twice."""
    world, _, _ = attacked
    late = world.nodes[1]
    liar = Liar(world, late, link=9_002)
    site, middle = LIAR_SITE, PRESENT + 1
    lure = wire.Digests((("t", bytes(8), bytes(16)),))
    liar.say(lure, ms=ExchangeConfig().stall_ms + 1_000)
    group = Group(site, Kind.INSERT, ("id", "v"), [middle], None, [[70_000, "late"]], None)
    liar.say(wire.Plan(2), wire.Chunk(Bundle([Section("t", [(site, 0, middle)], [group])]).encode()))
    (status,) = [link for link in late.exchange.links() if link.peer == liar.PEER]
    assert (status.progress.rows, status.progress.expected) == (1, 2)
    liar.say(ms=ExchangeConfig().stall_ms + 1_000)  # silent again: given up, and its end is still to come
    liar.say(wire.Done(()), lure, ms=ExchangeConfig().compare_ms)
    *_, asked = [answer for answer in liar.answers() if isinstance(answer, wire.Vectors)]
    assert dict(asked.vectors)["t"].covers_range(site, 0, middle)
    assert late.sql("SELECT v FROM t WHERE id = 70000") == [("late",)]
    assert not liar.dropped()


def test_the_end_of_a_round_that_was_given_up_proves_nothing(world_of):
    """A chunk that found the file locked was not applied; the end of its round comes late, after the next has begun."""
    world = world_of(2)
    one, late = world.nodes
    (link,) = chained(world)
    world.publishing = False
    world.write(one, "INSERT INTO t VALUES(1, 'in the lost chunk')")
    liar = Liar(world, late, link=9_002)
    vectors = {name: one.peer.replica.vector(name) for name in ("t",)}
    liar.say(wire.Digests((("t", bytes(8), bytes(16)),)))
    lock = BusyFile(late)
    lost = Bundle(
        [Section("t", [], [Group(one.peer.replica.site, Kind.INSERT, ("id", "v"), [PRESENT], None, [[5, "x"]], None)])]
    )
    liar.say(wire.Chunk(lost.encode()))
    lock.release()
    world.cut(link)  # the honest link is gone: only the liar's round can move the vector
    world.run(ExchangeConfig().stall_ms + 1_000)
    before = late.peer.replica.vector("t")
    liar.say(wire.Done(tuple(vectors.items())))
    assert late.peer.replica.vector("t") == before


@examples(150)
@given(script=st.lists(messages, max_size=8), ms=st.integers(0, 20_000))
def test_no_script_of_well_formed_messages_breaks_a_node(script, ms):
    world = Shared.world()
    node = world.nodes[0]
    Shared.link += 1
    liar = Liar(world, node, link=Shared.link)
    before = node.peer.tables()
    for message in script:
        if liar.dropped():
            break
        liar.say(message)
    world.do(node, LinkWritable(liar.link))
    world.do(node, LinkClosed(liar.link))
    world.run(ms)
    assert all(rows == before[name] for name, rows in node.peer.tables().items())


class Shared:
    """One world for all examples of a property: what an example does must not matter to the next."""

    made = None
    link = 10_000

    @classmethod
    def world(cls):
        if cls.made is None:
            import tempfile
            from pathlib import Path

            cls.made = World.made(Path(tempfile.mkdtemp(prefix="mycomesh-exchange-")), 1)
            cls.made.write(cls.made.nodes[0], DDL)
            cls.made.write(cls.made.nodes[0], FILL, 1, 10)
        return cls.made


@pytest.mark.parametrize("name", [field.name for field in fields(ExchangeConfig)])
def test_times_that_would_spin_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1"):
        ExchangeConfig(**{name: 0})
