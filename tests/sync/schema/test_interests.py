"""Interests: each member states which areas it keeps, and everybody knows it."""

from __future__ import annotations

import pytest

from mycomesh.sync import codec
from mycomesh.sync.events import BatchReceived, CommitSeen, RightsKnown
from mycomesh.sync.exchange import interest_repeats
from mycomesh.sync.replica import ReplicaConfig
from mycomesh.sync.schema.facts import SCHEMA_TABLE
from mycomesh.sync.schema.interests import stated_members, states_own_interest
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section
from mycomesh.sync.wire.interest import Interest, interest_fact
from mycomesh.sync.wire.units import unit_name
from tests.sync.exchanges import World
from tests.sync.peers import Peer

TABLE = "CREATE TABLE Track(drone INTEGER, x)"
LIMITED = (("track", "rw"), ("*", "r"))


@pytest.fixture
def world_of(tmp_path):
    made = []

    def make(interests, limited=()):
        peers = [
            Peer(tmp_path / f"{number}.db", number, config=ReplicaConfig(interest=interest))
            for number, interest in enumerate(interests)
        ]
        world = World(peers)
        made.append(world)
        grants = tuple((peers[number].node_id, LIMITED) for number in limited)
        for node in world.nodes:
            world.do(node, RightsKnown(node.peer.node_id, grants))
        for number, one in enumerate(world.nodes):
            for two in world.nodes[number + 1 :]:
                world.link(one, two)
        return world

    yield make
    for world in made:
        world.close()


def keeping(*areas):
    return Interest({"Track": frozenset(areas)})


def cut(world, node):
    node.peer.replica.decisions.decide_area("Track", "drone")
    world.do(node, CommitSeen())
    world.run(3_000)


def wanting(world, node, area):
    replica = node.peer.replica
    return [replica.wants(each.peer.node_id, unit_name("track", area)) for each in world.nodes]


def holding(world, node, area):
    replica = node.peer.replica
    return [replica.is_holder(each.peer.node_id, "track", area) for each in world.nodes]


def facts(node):
    return node.sql(f"SELECT name, sql FROM {SCHEMA_TABLE} WHERE kind = 'interest' ORDER BY name")


def test_everybody_learns_what_everybody_keeps(world_of):
    world = world_of([Interest({}), keeping("07"), keeping("7", "8"), None])
    world.write(world.nodes[0], TABLE)
    world.run(5_000)
    assert facts(world.nodes[0]) == []  # nothing is said before a table is cut
    cut(world, world.nodes[0])
    for node in world.nodes[:3]:
        assert wanting(world, node, "8") == [True, False, True, True]  # one that states nothing may want everything
        assert holding(world, node, "7") == [True, True, True, False]
    assert len(facts(world.nodes[3])) == 3


def test_a_new_interest_is_stated_again(world_of):
    world = world_of([Interest({}), keeping("7")])
    world.write(world.nodes[0], TABLE)
    cut(world, world.nodes[0])
    before = world.nodes[0].peer.replica.interests.version
    world.nodes[1].peer.replica.set_interest(keeping("9"))
    world.do(world.nodes[1], CommitSeen())
    world.run(3_000)
    assert wanting(world, world.nodes[0], "9") == [True, True]
    assert wanting(world, world.nodes[0], "7") == [True, False]
    assert world.nodes[0].peer.replica.interests.version > before
    assert len(facts(world.nodes[0])) == 2


def test_a_reopened_file_states_what_the_settings_say(world_of):
    world = world_of([Interest({}), keeping("7")])
    world.write(world.nodes[0], TABLE)
    cut(world, world.nodes[0])
    node = world.nodes[1]
    for link in list(world.links):
        world.cut(link)
    node.peer.config = ReplicaConfig(interest=keeping("8"))
    node.reopen()
    world.do(node, CommitSeen())
    world.link(world.nodes[0], node)
    world.run(20_000)
    assert holding(world, world.nodes[0], "8") == [True, True]


def test_a_member_without_the_right_to_facts_states_it(world_of):
    world = world_of([Interest({}), keeping("7"), Interest({})], limited=(1,))
    world.write(world.nodes[0], TABLE)
    cut(world, world.nodes[0])
    assert [wanting(world, node, "8") for node in world.nodes] == [[True, False, True]] * 3
    assert "write.withheld" not in world.nodes[1].noticed()
    assert "batch.forbidden" not in world.nodes[0].noticed()


def test_a_lost_statement_is_repeated_with_the_next_link(world_of):
    world = world_of([Interest({}), keeping("7")], limited=(1,))
    world.write(world.nodes[0], TABLE)
    world.run(5_000)
    world.nodes[0].peer.replica.decisions.decide_area("Track", "drone")
    world.do(world.nodes[0], CommitSeen())
    world.run(2)
    world.publishing = False
    world.run(20_000)
    assert wanting(world, world.nodes[0], "8") == [True, True]
    world.publishing = True
    for link in list(world.links):
        world.cut(link)
    world.link(*world.nodes)
    world.run(1_000)
    assert wanting(world, world.nodes[0], "8") == [True, False]
    said = facts(world.nodes[0])
    for link in list(world.links):
        world.cut(link)
    world.link(*world.nodes)
    world.run(1_000)
    assert facts(world.nodes[0]) == said  # not again within a minute
    world.run(interest_repeats.REPEAT_MS)
    for link in list(world.links):
        world.cut(link)
    world.link(*world.nodes)
    world.run(1_000)
    assert facts(world.nodes[0]) != said
    assert wanting(world, world.nodes[0], "8") == [True, False]


