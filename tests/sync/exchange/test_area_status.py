"""The state of areas, and on how many nodes writes to areas are, as people ask for it."""

from __future__ import annotations

import pytest

from mycomesh.mesh.node.snapshot import area_views, areas_warning
from mycomesh.sync.events import CommitSeen, CoverageRequested, RightsKnown
from mycomesh.sync.exchange.acknowledgements import write_position
from mycomesh.sync.exchange.area_comparison import LISTED_MAX
from mycomesh.sync.replica import ReplicaConfig
from mycomesh.sync.wire.interest import Interest
from mycomesh.sync.wire.units import unit_name
from tests.sync.exchanges import World
from tests.sync.peers import Peer

READER = (("track[1]", "rw"), ("track", "r"), ("*", "r"))


def keeping(*areas):
    return Interest({"track": frozenset(areas)})


@pytest.fixture
def world_of(tmp_path):
    made = []

    def make(*interests, limited=None):
        peers = [
            Peer(tmp_path / f"{number}.db", number, config=ReplicaConfig(interest=interest))
            for number, interest in enumerate(interests)
        ]
        world = World(peers)
        made.append(world)
        grants = () if limited is None else ((peers[limited].node_id, READER),)
        for node in world.nodes:
            world.do(node, RightsKnown(node.peer.node_id, grants))
        world.write(world.nodes[0], "CREATE TABLE Track(drone INTEGER, x)")
        for number, one in enumerate(world.nodes):
            for two in world.nodes[number + 1 :]:
                world.link(one, two)
        world.run(3_000)
        world.nodes[0].peer.replica.decisions.decide_area("Track", "drone")
        world.do(world.nodes[0], CommitSeen())
        world.run(3_000)
        return world

    yield make
    for world in made:
        world.close()


def states(world, number):
    members = [node.peer.node_id for node in world.nodes if node is not world.nodes[number]]
    return {each.area: each for each in world.nodes[number].exchange.areas(members, world.now)}


def test_a_table_that_is_not_cut_has_no_areas(tmp_path):
    world = World.made(tmp_path, 1)
    world.write(world.nodes[0], "CREATE TABLE t(x); INSERT INTO t VALUES(1)")
    assert world.nodes[0].exchange.areas([], world.now) == ()
    assert write_position(world.nodes[0].peer.replica).keys() == {"mycomesh_schema", "t"}
    world.close()


def test_areas_tell_who_keeps_them_and_who_is_equal(world_of):
    world = world_of(Interest({}), keeping("1"), keeping("1", "2"))
    world.write(world.nodes[0], "INSERT INTO Track VALUES(1, 'a'), (2, 'b'), (3, 'c')")
    world.run(5_000)
    found = states(world, 0)
    assert {area: (each.kept, each.entries, each.holders) for area, each in found.items()} == {
        "1": (True, 1, 3),
        "2": (True, 1, 2),
        "3": (True, 1, 1),
    }
    assert {area: len([ms for _, ms in each.peers if ms is not None]) for area, each in found.items()} == {
        "1": 2,
        "2": 1,
        "3": 0,
    }
    assert {each.table for each in found.values()} == {"Track"}
    views = area_views(found.values())
    assert (views[0].area, views[0].holders, views[0].wanted) == ("3", 1, 2)
    assert areas_warning(views).startswith("area 3 of Track is kept by 1 member(s), and 2 should: ")
    assert areas_warning(views[1:]) == ""
    assert [link.equal for link in world.nodes[0].exchange.links(world.now)] == [True, True]


def test_links_with_many_equal_areas_are_equal(world_of):
    """More areas than digests list one by one: a summary of them is no table that the other side lacks."""
    world = world_of(Interest({}), Interest({}))
    world.write(
        world.nodes[0], f"INSERT INTO Track VALUES{', '.join(f'({area}, 1)' for area in range(LISTED_MAX + 1))}"
    )
    world.run(60_000)
    for node in world.nodes:
        (link,) = node.exchange.links(world.now)
        assert (link.equal, link.behind) == (True, ())
        assert "track" in dict(link.equal_ms)
    world.publishing = False
    world.write(world.nodes[0], "INSERT INTO Track VALUES(3, 2)")
    (link,) = world.nodes[0].exchange.links(world.now)
    assert (link.equal, link.behind) == (False, ("track",))


def test_an_unequal_area_makes_its_table_unequal(world_of):
    world = world_of(Interest({}), keeping("1"), Interest({}))
    world.write(world.nodes[0], "INSERT INTO Track VALUES(1, 'a'), (2, 'b')")
    world.run(5_000)
    for link in [link for link, (node, _) in world.links.items() if node is world.nodes[2]]:
        world.cut(link)
    world.publishing = False
    world.write(world.nodes[0], "INSERT INTO Track VALUES(2, 'c')")
    (link,) = world.nodes[0].exchange.links(world.now)
    assert link.equal, "the peer does not keep what was written"
    world.write(world.nodes[0], "INSERT INTO Track VALUES(1, 'd')")
    (link,) = world.nodes[0].exchange.links(world.now)
    assert (link.equal, link.behind) == (False, ("track[1]",))
    assert "track" not in dict(link.equal_ms)
    assert states(world, 0)["1"].peers == ((world.nodes[1].peer.node_id, None),)


def test_a_read_only_member_is_no_holder(world_of):
    world = world_of(Interest({}), Interest({}), Interest({}), limited=1)
    world.write(world.nodes[0], "INSERT INTO Track VALUES(1, 'a'), (2, 'b')")
    world.run(5_000)
    assert {area: each.holders for area, each in states(world, 0).items()} == {"1": 3, "2": 2}


def test_writes_to_an_area_count_where_it_is_kept(world_of):
    world = world_of(Interest({}), keeping("1"), keeping())
    one = world.nodes[0]

    def count():
        mark = write_position(one.peer.replica)
        world.do(one, CoverageRequested())
        world.run(500)
        return one.exchange.acknowledgements.replicas(one.peer.replica.site, mark)

    world.run(5_000)
    assert count() == (3, "")
    world.write(one, "INSERT INTO Track VALUES(1, 'a')")
    world.run(5_000)
    assert count() == (2, unit_name("track", "1"))
    world.write(one, "INSERT INTO Track VALUES(2, 'a')")
    world.run(5_000)
    assert count() == (1, unit_name("track", "2"))
