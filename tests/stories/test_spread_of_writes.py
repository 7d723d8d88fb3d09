"""How far and how fast a write goes in a large mesh, and how many copies of it travel.

32 nodes by default, 200 with `MYCOMESH_TEST_SCALE=7`; `-rP` prints the figures.
"""

from __future__ import annotations

import os
import random

import pytest

from mycomesh.mesh.config import MeshConfig
from mycomesh.mesh.events import AddressFound, DeliverBatch
from mycomesh.mesh.links.link import Link
from mycomesh.mesh.messages import Batch
from tests.mesh.pipes import Pipes, mesh_of

NODES = min(200, round(32 * float(os.environ.get("MYCOMESH_TEST_SCALE", "1"))))
DELAY_MS = 10
VIEW = MeshConfig(full_mesh_max=16, view_min=6, view_max=8)
FORMING_MS = 40_000
WRITES = 20 if NODES == 32 else 40
SPACING_MS = 500
KNOWN_AT_FIRST = 6  # addresses that each node gets; it learns the others from members


@pytest.fixture
def copies(monkeypatch):
    """Counts the payloads that are sent while a test says so."""
    counted = [0]
    send = Link.send

    def counting(link, message, priority):
        counted[0] += isinstance(message, Batch)
        send(link, message, priority)

    monkeypatch.setattr(Link, "send", counting)
    return counted


def formed():
    """A mesh that has found together over what each node has heard of some others."""
    pipes = Pipes(delay_ms=DELAY_MS)
    identities, _ = mesh_of(NODES)
    rng = random.Random(1)
    for identity in identities:
        pipes.member(identity, config=VIEW)
    for node in pipes.nodes:
        for other in rng.sample(pipes.nodes, KNOWN_AT_FIRST):
            if other is not node:
                pipes.feed(node, AddressFound(other.address))
    pipes.run(FORMING_MS)
    return pipes, rng


@pytest.mark.slow
def test_a_write_reaches_all_within_some_delays_almost_once(copies):
    pipes, rng = formed()
    degrees = sorted(len(node.links) for node in pipes.nodes)
    assert degrees[0] >= 1
    for node in pipes.nodes:
        node.log.clear()
    copies[0] = 0
    sent = {}
    for number in range(WRITES):
        payload = b"write %d" % number + bytes(200)
        sent[payload] = pipes.now_ms
        pipes.publish(rng.choice(pipes.nodes), payload)
        pipes.run(SPACING_MS)
    pipes.run(5_000)
    times = sorted(
        at - sent[action.payload] for node in pipes.nodes for at, action in node.log if isinstance(action, DeliverBatch)
    )
    assert len(times) == WRITES * (NODES - 1), "everybody has every write, and nobody has one twice"
    within_ms = times[round(len(times) * 0.99) - 1]
    share = copies[0] / len(times)
    print(
        f"{NODES} nodes of {degrees[0]} to {degrees[-1]} links of {DELAY_MS} ms, {WRITES} writes:"
        f" median {times[len(times) // 2]} ms, 99 % within {within_ms} ms, all within {times[-1]} ms;"
        f" {share:.2f} payload copies for each node that gets a write"
    )
    assert within_ms <= 12 * DELAY_MS
    assert share <= 1.4
