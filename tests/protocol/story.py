"""Generates tests/vectors/protocol.json: two members write, and the file keeps the bytes that the product sends for it.

The authors of a second implementation can read these bytes with it; the expected content is in the same file.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import apsw

from mycomesh.mesh.membership.enrolment import JoinCode
from mycomesh.mesh.membership.identity import create_mesh, make_identity
from mycomesh.mesh.messages import Batch, encode, signed_part
from mycomesh.sync.replica import Replica, ReplicaConfig
from mycomesh.sync.wire import messages as wire

VECTORS = Path(__file__).parents[1] / "vectors" / "protocol.json"
WALL_MS = 4_000_000_000_000  # in 2096: no trigger's own time is later than that
SCHEMA = (
    "CREATE TABLE drones(id INTEGER PRIMARY KEY, name TEXT, battery REAL)",
    "CREATE TABLE log(at TEXT, what)",
    "CREATE TABLE pairs(a TEXT COLLATE NOCASE, b REAL, v, PRIMARY KEY(a, b)) WITHOUT ROWID",
)
# A reader needs these facts about the tables: the key's kind, its columns and their collations.
TABLES = {
    "mycomesh_schema": {"kind": "keyed", "key": [["name", "BINARY"]]},
    "drones": {"kind": "rowid", "key": [["id", "BINARY"]]},
    "log": {"kind": "bag", "key": []},
    "pairs": {"kind": "keyed", "key": [["a", "NOCASE"], ["b", "BINARY"]]},
}


def drawn(seed):
    """Return an entropy source whose bytes look random and are the same in each run."""
    counter = iter(range(1 << 30))
    return lambda size: hashlib.shake_128(f"{seed} {next(counter)}".encode()).digest(size)


class Writer:
    """A member with its own file."""

    def __init__(self, folder, identity, wall_ms):
        self.identity = identity
        self.wall_ms = wall_ms
        self.path = Path(folder) / f"{identity.name}.db"
        self.batches = []
        self.replica = Replica.open(
            str(self.path),
            node_id=identity.node_id,
            mesh_key=identity.digest_key,
            entropy=drawn(identity.name),
            config=ReplicaConfig(),
        )

    def write(self, *statements):
        """Commit each statement on its own; return the signed batches of all."""
        db = apsw.Connection(str(self.path))
        made = []
        for statement in statements:
            db.execute(statement)
            self.wall_ms += 1_000
            more = True
            while more:
                published, more = self.replica.drain(self.wall_ms)
                made += published
        db.close()
        signed = []
        for payload in made:
            signature = self.identity.sign(b"batch", signed_part(1, payload, direct=True))
            signed.append(Batch(self.identity.node_id, 1, True, signature, payload))
        self.batches += signed
        return signed

    def take(self, batches):
        for batch in batches:
            self.replica.apply(batch.payload, self.wall_ms, origin=batch.origin)


def make():
    """Return the vectors as plain JSON values."""
    entropy = drawn("mesh")
    founder, root_seed = create_mesh("vectors", "ground", entropy=entropy, wall_ms=WALL_MS, lifetime_s=86_400)
    member = make_identity(
        root_seed,
        mesh_name="vectors",
        node_name="drone",
        secret=founder.secret,
        roles=("member",),
        entropy=entropy,
        not_before_s=WALL_MS // 1_000,
        lifetime_s=86_400,
    )
    code = JoinCode(founder.mesh_id, entropy(16))
    with tempfile.TemporaryDirectory() as folder:
        ground, drone = Writer(folder, founder, WALL_MS), Writer(folder, member, WALL_MS)
        drone.take(
            ground.write(
                *SCHEMA,
                "INSERT INTO drones VALUES(1, 'ä', 0.5), (2, 'b', NULL), (3, 'c', 1e300)",
                "INSERT INTO log VALUES('10:00', x'00ff'), ('10:01', CAST(x'ff' AS TEXT))",
                "INSERT INTO pairs VALUES('Key', 1, 'x'), ('other', 2.5, 9007199254740993)",
            )
        )
        ground.take(
            drone.write(
                "UPDATE drones SET battery = 0.25 WHERE id <= 2",
                "DELETE FROM pairs WHERE b = 2.5",
                "UPDATE log SET what = 'seen' WHERE at = '10:00'",
                "INSERT INTO log VALUES('10:02', -1)",
            )
        )
        drone.take(ground.write("DELETE FROM drones WHERE id = 3", "UPDATE drones SET id = 4 WHERE id = 1"))
        assert ground.replica.digests() == drone.replica.digests()
        listed = wire.encode(wire.Digests(tuple((d.table, d.vector, d.entries) for d in ground.replica.digests())))
        content = {name: rows_of(ground.path, name) for name in TABLES}
        for writer in (ground, drone):
            writer.replica.close()
    return {
        "source": "made by 'python -m tests.protocol'; read by tests/protocol/reader.py, which knows docs/PROTOCOL.md alone",
        "mesh": {
            "mesh_id": founder.mesh_id.hex(),
            "root_public": founder.root_public.hex(),
            "secret": founder.secret.hex(),
            "digest_key": founder.digest_key.hex(),
            "join_code": str(code),
            "join_psk": code.psk().hex(),
        },
        "members": [
            {"name": one.name, "node_id": one.node_id.hex(), "certificate": one.certificate.raw.hex()}
            for one in (founder, member)
        ],
        "tables": TABLES,
        "batches": [encode(batch).hex() for batch in [*ground.batches, *drone.batches]],
        "digests": listed.hex(),
        "rows": content,
    }


def rows_of(path, table):
    """Return a table's rows as SQLite quotes their values, sorted, so that equal text means equal content."""
    db = apsw.Connection(str(path))
    columns = [name for (name,) in db.execute("SELECT name FROM pragma_table_info(?) ORDER BY name", (table,))]
    cells = " || ',' || ".join(
        f"CASE typeof({name}) WHEN 'text' THEN 'text ' || hex(CAST({name} AS BLOB)) ELSE quote({name}) END"
        for name in columns
    )
    return sorted(row for (row,) in db.execute(f"SELECT {cells} FROM {table}"))


def text():
    """Return the file's content."""
    return json.dumps(make(), indent=1, ensure_ascii=False) + "\n"
