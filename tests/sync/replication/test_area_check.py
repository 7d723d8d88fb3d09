"""Rights to areas: whose rows of which area count, also against a member that lies about the area of a row."""

from __future__ import annotations

import pytest

from mycomesh.sync.admin.status import WITHHELD
from mycomesh.sync.errors import DecodeError
from mycomesh.sync.events import BatchReceived, CommitSeen, RightsKnown
from mycomesh.sync.replica import ReplicaConfig
from mycomesh.sync.replication.area_check import check_areas
from mycomesh.sync.replication.rights import Rights
from mycomesh.sync.sqlite.table_spec import encode_key
from mycomesh.sync.storage.areas import area_site
from mycomesh.sync.storage.table import insert_key
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section
from mycomesh.sync.wire.interest import Interest
from mycomesh.sync.wire.units import unit_name
from tests.sync.exchanges import World
from tests.sync.peers import Peer

KEYLESS = "CREATE TABLE track(drone INTEGER DEFAULT 8, uid TEXT, x)"
KEYED = "CREATE TABLE track(drone INTEGER, uid TEXT, x, PRIMARY KEY(drone, uid))"
SEVEN = (("track[7]", "rw"), ("track", "r"), ("*", "r"))
NOT_EIGHT = (("track[8]", "r"), ("*", "rw"))
ROWS = "SELECT drone, uid, x FROM track ORDER BY drone, uid"


@pytest.fixture
def world_of(tmp_path):
    made = []

    def make(definition, rights=SEVEN):
        """Three linked nodes; the second has these rights, the others may do everything."""
        config = ReplicaConfig(interest=Interest({}))
        world = World([Peer(tmp_path / f"{number}.db", number, config=config) for number in range(3)])
        made.append(world)
        one, limited, other = world.nodes
        world.write(one, definition)
        for node in world.nodes:
            world.do(node, RightsKnown(node.peer.node_id, ((limited.peer.node_id, rights),)))
        for left, right in ((one, limited), (limited, other), (one, other)):
            world.link(left, right)
        world.run(5_000)
        one.peer.replica.decisions.decide_area("track", "drone")
        world.do(one, CommitSeen())
        world.run(3_000)
        return world

    yield make
    for world in made:
        world.close()


def test_patterns_name_tables_or_areas():
    rights = Rights(b"a", ((b"b", SEVEN), (b"c", (("t*[a?]", "rw"),)), (b"d", (("t", "r"), ("t[7]", "rw")))))
    assert rights.may_write(b"b", unit_name("track", "7"))
    assert not rights.may_write(b"b", unit_name("track", "70"))
    assert not rights.may_write(b"b", "track")
    assert rights.may_read(b"b", unit_name("track", "8"))
    assert not rights.may_write(b"b", "track7"), "brackets are no set of characters"
    assert rights.may_write(b"c", unit_name("tracks", "ab"))
    assert not rights.may_read(b"c", "tracks")
    assert not rights.may_write(b"d", unit_name("t", "7")), "the first pattern decides"
    assert [rights.names_areas(node) for node in (b"a", b"b", b"c")] == [False, True, True]


@pytest.mark.parametrize("definition", [KEYLESS, KEYED], ids=["keyless", "keyed"])
def test_only_rows_of_the_own_area_go_out(world_of, definition):
    world = world_of(definition)
    one, limited, other = world.nodes
    world.write(one, "INSERT INTO track VALUES(7, 'a', 0), (8, 'b', 0)")
    world.run(3_000)
    world.write(limited, "INSERT INTO track VALUES(7, 'mine', 1), (8, 'theirs', 1)")
    world.write(limited, "UPDATE track SET x = 1 WHERE uid IN ('a', 'b')")
    world.run(60_000)
    for node in (one, other):
        assert node.sql(ROWS) == [(7, "a", 1), (7, "mine", 1), (8, "b", 0)]
    assert (8, "theirs", 1) in limited.sql(ROWS)
    (said,) = {str(notice.detail) for notice in limited.notices if notice.event == "write.withheld"}
    assert said == "{'tables': ['track[8]']}"
    (note,) = [table.note for table in limited.peer.replica.status().tables]
    assert note == WITHHELD.replace("write it", "write area 8").replace("writes stays", "writes there stays")
    found = {each.area: each.withheld for each in limited.exchange.areas([one.peer.node_id, other.peer.node_id])}
    assert found == {"7": False, "8": True}
    assert not any(each.withheld for each in one.exchange.areas([limited.peer.node_id, other.peer.node_id]))
    assert "batch.forbidden" in one.noticed()
    assert one.dropped == other.dropped == []


