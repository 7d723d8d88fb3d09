"""Members that want a topic become one group, over the nearest ways, with no circuit too many."""

from __future__ import annotations

import random
from dataclasses import replace

from mycomesh.mesh.config import of_everything
from mycomesh.mesh.events import StateInterests
from mycomesh.mesh.overlay.interests import Interests, wishes_for
from mycomesh.mesh.overlay.topology import Neighbour
from mycomesh.mesh.relay.circuit_plan import MeshGraph
from mycomesh.mesh.relay.topic_plan import TopicPlan
from tests.mesh.overlay.test_gossip import NoWays
from tests.mesh.relay.test_circuit_plan import states


def member(number):
    return b"m" + bytes((number,)) * 15


class Mesh:
    """Members with wishes, and the links among them; what each plans is made."""

    def __init__(self, edges, wishes, relays=(), held=None):
        self.edges = list(edges)
        self.circuits = []
        self.wishes = wishes
        self.relays = set(relays)
        self.held = held or {}

    def near(self, own):
        return [node.node_id for state in self.told() if state.node_id == own for node in state.neighbours]

    def told(self):
        pairs = {frozenset(pair) for pair in self.circuits}
        return [
            replace(
                state,
                neighbours=tuple(
                    Neighbour(each.node_id, 1, 0, 0) if frozenset((state.node_id, each.node_id)) in pairs else each
                    for each in state.neighbours
                ),
            )
            for state in states(*self.edges, *self.circuits)
        ]

    def plan(self, own, avoided=()):
        interests = Interests(of_everything, NoWays())
        others = {
            node_id[:8]: wishes for node_id, wishes in self.wishes.items() if node_id != own and wishes is not None
        }
        interests.state(StateInterests(self.wishes[own], others, self.held.get(own, ()), 2))
        circuits = [node for pair in self.circuits if own in pair for node in pair if node != own]
        return TopicPlan(
            MeshGraph(own, self.near(own), self.told(), circuits), interests, lambda node: node in self.relays, avoided
        )

    def chosen(self):
        every = (node_id for node_id in self.wishes if node_id not in self.relays)
        return [(route[0], route[-1]) for own in every for route in self.plan(own).routes_to_open()]

    def settle(self, rounds=6):
        made = []
        for _ in range(rounds):
            chosen = sorted({tuple(sorted(pair)) for pair in self.chosen()})
            if not chosen:
                return made
            made += chosen
            self.circuits += chosen
        raise AssertionError("still opens circuits")

    def groups(self, topic):
        left = {node_id for node_id, wishes in self.wishes.items() if wishes is not None and wishes_for(wishes, topic)}
        found = 0
        while left:
            found += 1
            front = [left.pop()]
            while front:
                more = set(self.near(front.pop())) & left
                left -= more
                front += more
        return found


def keeps(*areas):
    return {"t": frozenset(areas)}


def test_no_circuit_passes_another():
    one, two, three, base = map(member, range(4))
    mesh = Mesh([(one, two), (two, three), (three, base)], dict.fromkeys((two, three)) | {one: keeps("1"), base: {}})
    mesh.wishes |= {two: keeps("2"), three: keeps("3")}
    mesh.circuits = [(two, base)]
    assert mesh.plan(one).routes_to_open() == [(one, two, three, base)]


def test_a_chain_joins_the_ends_that_want_the_same():
    one, two, base = map(member, range(3))
    mesh = Mesh([(one, two), (two, base)], {one: keeps("1"), two: keeps("2"), base: {}})
    assert mesh.plan(one).routes_to_open() == [(one, two, base)]
    assert mesh.plan(two).routes_to_open() == []
    assert mesh.settle() == [(one, base)]
    assert mesh.plan(one).needs(base)
    assert not mesh.plan(one).needs(two)


def test_member_that_refuses_circuits_gives_way_to_next():
    one, two, far, left, right, base = map(member, range(6))
    edges = [(one, left), (left, base), (base, right), (right, two), (left, right), (right, far)]
    wishes = {one: keeps("1"), two: keeps("1"), far: keeps("1"), left: keeps("2"), right: keeps("3"), base: {}}
    mesh = Mesh(edges, wishes)
    assert mesh.plan(one).routes_to_open() == [(one, left, base)]
    (route,) = mesh.plan(one, {base}).routes_to_open()
    assert route[:-1] == (one, left, right)
    assert route[-1] in (two, far)
    (other,) = mesh.plan(one, {base, route[-1]}).routes_to_open()
    assert {route[-1], other[-1]} == {two, far}
    assert mesh.plan(one, {base, two, far}).routes_to_open() == [(one, left, base)], "all refuse: the nearest again"


def test_a_full_mesh_opens_nothing():
    nodes = [member(number) for number in range(6)]
    edges = [(left, right) for at, left in enumerate(nodes) for right in nodes[at + 1 :]]
    mesh = Mesh(edges, {node: keeps(str(at)) if at else {} for at, node in enumerate(nodes)})
    assert mesh.chosen() == []


def test_members_that_have_stated_nothing_take_no_part():
    one, old, base = map(member, range(3))
    mesh = Mesh([(one, old), (old, base)], {one: keeps("1"), old: None, base: {}})
    assert mesh.plan(one).routes_to_open() == []


def test_what_is_held_is_handed_to_the_nearest():
    writer, near, one, two = map(member, range(4))
    wishes = {writer: keeps("9"), near: keeps("8"), one: keeps("1"), two: keeps("1")}
    mesh = Mesh([(writer, near), (near, one), (near, two), (one, two)], wishes)
    assert mesh.plan(writer).routes_to_open() == []
    mesh.held[writer] = (("t", "1"),)
    assert sorted(route[-1] for route in mesh.plan(writer).routes_to_open()) == [one, two]
    mesh.edges.append((writer, two))
    assert [route[-1] for route in mesh.plan(writer).routes_to_open()] == [one]
    mesh.edges.append((writer, one))
    assert mesh.plan(writer).routes_to_open() == []
    assert mesh.plan(writer).needs(two)


def test_random_meshes_join_each_topic_with_few_circuits():
    rng = random.Random(7)
    for _ in range(150):
        members = [member(number) for number in range(rng.randrange(3, 12))]
        relays = [b"r" + bytes((number,)) * 15 for number in range(rng.randrange(2))]
        nodes = members + relays
        rng.shuffle(nodes)
        edges = [(nodes[at], nodes[rng.randrange(max(0, at - 2), at)]) for at in range(1, len(nodes))]
        areas = [str(number) for number in range(4)]
        wishes = {
            node: {} if rng.random() < 0.2 else keeps(*rng.sample(areas, rng.randrange(3))) for node in members
        } | dict.fromkeys(relays)
        mesh = Mesh(edges, wishes, relays)
        before = {area: mesh.groups(("t", area)) for area in areas}
        reach = _reach(mesh, members)
        made = mesh.settle()
        assert len(made) == len(set(made))
        assert len(made) <= sum(count - 1 for count in before.values() if count) + max(before.values())
        if reach:
            assert [mesh.groups(("t", area)) for area in areas] == [min(count, 1) for count in before.values()]


def _reach(mesh, members):
    """Whether no two nodes are further apart than a circuit reaches."""
    for own in members:
        distance, front = {own: 0}, [own]
        while front:
            node = front.pop(0)
            for each in mesh.near(node):
                if each not in distance:
                    distance[each] = distance[node] + 1
                    front.append(each)
        if max(distance.values()) > 5:
            return False
    return True
