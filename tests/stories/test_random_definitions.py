"""Programs on three nodes create, replace and drop views and triggers, and rebuild a table without a column, in any order.

In the end all files are equal, each effect of a trigger is there once, and no value of a kept column is lost.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import apsw
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from tests.sync.machine import NUMBERS, Mail
from tests.sync.peers import Peer, assert_equal, converge
from tests.sync.scale import examples

NAMES = st.sampled_from(["v1", "v2", "v3"])
COLUMNS = st.sampled_from(["c0", "c1"])


def objects(peer):
    """Return the SQL of the views and triggers, by the names of their facts."""
    kinds = "type IN ('view', 'trigger') AND name NOT GLOB 'mycomesh*'"
    return dict(peer.sql(f"SELECT type || ':' || name, sql FROM sqlite_schema WHERE {kinds} ORDER BY name"))


def reads(peer, key):
    """Return whether SQLite can read a view: a program may have dropped what it names."""
    try:
        return not key.startswith("view:") or peer.sql(f"SELECT count(*) FROM {key[5:]}")
    except apsw.SQLError:
        return False


class Definitions(Mail):
    def __init__(self):
        super().__init__(tempfile.TemporaryDirectory())

    @initialize(clocks=st.lists(st.integers(1_800_000_000_000, 1_800_000_000_020), min_size=3, max_size=3))
    def start(self, clocks):
        for number, wall_ms in enumerate(clocks):
            self.peers.append(Peer(Path(self.folder.name) / f"{number}.db", number, wall_ms=wall_ms))
        self.peers[0].sql(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, kept, c0, c1); CREATE TABLE log(id TEXT PRIMARY KEY NOT NULL)"
        )
        self.peers[0].sql("INSERT INTO t VALUES(1, 'k1', 0, 1), (2, 'k2', 0, 1)")
        converge(self.peers)

    def attempt(self, number, script):
        """Run one transaction of a program; what SQLite refuses is undone."""
        peer = self.peers[number]
        try:
            peer.sql(f"BEGIN; {script}; COMMIT")
        except apsw.SQLError:
            peer.sql("ROLLBACK")

    @rule(number=NUMBERS, name=NAMES, text=st.integers(0, 3))
    def put_view(self, number, name, text):
        source = [
            "kept FROM t",
            "c0 FROM t",
            "* FROM t",
            f"count(*) FROM {'t' if name == 'v1' else f'v{int(name[1]) - 1}'}",
        ][text]
        self.attempt(number, f"DROP VIEW IF EXISTS {name}; CREATE VIEW {name} AS SELECT {source}; SELECT * FROM {name}")

    @rule(number=NUMBERS, name=NAMES)
    def drop_view(self, number, name):
        self.attempt(number, f"DROP VIEW IF EXISTS {name}")

    @rule(number=NUMBERS, text=st.integers(0, 1))
    def put_trigger(self, number, text):
        body = f"INSERT OR IGNORE INTO log VALUES(NEW.kept || '-{text}')"
        self.attempt(number, f"DROP TRIGGER IF EXISTS g; CREATE TRIGGER g AFTER INSERT ON t BEGIN {body}; END")

    @rule(number=NUMBERS)
    def drop_trigger(self, number):
        self.attempt(number, "DROP TRIGGER IF EXISTS g")

    @rule(number=NUMBERS)
    def insert(self, number):
        self.count += 1
        value = f"k{number}-{self.count}"
        self.attempt(number, f"INSERT INTO t(id, kept) VALUES({self.count * 3 + number + 10}, '{value}')")
        self.written.add(value)

    @rule(number=NUMBERS)
    def update(self, number):
        """A row of this node's own, which no other program updates."""
        for (before,) in self.peers[number].sql("SELECT kept FROM t WHERE kept GLOB ? LIMIT 1", f"k{number}-*"):
            self.count += 1
            self.attempt(number, f"UPDATE t SET kept = 'k{number}-{self.count}' WHERE kept = '{before}'")
            self.overwritten.add(before)
            self.written.add(f"k{number}-{self.count}")

    @rule(number=NUMBERS, column=COLUMNS)
    def rebuild_without(self, number, column):
        peer = self.peers[number]
        left = [name for _, name, *_ in peer.sql("PRAGMA table_info(t)") if name not in ("id", column)]
        names = ", ".join(["id", *left])
        declared = ", ".join(["id INTEGER PRIMARY KEY", *left])
        self.attempt(
            number,
            f"CREATE TABLE n({declared}); INSERT INTO n SELECT {names} FROM t; DROP TABLE t;"
            " PRAGMA legacy_alter_table = ON; ALTER TABLE n RENAME TO t; PRAGMA legacy_alter_table = OFF",
        )

    @rule(number=NUMBERS, column=COLUMNS)
    def add_column(self, number, column):
        self.attempt(number, f"ALTER TABLE t ADD COLUMN {column} DEFAULT 'd'")

    def check(self):
        for _ in range(4):
            converge(self.peers)
        one = self.peers[0]
        for peer in self.peers[1:]:
            assert_equal(one, peer)
        assert not [bundle for peer in self.peers for bundle in peer.drain()]
        assert not any(peer.scrub().found for peer in self.peers)
        for key, sql in one.sql(
            "SELECT name, sql FROM mycomesh_schema WHERE kind IN ('view', 'trigger') ORDER BY name"
        ):
            found = [objects(peer).get(key, "") for peer in self.peers]
            if not sql or any(text == sql and reads(peer, key) for peer, text in zip(self.peers, found, strict=True)):
                assert found == [sql] * 3, (key, sql, found)
        self.assert_nothing_lost({value for (value,) in one.sql("SELECT kept FROM t")})


TestDefinitions = pytest.mark.slow(Definitions.TestCase)
TestDefinitions.settings = examples(6, stateful_step_count=20)
