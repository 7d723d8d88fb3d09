"""Tables of commands that replicate as a user's do, although their names begin as the node's own."""

from __future__ import annotations

import pytest

from mycomesh.sync.events import CommitSeen
from mycomesh.sync.sqlite.identifiers import SHARED, is_internal, is_reserved
from tests.sync.exchanges import World

REST_MS = 60_000


@pytest.mark.parametrize("name", sorted(SHARED))
def test_shared_table_travels_with_its_rows(tmp_path, name):
    world = World.made(tmp_path, 2)
    a, b = world.nodes
    world.write(a, f"CREATE TABLE {name}(name TEXT, version INTEGER, bytes BLOB, PRIMARY KEY(name, version))")
    world.write(a, f"INSERT INTO {name} VALUES('battery', 1, x'00ff')")
    world.link(a, b)
    world.run(REST_MS)
    assert b.sql(f"SELECT * FROM {name}") == [("battery", 1, b"\x00\xff")]
    world.write(b, f"UPDATE {name} SET bytes = x'01'")
    world.run(REST_MS)
    assert a.sql(f"SELECT bytes FROM {name}") == [(b"\x01",)]
    world.write(a, "CREATE TABLE drones(id TEXT PRIMARY KEY)")
    world.do(a, CommitSeen())
    a.peer.replica.migrate("ALTER TABLE drones RENAME TO planes", a.peer.wall_ms + world.now)
    world.do(a, CommitSeen())
    world.run(REST_MS)
    assert a.sql(f"SELECT bytes FROM {name}") == b.sql(f"SELECT bytes FROM {name} JOIN (SELECT count(*) FROM planes)")
    world.close()


def test_names_of_the_node_stay_reserved():
    assert is_reserved("mycomesh_meta")
    assert is_reserved("mycomesh_dc")
    assert is_reserved("sqlite_schema")
    assert not any(is_reserved(name) or is_internal(name) for name in SHARED)
