"""Rights by table: whose writes count, who receives them, and what a node without them reports to its user."""

from __future__ import annotations

import pytest

from mycomesh.sync.admin.status import WITHHELD
from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.events import BatchReceived, MessageReceived, Notice, RightsKnown
from mycomesh.sync.exchange.catch_up_stream import CatchUpStream
from mycomesh.sync.replication.rights import Rights
from mycomesh.sync.wire import messages as wire
from tests.sync.exchanges import World

DDL = "CREATE TABLE alerts(id INTEGER PRIMARY KEY, v); CREATE TABLE logs(id INTEGER PRIMARY KEY, v)"
ALERTS = (("alerts*", "rw"), ("*", "r"))
READER = (("*", "r"),)


@pytest.fixture
def world_of(tmp_path):
    made = []

    def make(count, grants):
        """`grants`: number of a node -> its rights; every node knows them."""
        made.append(World.made(tmp_path, count))
        world = made[-1]
        limited = tuple((world.nodes[number].peer.node_id, rights) for number, rights in grants.items())
        world.write(world.nodes[0], DDL)
        for node in world.nodes:
            world.do(node, RightsKnown(node.peer.node_id, limited))
        return world

    yield make
    for world in made:
        world.close()


def rows(node, table):
    return [value for (value,) in node.sql(f"SELECT v FROM {table} ORDER BY id")]


def test_the_first_pattern_decides_and_unnamed_nodes_may_everything():
    rights = Rights(b"a", ((b"b", ALERTS), (b"c", (("secret", "-"), ("*", "rw"))), (b"d", ())))
    assert rights.may_write(b"b", "alerts_2")
    assert not rights.may_write(b"b", "logs")
    assert rights.may_read(b"b", "logs")
    assert not rights.may_read(b"c", "secret")
    assert not rights.may_read(b"d", "logs")
    assert rights.may_write(b"a", "logs")
    assert rights.forbidden_tables([b"not even read"]) == []


def test_writes_of_a_read_only_node_stay_local(world_of):
    world = world_of(3, {1: READER})
    one, reader, other = world.nodes
    for left, right in ((one, reader), (reader, other), (one, other)):
        world.link(left, right)
    world.run(3_000)
    world.write(reader, "INSERT INTO logs VALUES(1, 'mine alone')")
    world.run(60_000)  # nor by any later round
    assert rows(reader, "logs") == ["mine alone"]
    assert rows(one, "logs") == rows(other, "logs") == []
    (said,) = [notice for notice in reader.notices if notice.event == "write.withheld"]
    assert said.detail == {"tables": ["logs"]}
    assert "batch.forbidden" in one.noticed()
    assert {table.name: table.note for table in reader.peer.replica.status().tables} == {"alerts": "", "logs": WITHHELD}
    assert {table.note for table in one.peer.replica.status().tables} == {""}
    world.write(one, "INSERT INTO logs VALUES(2, 'theirs')")
    world.run(3_000)
    assert rows(reader, "logs") == ["mine alone", "theirs"]
    assert rows(other, "logs") == ["theirs"]


def test_withheld_write_is_reported_whatever_drains_it(world_of):
    """A merge, a comparison or a reader of the feed may see the write before the node learns about its commit."""
    world = world_of(2, {1: READER})
    one, reader = world.nodes
    world.link(one, reader)
    world.run(3_000)
    reader.sql("INSERT INTO logs VALUES(1, 'mine alone')")
    world.write(one, "INSERT INTO logs VALUES(2, 'theirs')")
    world.run(1_000)
    assert rows(reader, "logs") == ["mine alone", "theirs"]
    (said,) = [notice for notice in reader.notices if notice.event == "write.withheld"]
    assert said.detail == {"tables": ["logs"]}
    reader.sql("INSERT INTO alerts VALUES(1, 'again')")
    published, _ = reader.peer.replica.drain(reader.peer.wall_ms + world.now)
    (said,) = [action for action in reader.exchange.publish(published) if isinstance(action, Notice)]
    assert said.detail == {"tables": ["alerts"]}


