"""A file that refuses, or holds another content than the node left: nothing is lost, and nothing is taken for known."""

from __future__ import annotations

import subprocess

import pytest

from mycomesh.sync.admin.uninstall import uninstall
from mycomesh.sync.errors import DatabaseError, FileReplacedError
from tests.sync.exchanges import World
from tests.sync.peers import assert_equal, converge, shell

DDL = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE bag(v)"
FILL = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 5000) INSERT INTO t SELECT i, randomblob(400) FROM n"


def restore(peer, backup):
    """Puts a backup back while the node and the application have the file open, as a person would."""
    done = subprocess.run(
        ["sqlite3", str(peer.path), f".restore {backup}"], capture_output=True, check=False, timeout=60
    )
    assert not done.stderr


def reopen(peer):
    """Reopen the file as the node does, with the clock that it noted."""
    site, clock = peer.replica.noted
    peer.close()
    peer.recalled = {site: clock}
    peer.open()


@pytest.fixture
def backed(pair, tmp_path):
    """Two equal replicas, a backup of the first, and what both have written since."""
    one, two = pair
    one.sql(f"{DDL}; INSERT INTO t VALUES(1, 'old'), (2, 'gone'); INSERT INTO bag VALUES('a'), ('b')")
    converge(pair)
    one.shell(f"VACUUM INTO '{tmp_path}/backup.db';")
    one.sql("UPDATE t SET v = 'changed' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO bag VALUES('c')")
    converge(pair)
    return one, two, tmp_path / "backup.db"


def test_a_backup_restored_underneath_is_noticed_before_stamping(backed):
    one, two, backup = backed
    restore(one, backup)
    one.shell("INSERT INTO bag VALUES('after'); INSERT INTO t VALUES(3, 'after');")
    two.sql("INSERT INTO bag VALUES('theirs')")
    live, before = two.drain(), two.tables()
    for look in (one.drain, lambda: one.replica.outbox.read_drained(one.wall_ms, lambda: None), lambda: one.take(live)):
        with pytest.raises(FileReplacedError, match="another content was put in its place"):
            look()
    reopen(one)
    assert two.tables() == before
    converge([one, two])
    assert_equal(one, two)
    assert one.sql("SELECT * FROM t ORDER BY id") == [(1, "changed"), (3, "after")]
    assert one.sql("SELECT v FROM bag ORDER BY v") == [("a",), ("after",), ("b",), ("c",), ("theirs",)]
    assert one.scrub().found == two.scrub().found == 0


def test_another_database_in_the_files_place_joins_it(backed, tmp_path):
    one, two, _ = backed
    shell(tmp_path / "other.db", "CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(7, 'other');")
    restore(one, tmp_path / "other.db")
    with pytest.raises(FileReplacedError):
        one.drain()
    reopen(one)
    converge([one, two])
    assert_equal(one, two)
    assert one.sql("SELECT * FROM t ORDER BY id") == [(1, "changed"), (7, "other")]


def test_a_backup_of_the_present_state_changes_nothing(backed, tmp_path):
    one, two, _ = backed
    one.shell(f".backup {tmp_path}/same.db")
    restore(one, tmp_path / "same.db")
    one.shell("INSERT INTO bag VALUES('after');")
    two.take(one.drain(), one.node_id)
    assert_equal(one, two)


def test_full_disk_in_a_transaction_is_reported_and_undone(pair):
    one, two = pair
    one.sql(DDL)
    converge(pair)
    one.sql(FILL)
    bundles = one.drain()
    db = two.replica.store.db
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages}").fetchall()
    before = two.digests()
    with pytest.raises(DatabaseError, match="the disk is full; free some space"):
        two.take(bundles, one.node_id)
    assert two.digests() == before
    two.sql("INSERT INTO bag VALUES('meanwhile')")
    db.execute("PRAGMA max_page_count = 1000000").fetchall()
    two.take(bundles, one.node_id)
    converge(pair)
    assert_equal(one, two)


def test_a_partly_refused_round_covers_nothing(tmp_path):
    world = World.made(tmp_path, 2)
    one, late = world.nodes
    world.write(one, f"{DDL}; {FILL}")
    world.run(1_000)
    apply, handle = late.peer.replica.apply, late.exchange.handle
    calls = []

    def full(*args, **kwargs):
        calls.append(args)
        if len(calls) in (2, 4):
            raise DatabaseError("the disk is full")
        return apply(*args, **kwargs)

    def handled(*args):  # as the node's SQL thread does
        try:
            return handle(*args)
        except DatabaseError:
            return []

    late.peer.replica.apply, late.exchange.handle = full, handled
    world.link(one, late)
    world.run(60_000)
    assert len(calls) > 4
    assert_equal(one.peer, late.peer)
    assert "repair.done" not in late.noticed()
    world.close()


def test_a_file_without_internal_tables_is_refused_undoubled(backed):
    """As the migration that `alembic revision --autogenerate` writes does it: tables and indexes go, triggers stay."""
    one, two, _ = backed
    names = one.sql("SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'mycomesh_*'")
    one.shell("".join(f"DROP TABLE {name};" for (name,) in names))
    with pytest.raises(FileReplacedError):
        one.drain()
    one.close()
    for script in ("DROP INDEX IF EXISTS mycomesh_3_keep;", "DROP TRIGGER IF EXISTS mycomesh_3_insert;"):
        with pytest.raises(DatabaseError, match="put a backup in the place of the file"):
            one.open()
        one.shell(script)
    assert two.sql("SELECT count(*) FROM bag") == [(3,)]


def test_capture_without_internal_tables_can_be_removed(backed):
    one, _, _ = backed
    names = one.sql("SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'mycomesh_*'")
    one.shell("".join(f"DROP TABLE {name};" for (name,) in names))
    one.close()
    assert uninstall(one.path).triggers
    assert (
        shell(one.path, "INSERT INTO bag VALUES('d'); SELECT count(*) FROM sqlite_schema WHERE name GLOB 'mycomesh_*';")
        == b"0\n"
    )
