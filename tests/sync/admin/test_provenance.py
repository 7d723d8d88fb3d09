"""Where a row comes from, as its file tells: writers, times, deletes, losers, parked rows, keys of every kind."""

from __future__ import annotations

import pytest

from mycomesh.sync.admin.provenance import read_provenance
from mycomesh.sync.errors import DatabaseError, FeedError, ForeignFileError, PolicyError
from tests.sync.peers import Peer, converge


@pytest.fixture
def peers(tmp_path):
    peers = [Peer(tmp_path / f"{number}.db", number) for number in range(2)]
    yield peers
    for peer in peers:
        peer.close()


def sites(found):
    return {cell.column: cell.site for cell in found.cells}


def test_each_cell_has_its_own_writer(peers):
    one, two = peers
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES(1, 'x', 'y')")
    one.drain()
    converge(peers)
    two.wall_ms += 5_000
    two.sql("UPDATE t SET b = 'z'")
    two.drain()
    converge(peers)
    for peer in peers:
        found = read_provenance(peer.path, "T", "1")
        assert (found.table, found.key, found.state, found.pending) == ("t", "1", "shown", False)
        assert sites(found) == {"a": one.replica.site.hex(), "b": two.replica.site.hex(), "id": one.replica.site.hex()}
        assert {cell.column: cell.value for cell in found.cells} == {"a": "x", "b": "z", "id": 1}
        assert found.existence.site == one.replica.site.hex()
        assert max(cell.at for cell in found.cells) == next(cell.at for cell in found.cells if cell.column == "b")


def test_concurrent_write_that_lost_is_told_with_both_writers(peers):
    one, two = peers
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, a); INSERT INTO t VALUES(1, 'x')")
    one.drain()
    converge(peers)
    one.sql("UPDATE t SET a = 'earlier'")
    one.drain()
    two.wall_ms += 3_000
    two.sql("UPDATE t SET a = 'later'")
    two.drain()
    converge(peers)
    losses = [loss for peer in peers for loss in read_provenance(peer.path, "t", "1").losses]
    assert [(loss.lost, loss.lost_site, loss.won_site) for loss in losses] == [
        ({"a": "earlier"}, one.replica.site.hex(), two.replica.site.hex())
    ] * len(losses)
    assert losses


def test_deletes_have_writers_and_missing_stamps_are_reported(peers):
    one, two = peers
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, a); INSERT INTO t VALUES(1, 'x'), (2, 'y')")
    one.drain()
    converge(peers)
    two.sql("DELETE FROM t WHERE id = 1")
    two.drain()
    converge(peers)
    found = read_provenance(one.path, "t", "1")
    assert (found.state, found.existence.site, found.cells) == ("deleted", two.replica.site.hex(), ())
    one.sql("UPDATE t SET a = 'new' WHERE id = 2; INSERT INTO t VALUES(3, 'fresh')")
    assert read_provenance(one.path, "t", "2").pending
    fresh = read_provenance(one.path, "t", "3")
    assert (fresh.pending, fresh.state, fresh.existence) == (True, "shown", None)


@pytest.mark.parametrize(
    ("declared", "row", "key", "told"),
    [
        ("(k TEXT PRIMARY KEY, v)", "('7', 1)", "7", "7"),
        ("(k TEXT COLLATE NOCASE PRIMARY KEY NOT NULL, v)", "('Ab', 1)", "aB", "ab"),
        ("(k INT PRIMARY KEY, v) WITHOUT ROWID", "(7, 1)", "7", "7"),
        ("(k REAL PRIMARY KEY NOT NULL, v)", "(7.5, 1)", "7.5", "7.5"),
        ("(k, l, PRIMARY KEY(k, l)) WITHOUT ROWID", "(7, 'x')", '[7, "x"]', '[7, "x"]'),
        ("(k TEXT PRIMARY KEY NOT NULL, v)", "('a b', 1)", "a b", "a b"),
    ],
)
def test_keys_are_read_as_the_column_stores_them(peers, declared, row, key, told):
    one = peers[0]
    one.sql(f"CREATE TABLE t{declared}; INSERT INTO t VALUES{row}")
    one.drain()
    found = read_provenance(one.path, "t", key)
    assert (found.key, found.state) == (told, "shown")


