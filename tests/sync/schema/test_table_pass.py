"""The mesh changes a table that is parked in some files, because it has another key there: they follow when it returns."""

from __future__ import annotations

import pytest

from tests.sync.migrations import note
from tests.sync.peers import WALL_MS, Peer

DDL = "CREATE TABLE t(id INT NOT NULL, n INT NOT NULL, doc, more, PRIMARY KEY({})) WITHOUT ROWID"
QUIET_ROUNDS_MAX = 6


def exchange(peers):
    """Give every peer what the others publish, live, until none has anything to say."""
    for _ in range(QUIET_ROUNDS_MAX):
        said = [(peer, peer.drain()) for peer in peers]
        if not any(bundles for _, bundles in said):
            return
        for speaker, bundles in said:
            for peer in peers:
                if peer is not speaker:
                    peer.published += peer.take(bundles, origin=speaker.node_id)
    pytest.fail("the nodes answer each other without end")


def noted_names(peer):
    return peer.sql("SELECT mesh, shown FROM mycomesh_names WHERE name = 't' ORDER BY mesh")


@pytest.fixture
def parked(tmp_path):
    """The first has the table of the mesh; the table of the two others has another key."""
    peers = [Peer(tmp_path / f"{number}.db", number, wall_ms=WALL_MS - number) for number in range(3)]
    for peer, key in zip(peers, ("id", "id, n", "id, n"), strict=True):
        peer.sql(f"{DDL.format(key)}; INSERT INTO t VALUES(1, 2, 'x', 'y')")
    exchange(peers)
    assert [note(peer).startswith("parked") for peer in peers] == [False, True, True]
    yield peers
    for peer in peers:
        peer.close()


def test_a_dropped_column_of_parked_tables_is_stated_once(parked):
    one, *others = parked
    one.sql("ALTER TABLE t DROP COLUMN doc")
    exchange(parked)
    facts = [('dropped:["t", "doc"]',), ("t",)]
    assert [peer.sql("SELECT name FROM mycomesh_schema ORDER BY 1") for peer in parked] == [facts] * 3
    for peer in others:
        assert peer.sql("SELECT * FROM t") == [(1, 2, "x", "y")]
        assert "doc" not in note(peer)
    before = [peer.digests() for peer in parked]
    for peer in parked:
        peer.close()
        peer.open()
        assert peer.drain() == []
    assert [peer.digests() for peer in parked] == before


def test_a_parked_table_that_returns_drops_the_column(parked):
    one, two, three = parked
    one.sql("ALTER TABLE t DROP COLUMN doc")
    exchange(parked)
    two.sql("INSERT INTO t VALUES(5, 6, 'new', 'm'); UPDATE t SET more = 'u', doc = 'changed' WHERE id = 1")
    two.sql("ALTER TABLE t RENAME COLUMN more TO most")
    three.sql("ALTER TABLE t RENAME TO t_old")
    exchange(parked)
    two.sql(
        "BEGIN; CREATE TABLE t2(id INT NOT NULL, n INT NOT NULL, doc, most, PRIMARY KEY(id)) WITHOUT ROWID;"
        " INSERT INTO t2 SELECT * FROM t; DROP TABLE t; ALTER TABLE t2 RENAME TO t; COMMIT"
    )
    exchange(parked)
    one.sql("CREATE TABLE u(x)")  # the next facts that a file takes in drop what it still has
    exchange(parked)
    for peer in parked:
        assert peer.sql("SELECT id, n, most FROM t ORDER BY id") == [(1, 2, "u"), (5, 6, "m")]
        assert "doc" not in peer.sql("SELECT sql FROM sqlite_schema WHERE name = 't'")[0][0]
        assert noted_names(peer) == [("more", "most")]
        assert note(peer) == ""
        assert peer.scrub().found == 0
    assert three.sql("SELECT doc FROM t_old") == [("x",)]


def test_a_renamed_column_of_a_parked_table_is_dropped(parked):
    one, two, _ = parked
    two.sql("ALTER TABLE t RENAME COLUMN doc TO letter")
    one.sql("ALTER TABLE t DROP COLUMN doc")
    exchange(parked)
    two.sql("ALTER TABLE t RENAME COLUMN more TO most")
    exchange(parked)
    assert noted_names(two) == [("doc", "letter"), ("more", "most")]
    assert two.sql("SELECT letter, most FROM t") == [("x", "y")]
    assert one.sql("SELECT id, n, most FROM t") == [(1, 2, "y")]


def state_drops(peer, table, *columns):
    with peer.replica.store.transaction():
        for column in columns:
            peer.replica.registry.facts.write(f'dropped:["{table}", "{column}"]', "dropped", "")


def test_the_key_of_a_parked_table_cannot_be_dropped(parked):
    one, two, _ = parked
    state_drops(one, "t", "id", "n", "doc", "more")
    exchange(parked)
    assert note(two).startswith("parked: it has PRIMARY KEY(id INTEGER COLLATE BINARY, n INTEGER COLLATE BINARY) here")
    two.close()
    two.open()
    assert two.drain() == []
    two.sql("INSERT INTO t(id, n) VALUES(3, 4)")
    exchange(parked)


def test_all_columns_of_a_keyless_table_are_dropped(parked):
    one, two, _ = parked
    one.sql("CREATE TABLE u(x); INSERT INTO u VALUES(1)")
    exchange(parked)
    state_drops(one, "u", "x")
    exchange(parked)
    assert note(two, "u") == "not replicated: the mesh has dropped all of its columns"
    two.close()
    two.open()
    assert two.drain() == []
    two.sql("INSERT INTO u VALUES('goes on')")
    exchange(parked)


def test_a_column_named_like_one_that_left_is_another(parked):
    one, two, _ = parked
    one.sql("ALTER TABLE t DROP COLUMN doc")
    exchange(parked)
    two.sql(f"BEGIN; DROP TABLE t; {DDL.format('id').replace('doc, ', '')}; INSERT INTO t VALUES(1, 3, 'z'); COMMIT")
    exchange(parked)
    two.sql("ALTER TABLE t ADD COLUMN doc DEFAULT 'another'")
    exchange(parked)
    for peer in (one, two):
        assert peer.sql("SELECT id, n, more, doc FROM t") == [(1, 3, "z", "another")]
