"""Tables and triggers of the node's own that a person drops or alters: made again, or told in one line; no user's row is lost."""

from __future__ import annotations

import shutil
import subprocess

import apsw
import pytest

from mycomesh.sync.errors import DatabaseError, FileReplacedError
from mycomesh.sync.storage import internal_tables
from mycomesh.sync.storage.internal_tables import RARE, create_rare, damaged
from tests.sync.exchanges import World
from tests.sync.peers import Peer, assert_equal, content, converge, shell
from tests.sync.scale import SCALE

DDL = (
    "CREATE TABLE t(id INTEGER PRIMARY KEY, v UNIQUE, w); CREATE TABLE bag(v, w); CREATE TABLE k(k TEXT PRIMARY KEY, v)"
)
FILL = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 12) INSERT INTO bag SELECT i, i FROM n;"
    " INSERT INTO t VALUES(1, 'a', 1), (2, 'b', 2), (3, 'c', 3); INSERT INTO k VALUES('a', 1), (NULL, 2)"
)
WRITES = (
    "INSERT INTO t VALUES({0}, 'x{0}', 1)",
    "INSERT INTO bag VALUES('x{0}', 1)",
    "INSERT INTO k VALUES('x{0}', 1)",
    "UPDATE bag SET w = 'x{0}' WHERE v = {0}",
)
NO_MORE = ("changes", "held", "meta", "replicated", "runs", "schema", "sites")


def with_rare_tables(peer):
    """Give the file of a peer, which has to be drained, every table that a node makes at its first row."""
    with peer.replica.store.transaction():
        for name in RARE:
            create_rare(peer.replica.store.db, name)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """(type, name) of everything of the node's own in such a file."""
    peer = Peer(tmp_path_factory.mktemp("ours") / "0.db", 0)
    peer.sql(DDL)
    peer.drain()
    with_rare_tables(peer)
    listing = (
        "SELECT type, name FROM sqlite_schema WHERE name GLOB 'mycomesh_*' AND sql IS NOT NULL ORDER BY type, name"
    )
    found = peer.sql(listing)
    peer.close()
    return found


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Two replicas that have rows, a tombstone, and a row on each that the UNIQUE of `t` has parked; made once."""
    folder = tmp_path_factory.mktemp("template")
    one, two = (Peer(folder / f"{side}.db", side) for side in range(2))
    one.sql(DDL)
    converge([one, two])
    one.sql(FILL)
    converge([one, two])
    one.sql("INSERT INTO t VALUES(10, 'dup', 1)")
    two.sql("INSERT INTO t VALUES(11, 'dup', 1); DELETE FROM t WHERE id = 3")
    converge([one, two])
    assert len(one.recorded("mycomesh_parked")) == 1
    for peer in (one, two):
        with_rare_tables(peer)
        peer.close()
    return folder


@pytest.fixture
def filled(template, tmp_path):
    """Open a copy of these, of that number; the second has a write that it has told nobody."""

    def opened(number=0):
        for path in sorted(template.iterdir()):
            shutil.copy(path, tmp_path / f"{number}.{path.name}")
        one, two = (Peer(tmp_path / f"{number}.{side}.db", side) for side in range(2))
        two.sql("UPDATE bag SET w = 'theirs' WHERE v = 5")
        return one, two

    return opened


def written(peer, number):
    """Write as an application; some writes may fail while an internal table does not exist."""
    script = ";\n".join(WRITES).format(number) + ";"
    subprocess.run(
        ["sqlite3", "-batch", str(peer.path)], input=script.encode(), capture_output=True, check=False, timeout=60
    )


def reopen(peer):
    peer.recalled = dict([peer.replica.noted])
    peer.close()
    peer.open()


def hurt(peer, statement, *, running):
    """A person's statement, a few writes, and what a node does then: looks, and opens a file again that it does not know."""
    if not running:
        peer.close()
    shell(peer.path, f"{statement};")
    written(peer, 7)
    db = apsw.Connection(str(peer.path))
    before = content(db)
    db.close()
    if not running:
        peer.open()
        return before
    try:
        peer.drain()
    except FileReplacedError:
        reopen(peer)
    return before


