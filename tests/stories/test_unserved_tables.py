"""Tables that a node does not serve, each kind that the code knows: two linked nodes exchange comparisons at rest and no more."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mycomesh.sync.events import CommitSeen, RightsKnown
from mycomesh.sync.replica import ReplicaConfig
from mycomesh.sync.sqlite import table_spec
from mycomesh.sync.wire import messages as wire
from tests.sync.exchanges import World
from tests.sync.peers import Peer

SETTLED_MS = 180_000
REST_MS = 600_000
WRITE = "INSERT INTO dc(id) VALUES(%d)"
KEYED = "CREATE TABLE dc(id INTEGER PRIMARY KEY, a {}); " + WRITE % 1


def by_app(peer):
    """Define what an application defines on its own connection alone."""
    peer.app.create_collation("unicase", lambda one, two: (one.lower() > two.lower()) - (one.lower() < two.lower()))
    peer.app.create_scalar_function("appfn", lambda value: value, 1, deterministic=True)


BROKEN = (
    "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = replace(sql, ')', ', ' || CAST(x'22ff22' AS TEXT) || ')')"
    " WHERE name = 'dc'; PRAGMA writable_schema = RESET; " + WRITE % 1
)
SHADOWS = (
    "PRAGMA writable_schema = 1; INSERT INTO sqlite_schema VALUES('table', 'vec', 'vec', 0, 'CREATE VIRTUAL TABLE vec USING"
    " vec0(a)'); PRAGMA writable_schema = RESET; CREATE TABLE vec_rowids(dc); INSERT INTO vec_rowids VALUES(1)"
)
# kind -> (script, words of the note)
IN_THE_FILE = {
    "collation of a UNIQUE": (KEYED.format("TEXT COLLATE unicase UNIQUE"), "this node cannot write it: "),
    "collation of an index": (KEYED.format("") + "; CREATE INDEX i ON dc(a COLLATE unicase)", "unicase"),
    "collation of a CHECK": (KEYED.format("TEXT COLLATE unicase CHECK (a IS NULL OR a > 'b')"), "unicase"),
    "collation of the key": (
        "CREATE TABLE dc(id TEXT COLLATE unicase PRIMARY KEY);" + WRITE % 1,
        "uses the collation ",
    ),
    "function of a CHECK": (KEYED.format("CHECK (appfn(a) IS NULL)"), "appfn"),
    "function of an index": (KEYED.format("") + "; CREATE INDEX i ON dc(appfn(a))", "appfn"),
    "function of a generated column": (KEYED.format(", g AS (appfn(a))"), "appfn"),
    "long definition": (
        KEYED.format("CHECK (id > " + "1" * 70_000 + ")").replace("1" * 70_000, "(" + " " * 66_000 + "-1)"),
        "its definition has ",
    ),
    "deep expression": (KEYED.format("CHECK (id > 0 " + "+ 1" * 300 + " - 400)"), "too large"),
    "many columns": (KEYED.format("".join(f", c{n}" for n in range(950))), "columns; the limit is "),
    "no name of the rowid": (
        "CREATE TABLE dc(id, rowid, oid, _rowid_); " + WRITE % 1,
        "hide all three names of the rowid",
    ),
    "empty name": (KEYED.format(', "" INT'), "a name in it is empty"),
    "long name": (KEYED.format(f", {'n' * 257}"), "a name in it has "),
    "newer function": (KEYED.format("CHECK (a IS NULL OR json_valid(a, 8))"), "json_valid"),
    "virtual table": ("CREATE VIRTUAL TABLE dc USING fts5(id);" + WRITE % 1, "virtual table"),
    "content of a module that is not here": (
        SHADOWS,
        "vec_rowids seem",
    ),
    "counters of GDAL": ("CREATE TABLE gpkg_ogr_contents(dc); INSERT INTO gpkg_ogr_contents VALUES(1)", "GDAL counts"),
    **{
        f"table of {owner}": (
            f"CREATE TABLE {name}(dc); INSERT INTO {name} VALUES(1)",
            f"{owner} keeps its own state",
        )
        for name, owner in {
            "_litestream_seq": "Litestream",
            "_Debezium_cdc_log": "Debezium",
            "turso_cdc": "Turso",
            "todo__crsql_clock": "cr-sqlite",
            "cloudsync_settings": "SQLite Sync",
        }.items()
    },
    "reserved name": ("CREATE TABLE mycomesh_dc(id INTEGER PRIMARY KEY)", "are reserved for the node"),
    "definition not UTF-8": ("CREATE TABLE dc(id INTEGER PRIMARY KEY); " + BROKEN, "UTF-8"),
}
KEY = "CREATE TABLE dc(id INTEGER PRIMARY KEY, a); " + WRITE % 1
COLLATED = KEYED.format("TEXT COLLATE unicase NOT NULL DEFAULT ''")
# kind -> (script at one, script at two, what two does later, settings of two, words of a note)
# A migration and rights are not SQL of an application, and begin with their name.
BETWEEN_NODES = {
    "collation of a column": (COLLATED, "", "", {}, "no such collation sequence: unicase, which only the application"),
    "other key": (KEY, "CREATE TABLE dc(id TEXT PRIMARY KEY, a); " + WRITE % 2, "", {}, "rename one"),
    "left out by the settings": (KEY, "", "", {"exclude": ("dc",)}, ""),
    "view of that name": (KEY, "CREATE VIEW dc AS SELECT 1 AS id", "", {}, "has a view of that name"),
    "removed by hand": (KEY, "", "DROP TABLE dc", {}, "by hand"),
    "dropped on the mesh": (KEY, "", "migrate DROP TABLE dc", {}, ""),
    "may not be written": (KEY, "", "rights r", {}, "may not write"),
    "may not be read": (KEY, "", "rights ", {}, ""),
}


@pytest.fixture
def two_of(tmp_path):
    worlds = []

    def make(**settings):
        peers = [
            Peer(tmp_path / f"{number}.db", number, config=ReplicaConfig(**settings if number else {}))
            for number in range(2)
        ]
        for peer in peers:
            by_app(peer)
        worlds.append(World(peers))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


def note(node, table="dc"):
    return next((status.note for status in node.peer.replica.status().tables if status.name == table), "")


def rest(world):
    """Let the nodes settle, and then rest; return the bytes of the rest. They compare, and do nothing else."""
    world.run(5_000)
    assert sum(len(node.sent) for node in world.nodes) < 500  # else they would fill the whole time with their talk
    world.run(SETTLED_MS)
    published = []
    world._publish = lambda _, payload: published.append(payload)
    for node in world.nodes:
        node.sent.clear()
        node.notices.clear()
    facts = [node.sql("SELECT * FROM mycomesh_schema ORDER BY name") for node in world.nodes]
    world.run(REST_MS)
    assert not published
    assert facts == [node.sql("SELECT * FROM mycomesh_schema ORDER BY name") for node in world.nodes]
    assert {event for node in world.nodes for event in node.noticed()} <= {"scrub.done"}
    sent = [payload for node in world.nodes for _, _, payload in node.sent]
    assert {type(wire.decode(payload)) for payload in sent} == {wire.Digests}
    return sum(map(len, sent))


@pytest.fixture(scope="module")
def served_bytes(tmp_path_factory):
    """The bytes at rest of two nodes that serve one table with equal rows, which both have written."""
    world = World.made(tmp_path_factory.mktemp("served"), 2)
    one, two = world.nodes
    world.write(one, KEY)
    world.link(one, two)
    world.run(5_000)
    world.write(two, WRITE % 2)
    size = rest(world)
    assert world.equal()
    world.close()
    return size


@pytest.mark.each_value
@pytest.mark.parametrize("sides", [1, 2], ids=["one side", "both sides"])
@pytest.mark.parametrize("kind", IN_THE_FILE)
def test_an_unserved_table_costs_nothing_at_rest(two_of, served_bytes, kind, sides):
    script, told = IN_THE_FILE[kind]
    world = two_of()
    for node in world.nodes[:sides]:
        world.write(node, script)
    world.link(*world.nodes)
    world.run(5_000)
    for number, node in enumerate(world.nodes[:sides]):
        if "dc(id" in script and "mycomesh" not in script:
            world.write(node, WRITE % (number + 100))
        assert any(told in table.note for table in node.peer.replica.status().tables)
        assert set(node.peer.replica.tables) == {"mycomesh_schema"}
    assert rest(world) < served_bytes
    assert world.equal()


def test_each_reason_in_the_code_is_tried():
    text = Path(table_spec.__file__).read_text()
    reasons = re.findall(r'UnsupportedTable\(\s*f?"(.*?)"', text)
    assert len(reasons) > 9
    told = [words for _, words in IN_THE_FILE.values()]
    untried = [reason for reason in reasons if not any(words in reason for words in told)]
    # SQLite itself makes no table without stored columns, and the pass asks only for tables that are there.
    assert untried == ["no such table", "it has no stored columns"]


@pytest.mark.parametrize("kind", BETWEEN_NODES)
def test_a_table_of_another_node_costs_no_more(two_of, served_bytes, kind):
    script, first, later, settings, told = BETWEEN_NODES[kind]
    world = two_of(**settings)
    one, two = world.nodes
    world.write(one, script)
    if first:
        world.write(two, first)
    world.link(one, two)
    world.run(5_000)
    match later.partition(" "):
        case "migrate", _, statement:
            two.peer.replica.migrate(statement, two.peer.wall_ms + world.now)
            world.do(two, CommitSeen())
        case "rights", _, granted:
            grants = (two.peer.node_id, (("dc", granted), ("*", "rw")))
            for node in world.nodes:
                world.do(node, RightsKnown(node.peer.node_id, (grants,)))
            world.write(two, WRITE % 200)
        case _:
            world.write(two, later)
    if "migrate" not in later:
        world.write(one, WRITE % 100)
    unequal = kind == "may not be written"  # what is withheld differs for ever, so both sides go on comparing
    assert rest(world) <= served_bytes * (1 + unequal)
    assert told in note(one) + note(two)


def test_a_collation_of_both_applications_hinders_nothing(two_of, served_bytes):
    world = two_of()
    one, two = world.nodes
    world.write(one, COLLATED)
    world.write(two, COLLATED.replace("a TEXT", "'a'  TEXT").replace("id) VALUES(1)", "id, a) VALUES(2, 'two')"))
    world.link(one, two)
    world.run(5_000)
    world.write(two, "UPDATE dc SET a = 'ONE' WHERE id = 1")
    world.run(5_000)
    world.write(one, "UPDATE dc SET a = 'one' WHERE id = 1")  # equal to the application, other bytes
    assert rest(world) <= served_bytes * 1.05  # comparisons come with jitter
    assert world.equal()
    for node in world.nodes:
        assert node.sql("SELECT * FROM dc ORDER BY id") == [(1, "one"), (2, "two")]
        assert not note(node)
