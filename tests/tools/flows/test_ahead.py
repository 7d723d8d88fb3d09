"""Important changes go in first, each once, over kills of the process and rows that come meanwhile."""

from __future__ import annotations

import random

import apsw
import pytest

from mycomesh.mesh.node.errors import ConfigError
from mycomesh.sync.feed.windows import SET_ROWS_MAX
from mycomesh.sync.replica import ReplicaConfig
from mycomesh.tools.flows import ahead as module
from mycomesh.tools.flows.set_function import LogSet
from mycomesh.tools.flows.settings import parse
from mycomesh.tools.flows.sql_function import FunctionError
from mycomesh.tools.flows.writer import Batch, Writer, forget
from tests.sync.peers import Peer, converge

TABLES = {
    "t": "CREATE TABLE t(id INTEGER PRIMARY KEY, score, n)",
    "k": "CREATE TABLE k(id TEXT PRIMARY KEY, score, n)",
    "b": "CREATE TABLE b(id, score, n)",
}
OUT = "CREATE TABLE out(seq INTEGER PRIMARY KEY, n)"


class Ordered:
    """A flow with a priority on a real file, whose process may die between two pages."""

    def __init__(self, peer, table):
        self.peer, self.table = peer, table
        section = {"on": table, "run": "sql: INSERT INTO out(n) SELECT n FROM new", "priority": "score"}
        self.settings = parse("low", section)
        peer.sql(f"{TABLES[table]}; {OUT}")
        peer.drain()
        peer.published += peer.replica.feed.create(self.settings.cursor, table, peer.wall_ms)[0]
        self.writer = None
        self.start()

    def start(self):
        if self.writer is not None:
            self.writer.close()
        self.writer = Writer(str(self.peer.path), self.settings)
        self.writer.check()
        assert self.writer.read_position()

    def step(self, own=""):
        """Take in the next changes; return whether there may be more."""
        feed, wall_ms = self.peer.replica.feed, self.peer.wall_ms
        position = feed.position(self.settings.cursor, self.table)
        page, published = feed.read_set(self.table, position, wall_ms, rows_max=SET_ROWS_MAX)
        self.peer.published += published
        if page is None:
            return False
        windows = [(each.site.hex(), each.place, each.after, each.reached, each.count, "n") for each in page.windows]
        names = ("table", "log", "runs", "pending", "rowid", "keyless", "key", "count")
        plain = LogSet(windows=windows, **{name: getattr(page, name) for name in names})
        found = self.writer.write_first(plain, own, page.position.encode())
        assert found is not None
        return True

    def results(self):
        return [n for (n,) in self.peer.sql("SELECT n FROM out ORDER BY seq")]


@pytest.fixture
def ordered(tmp_path, monkeypatch):
    """Return a function that makes the flow on a table of one of two peers; few changes are one transaction."""
    monkeypatch.setattr(module, "AHEAD_ROWS", 4)
    peers = [Peer(tmp_path / f"{number}.db", number, config=ReplicaConfig(exclude=("out",))) for number in range(2)]
    made = []

    def make(table):
        made.append(Ordered(peers[0], table))
        converge(peers)
        return made[-1], peers[1]

    yield make
    for each in made:
        each.writer.close()
    for peer in peers:
        peer.close()
    apsw.hard_heap_limit(0)  # a writer sets it, for the whole process