def test_rows_of_the_own_area_come_by_rounds_too(world_of):
    world = world_of(KEYLESS)
    one, limited, other = world.nodes
    world.publishing = False
    world.write(limited, "INSERT INTO track VALUES(7, 'mine', 1), (8, 'theirs', 1), (NULL, 'none', 1)")
    world.run(60_000)
    assert one.sql(ROWS) == other.sql(ROWS) == [(7, "mine", 1)]


def test_delete_of_a_row_that_nobody_got_comes(world_of):
    """Its insert is gone with it, so nobody but its writer, whose site is in its name, says of which area it was."""
    world = world_of(KEYLESS)
    one, limited, other = world.nodes
    world.publishing = False
    world.write(limited, "INSERT INTO track VALUES(7, 'gone', 1)")
    world.write(limited, "DELETE FROM track")
    world.write(limited, "INSERT INTO track VALUES(7, 'mine', 1)")
    world.run(60_000)
    assert one.sql(ROWS) == other.sql(ROWS) == [(7, "mine", 1)]
    assert len({node.peer.replica.digest_pairs()[unit_name("track", "7")] for node in world.nodes}) == 1


def test_another_area_may_be_the_exception(world_of):
    world = world_of(KEYLESS, NOT_EIGHT)
    one, limited, _ = world.nodes
    world.write(limited, "INSERT INTO track VALUES(7, 'a', 0), (8, 'b', 0), (NULL, 'c', 0)")
    world.run(60_000)
    assert one.sql(ROWS) == [(None, "c", 0), (7, "a", 0)]


# ---- a member that lies


def group(site, kind, columns, rows, keys=None, hlc=1 << 30):
    return Group(site, kind, columns, [hlc + at for at in range(len(rows))], keys, rows, None)


def section(world, groups, *, area="7"):
    site = own_site(world, area)
    name = "track" if area is None else unit_name("track", area)
    return Section(name, [(site, 0, (1 << 30) + 9)], groups)


def own_site(world, area):
    site = world.nodes[1].peer.replica.site
    return site if area is None else area_site(site, "track", area)


def judged(world, forged, rights=SEVEN):
    """Return what the check says of a section of the limited member: "other area", the units that it leaves out, or "fine"."""
    node, member = world.nodes[0], world.nodes[1].peer.node_id
    bundle = Bundle.decode(Bundle([forged]).encode())
    try:
        unsure = check_areas(bundle, node.peer.replica.registry, Rights(b"", ((member, rights),)), member)
    except DecodeError:
        return "other area"
    return unsure or "fine"


COLUMNS = ("drone", "uid", "x")


def test_rows_of_another_area_in_a_section_are_found(world_of):
    world = world_of(KEYLESS)
    site = own_site(world, "7")

    def of(*rows, kind=Kind.INSERT, columns=COLUMNS, keys=None):
        return judged(world, section(world, [group(site, kind, columns, list(rows), keys)]))

    assert of([7, "a", 0], ["7", "b", 0]) == "fine"
    assert of([7, "a", 0], [8, "b", 0]) == "other area"
    assert of([None, "a", 0]) == "other area"
    assert of([b"7", "a", 0]) == "other area"
    assert of([[b"\xff"], "a", 0]) == "other area"
    assert of(["07", "a", 0]) == "other area"
    assert of(["a", 0], columns=("uid", "x")) == [unit_name("track", "7")], "the default would be another area"
    key = insert_key(site, 5)
    assert of([8], kind=Kind.UPDATE, columns=("drone",), keys=[key]) == "other area"


