"""The pass over a changed schema: tables that make room for those of the mesh."""

from __future__ import annotations

from tests.sync.peers import converge


def test_tables_renamed_at_once_all_make_room_for_mesh(pair):
    one, two = pair
    for name in ("a", "b"):
        one.sql(f"CREATE TABLE {name}(id INTEGER PRIMARY KEY, x)")
        two.sql(f"CREATE TABLE {name}(k TEXT PRIMARY KEY, y)")
        two.sql(f"INSERT INTO {name} VALUES('of two', 1)")
    for peer in pair:
        peer.drain()
    converge(pair)
    parked = next(peer for peer in pair if any(table.note for table in peer.replica.status().tables))
    parked.shell("ALTER TABLE a RENAME TO own_a; ALTER TABLE b RENAME TO own_b;")
    parked.drain()
    converge(pair)
    for name in ("a", "b"):
        shapes = [[row[1] for row in peer.sql(f"PRAGMA table_info({name})")] for peer in pair]
        assert shapes[0] == shapes[1]
        rows = [peer.sql(f"SELECT * FROM {name}") for peer in pair]
        assert rows[0] == rows[1]
