"""Plain copies that join late, and backups from before the mesh: their rows lose to every write on the mesh. ADR 0031."""

from __future__ import annotations

import random
import shutil

import pytest

from mycomesh.sync.crdt.hlc import is_early
from mycomesh.sync.wire.bundle import Bundle
from tests.sync.exchanges import World
from tests.sync.peers import Peer, assert_equal, converge, shell
from tests.sync.scale import sweep

DDL = "CREATE TABLE t(id INTEGER PRIMARY KEY, v, w); CREATE TABLE k(k TEXT PRIMARY KEY, v)"
ROWS = "INSERT INTO t VALUES(1, 'old', 0), (2, 'old', 0), (3, 'old', 0); INSERT INTO k VALUES('a', 'old'), ('b', 'old')"


@pytest.fixture
def folder(tmp_path):
    """Make files as they were before the mesh, and nodes on them; the nodes are closed at the end."""
    made = Folder(tmp_path)
    yield made
    for peer in made.peers:
        peer.close()


class Folder:
    def __init__(self, path):
        self.path = path
        self.peers = []
        self.wall_ms = 1_800_000_000_000

    def file(self, number, script=f"{DDL}; {ROWS};"):
        """A plain file."""
        shell(self.path / f"{number}.db", script)

    def join(self, number):
        """A node on the file, a second after the last thing that happened; its rows are stamped."""
        self.wall_ms += 1_000
        peer = Peer(self.path / f"{number}.db", number, wall_ms=self.wall_ms)
        self.peers.append(peer)
        peer.drain()
        return peer

    def write(self, peer, script):
        """A write of an application, one second after the last."""
        self.wall_ms += 1_000
        for other in self.peers:
            other.wall_ms = self.wall_ms
        # The triggers would write the time of the machine, so the drain gives the time in place of them.
        peer.sql(script)
        changes = peer.app.changes()
        for (name,) in peer.sql(
            "SELECT name FROM sqlite_schema WHERE name GLOB 'mycomesh_pending_*' AND type = 'table'"
        ):
            peer.sql(f"UPDATE {name} SET at = NULL WHERE typeof(at) = 'real'")
        peer.published += peer.drain()
        return changes


def test_writes_and_deletes_survive_a_joining_old_copy(folder):
    folder.file(0)
    shutil.copy(folder.path / "0.db", folder.path / "1.db")
    one = folder.join(0)
    folder.write(one, "UPDATE t SET v = 'new' WHERE id = 1; DELETE FROM t WHERE id = 2; DELETE FROM k WHERE k = 'a'")
    two = folder.join(1)
    converge([one, two])
    assert_equal(one, two)
    assert one.sql("SELECT * FROM t ORDER BY id") == [(1, "new", 0), (3, "old", 0)]
    assert one.sql("SELECT * FROM k") == [("b", "old")]


def test_an_old_copys_edit_of_another_column_is_recorded(folder):
    folder.file(0)
    folder.file(1)
    shell(folder.path / "1.db", "UPDATE t SET w = 'offline' WHERE id = 1; INSERT INTO t VALUES(9, 'offline', 9);")
    one = folder.join(0)
    folder.write(one, "UPDATE t SET w = 'mesh' WHERE id = 1")
    two = folder.join(1)
    converge([one, two])
    assert_equal(one, two)
    assert one.sql("SELECT w FROM t WHERE id IN (1, 9) ORDER BY id") == [("mesh",), (9,)]
    reasons = {record[9] for record in one.recorded("mycomesh_conflicts") if "offline" in repr(record)}
    assert reasons == {"a row from before the mesh lost to another write"}


def test_backup_from_before_mesh_put_back_loses_to_mesh(folder):
    folder.file(0)
    shutil.copy(folder.path / "0.db", folder.path / "backup.db")
    folder.file(1, "")
    one, two = folder.join(0), folder.join(1)
    converge([one, two])
    folder.write(one, "UPDATE t SET v = 'new' WHERE id = 1; DELETE FROM t WHERE id = 2")
    converge([one, two])
    noted = dict([one.replica.noted])
    one.close()
    for name in folder.path.glob("0.db*"):
        name.unlink()
    shutil.copy(folder.path / "backup.db", folder.path / "0.db")
    one.recalled = noted
    one.open()
    converge([one, two])
    assert_equal(one, two)
    assert one.sql("SELECT * FROM t ORDER BY id") == [(1, "new", 0), (3, "old", 0)]


