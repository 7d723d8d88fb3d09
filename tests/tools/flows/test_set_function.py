"""A statement for many changes at once writes what the statement for each change writes."""

from __future__ import annotations

import json
import random

import apsw
import pytest

from mycomesh.sync.feed.position import Position
from mycomesh.sync.feed.windows import SetPage
from mycomesh.sync.replica import ReplicaConfig
from mycomesh.tools.flows.clock import StatementClock
from mycomesh.tools.flows.set_function import LogSet, SetFunction, UnfitError
from mycomesh.tools.flows.settings import parse
from mycomesh.tools.flows.sql_function import SqlFunction
from mycomesh.tools.flows.writer import MovedError
from tests.sync.peers import Peer, converge
from tests.sync.scale import SCALE, sweep

TABLES = (
    "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT COLLATE NOCASE, u INT);"
    "CREATE TABLE k(k TEXT COLLATE NOCASE PRIMARY KEY, v, u);"
    "CREATE TABLE b(id, v, u); CREATE TABLE w(a, b REAL, v, u, PRIMARY KEY(a, b)) WITHOUT ROWID"
)
INPUTS = ("t", "k", "b", "w")
OUTPUTS = {
    "text": "(key TEXT PRIMARY KEY, what, who, at)",
    "number": "(key INTEGER PRIMARY KEY, what, who, at)",
    "own": "(what, who, at, UNIQUE(what))",
    "typed": "(key TEXT PRIMARY KEY, what, who, at)",
}
RUNS = {
    "text": "SELECT v AS what, _node AS who, _at AS at FROM new WHERE u IS NOT 3",
    "number": "SELECT hex(v) || u AS what, _id AS who, u AS at FROM new",
    "typed": "SELECT v AS what, v = 'V7' AS who, (SELECT 1 FROM t x WHERE x.v = new.v LIMIT 1) AS at FROM new"
    " WHERE u = '2' OR v < 'V3'",
    "own": "INSERT OR IGNORE INTO {} SELECT _key, v, (SELECT 2) FROM new",
}
SELECTS = {"": "", "all": "SELECT * FROM {} WHERE u > 1", "some": "SELECT v, u, _node, _at, _id FROM {} WHERE u < 4"}


class Both:
    """One flow that reads the rows by pages of the feed, and the same one that reads them in the file."""

    def __init__(self, peer, table, kind, select):
        self.peer, self.table = peer, table
        self.db = apsw.Connection(str(peer.path))
        self.outputs = [f"out_{table}_{kind}_{select}_{how}" for how in ("rows", "sets")]
        self.positions = [Position(), Position()]
        self.sets_run = 0
        for output in self.outputs:
            peer.sql(f"CREATE TABLE {output}{OUTPUTS[kind]}")
        settings = [self.settings(kind, select, output) for output in self.outputs]
        self.functions = [SqlFunction(self.db, each) for each in settings]
        self.columns = self.functions[0].columns()
        for function in self.functions:
            function.statement(self.columns)
        self.sets = SetFunction(self.db, settings[1], self.functions[1])

    def settings(self, kind, select, output):
        on = SELECTS[select].format(self.table) or self.table
        run = f"sql: {RUNS[kind].format(output)}"
        return parse("low", {"on": on, "run": run, "into": output})

    def rows(self, number):
        """Let one function take in the next page by rows; return whether there are more."""
        page, published = self.peer.replica.feed.read(self.table, self.positions[number], self.peer.wall_ms)
        self.peer.published += published
        for change in page.changes:
            change.who = f"n{change.site[0]}"
        changes = [json.loads(change.to_json()) for change in page.changes if change.values is not None]
        self.functions[number].run(self.columns, changes)
        self.positions[number] = page.position
        return page.more or bool(page.changes)

    def windows(self, rows_max):
        page, published = self.peer.replica.feed.read_set(
            self.table, self.positions[1], self.peer.wall_ms, rows_max=rows_max
        )
        self.peer.published += published
        if not isinstance(page, SetPage):
            return self.rows(1)
        plain = [
            (each.site.hex(), each.place, each.after, each.reached, each.count, f"n{each.site[0]}")
            for each in page.windows
        ]
        names = ("table", "log", "runs", "pending", "rowid", "keyless", "key", "count")
        try:
            with self.db:
                self.sets.run(LogSet(windows=plain, **{name: getattr(page, name) for name in names}), self.columns, "")
        except UnfitError:
            return self.rows(1)
        self.sets_run += 1
        self.positions[1] = page.position
        return True

    def check(self, rng):
        while self.rows(0):
            pass
        while self.windows(rng.choice([1, 7, 500])):
            pass
        first, second = (self.peer.sql(f"SELECT * FROM {output} ORDER BY 1, 2, 3") for output in self.outputs)
        assert first == second