def test_a_keyless_row_is_found_by_rowid_or_insert(peers):
    one = peers[0]
    one.sql("CREATE TABLE t(v); INSERT INTO t VALUES('a')")
    one.drain()
    found = read_provenance(one.path, "t", "1")
    assert found.key == f"{one.replica.site.hex()}@{found.existence.hlc}"
    assert read_provenance(one.path, "t", found.key) == found
    one.sql("DELETE FROM t")
    one.drain()
    assert read_provenance(one.path, "t", found.key).state == "deleted"


def test_a_row_that_a_constraint_refuses_says_why(peers):
    one, two = peers
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v UNIQUE); INSERT INTO t VALUES(1, 'same')")
    one.drain()
    two.wall_ms += 1_000
    two.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v UNIQUE); INSERT INTO t VALUES(2, 'same')")
    two.drain()
    converge(peers)
    found = read_provenance(one.path, "t", "2")
    assert found.state == "not shown"
    assert "UNIQUE" in found.parked
    assert {cell.column: cell.value for cell in found.cells} == {"id": 2, "v": "same"}


def test_the_file_is_unchanged_and_needs_no_node(peers):
    one = peers[0]
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 2)")
    one.drain()
    path = one.path
    one.close()
    before = path.read_bytes()
    assert read_provenance(path, "t", "1").state == "shown"
    assert path.read_bytes() == before


def test_what_cannot_be_told_is_one_line(peers, tmp_path):
    one = peers[0]
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    one.drain()
    for table, key in (("nothing", "1"), ("t", "1"), ("t", "x"), ("t", "[1, 2]")):
        with pytest.raises(PolicyError) as refused:
            read_provenance(one.path, table, key)
        assert "\n" not in str(refused.value)
    one.sql("ALTER TABLE t RENAME TO u")
    with pytest.raises(PolicyError, match="dropped or renamed"):
        read_provenance(one.path, "t", "1")
    with pytest.raises(DatabaseError, match="no such file"):
        read_provenance(tmp_path / "none.db", "t", "1")
    (tmp_path / "empty.db").touch()
    with pytest.raises(ForeignFileError, match="no node has served"):
        read_provenance(tmp_path / "empty.db", "t", "1")
    (tmp_path / "text.db").write_text("not a database" * 100)
    with pytest.raises(DatabaseError, match="not an SQLite database"):
        read_provenance(tmp_path / "text.db", "t", "1")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "V",
            "no replicated table 'V' in .*, which is a view: its rows are those of the tables that it reads; there are: t$",
        ),
        ("tr", "no replicated table 'tr' in .*, which is a trigger: its effect is in the rows of .*; there are: t$"),
        ("i", "no replicated table 'i' in .*, which is an index; there are: t$"),
        (
            "f",
            "no replicated table 'f' in .*, but one that is not replicated: 'mycomesh status' says why; there are: t$",
        ),
        ("nowhere", "no replicated table 'nowhere' in [^,]*; there are: t$"),
        ("mycomesh_meta", "no replicated table 'mycomesh_meta' in [^,]*; there are: t$"),
    ],
)
def test_a_name_of_no_table_says_what_it_is(peers, name, line):
    one, _ = peers
    one.sql(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a); CREATE VIEW v AS SELECT a FROM t; CREATE INDEX i ON t(a);"
        " CREATE TRIGGER tr AFTER INSERT ON t BEGIN SELECT 1; END; CREATE VIRTUAL TABLE f USING fts5(a)"
    )
    one.drain()
    for ask in (
        lambda: read_provenance(one.path, name, "1"),
        lambda: one.replica.decisions.declare_counter(name, "a"),
        lambda: one.replica.feed.table(name),
    ):
        with pytest.raises((PolicyError, FeedError), match=line) as caught:
            ask()
        assert "\n" not in str(caught.value)