def test_rights_apply_per_table_within_one_batch(world_of):
    world = world_of(2, {1: ALERTS})
    one, sensor = world.nodes
    world.link(one, sensor)
    world.run(3_000)
    world.write(sensor, "BEGIN; INSERT INTO logs VALUES(1, 'no'); INSERT INTO alerts VALUES(1, 'yes'); COMMIT")
    world.run(30_000)
    assert rows(one, "alerts") == ["yes"]
    assert rows(one, "logs") == []


def test_a_round_brings_only_what_its_sender_may_write(world_of):
    world = world_of(2, {1: ALERTS})
    one, sensor = world.nodes
    link = world.link(one, sensor)
    world.run(3_000)
    world.cut(link)
    world.write(sensor, "INSERT INTO logs VALUES(1, 'no'); INSERT INTO alerts VALUES(1, 'yes')")
    world.link(one, sensor)
    world.run(30_000)
    assert rows(one, "alerts") == ["yes"]
    assert rows(one, "logs") == []


def test_a_hostile_reader_gets_nothing_accepted(world_of):
    world = world_of(2, {1: READER})
    one, reader = world.nodes
    link = world.link(one, reader)
    world.run(3_000)
    world.publishing = False
    world.write(reader, "INSERT INTO logs VALUES(7, 'slipped in')")
    stream = list(_batches(reader))
    assert stream
    for payload in stream:
        world.do(one, BatchReceived(link, reader.peer.node_id, payload))
        if link in world.links:
            world.do(one, MessageReceived(link, wire.encode(wire.RepairRows(payload, final=True))))
        if link in world.links:
            world.do(one, MessageReceived(link, wire.encode(wire.Chunk(payload))))
    world.run(3_000)
    assert rows(one, "logs") == []


def _batches(node):
    """The node's own rows of `logs` as it would stream them."""
    stream = CatchUpStream(node.peer.replica, {"logs": Vector()})
    stream.estimate()
    while True:
        chunk = stream.next(node.peer.wall_ms + 10**6)
        if chunk.bundle is None:
            return
        yield chunk.bundle


def test_a_node_without_read_rights_learns_nothing(world_of):
    world = world_of(2, {1: (("alerts*", "rw"), ("mycomesh_schema", "rw"))})
    one, sensor = world.nodes
    link = world.link(one, sensor)
    world.write(one, "INSERT INTO logs VALUES(1, 'secret'); INSERT INTO alerts VALUES(1, 'for all')")
    world.run(30_000)
    assert rows(sensor, "alerts") == ["for all"]
    assert not sensor.sql("SELECT name FROM sqlite_master WHERE name = 'logs'") or rows(sensor, "logs") == []
    before = len(one.sent)
    world.do(one, MessageReceived(link, wire.encode(wire.Vectors((("logs", Vector()),)))))
    world.run(1_000)
    answers = [wire.decode(payload) for _, _, payload in one.sent[before:]]
    assert not [each for each in answers if isinstance(each, wire.Chunk)]
    told = [each for _, _, payload in one.sent if isinstance(each := wire.decode(payload), wire.Digests)]
    assert all("logs" not in [table for table, *_ in each.tables] for each in told)


@pytest.mark.parametrize("grants", [(("alerts*", "rw"), ("mycomesh_schema", "rw")), (("logs", "-"), ("*", "rw"))])
def test_table_without_any_right_makes_nobody_unequal(world_of, grants):
    world = world_of(2, {})
    one, other = world.nodes
    world.link(one, other)
    world.write(one, "INSERT INTO logs VALUES(1, 'old')")
    world.run(30_000)
    assert rows(other, "logs") == ["old"]
    for node in world.nodes:
        world.do(node, RightsKnown(node.peer.node_id, ((other.peer.node_id, grants),)))
    world.write(one, "INSERT INTO logs VALUES(2, 'secret'); INSERT INTO alerts VALUES(1, 'for all')")
    world.run(60_000)
    assert (rows(other, "logs"), rows(other, "alerts")) == (["old"], ["for all"])
    for node in world.nodes:
        (link,) = node.exchange.links(world.now)
        assert (link.equal, link.behind) == (True, ())
