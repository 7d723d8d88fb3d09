"""Rounds as the receiver runs them: what is fetched from whom, and which end of a round counts."""

from __future__ import annotations

from mycomesh.sync.crdt.hlc import HLC_MAX, hlc_from_ms
from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.events import BatchReceived
from mycomesh.sync.exchange import fetch
from mycomesh.sync.exchange.config import ExchangeConfig
from mycomesh.sync.wire import messages as wire
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section
from tests.sync.attackers import FILL, LIAR_SITE, LURE, PRESENT, Liar, all_equal, batch_of, chained, sent, unharmed
from tests.sync.exchanges import DELAY_MS, BusyFile
from tests.sync.peers import WALL_MS


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


def test_link_that_dies_in_round_costs_nothing_but_time(world_of):
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


def test_chunk_from_future_is_left_out_and_covers_nothing(attacked):
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
    """Otherwise this node's own next writes would count as known, and no peer would get them."""
    world, node, liar = attacked
    lie = Vector({node.peer.replica.site: [(0, HLC_MAX)], world.nodes[1].peer.replica.site: [(0, HLC_MAX)]})
    liar.say(wire.Digests((("t", b"lie" + bytes(5), bytes(16)), ("words", b"lie" + bytes(5), bytes(16)))))
    assert any(isinstance(answer, wire.Vectors) for answer in liar.answers())
    liar.say(wire.Done((("t", lie), ("words", lie))), ms=1_000)
    unharmed(world)


def test_rows_that_nobody_asked_for_end_the_link(attacked):
    world, node, liar = attacked
    before = node.peer.tables()
    liar.say(wire.Chunk(batch_of(LIAR_SITE, PRESENT).encode()))
    assert liar.dropped() == ["sends rows that were not requested"]
    assert node.peer.tables() == before
    unharmed(world)


def test_round_that_brings_nothing_and_never_ends_is_dropped(attacked, monkeypatch):
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


def test_an_endless_round_does_not_block_the_table(attacked):
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


def test_peer_that_falls_silent_in_round_is_given_up(attacked):
    world, _, liar = attacked
    late = world.nodes[1]
    liar = Liar(world, late, link=9_002)
    world.publishing = False
    world.write(world.nodes[0], "INSERT INTO t VALUES(60000, 'elsewhere')")
    liar.say(wire.Digests((("t", bytes(8), bytes(16)),)))  # asked first, and never answers
    assert any(isinstance(answer, wire.Vectors) for answer in liar.answers())
    world.run(40_000)
    assert late.sql("SELECT v FROM t WHERE id = 60000") == [("elsewhere",)]


def test_message_after_a_long_silence_is_not_fetched_again(attacked):
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


def test_end_of_round_that_was_given_up_proves_nothing(world_of):
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


def test_last_batches_that_a_full_link_withheld_come_soon(world_of, monkeypatch):
    """The peer compares while this node still merges earlier batches, and has nothing to say after that."""
    world = world_of(2)
    writer, node = world.nodes
    link = world.link(writer, node)
    world.run(3_000)
    late = []
    monkeypatch.setattr(world, "_publish", lambda _, payload: late.append(payload))
    world.write(writer, "INSERT INTO t VALUES(0, 'on its way')")
    world.write(writer, FILL, 1, 100)
    began = world.now
    while not any(isinstance(message, wire.Digests) for message in sent(writer, began)):
        world.run(1)
    world.run(2 * DELAY_MS)  # the digests have come, and the request waits for `gap_ms`
    world.do(node, BatchReceived(world.links[link][1], writer.peer.node_id, late[0]))
    world.run(2_000)
    all_equal(world)
