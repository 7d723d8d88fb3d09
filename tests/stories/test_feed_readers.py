"""A machine of two replicas and readers of three kinds, under random SQL, splits, crashes and restored backups.

A reader outside keeps a copy of a table, and may die between a page and its acknowledgement. A reader inside writes each id
that it gets into the served file, in the transaction that moves its cursor. At the end, copies equal the tables, and no id
was written twice.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mycomesh.sync.replica import ReplicaConfig
from tests.sync.feed.test_feed import WRITES
from tests.sync.peers import Peer, catch_up, converge
from tests.sync.scale import examples

TABLES = ("t", "k", "b")
DDL = """
    CREATE TABLE t(id INTEGER PRIMARY KEY, v, u UNIQUE); CREATE TABLE k(k TEXT PRIMARY KEY, v); CREATE TABLE b(v);
    CREATE TABLE seen(id TEXT PRIMARY KEY)"""
NODES, READERS, SMALL = st.integers(0, 1), st.sampled_from(("first", "second")), st.integers(1, 5)


class Readers(RuleBasedStateMachine):
    """The readers `first` and `second` are outside of the file, `inside` is in it; each reads all tables of its node."""

    @initialize()
    def begin(self):
        self.folder = tempfile.TemporaryDirectory(prefix="mycomesh-feed-")
        config = ReplicaConfig(exclude=("seen",))
        self.nodes = [Peer(Path(self.folder.name) / f"{n}.db", n, wall_ms=1_000, config=config) for n in range(2)]
        for node in self.nodes:
            node.sql(DDL)
            node.drain()
        converge(self.nodes)
        self.copies = {}
        self.backups = {}
        self.count = 0
        for number, node in enumerate(self.nodes):
            for reader in ("first", "second", "inside"):
                for table in TABLES:
                    node.replica.feed.create(reader, table, node.wall_ms)
                    self.copies[number, reader, table] = {}

    def page(self, number, reader, table, rows_max=1_024):
        node = self.nodes[number]
        feed = node.replica.feed
        page, published = feed.read(table, lambda: feed.position(reader, table), node.wall_ms, rows_max=rows_max)
        node.published += published
        clocks = {}
        for change in page.changes:  # in the order of each site
            if not change.touched:
                assert clocks.get(change.site, 0) <= change.hlc
                clocks[change.site] = change.hlc
        return page

    def copy(self, number, reader, table, page, count):
        rows = self.copies[number, reader, table]
        for change in page.changes[:count]:
            if change.values is None:
                rows.pop(change.row, None)
            else:
                rows[change.row] = tuple(change.values.values())

    def write_inside(self, number, table, page, *, commit):
        """Write the ids of a page beside the cursor's position, as a program does with SQL."""
        app = self.nodes[number].app
        app.execute("BEGIN IMMEDIATE")
        app.executemany("INSERT INTO seen VALUES(?)", [(change.id,) for change in page.changes])
        app.execute(
            "UPDATE mycomesh_cursors SET position = ? WHERE name = 'inside' AND table_name = ?",
            (page.position.encode(), table),
        )
        app.execute("COMMIT" if commit else "ROLLBACK")

    @rule(number=NODES, write=st.sampled_from(WRITES), a=SMALL, b=SMALL)
    def write(self, number, write, a, b):
        self.count += 1
        self.nodes[number].wall_ms += 1
        self.nodes[number].sql(write.format(a=a, b=b, n=self.count))

    @rule(number=NODES)
    def send_live(self, number):
        node = self.nodes[number]
        self.nodes[1 - number].take(node.drain(), node.node_id)

    @rule(number=NODES)
    def lose_live(self, number):
        self.nodes[number].drain()

    @rule(number=NODES)
    def catch_up(self, number):
        catch_up(self.nodes[number], self.nodes[1 - number])

    @rule(a=SMALL, b=SMALL)
    def claim_one_value(self, a, b):
        """Let both nodes claim a UNIQUE value, so that one row is refused once they meet."""
        for number in range(2):
            self.write(number, "INSERT OR IGNORE INTO t VALUES({a}, 'v{n}', {b})", a + 10 * number, b)

    @rule(number=NODES, reader=READERS, table=st.sampled_from(TABLES))
    def read_all(self, number, reader, table):
        page = self.page(number, reader, table)
        self.copy(number, reader, table, page, len(page.changes))
        self.nodes[number].replica.feed.move(reader, table, page.position, self.nodes[number].wall_ms)

    @rule(number=NODES, reader=READERS, table=st.sampled_from(TABLES), part=st.integers(0, 3), dies=st.booleans())
    def read_a_part(self, number, reader, table, part, dies):
        page = self.page(number, reader, table, 1 if part == 3 else 1_024)
        count = len(page.changes) * part // 3
        self.copy(number, reader, table, page, count)
        if not dies:
            node = self.nodes[number]
            node.replica.feed.move(reader, table, page.after(count), node.wall_ms)

    @rule(number=NODES, table=st.sampled_from(TABLES), commit=st.booleans())
    def read_inside(self, number, table, commit):
        self.write_inside(number, table, self.page(number, "inside", table), commit=commit)

    @rule(number=NODES)
    def crash(self, number):
        self.nodes[number].close()
        self.nodes[number].open()

    @rule(number=NODES)
    def back_up(self, number):
        """Keep a backup whose rows all are on the other node, so that none can be lost by it."""
        converge(self.nodes)
        self.nodes[number].close()
        path = self.nodes[number].path
        self.backups[number] = path.with_suffix(".backup")
        shutil.copy(path, self.backups[number])
        self.nodes[number].open()

    @precondition(lambda self: self.backups)
    @rule(number=NODES)
    def restore(self, number):
        if number not in self.backups:
            return
        converge(self.nodes)  # what the other node has will come back
        node = self.nodes[number]
        node.close()
        shutil.copy(self.backups[number], node.path)
        node.open()

    @invariant()
    def positions_can_be_read(self):
        for node in getattr(self, "nodes", []):
            assert len(node.replica.feed.cursors(node.wall_ms)) == 9

    def teardown(self):
        if not hasattr(self, "nodes"):
            return
        try:
            converge(self.nodes)
            for (number, reader, table), rows in self.copies.items():
                more = True
                while more:
                    page = self.page(number, reader, table)
                    more = page.more
                    if reader == "inside":
                        self.write_inside(number, table, page, commit=True)
                    else:
                        self.nodes[number].replica.feed.move(reader, table, page.position, self.nodes[number].wall_ms)
                    self.copy(number, reader, table, page, len(page.changes))
                if reader != "inside":
                    there = sorted(self.nodes[number].sql(f"SELECT * FROM {table}"), key=repr)
                    assert sorted(rows.values(), key=repr) == there, (number, reader, table)
            for node in self.nodes:  # every change that is left in a log was written down once
                seen = {name for (name,) in node.sql("SELECT id FROM seen")}
                assert len(seen) == node.sql("SELECT count(*) FROM seen")[0][0]
                page, _ = node.replica.feed.read("k", node.replica.feed.start("k", from_now=False), node.wall_ms)
                assert {change.id for change in page.changes} <= seen
        finally:
            for node in self.nodes:
                node.close()
            self.folder.cleanup()


TestReaders = Readers.TestCase
TestReaders.settings = examples(25, sample=15, stateful_step_count=30)