def write(rng, peer):
    table = rng.choice(INPUTS)
    start, n = rng.randrange(60), rng.choice([1, 2, 30, 70])
    of = {"t": "i", "k": "char(97 + i % 26, 65 + i % 19)", "b": "i", "w": "i % 7, i / 7"}[table]
    key = {"t": "id", "k": "rowid", "b": "rowid", "w": "a * 7 + b"}[table]
    numbers = f"WITH RECURSIVE n(i) AS (SELECT {start} UNION ALL SELECT i + 1 FROM n WHERE i < {start + n})"
    peer.sql(
        rng.choice(
            [
                f"{numbers} INSERT OR IGNORE INTO {table} SELECT {of}, 'v' || i, i % 5 FROM n",
                f"{numbers} INSERT OR REPLACE INTO {table} SELECT {of}, x'00ff', 2.5 FROM n",
                f"UPDATE {table} SET v = hex(v) || 'x' WHERE {key} BETWEEN {start} AND {start + n}",
                f"UPDATE {table} SET v = NULL, u = 9 WHERE {key} BETWEEN {start} AND {start + n}",
                f"DELETE FROM {table} WHERE {key} > {start} + {n}",
            ]
        )
    )


@pytest.mark.parametrize("seed", sweep(range(int(4 * max(1, SCALE))), 2))
def test_sets_and_rows_make_the_same_results(tmp_path, seed):
    rng = random.Random(seed)
    peers = [Peer(tmp_path / f"{number}.db", number, config=ReplicaConfig(only=INPUTS)) for number in range(2)]
    try:
        one = peers[0]
        one.sql(TABLES)
        one.drain()
        converge(peers)
        flows = [
            Both(one, table, kind, select)
            for table in INPUTS
            for kind, select in [("text", ""), ("number", "all"), ("own", ""), ("typed", ""), ("text", "all")]
        ]
        flows += [Both(one, "t", "number", "")]
        for flow in flows:
            assert flow.sets.fits(flow.columns), flow.outputs
        for step in range(40):
            peer = rng.choice(peers)
            write(rng, peer)
            peer.drain()
            if rng.random() < 0.3:
                converge(peers)
            if step % 8 == 7:
                for flow in flows:
                    flow.check(rng)
        assert sum(flow.sets_run for flow in flows) > len(flows)
    finally:
        for peer in peers:
            peer.close()


# ---- one page of a log made by hand

LOG = (
    "CREATE TABLE drones(id INTEGER PRIMARY KEY, battery); CREATE TABLE alerts(key TEXT PRIMARY KEY, drone, what);"
    "CREATE TABLE mycomesh_changes_1(place, hlc, row, mask, digest, prior, PRIMARY KEY(place, hlc)) WITHOUT ROWID;"
    "CREATE TABLE mycomesh_runs_1(seq INTEGER PRIMARY KEY, place, hlc, row, n); CREATE TABLE mycomesh_pending_1(what, r);"
    "INSERT INTO mycomesh_changes_1 VALUES(1, 101, 1, 7, 0, NULL), (1, 102, 2, 7, 0, NULL);"
    "INSERT INTO drones VALUES(1, 10), (2, 95)"
)
SITE = "ab" * 16


def page(keyless=False, site=SITE):
    names = ("drones", "mycomesh_changes_1", "mycomesh_runs_1", "mycomesh_pending_1", "rowid", keyless, [])
    return LogSet(*names, [[site, 1, 100, 102, 2, "alpha"]], 2)