def test_nobody_states_the_interest_of_another(world_of):
    world = world_of([Interest({}), keeping("7"), Interest({})], limited=(1,))
    world.write(world.nodes[0], TABLE)
    cut(world, world.nodes[0])
    forged = interest_fact(world.nodes[0].peer.node_id[:8], Interest({"track": frozenset()}))
    with world.nodes[1].peer.replica.store.transaction():
        world.nodes[1].peer.replica.registry.facts.write(*forged)
    world.do(world.nodes[1], CommitSeen())
    world.run(3_000)
    assert wanting(world, world.nodes[2], "8") == [True, False, True]
    assert "batch.forbidden" in world.nodes[2].noticed()
    with world.nodes[2].peer.replica.store.transaction():  # this one may write facts, but speaks for itself only
        world.nodes[2].peer.replica.registry.facts.write(*forged)
    world.do(world.nodes[2], CommitSeen())
    world.run(3_000)
    assert wanting(world, world.nodes[2], "8") == [True, False, True]


def group(name, member, kind="interest"):
    row = [kind, name, '{"keeps":{}}']
    return Group(member + bytes(8), Kind.INSERT, ("kind", "name", "sql"), [1], None, [row], None)


def test_only_statements_about_itself_pass_without_the_right():
    member = b"A" * 8
    (name, _, _), writer = interest_fact(member, Interest({})), member + bytes(8)
    good = group(name, member)

    def passes(*groups, table=SCHEMA_TABLE):
        section = Section(table, [(member + bytes(8), 0, 1)], list(groups))
        (decoded,) = Bundle.decode(Bundle([section]).encode()).sections
        return states_own_interest(decoded, writer)

    assert passes(good)
    assert not passes()
    assert not passes(good, table="t")
    assert not passes(good, group("t", member, "table"))
    assert not passes(group(name, member, "table"))
    assert not passes(group(interest_fact(b"B" * 8, Interest({}))[0], member))
    assert not passes(group(name, b"B" * 8))
    dead = Group(member + bytes(8), Kind.DELETE, (), [1], [b"\x81\x61t"], [[]], None)
    assert not passes(dead)


def test_a_message_of_an_unknown_node_changes_nothing(world_of):
    world = world_of([Interest({}), keeping("7")], limited=(1,))
    world.write(world.nodes[0], TABLE)
    cut(world, world.nodes[0])
    name, kind, sql = interest_fact(b"Z" * 8, Interest({"track": frozenset()}))
    row = Group(b"Z" * 16, Kind.INSERT, ("kind", "name", "sql"), [1 << 20], None, [[kind, name, sql]], None)
    payload = Bundle([Section(SCHEMA_TABLE, [(b"Z" * 16, 0, 1 << 20)], [row])]).encode()
    (link,) = [number for number, (node, _) in world.links.items() if node is world.nodes[0]]
    world.do(world.nodes[0], BatchReceived(link, world.nodes[1].peer.node_id, payload))
    assert wanting(world, world.nodes[0], "8") == [True, False]


def test_statements_of_others_look_at_no_table(world_of, monkeypatch):
    world = world_of([Interest({}), *(keeping(str(number)) for number in range(6))])
    world.write(world.nodes[0], TABLE)
    world.run(5_000)
    passes = []
    for node in world.nodes:
        catalog = node.peer.replica.catalog
        monkeypatch.setattr(
            catalog, "apply_facts", lambda drain, was=catalog.apply_facts: (passes.append(1), was(drain))
        )
    cut(world, world.nodes[0])
    assert len(passes) <= 2 * len(world.nodes)  # the cut, and what came in one round with it
    before = len(passes)
    for number, node in enumerate(world.nodes[1:], 1):
        node.peer.replica.set_interest(keeping(str(number), "20"))
        world.do(node, CommitSeen())
        world.run(1_000)
    assert len(passes) == before
    assert all(wanting(world, node, "20") == [True] * 7 for node in world.nodes)
    for node in world.nodes:
        interests = node.peer.replica.interests
        learned = dict(interests.stated())
        interests.forget()
        assert learned == interests.stated()
        assert len(learned) == 6


def test_a_statement_that_is_rolled_back_does_not_count(world_of):
    world = world_of([Interest({}), keeping("7")])
    world.write(world.nodes[0], TABLE)
    cut(world, world.nodes[0])
    replica, member = world.nodes[0].peer.replica, world.nodes[1].peer.node_id[:8]
    change = f"UPDATE {SCHEMA_TABLE} SET sql = '{{}}' WHERE kind = 'interest' AND name LIKE ?"

    def learn_and_fail():
        with replica.store.transaction():
            replica.store.db.execute(change, (f"%{member.hex()}%",))
            assert replica.catalog.learn_interests([member])
            assert replica.interests.of(member) is None
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        learn_and_fail()
    assert replica.interests.of(member) == Interest({"track": frozenset(("7",))})


@pytest.mark.parametrize(
    ("changed", "members"),
    [
        (group(interest_fact(b"A" * 8, Interest({}))[0], b"A" * 8), [b"A" * 8]),
        (
            Group(
                b"A" * 16,
                Kind.UPDATE,
                ("sql",),
                [1],
                [codec.encode([interest_fact(b"B" * 8, Interest({}))[0]])],
                [["{}"]],
                None,
            ),
            [b"B" * 8],
        ),
        (group("t", b"A" * 8, "table"), None),
        (
            Group(
                b"A" * 16, Kind.DELETE, (), [1], [codec.encode([interest_fact(b"A" * 8, Interest({}))[0]])], [[]], None
            ),
            None,
        ),
        (Group(b"A" * 16, Kind.UPDATE, ("sql",), [1], [b"junk"], [["{}"]], None), None),
        (Group(b"A" * 16, Kind.UPDATE, ("sql",), [1], [7], [["{}"]], None), None),
    ],
)
def test_changes_of_facts_are_known_for_statements(changed, members):
    assert stated_members([changed]) == members
