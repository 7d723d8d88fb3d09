"""Rounds as the sender runs them: a peer that asks without end gets a bounded answer or loses its link."""

from __future__ import annotations

import pytest

from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.exchange.flow_control import WINDOW_BYTES, WINDOW_MIN
from mycomesh.sync.exchange.serve import KEEP_MS
from mycomesh.sync.storage.log_reader import FEED_BYTES_MAX
from mycomesh.sync.wire import messages as wire
from tests.sync.attackers import unharmed

NOISE = 800
INCOMPRESSIBLE = """
    WITH RECURSIVE n(i) AS (SELECT 100001 UNION ALL SELECT i + 1 FROM n LIMIT ?)
    INSERT INTO t SELECT i, randomblob(4000) FROM n"""


def test_endless_requests_are_bounded_by_acknowledgements(attacked):
    world, node, liar = attacked
    world.write(node, INCOMPRESSIBLE, NOISE)
    liar.say(wire.Vectors((("t", Vector()),)), ms=5_000)
    assert WINDOW_MIN <= chunk_bytes(liar) < WINDOW_MIN + FEED_BYTES_MAX
    (status,) = [status for status in node.exchange.links() if status.peer == liar.PEER]
    assert status.streaming
    unharmed(world, 3_000 + NOISE)  # nobody waits for the one that never acknowledges


def chunk_bytes(liar):
    return sum(
        len(payload)
        for _, link, payload in liar.node.sent
        if link == liar.link and isinstance(wire.decode(payload), wire.Chunk)
    )


def test_a_request_before_a_streams_end_drops_the_peer(attacked):
    world, node, liar = attacked
    world.write(node, INCOMPRESSIBLE, NOISE)
    liar.say(*[wire.Vectors((("t", Vector()),))] * 2)
    assert liar.dropped() == ["requests a stream before the last one has ended"]
    assert chunk_bytes(liar) < WINDOW_BYTES + FEED_BYTES_MAX
    unharmed(world, 3_000 + NOISE)


def test_a_peer_that_requests_everything_endlessly_is_dropped(attacked):
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


def test_peer_learns_that_a_waiting_stream_goes_on(attacked):
    world, node, liar = attacked
    world.write(node, INCOMPRESSIBLE, NOISE)
    liar.say(wire.Vectors((("t", Vector()),)), ms=5_000)
    begun = world.now
    world.run(4 * KEEP_MS)
    plans = [
        at
        for at, link, payload in node.sent
        if link == liar.link and at > begun and isinstance(wire.decode(payload), wire.Plan)
    ]
    assert 3 <= len(plans) <= 4


@pytest.mark.parametrize("goes_on", [True, False])
def test_round_that_waits_keeps_its_link(attacked, goes_on):
    world, _, liar = attacked
    liar.say(wire.Digests((("t", b"other ve", bytes(16)),)))
    for _ in range(8):
        liar.say(*[wire.Plan(5)] * goes_on, ms=KEEP_MS)
    assert liar.dropped() == ([] if goes_on else ["its round has brought nothing for 300 s"])
    unharmed(world)