def test_a_page_of_sets_moves_the_cursor(writer, rows):
    flow = writer("SELECT id AS drone FROM new", sql=LOG)
    flow.check()
    assert flow.takes_sets
    assert flow.write_set(page(), "ab", b"\x01") is not None
    assert rows("SELECT drone, length(key) FROM alerts ORDER BY drone") == [(1, 32), (2, 32)]
    assert rows("SELECT position FROM mycomesh_cursors") == [(b"\x01",)]
    assert flow.figures["inputs"] == 2
    assert flow.write_set(page(site="cd" * 16), "ab", b"\x02") is not None
    assert flow.figures["inputs"] == 2, "another node wrote them"


def test_a_set_with_a_row_that_fails_writes_nothing(writer, rows):
    flow = writer("SELECT id AS drone, abs(-9223372036854775807 - (battery > 90)) AS what FROM new", sql=LOG)
    flow.check()
    assert flow.write_set(page(), "", b"\x01") is None
    assert rows("SELECT count(*) FROM alerts") == [(0,)]
    assert rows("SELECT position FROM mycomesh_cursors") == [(b"\x00",)]


def test_a_set_that_takes_too_long_writes_nothing(writer, rows, monkeypatch):
    monkeypatch.setattr(StatementClock, "_is_late", lambda self: self._until_s > 0)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1e9)"
    view = f"CREATE VIEW slow AS {endless} SELECT count(*) AS i FROM n"
    flow = writer("SELECT id AS drone FROM new WHERE battery < (SELECT i FROM slow)", sql=f"{LOG}; {view}")
    flow._sets._strange = frozenset()
    flow._sets._is_plain = lambda _: True
    flow.check()
    assert flow.takes_sets
    assert flow.write_set(page(), "", b"\x01") is None
    assert rows("SELECT position FROM mycomesh_cursors") == [(b"\x00",)]


def test_a_set_after_a_moved_cursor_writes_nothing(writer, rows):
    flow = writer("SELECT id AS drone FROM new", sql=LOG)
    rows("UPDATE mycomesh_cursors SET position = x'07'")
    with pytest.raises(MovedError):
        flow.write_set(page(), "", b"\x01")
    assert rows("SELECT count(*) FROM alerts") == [(0,)]


def test_rowids_that_may_be_reused_go_in_singly(writer, rows):
    flow = writer("SELECT id AS drone FROM new", sql=LOG)
    rows("INSERT INTO mycomesh_pending_1 VALUES(-1, 3)")
    assert flow.write_set(page(keyless=True), "", b"\x01") is not None
    rows("INSERT INTO mycomesh_pending_1 VALUES(-2, 2)")
    assert flow.write_set(page(keyless=True), "", b"\x02") is None
    assert flow.write_set(page(), "", b"\x02") is not None, "a key names its row"


@pytest.mark.parametrize(
    ("run", "sql"),
    [
        ("SELECT max(id) AS drone FROM new", ""),
        ("SELECT id AS drone FROM new WHERE NOT EXISTS (SELECT 1 FROM alerts WHERE drone = id)", ""),
        ("INSERT INTO alerts SELECT id, last_insert_rowid(), battery FROM new", ""),
        ("SELECT id AS drone FROM new", "CREATE TRIGGER x AFTER INSERT ON alerts BEGIN DELETE FROM drones; END"),
        ("SELECT new.id AS drone FROM new JOIN drones d ON d.id = new.id", ""),
    ],
)
def test_statements_over_several_rows_go_in_singly(writer, run, sql):
    flow = writer(run, sql=f"{LOG}; {sql}")
    flow.check()
    assert not flow.takes_sets


def test_a_changed_schema_is_looked_at_again(writer, rows):
    flow = writer("SELECT id AS drone FROM new", sql=LOG)
    flow.check()
    rows("CREATE TRIGGER x AFTER INSERT ON alerts BEGIN DELETE FROM drones; END")
    assert flow.write_set(page(), "", b"\x01") is None
    assert not flow.takes_sets
    rows("DROP TRIGGER x")
    assert flow.write_set(page(), "", b"\x01") is not None
