"""Updates and deletes are merged many at a time: as they would one by one, whatever loses, collides or is hidden."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from mycomesh.sync.errors import DecodeError
from mycomesh.sync.merge import bulk_edit, section_merge
from mycomesh.sync.merge.merge import merge_rows
from mycomesh.sync.storage.change_log import unpack_mask
from tests.sync import lock_holds
from tests.sync.peers import Peer, assert_equal, catch_up, converge

TABLES = """
CREATE TABLE t(id INTEGER PRIMARY KEY, a REAL, b TEXT, u UNIQUE);
CREATE TABLE bag(n INTEGER, a REAL, b TEXT, u UNIQUE);
CREATE TABLE words(n TEXT COLLATE NOCASE PRIMARY KEY, a REAL, b TEXT, u UNIQUE) WITHOUT ROWID;
CREATE TABLE pairs(p, n, a REAL, b, u UNIQUE, PRIMARY KEY(p, n))
"""
NAMES = ("t", "bag", "words", "pairs")
ROWS = 40


def filled(peer):
    """Rows in every table; those of the first half of each come in runs."""
    peer.sql("BEGIN")
    for number in range(ROWS):
        peer.sql("INSERT INTO t VALUES(?, 1, 'b', NULL)", number)
        peer.sql("INSERT INTO bag VALUES(?, 1, 'b', NULL)", number)
        peer.sql("INSERT INTO words VALUES(?, 1, 'b', NULL)", f"k{number}")
        peer.sql("INSERT INTO pairs VALUES(?, ?, 1, 'b', NULL)", number % 2, number)
    peer.sql("INSERT INTO pairs VALUES(NULL, 1, 1, 'b', NULL), (NULL, 2, 1, 'b', NULL)")
    peer.sql("COMMIT")


def edit(rng, peer):
    """One commit that updates or deletes a part of a table, or inserts some of its rows again."""
    table = rng.choice(NAMES)
    first = rng.randrange(ROWS)
    key = {"t": "id", "words": "CAST(substr(n, 2) AS INTEGER)"}.get(table, "n")
    where = f"{key} BETWEEN {first} AND {first + rng.randrange(1, ROWS)}"
    value = rng.randrange(5)
    match rng.randrange(8):
        case 0 | 1:
            peer.sql(f"UPDATE {table} SET a = a + {value} WHERE {where}")
        case 2:
            peer.sql(f"UPDATE {table} SET a = {value % 2} WHERE {where}")
        case 3:
            peer.sql(f"UPDATE {table} SET b = {rng.choice(['b || a', 'NULL', '7', 'a'])} WHERE {where}")
        case 4:
            peer.sql(f"UPDATE OR IGNORE {table} SET u = {key} % {value + 9}, b = 'u' WHERE {where}")
        case 5 | 6:
            peer.sql(f"DELETE FROM {table} WHERE {where} AND {key} % {value + 1} = 0")
        case _:
            name = f"'{'kK'[value % 2]}{first}'" if table == "words" else str(first)
            columns, row = ("p, n", f"0, {name}") if table == "pairs" else ("id" if table == "t" else "n", name)
            peer.sql(f"INSERT OR REPLACE INTO {table}({columns}, a, b) VALUES({row}, 2, 'again')")


def logged(peer):
    """Every entry of every change log, with names of its own file's numbers, and what is held, recorded and parked."""
    found = {}
    for name, table in sorted(peer.replica.tables.items()):
        stamps = table.log.scan(-1, -1, 1_000_000)
        rows = dict.fromkeys(row for _, _, row, _ in stamps)
        entries = table.log.entries_of_rows(list(rows))
        found[name] = sorted(
            (table.store.site(place), hlc, repr(table.key(row, entries[row])), unpack_mask(mask), digest, repr(prior))
            for row in rows
            for place, hlc, _, mask, digest, prior in entries[row]
        )
        assert (table.log.count, *table.log.sums) == table.log.read_sums()
        assert len(stamps) == len(found[name])
    found["conflicts"] = sorted(row[1:] for row in peer.recorded("mycomesh_conflicts"))
    found["parked"] = [row[:4] for row in peer.recorded("mycomesh_parked")]
    found["held"] = peer.sql("SELECT id, place, hlc, content FROM mycomesh_held ORDER BY 1, 2, 3")
    return found


def assert_same(bulk, single):
    for peer in (bulk, single):
        peer.drain()  # refused rows that there was no room to try again
    assert_equal(bulk, single)
    assert logged(bulk) == logged(single)