def assert_unhurt(one, two, before):
    written(one, 8)
    converge([one, two])
    assert_equal(one, two)
    assert one.scrub().found == two.scrub().found == 0
    after = one.tables()
    wanted = {
        name: [row for row in rows if row[:2] not in (("integer", 5), ("integer", 8))] for name, rows in before.items()
    }
    assert all(row in after[name] for name, rows in wanted.items() for row in rows)
    assert ("integer", 5, "text", b"theirs") in after["bag"]
    assert {("text", b"x8", "integer", 1), ("integer", 8, "text", b"x8")} <= set(after["bag"])
    assert [row[1] for row in one.recorded("mycomesh_parked")] == [row[1] for row in two.recorded("mycomesh_parked")]
    two.sql("UPDATE t SET v = 'other' WHERE v = 'dup'")  # makes room for the row that is parked
    converge([one, two])
    assert_equal(one, two)
    assert one.sql("SELECT count(*) FROM t WHERE id IN (10, 11)") == [(2,)]
    assert one.recorded("mycomesh_parked") == []


@pytest.mark.slow
@pytest.mark.parametrize("running", [False, True], ids=["stopped", "running"])
def test_dropped_internals_are_rebuilt_or_reported_without_loss(filled, ours, running):
    assert len(ours) > 40
    # Each object once, stopped or running; `make long` drops each in both.
    for number, (kind, name) in enumerate(ours if SCALE != 1 else ours[running::2]):
        one, two = filled(number)
        rows = one.tables()
        if kind == "table" and name.split("_")[1] in NO_MORE:
            with pytest.raises(
                DatabaseError, match=f"{name} was dropped, emptied or altered, and cannot be made again"
            ):
                hurt(one, f"DROP TABLE {name}", running=running)
            db = apsw.Connection(str(one.path))
            assert all(
                set(rows[table]) - set(found) <= {("integer", 7, "integer", 7)} for table, found in content(db).items()
            )
            db.close()
        else:
            assert_unhurt(one, two, hurt(one, f"DROP {kind} {name}", running=running))
        one.close()
        two.close()


@pytest.mark.parametrize("running", [False, True], ids=["stopped", "running"])
@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE mycomesh_pending_2 RENAME TO elsewhere",
        "ALTER TABLE mycomesh_pending_2 RENAME COLUMN r TO z",
        "ALTER TABLE mycomesh_pending_3 RENAME COLUMN k0 TO z",
        "ALTER TABLE mycomesh_pending_2 RENAME COLUMN what TO z",
        "ALTER TABLE mycomesh_pending_2 ADD COLUMN z",
        "ALTER TABLE mycomesh_parked ADD COLUMN z",
        "ALTER TABLE mycomesh_vectors RENAME COLUMN upto TO z",
        "DROP TABLE mycomesh_pending_2; CREATE TABLE mycomesh_pending_2(z)",
        "DROP TRIGGER mycomesh_2_insert; CREATE TRIGGER mycomesh_2_insert AFTER INSERT ON bag BEGIN SELECT 1; END",
        "DELETE FROM bag WHERE v = 3; DROP INDEX mycomesh_2_keep; VACUUM",
        "DROP TABLE mycomesh_pending_2; DROP TABLE mycomesh_parked; DROP TABLE mycomesh_vectors; DROP TABLE mycomesh_collected",
        "DELETE FROM mycomesh_pending_2",
        "DELETE FROM mycomesh_sweeps",
        "DELETE FROM mycomesh_mark",
        "DELETE FROM mycomesh_collected",
    ],
)
def test_altered_or_emptied_internals_are_rebuilt_without_loss(filled, statement, running):
    one, two = filled()
    before = hurt(one, statement, running=running)
    if "RENAME TO elsewhere" in statement:
        converge([one, two])
        del before["elsewhere"]
    assert_unhurt(one, two, before)
    one.close()
    two.close()


@pytest.mark.parametrize("running", [False, True], ids=["stopped", "running"])
@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM mycomesh_meta", "mycomesh_meta was dropped, emptied"),
        ("DELETE FROM mycomesh_sites", "mycomesh_sites was dropped, emptied"),
        ("DELETE FROM mycomesh_replicated", "mycomesh_replicated was dropped, emptied"),
        (
            "ALTER TABLE mycomesh_changes_2 RENAME COLUMN digest TO z",
            "mycomesh_changes_2 was dropped, emptied or altered",
        ),
        ("ALTER TABLE mycomesh_runs_2 RENAME TO elsewhere", "mycomesh_runs_2 was dropped"),
        ("DROP TABLE mycomesh_peers; CREATE VIEW mycomesh_peers AS SELECT 1 AS a", "its view mycomesh_peers"),
    ],
)
def test_a_lost_irreplaceable_table_is_reported_at_opening(filled, statement, said, running):
    one, two = filled()

    def hurt_and_opened():
        hurt(one, statement, running=running)
        reopen(one)

    with pytest.raises(DatabaseError, match=said):
        hurt_and_opened()
    one.close()
    two.close()


