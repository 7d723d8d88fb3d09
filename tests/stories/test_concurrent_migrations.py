"""Migrations of several replicas at once, in any order with writes, losses and restarts: all end equal, no cell is lost."""

from __future__ import annotations

import contextlib
import tempfile
from itertools import pairwise

import apsw
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from mycomesh.sync.errors import MigrationError
from tests.sync.machine import NUMBERS, Mail
from tests.sync.peers import assert_equal, converge
from tests.sync.scale import examples
from tests.sync.templates import equal_peers

# `v` has a value of its own for every write and is never dropped; the others come and go.
TABLES = {
    "t": "CREATE TABLE t(id INTEGER PRIMARY KEY, v, a, b UNIQUE)",
    "w": "CREATE TABLE w(id TEXT PRIMARY KEY, v, a, b) WITHOUT ROWID",
    "n": "CREATE TABLE n(id TEXT, v, a, b, PRIMARY KEY(id))",
    "bag": "CREATE TABLE bag(id, v, a, b)",
}
NAMES = ("a", "b", "c", "d", "t", "bag")
DEFAULTS = dict(
    zip(NAMES, range(6), strict=True)
)  # of a column, wherever it is added: two nodes that disagree report it
tables = st.sampled_from(sorted(TABLES))
columns = st.integers(0, 3)


class Migrations(Mail):
    """Three replicas whose people drop, add and rename under way."""

    def __init__(self):
        super().__init__(tempfile.TemporaryDirectory(prefix="mycomesh-migrations-"))

    @initialize(clocks=st.lists(st.integers(1_000, 1_020), min_size=3, max_size=3))
    def start(self, clocks):
        self.peers += equal_peers(self.folder.name, 3, "; ".join(TABLES.values()), wall_ms=1_000)
        for peer, wall_ms in zip(self.peers, clocks, strict=True):
            peer.wall_ms = wall_ms

    def spec(self, peer, mesh):
        peer.app.execute("SELECT 1 FROM sqlite_schema").fetchall()  # SQLite reads a schema that others have changed
        return peer.replica.tables[mesh].spec

    def named(self, peer, mesh):
        """The names, as SQL, of a table, of its key, of `v`, and of its other columns, as this file has them."""
        spec = self.spec(peer, mesh)
        names = {column.folded: f'"{column.name}"' for column in spec.columns}
        rest = [name for column, name in names.items() if column not in ("id", "v")]
        return f'"{spec.name}"', names["id"], names["v"], rest

    def seen(self, peer):
        values = set()
        for mesh in TABLES:
            table, _, v, _ = self.named(peer, mesh)
            values |= {value for (value,) in peer.sql(f"SELECT {v} FROM {table} WHERE {v} IS NOT NULL")}
        return values

    @rule(number=NUMBERS, mesh=tables, key=st.integers(1, 4), how=st.sampled_from(["insert", "update", "rest", "delete"]),
          pick=columns)  # fmt: skip
    def write(self, number, mesh, key, how, pick):
        peer = self.peers[number]
        before = self.seen(peer)
        table, k, v, rest = self.named(peer, mesh)
        self.count += 1
        other = rest[pick % len(rest)] if rest else k
        statement = {
            "insert": f"INSERT INTO {table}({k}, {v}, {other}) VALUES('{key}', 'w{self.count}', {self.count})"
            if rest
            else f"INSERT INTO {table}({k}, {v}) VALUES('{key}', 'w{self.count}')",
            "update": f"UPDATE {table} SET {v} = 'w{self.count}' WHERE {k} = '{key}'",
            "rest": f"UPDATE {table} SET {other} = {self.count % 5} WHERE {k} = '{key}'" if rest else "SELECT 1",
            "delete": f"DELETE FROM {table} WHERE {k} = '{key}'",
        }[how]
        try:
            peer.sql(statement)
        except apsw.ConstraintError:
            return
        after = self.seen(peer)
        self.written |= after
        self.overwritten |= before - after

    @rule(number=NUMBERS, mesh=tables, what=st.sampled_from(["drop", "add", "rename", "move", "both", "fill"]), pick=columns,
          name=st.sampled_from(NAMES))  # fmt: skip
    def migrate(self, number, mesh, what, pick, name):
        peer = self.peers[number]
        table, k, v, rest = self.named(peer, mesh)
        chosen = [*rest, v, k][pick % (len(rest) + 2)]
        gone = rest[pick % len(rest)] if rest else "none"
        script = {
            "drop": f"ALTER TABLE {table} DROP COLUMN {gone}",
            "add": f"ALTER TABLE {table} ADD COLUMN {name} DEFAULT {DEFAULTS[name]}",
            "rename": f"ALTER TABLE {table} RENAME COLUMN {chosen} TO {name}",
            "move": f"ALTER TABLE {table} RENAME TO {name}",
            "both": f"ALTER TABLE {table} DROP COLUMN {gone};"
            f" ALTER TABLE {table} ADD COLUMN {gone} DEFAULT {DEFAULTS.get(gone[1:-1], 9)}",
            "fill": f"ALTER TABLE {table} ADD COLUMN {name} DEFAULT {DEFAULTS[name]}; UPDATE {table} SET {name} = {v};"
            f" ALTER TABLE {table} DROP COLUMN {gone}",
        }[what]
        with contextlib.suppress(MigrationError):  # a name that is taken, a column that a constraint names
            peer.replica.migrate(script, peer.wall_ms)

    @rule(number=NUMBERS)
    def make_and_drop_another(self, number):
        peer = self.peers[number]
        peer.app.execute("SELECT 1 FROM sqlite_schema").fetchall()
        here = peer.sql("SELECT count(*) FROM sqlite_schema WHERE name = 'extra'") == [(1,)]
        peer.replica.migrate("DROP TABLE extra" if here else "CREATE TABLE extra(x)", peer.wall_ms)

    def check(self):
        converge(self.peers)
        converge(self.peers)
        digests = self.peers[0].digests()
        for first, second in pairwise(self.peers):
            assert first.digests() == second.digests()
            if not any(
                "stays in this file" in status.note for peer in self.peers for status in peer.replica.status().tables
            ):
                assert_equal(first, second)
        seen = self.seen(self.peers[0])
        self.assert_nothing_lost(seen)
        for peer in self.peers:
            assert peer.scrub().found == 0, "a scrub takes rows for others than they are"
            assert peer.digests() == digests


def test_migrations_at_once_end_equal_and_nothing_is_lost():
    run_state_machine_as_test(Migrations, settings=examples(40, sample=20, stateful_step_count=25))
