"""Columns that several replicas add, compute and drop at once by hand, in any order with writes and restarts: all end equal."""

from __future__ import annotations

import contextlib
import tempfile
from itertools import pairwise

import apsw
from hypothesis import given
from hypothesis import strategies as st

from tests.sync.machine import Mail
from tests.sync.peers import assert_equal, converge
from tests.sync.scale import examples
from tests.sync.templates import equal_peers

KEYS = ("INTEGER PRIMARY KEY", "TEXT PRIMARY KEY", "")
# `v` has a value of its own for every write; `g` is stored to one and computed to another.
ADDED = (
    "n INTEGER NOT NULL DEFAULT 3 CHECK (n < a + 5)",
    "m TEXT COLLATE NOCASE DEFAULT 'x' CONSTRAINT other CHECK (m IS NOT b)",
    "g DEFAULT 4",
)
COMPUTED = (
    "g AS (a)",
    "g AS (a || b)",
    "g AS (v || 'g')",
    "h AS (b)",
    "h AS (g || '!')",
    "i AS (upper(h))",
    "i AS (v)",
)
WRITES = (
    "INSERT INTO t(id, v, a, b) VALUES('{row}', '{v}', {row}, 'x')",
    "UPDATE t SET v = '{v}' WHERE id = '{row}'",
    "UPDATE t SET a = {row} - 4, b = char(120 + {row})",
    "DELETE FROM t WHERE id = '{row}'",
)
# By hand, most of it: rules of a state machine are drawn so that columns seldom meet.
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["write"] * 4 + ["add"] * 3 + ["compute"] * 4 + ["publish", "deliver"] * 2 + ["drop", "round", "restart"]
        ),
        st.integers(0, 2),
        st.integers(0, 6),
    ),
    min_size=15,
    max_size=30,
)  # fmt: skip


class Columns(Mail):
    """Three replicas whose people change the columns of one table with no more than a stock client."""

    def __init__(self, clocks, key):
        super().__init__(tempfile.TemporaryDirectory(prefix="mycomesh-columns-"))
        table = f"CREATE TABLE t(id {key}, v, a, b); INSERT INTO t VALUES('6', 'w0', 0, 'y')"
        self.peers += equal_peers(self.folder.name, 3, table, wall_ms=1_000)
        for peer, wall_ms in zip(self.peers, clocks, strict=True):
            peer.wall_ms = wall_ms
        self.written.add("w0")

    def step(self, what, number, pick):
        peer = self.peers[number]
        match what:
            case "write":
                self.write(peer, WRITES[pick % len(WRITES)], pick)
            case "add":
                column = ADDED[pick % len(ADDED)]
                tried(peer, f"ALTER TABLE t ADD COLUMN {column}; UPDATE t SET {column[0]} = {pick} WHERE id = '6'")
            case "compute":
                column = COMPUTED[pick]
                gone = f"ALTER TABLE t DROP COLUMN {column[0]};" if computed(peer, column[0]) else ""
                tried(peer, f"{gone} ALTER TABLE t ADD COLUMN {column}")
            case "drop":
                if computed(peer, "ghi"[pick % 3]):
                    tried(peer, f"ALTER TABLE t DROP COLUMN {'ghi'[pick % 3]}")
            case "publish":
                self.publish(number)
            case "deliver":
                self.deliver(number, pick)
            case "round":
                self.round(number, (number + 1 + pick % 2) % 3)
            case "restart":
                self.restart(number)

    def write(self, peer, statement, row):
        before = self.seen(peer)
        self.count += 1
        with contextlib.suppress(apsw.ConstraintError):
            peer.sql(statement.format(row=row, v=f"w{self.count}"))
            after = self.seen(peer)
            self.written |= after
            self.overwritten |= before - after

    def seen(self, peer):
        return {value for (value,) in peer.sql("SELECT v FROM t")}

    def check(self):
        converge(self.peers)
        converge(self.peers)
        for first, second in pairwise(self.peers):
            assert_equal(first, second)
        self.assert_nothing_lost(self.seen(self.peers[0]))
        for peer in self.peers:
            assert not [status.note for status in peer.replica.status().tables if status.note]
            assert peer.scrub().found == 0


def computed(peer, column):
    return peer.sql("SELECT 1 FROM pragma_table_xinfo('t') WHERE name = ? AND hidden", column) == [(1,)]


def tried(peer, script):
    """Run a script as the shell does: statements before the one that SQLite refuses remain."""
    with contextlib.suppress(apsw.SQLError, apsw.ConstraintError):
        peer.sql(script)


@examples(60, sample=30)
@given(clocks=st.lists(st.integers(1_000, 1_020), min_size=3, max_size=3), key=st.sampled_from(KEYS), steps=STEPS)
def test_concurrent_columns_end_equal_and_lose_nothing(clocks, key, steps):
    columns = Columns(clocks, key)
    try:
        for step in steps:
            columns.step(*step)
    finally:
        columns.teardown()
