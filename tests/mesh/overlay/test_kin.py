"""Members with the same topics find each other, and drop no link that joins them."""

from __future__ import annotations

import random
from itertools import combinations
from types import SimpleNamespace

from mycomesh.mesh.config import of_everything
from mycomesh.mesh.events import StateInterests
from mycomesh.mesh.overlay.interests import Interests
from mycomesh.mesh.overlay.kin import KIN_LINKS, KIN_LINKS_MAX, LOOK_MS, PARTIAL_LINKS, Kin
from tests.mesh.overlay.test_gossip import NoWays


class Roster(dict):
    version = 1

    def members(self):
        return self.values()


def member(number):
    return number.to_bytes(8, "big") * 2


def keeps(*areas):
    return {"t": frozenset(areas)}


def kin_of(own, wishes, edges=()):
    """Return the view of one node on members with these wishes and links."""
    near = {
        each: [right if left == each else left for left, right in edges if each in (left, right)] for each in wishes
    }
    roster = Roster({each: SimpleNamespace(node_id=each, roles=()) for each in wishes})
    roster.own_id = own
    interests = Interests(of_everything, NoWays())
    others = {each[:8]: stated for each, stated in wishes.items() if each != own}
    interests.state(StateInterests(wishes[own], others, (), 2))
    topology = SimpleNamespace(
        neighbours=lambda node: near.get(node, ()), are_linked=lambda left, right: right in near.get(left, ())
    )
    return Kin(roster, interests, topology)


def test_a_drone_seeks_the_base_and_it_all():
    base, *drones = map(member, range(6))
    wishes = {base: {}} | {drone: keeps(str(number)) for number, drone in enumerate(drones)}
    drone = kin_of(drones[0], wishes)
    assert drone.sought(lambda: (drones[1:3], []), 0) == {base}
    assert drone.members() == {base}
    assert not drone.sought(lambda: ([base], []), LOOK_MS)
    assert kin_of(base, wishes).sought(lambda: (drones[:2], []), 0) == set(drones[2:])


def test_the_other_end_of_a_circuit_is_sought():
    first, second, third = map(member, range(3))
    kin = kin_of(first, dict.fromkeys((first, second, third), keeps("1")))
    assert kin.sought(lambda: ([], [third]), 0) == {second, third}
    assert kin_of(first, {first: keeps("1"), second: keeps("2")}).sought(lambda: ([], [second]), 0) == {second}


def test_what_is_lacking_is_looked_up_rarely():
    first, second = map(member, range(2))
    kin = kin_of(first, dict.fromkeys((first, second), keeps("1")))
    assert kin.sought(lambda: ([], []), 0) == {second}
    assert kin.sought(lambda: ([second], []), LOOK_MS - 1) == {second}
    assert kin.sought(lambda: ([second], []), LOOK_MS) == frozenset()


def test_too_many_links_seek_and_protect_none():
    base, drone = member(0), member(1)
    kin = kin_of(base, {base: {}, drone: keeps("1")})
    many = [member(number) for number in range(10, 10 + KIN_LINKS_MAX)]
    assert kin.sought(lambda: (many[1:], []), 0) == {drone}
    assert kin.sought(lambda: (many, []), LOOK_MS) == frozenset()
    assert kin.needs(drone, [*many[1:], drone])
    assert not kin.needs(drone, [*many, drone])


def test_the_few_links_with_other_parts_are_kept():
    own, peer, *others = (member(number) for number in range(1, 12))
    wishes = {each: keeps(str(number)) for number, each in enumerate((own, peer, *others))}
    mine = [(own, each) for each in (peer, *others[:PARTIAL_LINKS])]
    theirs = [(peer, each) for each in others[4 : 4 + PARTIAL_LINKS]]
    links = [peer, *others[:PARTIAL_LINKS]]
    assert not kin_of(own, wishes, mine + theirs).needs(peer, links)
    assert kin_of(own, wishes, mine + theirs).needs(peer, links[:-1])
    assert kin_of(own, wishes, mine + theirs[:-1]).needs(peer, links)


def test_drops_part_no_members_with_the_same_topic():
    rng = random.Random(4)
    for _ in range(20):
        nodes = [member(number) for number in range(1, 9)]
        wishes = dict.fromkeys(nodes, keeps("1"))
        edges = [pair for pair in combinations(nodes, 2) if rng.random() < 0.8]
        if not joined(nodes, edges):
            continue
        dropped = [  # by both ends at once, before either has told the others
            (left, right)
            for left, right in edges
            for own, other in ((left, right), (right, left))
            if not kin_of(own, wishes, edges).needs(
                other, [n for pair in edges if own in pair for n in pair if n != own]
            )
        ]
        left_over = [edge for edge in edges if edge not in dropped]
        assert joined(nodes, left_over)
        assert len(left_over) < len(edges)
        assert all(sum(node in edge for edge in left_over) >= min(KIN_LINKS, 1) for node in nodes)


def joined(nodes, edges):
    found, front = {nodes[0]}, [nodes[0]]
    while front:
        node = front.pop()
        more = {each for edge in edges if node in edge for each in edge} - found
        found |= more
        front += more
    return len(found) == len(nodes)


def test_news_that_change_no_wish_keep_the_sets():
    first, second, stranger = map(member, range(3))
    kin = kin_of(first, dict.fromkeys((first, second), keeps("1")))
    sets = kin._keepers()
    assert kin.members() == {second}
    kin._roster[stranger] = SimpleNamespace(node_id=stranger, roles=())  # has stated nothing yet
    kin._roster.version += 1
    assert kin._keepers() is sets
    kin._interests.state(StateInterests(keeps("1"), {each[:8]: keeps("1") for each in (second, stranger)}, (), 2))
    assert kin.members() == {second, stranger}
    relay = SimpleNamespace(node_id=stranger, roles=("relay",))
    kin._roster[stranger] = relay
    kin._roster.version += 1
    assert kin.members() == {second}
