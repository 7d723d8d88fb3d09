"""Budgets of tables: what a metered link carries of them, which rows of a table go first, and that streams end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.sync.events import LinkOpened
from mycomesh.sync.exchange.catch_up_stream import CatchUpStream
from mycomesh.sync.exchange.score_order import WAITING_MAX, ScoreOrder
from mycomesh.sync.exchange.serve import STARVED_MS
from mycomesh.sync.exchange.table_budget import DAY_MS, PIECE_BYTES, TableBudgets
from mycomesh.sync.replica import ReplicaConfig
from mycomesh.sync.replication.table_settings import TableSetting, TableSettings
from mycomesh.sync.wire import messages as wire
from mycomesh.sync.wire.bundle import Bundle
from tests.sync.exchanges import World
from tests.sync.peers import Peer

SCHEMA = "CREATE TABLE small(id INTEGER PRIMARY KEY, x); CREATE TABLE telemetry(id INTEGER PRIMARY KEY, x, score)"
FILL = (
    "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
    " INSERT INTO telemetry SELECT i, hex(randomblob(100)), (i * 7919) % 1000 FROM n"
)


class _Names:
    """A registry without tables: every name is that of a table here."""

    def table_of(self, name):
        return None


def budgets(*settings):
    return TableBudgets(TableSettings(_Names(), settings))


@pytest.fixture
def world_of(tmp_path):
    worlds = []

    def make(*settings, urgent=()):
        peers = [
            Peer(tmp_path / f"{number}.db", number, config=ReplicaConfig(tables=settings, urgent=urgent))
            for number in range(2)
        ]
        worlds.append(World(peers))
        worlds[-1].publishing = False
        worlds[-1].write(worlds[-1].nodes[0], SCHEMA)
        return worlds[-1], *worlds[-1].nodes

    yield make
    for world in worlds:
        world.close()


def meter(world, one, two):
    """Link two nodes, of which the first sends on a metered link."""
    here, there = next(world._numbers), next(world._numbers)
    world.links |= {here: (one, there), there: (two, here)}
    world.do(one, LinkOpened(here, two.peer.node_id, metered=True))
    world.do(two, LinkOpened(there, one.peer.node_id))


def sent(node, name):
    """(virtual ms, bytes) of the chunks with rows of one table."""
    found = []
    for at, _, payload in node.sent:
        message = wire.decode(payload)
        if isinstance(message, wire.Chunk) and name in [
            section.table for section in Bundle.decode(message.bundle).sections
        ]:
            found.append((at, len(payload)))
    return found


@given(
    st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 20_000)), max_size=60),
    st.sampled_from([100, 5_000, 50_000]),
)
def test_no_stretch_exceeds_the_rate_of_a_table(steps, rate):
    meters, now, went = budgets(TableSetting("t", bytes_s=rate)), 0, []
    for wait_ms, wanted in steps:
        now += wait_ms
        size = min(wanted, meters.room(1, "t", now))
        if size:
            meters.spend(1, "t", size, now)
            went.append((now, size))
        if meters.room(1, "t", now) == 0:
            assert meters.room(1, "t", meters.next_ms(1, "t", now)) >= PIECE_BYTES
    for first, (began, _) in enumerate(went):
        for last in range(first, len(went)):
            most = max(rate, PIECE_BYTES) + rate * (went[last][0] - began) / 1_000 + 1
            assert sum(size for _, size in went[first : last + 1]) <= most


def test_budget_of_a_day_begins_empty():
    meters, hour = budgets(TableSetting("t", bytes_day=24_000_000)), DAY_MS // 24
    assert meters.room(1, "t", 5) == 0, "a restart frees nothing"
    assert 900_000 < meters.room(1, "t", 5 + hour) <= 1_000_000
    meters.spend(1, "t", 900_000, 5 + hour)
    assert meters.room(2, "t", 5 + hour) < 110_000
    assert meters.room(2, "other", 5 + hour) is None


def test_first_pattern_counts_and_facts_have_no_budget():
    settings = TableSettings(_Names(), [TableSetting("tele*", bytes_s=500), TableSetting("*", score="x")])
    assert settings.of("telemetry").bytes_s == 500
    assert settings.of("alerts").score == "x"
    assert settings.of("mycomesh_schema") is None
    assert settings.is_paced("telemetry")
    assert not settings.is_paced("alerts")


def test_table_keeps_to_its_budget_and_delays_no_other(world_of):
    world, one, two = world_of(TableSetting("telemetry", bytes_s=2_000))
    one.sql(FILL, 500)
    world.write(one, "INSERT INTO small VALUES(1, 'x')")
    begun = world.now
    meter(world, one, two)
    world.run(3_000)
    assert two.sql("SELECT count(*) FROM small") == [(1,)]
    assert two.sql("SELECT count(*) FROM telemetry") < [(200,)]
    world.run(600_000)
    assert two.sql("SELECT count(*) FROM telemetry") == [(500,)]
    assert world.equal()
    chunks = sent(one, "telemetry")
    size, elapsed_s = sum(size for _, size in chunks), (chunks[-1][0] - begun) / 1_000
    assert 0.5 * elapsed_s * 2_000 <= size <= 2_000 * (elapsed_s + 2)


def test_rows_superseded_while_they_wait_are_never_sent(world_of):
    world, one, two = world_of(TableSetting("telemetry", bytes_s=1_000))
    world.write(one, "INSERT INTO telemetry VALUES(1, 0, 0)")
    meter(world, one, two)
    for number in range(1_000):
        world.write(one, "UPDATE telemetry SET x = ?", number + 1)
        world.run(50)
    world.run(60_000)
    assert two.sql("SELECT x FROM telemetry") == [(1_000,)]
    assert world.equal()
    assert sum(size for _, size in sent(one, "telemetry")) < 30_000


def test_stream_ends_without_starved_tables(world_of):
    world, one, two = world_of(TableSetting("telemetry", bytes_s=100))
    one.sql(FILL, 500)
    world.write(one, "INSERT INTO small VALUES(1, 'x')")
    meter(world, one, two)
    world.run(STARVED_MS + 30_000)
    assert two.peer.digests()["small"] == one.peer.digests()["small"], "it is covered while the other table waits"
    had = two.sql("SELECT count(*) FROM telemetry")[0][0]
    assert had
    sizes = [len(payload) for _, _, payload in two.sent]
    assert len(sizes) < 60, "nobody asks again and again"
    world.run(20 * STARVED_MS)
    rows = two.sql("SELECT count(*) FROM telemetry")[0][0]
    assert had < rows
    carried = sum(size for _, size in sent(one, "telemetry"))
    assert carried < 260 * rows + 5_000, "what has come is not sent again"


def scores_of(chunk):
    found = []
    for section in Bundle.decode(chunk.bundle).sections:
        for group in section.groups:
            place = group.columns.index("score")
            found += [row[place] for row in group.rows]
    return found


@pytest.mark.parametrize(
    "definition", ["id INTEGER PRIMARY KEY, x, score", "id TEXT PRIMARY KEY, x, score", "id, x, score"]
)
def test_rows_of_great_score_go_first_and_once(tmp_path, definition):
    setting = TableSetting("t", score="Score")
    one, two = (Peer(tmp_path / f"{number}.db", number, config=ReplicaConfig(tables=(setting,))) for number in range(2))
    try:
        one.sql(f"CREATE TABLE t({definition})")
        two.take(one.drain(), origin=one.node_id)
        one.sql(FILL.replace("telemetry", "t"), 900)
        one.sql("INSERT INTO t VALUES(5001, 'x', NULL), (5002, 'x', 'text')")
        one.drain()
        stream = CatchUpStream(one.replica, {name: two.replica.vector(name) for name in two.replica.tables})
        chunks = []
        while (chunk := stream.next(one.wall_ms, 8_192)).bundle is not None:
            chunks.append(chunk)
            assert not two.replica.apply(chunk.bundle, two.wall_ms).withheld
        two.replica.inbox.take_vectors(chunk.vectors, chunk.collected, two.wall_ms)
        two.drain()
        assert two.digests() == one.digests()
        assert two.tables() == one.tables()
        every = [score for chunk in chunks for score in scores_of(chunk)]
        assert len(every) == 902, "each row is sent once"
        greatest = [scores_of(chunk) for chunk in chunks if not chunk.windows]
        assert len(greatest) > 3
        assert max(greatest[0]) >= 990
        assert min(greatest[0]) > max(greatest[3])
    finally:
        one.close()
        two.close()


@pytest.mark.parametrize("others", [False, True], ids=["alone", "beside another table"])
def test_chunks_by_score_and_by_clock_alternate_without_repeats(world_of, others):
    world, one, two = world_of(TableSetting("telemetry", bytes_s=10_000, score="score"))
    if not others:
        meter(world, one, two)
        world.run(5_000)
    world.write(one, FILL, 600)
    if others:
        meter(world, one, two)
    world.run(60_000)
    assert world.equal()
    bundles = [
        wire.decode(payload).bundle for _, _, payload in one.sent if isinstance(wire.decode(payload), wire.Chunk)
    ]
    sections = [each for bundle in bundles for each in Bundle.decode(bundle).sections if each.table == "telemetry"]
    assert sum(len(group.hlcs) for section in sections for group in section.groups) == 600
    by_clock = [bool(section.ranges) for section in sections[:40]]
    assert by_clock == [bool(number % 2) for number in range(40)], "low scores do not starve"


def test_table_takes_in_no_rows_below_its_floor(tmp_path):
    setting = TableSetting("telemetry", free_bytes_min=1_000)
    one, two = (Peer(tmp_path / f"{number}.db", number, config=ReplicaConfig(tables=(setting,))) for number in range(2))
    try:
        one.sql(SCHEMA)
        two.take(one.drain(), origin=one.node_id)
        two.replica.inbox.on_free_space(999)
        one.sql("INSERT INTO telemetry VALUES(1, 1, 1); INSERT INTO small VALUES(1, 1)")
        two.take(one.drain(), origin=one.node_id)
        assert (two.sql("SELECT count(*) FROM telemetry"), two.sql("SELECT count(*) FROM small")) == ([(0,)], [(1,)])
        note = next(each.note for each in two.replica.status().tables if each.name == "telemetry")
        assert "free_mb_min" in note
        two.replica.inbox.on_free_space(1_000)
        one.sql("INSERT INTO telemetry VALUES(2, 1, 1)")
        two.take(one.drain(), origin=one.node_id)
        assert two.sql("SELECT id FROM telemetry") == [(2,)]
        assert two.replica.tables["telemetry"].coverage.vector != one.replica.tables["telemetry"].coverage.vector
    finally:
        one.close()
        two.close()


def test_rows_that_wait_for_their_score_are_limited():
    order = ScoreOrder("score")
    for number in range(WAITING_MAX + 1):
        order._wait(float(number), number, (b"site", number))
    assert len(order._waiting) == WAITING_MAX // 2
    assert order._waiting[0][2] == WAITING_MAX
    assert min(-item[0] for item in order._waiting) > WAITING_MAX // 2 - 1


def test_all_links_have_their_share_of_a_day(tmp_path):
    """The day has room for some 60 chunks in the time of the test, and each of two peers gets half of them."""
    settings = (TableSetting("telemetry", bytes_day=DAY_MS * 600 // 1_000),)
    peers = [Peer(tmp_path / f"{number}.db", number, config=ReplicaConfig(tables=settings)) for number in range(3)]
    world = World(peers)
    try:
        world.publishing = False
        one, two, three = world.nodes
        world.write(one, SCHEMA)
        for other in (two, three):
            meter(world, one, other)
        world.run(5_000)
        world.write(one, FILL, 2_000)
        world.run(150_000)
        counts = [node.sql("SELECT count(*) FROM telemetry")[0][0] for node in (two, three)]
        assert min(counts) > 100
        assert max(counts) - min(counts) < 60
    finally:
        world.close()
