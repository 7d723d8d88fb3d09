"""Every member plans the same circuits from the same link states."""

from __future__ import annotations

import random

from mycomesh.mesh.overlay.topology import LinkState, Neighbour
from mycomesh.mesh.relay.circuit_plan import CircuitPlan, MeshGraph


def states(*edges):
    claimed = {}
    for left, right in edges:
        claimed.setdefault(left, []).append(right)
        claimed.setdefault(right, []).append(left)
    return [LinkState(node, 1, tuple(Neighbour(n, 1, 10, 20) for n in near)) for node, near in claimed.items()]


def test_every_member_chooses_alike_and_each_pair_once():
    rng = random.Random(5)
    for _ in range(200):
        members = [b"m" + bytes((n,)) * 15 for n in range(rng.randrange(2, 9))]
        relays = [b"r" + bytes((n,)) * 15 for n in range(rng.randrange(1, 4))]
        nodes = members + relays
        rng.shuffle(nodes)
        edges = [(nodes[at], nodes[rng.randrange(at)]) for at in range(1, len(nodes))]  # a tree joins them all
        told = states(*edges)
        near = {state.node_id: [n.node_id for n in state.neighbours] for state in told}
        role = dict.fromkeys(members, False) | dict.fromkeys(relays, True)
        for _ in range(4):  # what is chosen is made, until nothing is missing
            chosen = [
                (route[0], route[-1])
                for own in members
                for route in CircuitPlan(MeshGraph(own, near[own], told), role.get).routes_to_open()
            ]
            assert len(set(chosen)) == len(chosen)
            assert all(left < right for left, right in chosen)
            if not chosen:
                break
            edges += chosen
            told = states(*edges)
            near = {state.node_id: [n.node_id for n in state.neighbours] for state in told}
        assert chosen == []
        group = {members[0]}
        while more := {n for m in group for n in near[m] if n in members} - group:
            group |= more
        assert group == set(members), "all members are one group"
