"""Rounds under virtual time: what they cost, how splits heal, and what a peer that breaks or lies can do (nothing)."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.sync.codec import encode
from mycomesh.sync.events import LinkClosed, LinkWritable, ScrubRequested
from mycomesh.sync.exchange.config import ExchangeConfig
from mycomesh.sync.exchange.exchange import SAFETY_FACTOR
from mycomesh.sync.wire import messages as wire
from mycomesh.sync.wire.bundle import Bundle
from tests.sync.attackers import DDL, FILL, Liar, all_equal, chained, sent, unharmed
from tests.sync.exchanges import DELAY_MS, BusyFile, World
from tests.sync.scale import examples
from tests.sync.wirestrategies import messages

TABLES = 4  # the three, and the schema


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
        assert (
            13 <= len(sent(node, start)) <= 40
        )  # one message compares both sides; each side sends in every third period
        assert not [notice for notice in node.noticed() if notice.startswith("repair")]


def test_only_comparisons_that_say_nothing_new_may_wait(world_of):
    world = world_of(2)
    chained(world, ms=20_000)
    start = world.now
    world.run(300_000)
    for node in world.nodes:
        at_rest = [(at, payload) for at, _, payload in node.sent if at >= start]
        assert len(at_rest) > 5
        assert [each for each in node.deferrable if each[0] >= start] == at_rest
    start = world.now
    world.publishing = False
    world.write(world.nodes[0], "INSERT INTO t VALUES(1, 'lost on the way')")
    world.run(2_000)
    all_equal(world)
    assert all(at < start for node in world.nodes for at, _ in node.deferrable)


def test_a_peer_with_one_table_more_is_not_equal(world_of):
    """The file of the second has a view of that name, so it cannot create the table, and has no digest of it."""
    world = world_of(2)
    one, two = world.nodes
    world.write(two, "CREATE VIEW more AS SELECT 1")
    world.write(one, "CREATE TABLE more(id INTEGER PRIMARY KEY); INSERT INTO more VALUES(1)")
    chained(world, ms=20_000)
    for node in world.nodes:
        (status,) = node.exchange.links(world.now)
        assert not status.equal
        assert status.behind == ("more",)


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
    """Both compare while a batch is on its way: the one without it asks, the other knows what its peer covers."""
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


def test_a_node_at_rest_looks_at_its_file_rarely(world_of, monkeypatch):
    world, looks = world_of(1), []
    node = world.nodes[0]
    monkeypatch.setattr(type(node.peer.replica.outbox), "stale", lambda _outbox: looks.append(world.now))
    world.run(60_000)
    assert len(looks) <= 60 / SAFETY_FACTOR + 3


def test_a_write_that_nothing_announced_is_published(world_of):
    world = world_of(2)
    chained(world, ms=60_000)
    world.nodes[0].sql("INSERT INTO t VALUES(7, 'by mmap')")
    world.run(5_000)
    all_equal(world)


def test_peer_that_is_behind_is_asked_at_link_opening(world_of):
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
    times = sorted({at for at, _, _ in world.nodes[0].sent if at >= start})
    assert 5 <= len(times) <= 12
    assert all(after - before >= 10_000 for before, after in pairwise(times))


def test_a_split_heals_both_ways_within_two_round_trips(world_of):
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


def test_three_in_chain_hand_on_what_middle_learnt(world_of):
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


@pytest.mark.parametrize("busy", [0, 1])
def test_file_that_is_locked_for_long_is_served_afterwards(world_of, busy):
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


def test_live_batch_for_locked_file_comes_by_round(world_of):
    world = world_of(2)
    chained(world)
    lock = BusyFile(world.nodes[1])
    world.write(world.nodes[0], "INSERT INTO t VALUES(1, 'meanwhile')")
    world.run(1_000)
    assert world.nodes[1].sql("SELECT * FROM t") == []
    lock.release()
    world.run(20_000)
    all_equal(world)


def test_writes_that_bypassed_triggers_are_found_by_scrub(world_of):
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