def test_text_that_becomes_another_area_is_found(world_of):
    world = world_of(KEYLESS)
    rights = (("track[0*]", "rw"), ("*", "r"))
    forged = section(world, [group(own_site(world, "07"), Kind.INSERT, COLUMNS, [["07", "a", 0]])], area="07")
    assert judged(world, forged, rights) == "other area"


def test_changes_of_rows_of_another_area_are_found(world_of):
    world = world_of(KEYLESS)
    one = world.nodes[0]
    world.write(one, "INSERT INTO track VALUES(7, 'a', 0), (8, 'b', 0)")
    world.run(3_000)
    site = own_site(world, "7")
    table = one.peer.replica.tables["track"]

    def key_of(area):
        number = table.areas.numbers(area)[0]
        return table.key(*next((row, [stored]) for stored, row in _entries(table, number)))

    def change(key, kind=Kind.UPDATE):
        columns, row = (("x",), [9]) if kind is Kind.UPDATE else ((), [])
        return judged(world, section(world, [group(site, kind, columns, [row], [key])]))

    assert change(key_of("7")) == "fine"
    assert change(key_of("8")) == "other area"
    assert change(key_of("8"), Kind.DELETE) == "other area"
    unknown = insert_key(b"?" * 16, 5)
    assert change(unknown) == [unit_name("track", "7")]
    assert judged(world, section(world, [group(site, Kind.UPDATE, ("x",), [[9]], [unknown])]), (("*", "rw"),)) == "fine"
    base = insert_key(one.peer.replica.site, 5)
    world.write(one, "INSERT INTO track VALUES(NULL, 'c', 0)")
    assert change(base) == "other area"


def _entries(table, number):
    for found, hlc, row, _ in table.log.scan_site(number, -1, 10):
        for stored in table.log.entries_of_row(row):
            if stored[:2] == (found, hlc):
                yield stored, row


def test_keys_of_another_area_are_found(world_of):
    world = world_of(KEYED)
    site = own_site(world, "7")
    spec = world.nodes[0].peer.replica.tables["track"].spec

    def change(area):
        key = encode_key(spec, (area, "b"))
        return judged(world, section(world, [group(site, Kind.DELETE, (), [[]], [key])]))

    assert change(7) == "fine"
    assert change(8) == "other area"


def test_base_rows_of_a_denied_area_are_found(world_of):
    world = world_of(KEYLESS)
    site = own_site(world, None)

    def insert(value):
        forged = section(world, [group(site, Kind.INSERT, COLUMNS, [[value, "a", 0]])], area=None)
        return judged(world, forged, NOT_EIGHT)

    assert insert(7) == insert(None) == "fine"
    assert insert(8) == insert("8") == "other area"


def test_a_lying_batch_changes_nothing(world_of):
    world = world_of(KEYLESS)
    one, limited, _ = world.nodes
    world.write(one, "INSERT INTO track VALUES(8, 'b', 0)")
    world.run(3_000)
    before = one.sql(ROWS)
    hlc = one.peer.replica.store.clock.last + 1
    forged = Section(
        unit_name("track", "7"),
        [(own_site(world, "7"), 0, hlc)],
        [group(own_site(world, "7"), Kind.INSERT, COLUMNS, [[8, "forged", 1]], hlc=hlc)],
    )
    (link,) = [
        number for number, (node, other) in world.links.items() if node is one and world.links[other][0] is limited
    ]
    world.do(one, BatchReceived(link, limited.peer.node_id, Bundle([forged]).encode()))
    assert one.sql(ROWS) == before
    assert "batch.refused" in one.noticed()
    assert one.peer.replica.registry.unit(unit_name("track", "7")).vector.top(own_site(world, "7")) < hlc