def test_names_that_were_given_are_not_made_up_again(filled):
    one, two = filled()
    one.shell("ALTER TABLE k RENAME COLUMN v TO value;")
    converge([one, two])
    with pytest.raises(DatabaseError, match="mycomesh_names was dropped"):
        hurt(one, "DROP TABLE mycomesh_names", running=True)
    one.close()
    two.close()


def test_deleting_a_parked_record_deletes_no_row(filled):
    one, two = filled()
    parked = one.recorded("mycomesh_parked")
    one.shell("DELETE FROM mycomesh_parked;")
    assert one.scrub().found == 1
    converge([one, two])
    assert_equal(one, two)
    assert [row[1] for row in one.recorded("mycomesh_parked")] == [row[1] for row in parked]
    two.sql("UPDATE t SET v = 'other' WHERE v = 'dup'")
    converge([one, two])
    assert_equal(one, two)
    assert one.sql("SELECT count(*) FROM t WHERE id IN (10, 11)") == [(2,)]
    one.close()
    two.close()


def test_rare_tables_of_an_earlier_version_are_missed(tmp_path):
    peer = Peer(tmp_path / "0.db", 0)
    peer.sql(DDL)
    peer.drain()
    assert peer.sql("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name GLOB 'mycomesh_*'") == [(26,)]
    peer.close()
    peer.shell(";".join(f"CREATE TABLE {name}({rest}" for name, rest in RARE.items()) + ";")  # as it made them
    peer.open()
    shell(peer.path, "DROP TABLE mycomesh_moved;")
    with pytest.raises(FileReplacedError, match="mycomesh_moved was dropped or altered while it was"):
        peer.drain()
    peer.close()


RECORDS = {
    "mycomesh_held": "id INTEGER, place INTEGER, hlc INTEGER, content BLOB NOT NULL, PRIMARY KEY(id, place, hlc)",
    "mycomesh_parked": (
        "table_name TEXT, row_key TEXT, reason TEXT, content TEXT, since TEXT, id INTEGER, row, PRIMARY KEY(id, row)"
    ),
}


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("name", RECORDS)
def test_records_of_an_earlier_version_get_rowids(filled, monkeypatch, name, small):
    """Both forms of a table are as each version expects them: one that is too large to copy keeps its form."""
    one, two = filled()
    monkeypatch.setattr(internal_tables, "_COPIED_ROWS", 100 if small else 0)
    before = sorted(one.sql(f"SELECT * FROM {name}"), key=repr)
    assert before
    one.close()
    shell(
        one.path,
        f"CREATE TABLE kept AS SELECT * FROM {name}; DROP TABLE {name}; CREATE TABLE {name}({RECORDS[name]}) WITHOUT ROWID;"
        f" INSERT INTO {name} SELECT * FROM kept; DROP TABLE kept;",
    )
    earlier = apsw.Connection(str(one.path))
    assert damaged(earlier) == []
    earlier.close()
    one.open()
    ((sql,),) = one.sql("SELECT sql FROM sqlite_schema WHERE name = ?", name)
    assert ("WITHOUT ROWID" in sql) is not small
    assert sorted(one.sql(f"SELECT * FROM {name}"), key=repr) == before
    assert damaged(one.app, served=True) == []
    for peer in (one, two):
        peer.sql("UPDATE t SET v = v || id")
    converge([one, two])
    assert_equal(one, two)
    assert one.scrub().found == 0


def test_an_exchange_survives_dropped_tables_and_the_next_reports(tmp_path):
    world = World.made(tmp_path, 2)
    one, two = world.nodes
    with_rare_tables(one.peer)
    world.write(one, f"{DDL}; {FILL}")
    world.link(one, two)
    world.run(5_000)
    one.peer.shell("DROP TABLE mycomesh_collected; DROP TABLE mycomesh_pending_2;")
    world.write(two, "INSERT INTO bag VALUES('theirs', 1)")
    with pytest.raises(
        FileReplacedError, match="mycomesh_collected, mycomesh_pending_2 was dropped or altered while it was"
    ):
        world.run(5_000)
    world.close()
