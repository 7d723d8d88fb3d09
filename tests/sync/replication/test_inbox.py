"""A batch that breaks the protocol is refused as a whole, and leaves nothing behind in the file or in memory."""

from __future__ import annotations

import pytest

from mycomesh.sync.codec import encode
from mycomesh.sync.crdt.hlc import HLC_MAX, hlc_from_ms
from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.events import BatchReceived
from mycomesh.sync.wire import messages as wire
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section
from tests.sync.attackers import LIAR_SITE, LURE, PRESENT, batch_of, unharmed
from tests.sync.peers import WALL_MS


@pytest.mark.parametrize("payload", [b"", b"junk", encode([1, [], []]) + b"\x00", encode([1, [], [["t", [], [[]]]]])])
def test_a_malformed_batch_is_refused_with_a_notice(attacked, payload):
    world, node, liar = attacked
    world.do(node, BatchReceived(liar.link, liar.PEER, payload))
    assert node.noticed()[-1] == "batch.refused"
    assert "\n" not in node.notices[-1].text
    unharmed(world)


def fact_of(columns, row, keys=None):
    return batch_of(LIAR_SITE, PRESENT, table="mycomesh_schema", columns=columns, rows=[row], keys=keys)


@pytest.mark.parametrize(
    ("bundle", "reason"),
    [
        (batch_of(b"\x01" * 16, PRESENT), "another node than its sender"),
        (batch_of(LIAR_SITE, hlc_from_ms(WALL_MS + 3_600_000)), "ahead of this clock"),
        (batch_of(LIAR_SITE, HLC_MAX), "ahead of this clock"),
        (batch_of(LIAR_SITE, PRESENT, rows=[["text", "v"]]), "not an integer"),
        (batch_of(LIAR_SITE, PRESENT, columns=("v",), rows=[["v"]]), "key columns"),
        (batch_of(LIAR_SITE, PRESENT, kind=Kind.UPDATE), "has no row key"),
        (batch_of(LIAR_SITE, PRESENT, kind=Kind.UPDATE, keys=[b"\x81\x01"]), "not an integer"),
        (batch_of(LIAR_SITE, PRESENT, keys=[1], rows=[[0, "v"]]), "not its row's key"),
        (batch_of(LIAR_SITE, PRESENT, kind=Kind.UPDATE, keys=[1], rows=[[0, "v"]]), "not its row's key"),
        (batch_of(LIAR_SITE, PRESENT, table="words", columns=("k", "v"), rows=[[1 << 63, 1]]), "words"),
        (batch_of(LIAR_SITE, PRESENT, table="words", columns=("v",), rows=[[1]], keys=[b"\x81\xf5"]), "row key"),
        (batch_of(LIAR_SITE, PRESENT, table="words", columns=("v",), rows=[[1]], keys=[b"\x82\x01\x01"]), "row key"),
        (batch_of(LIAR_SITE, PRESENT, table="words", columns=("v",), rows=[[1]], keys=[b"\x00short"]), "of an insert"),
        (batch_of(LIAR_SITE, PRESENT, table="bag", columns=("v",), rows=[[1]], keys=[7]), "row key"),
        (fact_of(("kind", "more", "name", "sql"), ["odd", 1, "x", ""]), "columns kind, name and sql"),
        (fact_of(("kind", "name", "sql"), ["dropped", [b"\xff"], ""]), "not UTF-8"),
        (fact_of(("kind", "name", "sql"), ["odd", "x", [b"\xff"]]), "not UTF-8"),
        (fact_of(("kind",), ["odd"], keys=[encode([[b"\xff"]])]), "not UTF-8"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_invalid_batch_is_refused_as_a_whole(attacked, bundle, reason):
    world, node, liar = attacked
    before, digests = node.peer.tables(), node.peer.digests()
    world.do(node, BatchReceived(liar.link, liar.PEER, bundle.encode()))
    assert node.noticed()[-1] == "batch.refused"
    assert reason in node.notices[-1].text
    assert node.peer.tables() == before
    assert node.peer.digests() == digests
    unharmed(world)


def test_a_refused_batch_leaves_no_note_of_its_table(attacked):
    world, node, liar = attacked
    odd = fact_of(("kind", "name", "sql"), ["table", "odd", "CREATE TABLE odd(a); DROP TABLE t"])
    odd.sections += batch_of(LIAR_SITE, PRESENT, rows=[["text", "v"]]).sections
    world.do(node, BatchReceived(liar.link, liar.PEER, odd.encode()))
    assert node.noticed()[-1] == "batch.refused"
    assert not any(table.note for table in node.peer.replica.status().tables)
    unharmed(world)


@pytest.mark.parametrize("ms", [0, 10, 5_000])
def test_table_that_refused_batch_has_made_is_forgotten(attacked, ms):
    world, node, liar = attacked
    made = fact_of(("kind", "name", "sql"), ["table", "odd", "CREATE TABLE odd(a)"])
    made.sections += batch_of(LIAR_SITE, PRESENT, rows=[["text", "v"]]).sections
    world.do(node, BatchReceived(liar.link, liar.PEER, made.encode()))
    assert node.noticed()[-1] == "batch.refused"
    world.run(ms)
    assert "odd" not in node.peer.digests()
    liar.say(wire.Vectors((("t", Vector()), ("odd", Vector()))), wire.AuditRequest("odd", LIAR_SITE, 0, 1))
    assert wire.AuditReply in map(type, liar.answers())
    unharmed(world)


@pytest.mark.parametrize(
    "fact",
    [["dropped", 'dropped:["t", "v"]', ""], ["dropped", 'dropped:["t"]', ""], ["name", 'name:["t"]', "moved"]],
    ids=lambda fact: fact[1],
)
def test_a_refused_batch_leaves_tables_as_they_were(attacked, fact):
    world, node, liar = attacked
    change = fact_of(("kind", "name", "sql"), fact)
    change.sections += batch_of(LIAR_SITE, PRESENT, table="words", rows=[["no key", 1]]).sections
    before, tables = node.peer.digests(), node.peer.tables()
    world.do(node, BatchReceived(liar.link, liar.PEER, change.encode()))
    assert node.noticed()[-1] == "batch.refused"
    assert node.peer.digests() == before
    assert node.peer.tables() == tables
    world.write(world.nodes[1], "UPDATE t SET v = 'elsewhere' WHERE id = 7")
    world.run(1_000)
    assert node.sql("SELECT v FROM t WHERE id = 7") == [("elsewhere",)]
    unharmed(world)


def test_columns_learnt_from_a_refused_batch_are_forgotten(attacked):
    """Were a column's bit kept in memory alone, entries would name it in the file, and a restart would not know it."""
    world, node, liar = attacked
    group = Group(LIAR_SITE, Kind.INSERT, ("id", "unknown", "v"), [PRESENT], None, [[60_001, "kept", "v"]], None)
    bad = Group(LIAR_SITE, Kind.INSERT, ("id", "v"), [PRESENT + 1], None, [["no integer", "v"]], None)
    world.do(node, BatchReceived(liar.link, liar.PEER, Bundle([Section("t", [], [group, bad])]).encode()))
    assert node.noticed()[-1] == "batch.refused"
    world.do(
        node, BatchReceived(liar.link, liar.PEER, Bundle([Section("t", [(LIAR_SITE, 0, PRESENT)], [group])]).encode())
    )
    digests = node.peer.digests()
    node.peer.close()
    node.peer.open()
    assert node.peer.digests() == digests
    assert node.peer.replica.tables["t"].columns.bits["unknown"]
    node.sql("ALTER TABLE t ADD COLUMN unknown")
    node.peer.drain()
    assert node.sql("SELECT unknown FROM t WHERE id = 60001") == [("kept",)]


@pytest.mark.parametrize("table", ["t", "bag"])
def test_one_stamp_for_two_rows_is_refused(attacked, table):
    world, node, liar = attacked
    before, digests = node.peer.tables(), node.peer.digests()
    columns, rows = (("id", "v"), [[60_001, "one"], [60_002, "two"]]) if table == "t" else (("v",), [["one"], ["two"]])
    keys = [None, None] if table == "t" else [[b"\x00" + LIAR_SITE + bytes(7) + bytes([number])] for number in (1, 2)]
    groups = [
        Group(LIAR_SITE, Kind.INSERT, columns, [PRESENT], key, [row], None) for key, row in zip(keys, rows, strict=True)
    ]
    bundle = Bundle([Section(table, [(LIAR_SITE, 0, PRESENT)], groups)]).encode()
    world.do(node, BatchReceived(liar.link, liar.PEER, bundle))
    assert node.noticed()[-1] == "batch.refused"
    assert "one stamp for two rows" in node.notices[-1].text
    assert node.peer.tables() == before
    assert node.peer.digests() == digests
    liar.say(LURE, wire.Chunk(bundle))
    assert "one stamp for two rows" in liar.dropped()[0]
    unharmed(world)