def test_the_greatest_go_first(ordered):
    flow, _ = ordered("t")
    flow.peer.sql(
        "INSERT INTO t VALUES(1, 5, 'five'), (2, NULL, 'none'), (3, 'x', 'text'), (4, 7.5, 'seven'), (5, x'00', 'blob'),"
        " (6, 5, 'later'), (7, -1, 'least')"
    )
    flow.peer.drain()
    flow.step()
    assert flow.results() == ["blob", "text", "seven", "five"]
    flow.peer.sql("INSERT INTO t VALUES(8, 6, 'six')")
    flow.peer.drain()
    flow.step()
    assert flow.results()[4:] == ["six", "later", "least", "none"]
    assert flow.peer.sql("SELECT count(*) FROM mycomesh_flow_ahead") == [(0,)], "the cursor has passed them"


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("seed", range(2))
def test_each_change_goes_in_once(ordered, table, seed):
    rng = random.Random(seed)
    flow, other = ordered(table)
    number = 0
    for _ in range(25):
        for peer in (flow.peer, other):
            for _ in range(rng.choice([0, 1, 12])):
                number += 1
                peer.sql(f"INSERT INTO {table} VALUES(?, ?, ?)", number, rng.randrange(9), number)
            peer.drain()
        if rng.random() < 0.5:
            converge((flow.peer, other))
        for _ in range(rng.choice([0, 1, 3])):
            flow.step()
        if rng.random() < 0.3:
            flow.start()  # its process has died
    converge((flow.peer, other))
    while flow.step():
        pass
    assert sorted(flow.results()) == list(range(1, number + 1))
    assert flow.peer.sql("SELECT count(*) FROM mycomesh_flow_ahead") == [(0,)]


def test_changes_of_other_nodes_are_passed_over(ordered):
    flow, other = ordered("t")
    other.sql("INSERT INTO t VALUES(1, 1, 1)")
    other.drain()
    converge((flow.peer, other))
    flow.step(own=flow.peer.node_id.hex()[:16])
    assert not flow.step()
    assert flow.results() == []


def test_a_page_of_rows_leaves_out_what_is_done(ordered):
    flow, _ = ordered("t")
    for number in range(6):
        flow.peer.sql("INSERT INTO t VALUES(?, ?, ?)", number, number, number)
    flow.peer.drain()
    flow.step()
    feed = flow.peer.replica.feed
    position = feed.position(flow.settings.cursor, "t")
    page = feed.read("t", position, flow.peer.wall_ms)[0]
    plain = [{"id": each.id, "values": each.values, "who": "", "at": ""} for each in page.changes]
    flow.writer.write(Batch(6, plain, list(range(6))), page.position.encode(), lambda _: b"")
    assert flow.results() == [5, 4, 3, 2, 0, 1]
    flow.start()
    assert flow.peer.sql("SELECT count(*) FROM mycomesh_flow_ahead") == [(0,)], "the cursor has passed them"


def test_a_failed_change_is_a_dead_letter_once(ordered):
    flow, _ = ordered("t")
    flow.peer.sql("CREATE UNIQUE INDEX once ON out(n); INSERT INTO t VALUES(1, 1, 'a'), (2, 2, 'a'), (3, 3, 'c')")
    flow.peer.drain()
    while flow.step():
        pass
    assert flow.results() == ["c", "a"]
    assert flow.peer.sql("SELECT row, why FROM mycomesh_dead_letters") == [("1", "UNIQUE constraint failed: out.n")]


def test_a_priority_names_a_column(ordered):
    with pytest.raises(ConfigError, match="priority must be the name of a column"):
        parse("low", {"on": "t", "run": "sql: INSERT INTO out SELECT 1 FROM new", "priority": 7})
    flow, _ = ordered("t")
    flow.peer.sql("INSERT INTO t VALUES(1, 1, 1); ALTER TABLE t RENAME COLUMN score TO rank")
    flow.peer.drain()
    with pytest.raises(FunctionError, match=r"priority: no such column: t\.score"):
        flow.step()


def test_a_removed_flow_leaves_nothing(ordered):
    flow, _ = ordered("t")
    for number in range(6):
        flow.peer.sql("INSERT INTO t VALUES(?, ?, ?)", number, number, number)
    flow.peer.drain()
    flow.step()
    assert flow.peer.sql("SELECT count(*) FROM mycomesh_flow_ahead") == [(4,)]
    forget(str(flow.peer.path), "low")
    assert flow.peer.sql("SELECT count(*) FROM mycomesh_flow_ahead") == [(0,)]
