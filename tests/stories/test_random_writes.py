"""Three replicas under random SQL and a network that loses, repeats and reorders: they end equal, and nothing is lost.

Every write stores a value that no other write stores, so that the oracle can tell the fate of each. A value that an
application's own statement took out of its file was knowingly overwritten: it may never be seen again. Every other value
must be in the tables of all replicas, or on record in `mycomesh_conflicts` or `mycomesh_parked` of some. The rows of one
table are only counted in: there the oracle is the sum of what was committed. In others, columns become counters at any time;
one keeps both rows of one id.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from itertools import pairwise
from pathlib import Path

import apsw
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from mycomesh.sync.exchange.catch_up_stream import CatchUpStream
from tests.sync.machine import NUMBERS, Mail
from tests.sync.peers import Peer, assert_equal, catch_up, converge
from tests.sync.scale import examples
from tests.sync.shapes import Shape

TABLES = (
    Shape("numbers", "CREATE TABLE numbers(id INTEGER PRIMARY KEY, v, u UNIQUE)", ("id",), ("1", "2", "3")),
    Shape("words", "CREATE TABLE words(k TEXT COLLATE NOCASE PRIMARY KEY, v, u)", ("k",), ("'a'", "'A'", "NULL")),
    Shape("pairs", "CREATE TABLE pairs(u, p, v, q, PRIMARY KEY(q, p), UNIQUE(u, p)) WITHOUT ROWID", ("p", "q"),
          ("1, 'x'", "1, 'y'", "2, 'x'")),
    Shape("bag", "CREATE TABLE bag(k, v, u)", ("k",), ("1", "2", "3"), primary=False),
    Shape("claims", "CREATE TABLE claims(k, v, u UNIQUE)", ("k",), ("1", "2", "3"), primary=False),
    Shape("checked", "CREATE TABLE checked(id INT PRIMARY KEY NOT NULL, v NOT NULL, u UNIQUE, CHECK(u IS NOT 2))", ("id",),
          ("1", "2", "3")),
    Shape("counts", "CREATE TABLE counts(id INTEGER PRIMARY KEY, v, u UNIQUE, n INTEGER DEFAULT 3, m)", ("id",), ("1", "2", "3")),
    Shape("orders", "CREATE TABLE orders(id INTEGER PRIMARY KEY, v, u UNIQUE, n INTEGER DEFAULT 1)", ("id",), ("1", "2", "3")),
    Shape("piles", "CREATE TABLE piles(k TEXT PRIMARY KEY, v, u, n INTEGER CHECK(n > -3))", ("k",), ("'a'", "'b'", "'c'")),
)  # fmt: skip
SUMS = "CREATE TABLE sums(k TEXT PRIMARY KEY, n INTEGER NOT NULL, m INTEGER NOT NULL)"
COUNTERS = (("counts", "n"), ("counts", "m"), ("piles", "n"), ("orders", "n"))
BY_NAME = {shape.name: shape for shape in TABLES}


def insert(shape, v, one, _two, u):
    return shape.insert(one, v, u)


def replace(shape, v, one, _two, u):
    return shape.insert(one, v, u, how="REPLACE")


def ignore(shape, v, one, _two, u):
    return shape.insert(one, v, u, how="INSERT OR IGNORE")


def upsert(shape, v, one, _two, u):
    if not shape.primary:
        return shape.insert(one, v, u)
    return f"{shape.insert(one, v, u)} ON CONFLICT({shape.columns()}) DO UPDATE SET v = excluded.v"


def update(shape, v, one, _two, _u):
    return f"UPDATE {shape.t} SET v = {v} WHERE {shape.where(one)}"


def update_unique(shape, _v, one, _two, u):
    return f"UPDATE {shape.t} SET u = {u} WHERE {shape.where(one)}"


def update_or_replace(shape, v, one, _two, u):
    return f"UPDATE OR REPLACE {shape.t} SET u = {u}, v = {v} WHERE {shape.where(one)}"


def update_key(shape, v, one, two, _u):
    return f"UPDATE OR REPLACE {shape.t} SET {shape.set_key(two)}, v = {v} WHERE {shape.where(one)}"


def delete(shape, _v, one, _two, _u):
    return f"DELETE FROM {shape.t} WHERE {shape.where(one)}"


def clear(shape, _v, _one, _two, _u):
    return f"DELETE FROM {shape.t}"


def count(shape, v, one, two, u):
    if (shape.name, "n") not in COUNTERS:
        return update(shape, v, one, two, u)
    return f"UPDATE {shape.t} SET n = n + {two + 1} WHERE {shape.where(one)}"


def count_down(shape, v, one, two, u):
    if (shape.name, "n") not in COUNTERS:
        return update(shape, v, one, two, u)
    return f"UPDATE {shape.t} SET n = n - {two}, v = {v} WHERE {shape.where(one)}"


def count_nothing(shape, v, one, two, u):
    if (shape.name, "m") not in COUNTERS:
        return update(shape, v, one, two, u)
    return f"UPDATE {shape.t} SET m = coalesce(m + 1, {u}) WHERE {shape.where(one)}"


STATEMENTS = (
    count,
    count_down,
    count_nothing,
    insert,
    replace,
    ignore,
    upsert,
    update,
    update_unique,
    update_or_replace,
    update_key,
    delete,
    clear,
)
steps = st.tuples(
    st.sampled_from([shape.name for shape in TABLES]),
    st.sampled_from(STATEMENTS),
    st.integers(0, 2),
    st.integers(0, 2),
    st.sampled_from(["NULL", "1", "2"]),
)


class Template:
    """Three replicas that know every table, made once and copied for each example."""

    folder = None

    @classmethod
    def copy(cls):
        if cls.folder is None:
            cls.folder = tempfile.TemporaryDirectory(prefix="mycomesh-template-")
            made = [Peer(Path(cls.folder.name) / f"{number}.db", number, wall_ms=1_000) for number in range(3)]
            made[0].sql(";".join(shape.ddl for shape in TABLES))
            made[0].sql(f"{SUMS}; INSERT INTO sums VALUES('a', 10, 0), ('b', 20, 0)")
            made[0].drain()
            made[0].replica.decisions.declare_counter("sums", "n")
            made[0].replica.decisions.declare_counter("sums", "m")
            made[0].replica.decisions.decide_policy("orders", "keep-both")
            converge(made)
            for peer in made:
                assert set(peer.tables()) == {*(shape.name for shape in TABLES), "sums"}
                peer.close()
        folder = tempfile.TemporaryDirectory(prefix="mycomesh-replicas-")
        for path in sorted(Path(cls.folder.name).iterdir()):
            shutil.copy(path, folder.name)
        return folder


class Replicas(Mail):
    """The rules; times are small and drawn, so that clocks differ and an example replays exactly."""

    def __init__(self):
        super().__init__(Template.copy())
        self.sums = {"a": [10, 0], "b": [20, 0]}

    @initialize(clocks=st.lists(st.integers(1_000, 1_020), min_size=3, max_size=3))
    def start(self, clocks):
        for number, wall_ms in enumerate(clocks):
            self.peers.append(Peer(Path(self.folder.name) / f"{number}.db", number, wall_ms=wall_ms))

    def seen(self, peer):
        listing = " UNION ALL ".join(f"SELECT v FROM {shape.name} WHERE v IS NOT NULL" for shape in TABLES)
        return {value for (value,) in peer.sql(listing)}

    def execute(self, peer, script, commit):
        """One transaction of the application; statements that a constraint refuses are undone, as in any program."""
        before = self.seen(peer)
        peer.sql("BEGIN")
        for name, statement, one, two, u in script:
            self.count += 1
            try:
                peer.sql(statement(BY_NAME[name], f"'w{self.count}'", one, two, u))
            except apsw.ConstraintError:
                continue
        peer.sql("COMMIT" if commit else "ROLLBACK")
        after = self.seen(peer)
        self.written |= after
        self.overwritten |= before - after

    @rule(
        number=NUMBERS,
        script=st.lists(steps, min_size=1, max_size=3),
        commit=st.sampled_from([True, True, True, False]),
    )
    def write(self, number, script, commit):
        self.execute(self.peers[number], script, commit)

    @rule(number=NUMBERS, script=st.lists(steps, min_size=1, max_size=2))
    def write_and_publish(self, number, script):
        self.execute(self.peers[number], script, commit=True)
        self.publish(number)

    @rule(
        number=NUMBERS,
        changes=st.lists(
            st.tuples(st.sampled_from("ab"), st.sampled_from("nm"), st.integers(-3, 3)), min_size=1, max_size=3
        ),
        commit=st.sampled_from([True, True, False]),
    )
    def count_up(self, number, changes, commit):
        peer = self.peers[number]
        peer.sql("BEGIN")
        for key, column, step in changes:
            peer.sql(f"UPDATE sums SET {column} = {column} + {step} WHERE k = '{key}'")
            self.sums[key]["nm".index(column)] += step * commit
        peer.sql("COMMIT" if commit else "ROLLBACK")

    @rule(number=NUMBERS, counter=st.sampled_from(COUNTERS))
    def declare(self, number, counter):
        self.peers[number].replica.decisions.declare_counter(*counter)

    @rule(number=NUMBERS)
    def deliver_all_backwards(self, number):
        for sender, bundle in reversed(self.mail):
            self.peers[number].take([bundle], self.peers[sender].node_id)

    @rule(receiver=NUMBERS, sender=NUMBERS)
    def broken_round(self, receiver, sender):
        """The first chunk arrives, the rest and the vector do not."""
        if receiver == sender:
            return
        one, two = self.peers[receiver], self.peers[sender]
        chunk = CatchUpStream(two.replica, {name: one.replica.vector(name) for name in one.replica.tables}).next(
            two.wall_ms
        )
        if chunk.bundle is not None:
            one.take([chunk.bundle])

    def check(self):
        converge(self.peers)
        for first, second in pairwise(self.peers):
            assert_equal(first, second)
        sums = [(key, *values) for key, values in sorted(self.sums.items())]
        assert self.peers[0].sql("SELECT k, n, m FROM sums ORDER BY k") == sums
        seen = self.seen(self.peers[0])
        assert seen <= self.written
        self.assert_nothing_lost(seen)
        digests = self.peers[0].digests()
        for peer in self.peers:
            peer.scrub()  # cells of columns that were declared counters a moment ago may want a look
            peer.drain()
            assert peer.scrub().found == 0, "a scrub takes rows for others than they are"
            assert peer.digests() == digests, "a scrub stamped what nobody wrote"


def test_replicas_end_equal_and_nothing_is_lost():
    run_state_machine_as_test(Replicas, settings=examples(60, sample=40, stateful_step_count=30))


def test_a_displaced_row_that_is_rewritten_keeps_its_values(trio):
    """Found by the machine: rows of a batch are read ahead, and its first row displaced its second."""
    one, two, three = trio
    one.sql("CREATE TABLE t(id INT PRIMARY KEY NOT NULL, v NOT NULL, u UNIQUE)")
    converge(trio)
    three.sql("INSERT INTO t VALUES(2, 'displaced', 1)")
    one.sql("INSERT INTO t VALUES(3, 'first', 1)")
    one.drain()
    one.sql("INSERT INTO t VALUES(2, 'rewritten', NULL)")
    converge(trio)
    for peer in trio:
        assert peer.sql("SELECT id, v FROM t ORDER BY id") == [(2, "rewritten"), (3, "first")]
    assert_equal(one, two)
    assert_equal(two, three)


def test_a_respelt_key_reaches_replicas_without_the_old_spelling(trio):
    """Found by the machine: the birth of the row owns less than its key, for a later write owns the spelling."""
    one, two, _ = trio
    one.sql("CREATE TABLE t(k TEXT COLLATE NOCASE PRIMARY KEY, v); INSERT INTO t VALUES('a', 1), ('b', 1)")
    one.drain()
    one.sql("UPDATE t SET k = 'A' WHERE k = 'a'")
    converge(trio)
    assert two.sql("SELECT k FROM t ORDER BY k") == [("A",), ("b",)]
    assert_equal(one, two)


def test_writes_over_columns_beyond_the_63rd_continue(pair):
    one, two = pair
    columns = ", ".join(f"c{number:02}" for number in range(70))
    one.sql(f"CREATE TABLE t(id INTEGER PRIMARY KEY, {columns}); INSERT INTO t(id) VALUES(1)")
    converge(pair)
    one.sql("UPDATE t SET c68 = 'one', c69 = 'one'")
    converge(pair)
    for peer in (two, one, two):
        peer.sql(f"UPDATE t SET c00 = c00 || '+', c68 = 'by {peer.number}'")
        peer.sql(f"UPDATE t SET c01 = 'by {peer.number}', c69 = coalesce(c69, '') || '{peer.number}'")
        converge(pair)
    assert_equal(one, two)
    assert two.sql("SELECT c68, c69 FROM t") == [("by 1", "one101")]
    assert not any(peer.recorded("mycomesh_conflicts") for peer in pair)


def test_a_write_is_on_disk_before_peers_get_it(tmp_path, monkeypatch):
    synced = []
    sync_wal = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda number: (synced.append(number), sync_wal(number)))
    one, two = Peer(tmp_path / "1.db", 1), Peer(tmp_path / "2.db", 2)
    one.sql("CREATE TABLE bag(v)")
    two.sql("CREATE TABLE bag(v)")
    catch_up(two, one)
    one.drain()
    two.drain()
    synced.clear()
    one.sql("INSERT INTO bag VALUES (1)")
    bundles = one.drain()
    assert bundles
    assert len(synced) == 1
    two.take(bundles)
    assert two.sql("SELECT v FROM bag") == [(1,)]
    assert len(synced) == 1
