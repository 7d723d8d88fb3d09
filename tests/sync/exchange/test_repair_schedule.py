"""Repairs and scans are rationed, however often a peer asks for them or lies."""

from __future__ import annotations

import pytest

from mycomesh.sync.crdt.sketch import CELL_BYTES
from mycomesh.sync.events import LinkClosed
from mycomesh.sync.exchange import repair_session
from mycomesh.sync.exchange.flow_control import WINDOW_BYTES
from mycomesh.sync.storage.log_reader import FEED_BYTES_MAX
from mycomesh.sync.wire import messages as wire
from tests.sync.attackers import unharmed


def test_digests_that_always_lie_cost_little(attacked):
    world, node, liar = attacked
    start = world.now
    for number in range(100):
        digest = number.to_bytes(8, "big")
        liar.say(wire.Digests((("t", digest, bytes(16)), (f"no such table {number}", digest, bytes(16)))), ms=100)
    assert len([payload for at, link, payload in node.sent if link == liar.link and at >= start]) <= 250
    unharmed(world)


@pytest.mark.slow
def test_a_peer_that_requests_repairs_endlessly_is_dropped(attacked):
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


def test_lying_digests_cause_ever_fewer_scans(attacked, monkeypatch):
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