class SetAndRowPaths(RuleBasedStateMachine):
    """Two writers, and two readers of the same bundles: one merges them many rows at a time, the other one by one."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        folder = Path(self.folder.name)
        self.writers = [Peer(folder / f"{number}.db", number) for number in range(2)]
        self.bulk, self.single = Peer(folder / "bulk.db", 5), Peer(folder / "single.db", 6)
        self.writers[0].sql(TABLES)
        filled(self.writers[0])
        converge([*self.writers, self.bulk, self.single])
        self.mail = []

    @rule(number=st.integers(0, 1), seed=st.integers(0, 1 << 30))
    def write(self, number, seed):
        rng, peer = random.Random(seed), self.writers[number]
        peer.sql("BEGIN")
        for _ in range(rng.randrange(1, 4)):
            edit(rng, peer)
        peer.sql("COMMIT")
        self.mail += [(bundle, peer.node_id) for bundle in peer.drain()]

    @rule(pick=st.integers(0, 100))
    def deliver(self, pick):
        if self.mail:
            bundle, origin = self.mail.pop(pick % len(self.mail) if pick % 3 == 0 else 0)
            self._take(bundle, origin)

    @rule(number=st.integers(0, 1))
    def writers_meet(self, number):
        catch_up(self.writers[number], self.writers[1 - number])

    def _take(self, bundle, origin):
        self.bulk.take([bundle], origin)
        one_by_one(self.single, bundle, origin)
        assert_same(self.bulk, self.single)

    def teardown(self):
        everybody = [*self.writers, self.bulk, self.single]
        try:
            for bundle, origin in self.mail:
                self._take(bundle, origin)
            converge(everybody)
            for peer in everybody[1:]:
                assert_equal(everybody[0], peer)
            assert self.bulk.scrub().found == 0
        finally:
            for peer in everybody:
                peer.close()
            self.folder.cleanup()


def one_by_one(peer, bundle, origin):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(section_merge, "merge_edits", lambda table, group, *more: bulk_edit.MergedEdits(rest=group))
        peer.take([bundle], origin)


TestSetAndRowPaths = SetAndRowPaths.TestCase
TestSetAndRowPaths.settings = settings(max_examples=12, stateful_step_count=14, deadline=None)


@pytest.fixture
def pair(tmp_path):
    peers = [Peer(tmp_path / f"{number}.db", number) for number in range(2)]
    yield peers
    for peer in peers:
        peer.close()


@pytest.mark.parametrize(
    "change",
    ["UPDATE {} SET a = a + 1", "UPDATE {} SET b = 'c', a = 2", "DELETE FROM {}"],
    ids=["one", "two", "delete"],
)
@pytest.mark.parametrize("table", NAMES)
def test_plain_edits_need_no_row_path(pair, monkeypatch, table, change):
    one, two = pair
    one.sql(TABLES)
    filled(one)
    one.sql("DELETE FROM pairs WHERE p IS NULL")
    converge(pair)
    monkeypatch.setattr(section_merge, "merge_rows", None)
    for writer, reader in ((one, two), (two, one)):
        writer.sql(change.format(table))
        reader.take(writer.drain(), writer.node_id)
        assert_equal(one, two)


def test_whole_table_updates_keep_runs_packed(pair):
    one, two = pair
    one.sql(TABLES)
    filled(one)
    converge(pair)
    one.sql("UPDATE t SET a = 2")
    two.take(one.drain(), one.node_id)
    for peer in pair:
        [(runs, entries)] = peer.sql(f"SELECT count(*), sum(n) FROM {peer.replica.tables['t'].log.runs.name}")
        assert (runs, entries) == (1, ROWS)
    assert_equal(one, two)


def test_edits_of_large_rows_take_the_row_path(pair, monkeypatch):
    monkeypatch.setattr(bulk_edit, "CHUNK_BYTES_MAX", 20_000)
    one, two = pair
    one.sql(TABLES)
    filled(one)
    one.sql(
        "WITH n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n LIMIT 200) INSERT INTO t SELECT i, 1, 'b', NULL FROM n"
    )
    one.sql("UPDATE t SET b = hex(zeroblob(500))")
    converge(pair)
    one.sql("UPDATE t SET a = 2")
    alone = []
    monkeypatch.setattr(section_merge, "merge_rows", lambda *args, **more: alone.append(1) or merge_rows(*args, **more))
    two.take(one.drain(), one.node_id)
    assert alone
    assert_equal(one, two)


def test_rows_that_the_table_lost_go_alone(tmp_path):
    one, bulk, single = peers = [Peer(tmp_path / f"{number}.db", number) for number in range(3)]
    one.sql(TABLES)
    filled(one)
    converge(peers)
    for peer in (bulk, single):
        with peer.replica.store.transaction() as db:
            db.execute("DELETE FROM t WHERE id IN (3, 30)")  # as a file edited without its triggers
    one.sql("UPDATE t SET u = id; DELETE FROM words WHERE n > 'k3'")
    for bundle in one.drain():
        bulk.take([bundle], one.node_id)
        one_by_one(single, bundle, one.node_id)
        assert_same(bulk, single)
    for peer in peers:
        peer.close()


def test_refused_edits_leave_the_rest_to_halves(pair):
    one, two = pair
    one.sql(TABLES)
    filled(one)
    converge(pair)
    two.sql("UPDATE t SET u = 5 WHERE id = 39")
    two.drain()
    one.sql("UPDATE t SET u = id + 100 WHERE id <> 7; UPDATE t SET u = 5 WHERE id = 7")
    two.take(one.drain(), one.node_id)
    converge(pair)
    assert_equal(one, two)
    assert two.sql("SELECT count(*) FROM t WHERE u > 100") == [(ROWS - 2,)]


def test_conflicts_beyond_the_budget_are_merged_later(tmp_path, monkeypatch):
    one, two, bulk, single = peers = [Peer(tmp_path / f"{number}.db", number) for number in range(4)]
    one.sql(TABLES)
    filled(one)
    converge(peers)
    monkeypatch.setattr(bulk_edit, "MANY_CONFLICTS_WEIGHT", 1_500)  # room for four of them in a transaction
    merges = []
    merge = section_merge.merge_edits
    monkeypatch.setattr(section_merge, "merge_edits", lambda *args: merges.append(merge(*args)) or merges[-1])
    one.sql("UPDATE t SET a = 5")
    bundles = one.drain()
    for peer in (bulk, single):
        peer.take(bundles, one.node_id)
    two.sql("UPDATE bag SET a = 5; UPDATE words SET a = 5")
    two.drain()  # its clock is ahead from here on
    two.sql("UPDATE t SET a = 6 WHERE id % 2; UPDATE t SET a = 7 WHERE id % 2 = 0")
    del merges[:]
    for bundle in two.drain():
        bulk.take([bundle], two.node_id)
        one_by_one(single, bundle, two.node_id)
        assert_same(bulk, single)
    assert all(0 < each.changes <= 4 for each in merges)
    assert sum(each.conflicts for each in merges) == len(single.recorded("mycomesh_conflicts")) == ROWS
    assert any(each.later for each in merges)
    assert not any(each.rest for each in merges)
    for peer in peers:
        peer.close()


def test_conflicts_are_looked_up_little_more_than_once(monkeypatch):
    file = lock_holds.filled(8_000).sql("UPDATE d SET v = 'mine'")
    looked_up, recorded = [], []
    merge = section_merge.merge_edits

    def counted(table, group, *rest):
        looked_up.append(len(group.hlcs))
        merged = merge(table, group, *rest)
        recorded.append(merged.conflicts)
        return merged

    monkeypatch.setattr(section_merge, "merge_edits", counted)
    file.take(lock_holds.batch(file, lock_holds.updates(file, ("v",), [["w"]] * 8_000)))
    assert sum(recorded) == 8_000
    assert max(recorded) <= 700  # a transaction of some 25 ms
    assert sum(looked_up) <= 1.25 * 8_000
    file.close()


@pytest.mark.parametrize("late", ["whole", "part"])
def test_late_write_that_was_seen_is_no_conflict(tmp_path, late):
    one, two, bulk, single = peers = [Peer(tmp_path / f"{number}.db", number) for number in range(4)]
    one.sql(TABLES)
    filled(one)
    converge(peers)
    one.sql("UPDATE t SET a = 5, b = 'one'" if late == "whole" else "UPDATE t SET a = 5")
    seen = one.drain()
    two.take(seen, one.node_id)
    two.sql("UPDATE t SET a = 6, b = 'two'")
    one.sql("UPDATE t SET b = 'unseen' WHERE id < 9")
    unseen = one.drain()
    for bundles, writer in ((two.drain(), two), (unseen, one), (seen, one)):
        for bundle in bundles:
            bulk.take([bundle], writer.node_id)
            one_by_one(single, bundle, writer.node_id)
            assert_same(bulk, single)
    assert len(bulk.recorded("mycomesh_conflicts")) == 9
    for peer in peers:
        peer.close()


def loses_always(conflicts, number, stored, _mask):
    conflicts._lost_to[number] = stored
    return True


@pytest.mark.parametrize(
    ("name", "mutant", "seed"),
    [
        ("bulk_conflicts.BulkConflicts.unseen", lambda conflicts, number, site_number, hlc, cells, whole: 0, 0),
        ("bulk_conflicts.BulkConflicts.record", lambda conflicts, numbers, records, wall_ms: 0, 0),
        ("bulk_conflicts.BulkConflicts.loses", loses_always, 0),
        ("bulk_conflicts.same", lambda one, other: False, 0),
        ("bulk_edit.Taken.take_run", lambda taken, run, left, numbers: None, 0),
        ("bulk_edit.Taken.supersede", lambda taken, table, keys, rows, records: [], 0),
        ("bulk_edit._stored_prior", lambda table, parts: None, 0),
        ("bulk_edit.note_restored_many", lambda table, hlcs, columns: None, 14),
        ("bulk_edit._are_named", lambda table, rows: True, 1),
    ],
)
def test_histories_find_a_planted_fault(monkeypatch, name, mutant, seed):
    monkeypatch.setattr(f"mycomesh.sync.merge.{name}", mutant)
    with pytest.raises((AssertionError, DecodeError)):
        histories(seed, *range(60))  # the seed that found it last, then all


def histories(*seeds):
    for seed in seeds:
        rng, machine = random.Random(seed), SetAndRowPaths()
        try:
            for _ in range(12):
                machine.write(rng.randrange(2), rng.randrange(1 << 30))
                if rng.randrange(2):
                    machine.deliver(rng.randrange(100))
                if not rng.randrange(4):
                    machine.writers_meet(rng.randrange(2))
        finally:
            machine.teardown()
