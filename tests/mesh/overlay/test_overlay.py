"""The overlay keeps a partial view that reaches everybody, and passes each batch on about once."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest

from tests.mesh.meshes import meshed
from tests.mesh.pipes import Pipes, mesh_of


def states(node, pipes):
    return {each.name: each.state for each in node.core.peers(pipes.now_ms)}


def test_members_tell_each_other_where_the_others_are():
    pipes = Pipes()
    left, middle, right = (pipes.member(identity) for identity in mesh_of(3)[0])
    pipes.meet(left, middle)
    pipes.meet(right, middle)
    pipes.run_until(lambda: all(len(node.links) == 2 for node in (left, middle, right)), limit_ms=5_000)


def test_chain_of_five_carries_batches_and_shows_whole_mesh():
    pipes = Pipes()
    nodes = [pipes.member(identity) for identity in mesh_of(5)[0]]
    for one in range(5):
        for other in range(5):
            if abs(one - other) > 1:
                pipes.cut(nodes[one], nodes[other])
    for left, right in pairwise(nodes):
        pipes.meet(left, right)
    pipes.run(4_000)
    pipes.publish(nodes[0], b"from the far end")
    pipes.run(20)
    assert [node.batches() for node in nodes[1:]] == [[b"from the far end"]] * 4
    assert states(nodes[0], pipes) == {"n1": "linked", "n2": "reachable", "n3": "reachable", "n4": "reachable"}
    assert [each.hops for each in nodes[0].core.peers(pipes.now_ms)] == [1, 2, 3, 4]
    pipes.cut(nodes[2], nodes[3])
    pipes.run(6_000)
    assert states(nodes[0], pipes) == {"n1": "linked", "n2": "reachable", "n3": "down", "n4": "down"}


@pytest.mark.slow
def test_in_a_full_mesh_each_node_gets_one_copy():
    pipes, nodes = meshed(16)
    pipes.run(3_000)
    for index, source in enumerate(nodes):
        before = Counter(pipes.carried)
        pipes.publish(source, bytes((index,)) * 5_000)
        pipes.run(pipes.delay_ms + 1)  # and a little for its bytes
        assert all(bytes((index,)) * 5_000 in node.batches() for node in nodes if node is not source)
        pipes.run(500)
        assert sum((Counter(pipes.carried) - before).values()) < 15 * 5_000 * 1.4
    assert all(len(node.batches()) == 15 for node in nodes)


@pytest.mark.slow
def test_a_large_mesh_keeps_partial_views_that_reach_everyone():
    pipes = Pipes()
    nodes = [pipes.member(identity) for identity in mesh_of(24)[0]]
    rng = random.Random(3)
    for node in nodes:
        for other in rng.sample(nodes, 12):
            if other is not node:
                pipes.meet(node, other)
    pipes.run(25_000)
    degrees = [len(node.links) for node in nodes]
    assert max(degrees) <= 9
    assert 6 <= sum(degrees) / len(degrees) <= 8
    assert all(states.count("down") == 0 for states in ([each.state for each in node.core.peers(0)] for node in nodes))
    for index in range(5):
        pipes.publish(nodes[index * 4], b"%d" % index)
        pipes.run(1_000)
    assert all(len(node.batches()) == 5 - (number % 4 == 0 and number < 20) for number, node in enumerate(nodes))