def test_equal_copies_are_no_conflict_and_others_settle_alike(folder):
    for number in range(3):
        folder.file(number)
    shell(folder.path / "2.db", "UPDATE t SET v = 'third' WHERE id = 3;")
    one, two = folder.join(0), folder.join(1)
    converge([one, two])
    assert one.recorded("mycomesh_conflicts") == two.recorded("mycomesh_conflicts") == []
    three = folder.join(2)
    converge([one, two, three])
    assert_equal(one, three)
    values = {one.sql("SELECT v FROM t WHERE id = 3")[0][0]}
    recorded = repr([peer.recorded("mycomesh_conflicts") for peer in (one, two, three)])
    lost = {"old", "third"} - values
    assert all(f'"v": "{value}"' in recorded for value in lost)


def test_copy_does_not_bring_back_what_migration_has_dropped(folder):
    folder.file(0, f"{DDL}; {ROWS}; CREATE INDEX i ON t(v);")
    shutil.copy(folder.path / "0.db", folder.path / "1.db")
    one = folder.join(0)
    one.replica.migrate("DROP TABLE k; ALTER TABLE t DROP COLUMN w", one.wall_ms)
    one.drain()
    two = folder.join(1)
    converge([one, two])
    assert_equal(one, two)
    assert one.sql("SELECT name FROM sqlite_schema WHERE name = 'k'") == []
    assert one.sql("SELECT * FROM t ORDER BY id") == [(1, "old"), (2, "old"), (3, "old")]


def test_keyless_tables_that_a_copy_would_double_are_reported(folder):
    folder.file(0, f"{DDL}; {ROWS}; CREATE TABLE bag(v); CREATE TABLE empty(v); INSERT INTO bag VALUES('a');")
    peer = folder.join(0)
    world = World([peer])
    world.run(3_000)
    world.write(world.nodes[0], "CREATE TABLE made(v); INSERT INTO made VALUES('a')")
    world.run(3_000)
    found = [notice.detail["tables"] for notice in world.nodes[0].notices if notice.event == "capture.adopted"]
    assert found == [["bag"]]


def test_rows_of_a_table_made_later_have_mesh_time(folder):
    folder.file(0)
    folder.file(1, "")
    one, two = folder.join(0), folder.join(1)
    converge([one, two])
    for number in range(20):
        one.sql(f"CREATE TABLE n{number}(id INTEGER PRIMARY KEY, v); INSERT INTO n{number} VALUES(1, 'made')")
    sections = [section for bundle in one.drain() for section in Bundle.decode(bundle).sections]
    stamps = [hlc for section in sections for group in section.groups for hlc in group.hlcs]
    assert stamps
    assert not any(map(is_early, stamps))


def test_an_edit_before_adoption_owns_only_its_change(folder):
    folder.file(0)
    shutil.copy(folder.path / "0.db", folder.path / "1.db")
    one = folder.join(0)
    folder.write(
        one, "UPDATE t SET v = 'mesh' WHERE id = 1; UPDATE t SET v = 'mesh' WHERE id = 3; UPDATE k SET v = 'mesh'"
    )
    folder.wall_ms += 1_000
    two = Peer(folder.path / "1.db", 1, wall_ms=folder.wall_ms)
    folder.peers.append(two)
    two.sql("UPDATE t SET w = 'mine' WHERE id = 1; DELETE FROM t WHERE id = 2; DELETE FROM k WHERE k = 'a'")
    two.drain()
    converge([one, two])
    assert_equal(one, two)
    assert one.sql("SELECT * FROM t ORDER BY id") == [(1, "mesh", "mine"), (3, "mesh", 0)]
    assert one.sql("SELECT * FROM k") == [("b", "mesh")]
    assert one.scrub().found == two.scrub().found == 0


def test_present_site_answers_for_rows_from_before_mesh(folder):
    """A replica that misses a batch of such rows may not take a later tombstone for stable."""
    folder.file(0)
    folder.file(1)
    one = folder.join(0)
    folder.wall_ms += 1_000
    two = Peer(folder.path / "1.db", 1, wall_ms=folder.wall_ms)
    folder.peers.append(two)
    assert two.drain()  # lost
    folder.write(two, "UPDATE t SET v = 'new' WHERE id = 1")
    one.take(two.published, origin=two.node_id)
    covered = one.replica.vector("t")
    assert covered.top(two.replica.site)
    assert covered.upto(two.replica.site) == 0
    converge([one, two])
    assert one.replica.vector("t").upto(two.replica.site) == covered.top(two.replica.site)
    early = [site for site, _ in one.replica.vector("t").items() if site[:8] == two.node_id[:8]]
    assert len(early) == 2


