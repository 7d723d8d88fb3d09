"""Replicas on files as a test needs them: an application beside each, and the ways that changes go from one to another."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import apsw

from mycomesh.mesh.node.authority import NodeAuthority
from mycomesh.sync.exchange.catch_up_stream import CatchUpStream
from mycomesh.sync.replica import Hooks, Replica, ReplicaConfig

MESH_KEY = b"k" * 32
WALL_MS = 1_800_000_000_000


class Peer:
    """One file: the replica, and an application that writes through a connection with SQLite's own defaults."""

    def __init__(self, path, number, *, wall_ms=WALL_MS, config=None, identity=None):
        self.path = Path(path)
        self.number = number
        self.wall_ms = wall_ms
        self.config = config or ReplicaConfig()
        self.node_id = bytes([number + 1]) * 16 if identity is None else identity.node_id
        self.hooks = Hooks() if identity is None else Hooks(authority=NodeAuthority(identity))
        self.drawn = 0
        self.recalled = None  # clocks that were noted outside the file
        self.published = []  # by a scrub, for the next `drain` to return
        self.app = None
        self.replica = None
        self.open()

    def open(self):
        self.replica = Replica.open(
            str(self.path),
            node_id=self.node_id,
            mesh_key=MESH_KEY,
            entropy=self._entropy,
            config=self.config,
            recalled=self.recalled,
            hooks=self.hooks,
        )
        self.app = apsw.Connection(str(self.path))
        self.app.set_busy_timeout(2_000)
        return self

    def close(self):
        if self.app is not None:
            self.app.close()
        if self.replica is not None:
            self.replica.close()
        self.app = self.replica = None

    def sql(self, script, *values):
        """The application's own writes, on a connection that knows nothing of the mesh."""
        return self.app.execute(script, values or None).fetchall()

    def shell(self, script):
        """The same through the stock command-line shell, another program with another SQLite."""
        return shell(self.path, script)

    def drain(self):
        """Stamps everything that was written; returns the bundles to publish."""
        bundles, self.published = self.published, []
        more = True
        while more:
            published, more = self.replica.drain(self.wall_ms)
            bundles += published
        return bundles

    def take(self, bundles, origin=None):
        """Applies bundles as they come in from a link; returns what was published on the way."""
        published = []
        for bundle in bundles:
            published += self.replica.apply(bundle, self.wall_ms, origin=origin).published
        return published

    def take_together(self, batches):
        """Applies live batches, (bundle, origin) each, in one transaction; returns what was published on the way."""
        return [own for applied in self.replica.apply_all(batches, self.wall_ms) for own in applied.published]

    def scrub(self, rows=100):
        """Compares every row with its entries, so many at a time; returns what the pass has come to."""
        self.replica.scrub.restart()
        while True:
            scrubbed, published = self.replica.scrub.step(self.wall_ms, rows)
            self.published += published
            if scrubbed.done:
                return scrubbed

    def tables(self):
        """The content of every user table."""
        return content(self.app)

    def digests(self):
        return {digest.table: (digest.vector, digest.entries) for digest in self.replica.digests()}

    def recorded(self, table):
        """The rows of mycomesh_conflicts or mycomesh_parked as any program reads them."""
        return self.app.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3").fetchall()

    def _entropy(self, size):
        self.drawn += 1
        return hashlib.shake_128(f"{self.number} {self.drawn} {self.path.name}".encode()).digest(size)


def shell(path, script):
    """Runs a script in the stock shell as a person would; any error is the test's."""
    done = subprocess.run(
        ["sqlite3", "-batch", str(path)], input=script.encode(), capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert not done.stderr, done.stderr.decode(errors="replace")
    return done.stdout


def content(db):
    """Returns {table: sorted rows}, each value with its type and its very bytes; generated columns too, rowids not.

    A floating-point number is its hexadecimal text: 0.0 and -0.0 would be equal.
    """
    tables = {}
    listing = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' ORDER BY name"
    for (name,) in db.execute(listing).fetchall():
        if name.startswith(("sqlite_", "mycomesh_")):
            continue
        columns = db.execute("SELECT name FROM pragma_table_xinfo(?) ORDER BY name", (name,)).fetchall()
        cells = []
        for (column,) in columns:
            quoted = '"' + column.replace('"', '""') + '"'
            cells += [f"typeof({quoted})", f"iif(typeof({quoted}) = 'text', CAST({quoted} AS BLOB), {quoted})"]
        table = '"' + name.replace('"', '""') + '"'
        listing = f"SELECT {', '.join(cells)} FROM {table}"
        rows = [tuple(cell.hex() if type(cell) is float else cell for cell in row) for row in db.execute(listing)]
        tables[name] = sorted(rows, key=repr)
    return tables


def catch_up(receiver, sender):
    """One complete round: everything that the sender covers and the receiver does not, then the sender's vectors."""
    receiver.drain()
    whole = True
    for name in receiver.replica.tables:
        receiver.replica.inbox.begin_round(name)
    stream = CatchUpStream(sender.replica, {name: receiver.replica.vector(name) for name in receiver.replica.tables})
    while True:
        chunk = stream.next(sender.wall_ms)
        if chunk.bundle is None:
            if whole:
                receiver.replica.inbox.take_vectors(chunk.vectors, chunk.collected, receiver.wall_ms)
            return
        whole = not receiver.replica.apply(chunk.bundle, receiver.wall_ms).withheld and whole


def converge(peers):
    """Rounds in every direction until all digests are equal; tables that a peer learns on the way are fetched by the next.

    As between nodes, there is no round where the digests are equal already.
    """
    for _ in range(4 + len(peers)):
        for peer in peers:
            peer.drain()
        pairs = [(receiver, sender) for receiver in peers for sender in peers if sender is not receiver]
        rounds = [catch_up(*pair) for pair in pairs if pair[0].digests() != pair[1].digests()]
        if not rounds:
            break
    for peer in peers:
        peer.drain()  # rows that a constraint refused may still wait for their turn


def assert_equal(first, second):
    """Both files hold the same rows, and their digests say so."""
    left, right = first.tables(), second.tables()
    assert left.keys() == right.keys(), sorted(left.keys() ^ right.keys())
    different = [
        f"{name}: only first {[row for row in left[name] if row not in right[name]]},"
        f" only second {[row for row in right[name] if row not in left[name]]},"
        f" {len(left[name])} and {len(right[name])} rows"
        for name in left
        if left[name] != right[name]
    ]
    assert not different, "\n".join([*different, *map(str, second.recorded("mycomesh_parked"))])
    mine, theirs = first.digests(), second.digests()
    assert mine == theirs, {name: (mine[name], theirs.get(name)) for name in mine if mine[name] != theirs.get(name)}