@pytest.mark.parametrize("seed", sweep(range(12), 6))
def test_no_write_on_mesh_is_undone_by_copy(folder, seed):
    """Random copies, edits before and on the mesh, late joins: the cells that the mesh has written have its last write."""
    rng = random.Random(seed)
    folder.file("base", DDL + ";" + "".join(f"INSERT INTO t VALUES({key}, 'base', 'base');" for key in range(1, 9)))
    offline = set()
    for number in range(3):
        shutil.copy(folder.path / "base.db", folder.path / f"{number}.db")
        for _ in range(rng.randrange(4)):
            script, tag = _edit(rng, f"offline {number} {rng.random()}")
            shell(folder.path / f"{number}.db", script + ";")
            offline.add((number, tag))
    model = _Model()
    joined = [folder.join(0)]
    waiting = [1, 2]
    for step in range(16):
        if waiting and (rng.random() < 0.15 or step > 12):
            joined.append(folder.join(waiting.pop(0)))
        peer = rng.choice(joined)
        script, tag = _edit(rng, f"mesh {step}")
        if folder.write(peer, script):
            model.write(script, tag)
        if len(joined) > 1 and rng.random() < 0.5:
            _deliver(rng, joined)
    converge(joined)
    for peer in joined[1:]:
        assert_equal(joined[0], peer)
    rows = {key: (v, w) for key, v, w in joined[0].sql("SELECT * FROM t")}
    model.check(rows)
    assert all(peer.scrub().found == 0 for peer in joined)


def _edit(rng, tag):
    key = rng.randrange(1, 11)
    kind = rng.random()
    if kind < 0.2:
        return f"DELETE FROM t WHERE id = {key}", None
    if kind < 0.4:
        return f"INSERT OR IGNORE INTO t VALUES({key}, '{tag}', '{tag}')", tag
    return f"UPDATE t SET {rng.choice('vw')} = '{tag}' WHERE id = {key}", tag


def _deliver(rng, peers):
    """Live batches, some of which are lost; a round brings them later."""
    for sender in peers:
        batches, sender.published = sender.published, []
        for receiver in peers:
            if receiver is not sender:
                receiver.published += receiver.take(
                    [each for each in batches if rng.random() < 0.7], origin=sender.node_id
                )


class _Model:
    """The rows that the writes on the mesh alone decide: each write has a later time than the one before."""

    def __init__(self):
        self.cells = {}  # (key, column) -> last value
        self.alive = {}  # key -> whether the last insert or delete was an insert

    def write(self, script, tag):
        words = script.split()
        if script.startswith("DELETE"):
            key = int(words[-1])
            self.alive[key] = False
            self.cells = {cell: value for cell, value in self.cells.items() if cell[0] != key}
        elif script.startswith("INSERT"):
            key = int(script.partition("(")[2].partition(",")[0])
            self.alive[key] = True
            self.cells[key, "v"] = self.cells[key, "w"] = tag
        else:
            self.cells[int(words[-1]), words[3]] = tag

    def check(self, rows):
        for key, alive in self.alive.items():
            assert (key in rows) is alive, key
        for (key, column), value in self.cells.items():
            if self.alive.get(key, True):
                assert rows[key][column == "w"] == value, (key, column)


@pytest.mark.slow
def test_untouched_copies_of_linked_nodes_settle(folder):
    ids = "WITH RECURSIVE i(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM i LIMIT 3000)"
    script = f"CREATE TABLE bag(v); {ids} INSERT INTO bag SELECT x % 9 FROM i;"
    for number in range(3):
        folder.file(number, script)
    world = World([folder.join(number) for number in range(3)])
    world.link(world.nodes[0], world.nodes[1])
    world.run(60_000)
    world.link(world.nodes[1], world.nodes[2])
    world.run(120_000)
    assert [node.sql("SELECT count(*) FROM bag") for node in world.nodes] == [[(3_000,)]] * 3
    assert world.equal()
