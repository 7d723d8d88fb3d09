"""A batch that costs more than one transaction may: it is divided, and covered only with its last part."""

from __future__ import annotations

import itertools
import json
import random

import pytest

from mycomesh.sync.crdt.version_vector import RANGES_MAX
from mycomesh.sync.merge import restored, work_budget
from mycomesh.sync.merge.records import value_of
from mycomesh.sync.merge.work_budget import (
    CHUNK_ROWS_MAX,
    COLUMN_WEIGHT,
    EDIT_WEIGHT,
    FACT_WEIGHT,
    PARK_WEIGHT,
    PLAIN_EDIT_WEIGHT,
    TRANSACTION_WEIGHT_MAX,
    fact_weight,
)
from mycomesh.sync.replica import Hooks
from mycomesh.sync.storage.conflict_room import ConflictLimits
from mycomesh.sync.storage.digests import Digests
from mycomesh.sync.wire.bundle import Bundle, Section
from tests.sync.peers import Peer, assert_equal, catch_up, converge
from tests.sync.scale import sweep

COUNT = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?)"
TABLES = """
CREATE TABLE t(id INTEGER PRIMARY KEY, v, u UNIQUE);
CREATE TABLE words(k TEXT PRIMARY KEY, v);
CREATE TABLE bag(v);
CREATE TABLE pairs(p, q, v, PRIMARY KEY(p, q)) WITHOUT ROWID;
CREATE UNIQUE INDEX positive ON pairs(v) WHERE v > 0
"""
MANY = 3 * TRANSACTION_WEIGHT_MAX // EDIT_WEIGHT
MANY_PLAIN = 3 * TRANSACTION_WEIGHT_MAX // PLAIN_EDIT_WEIGHT


class KilledError(Exception):
    """The process is killed between two transactions."""


@pytest.fixture
def peers(tmp_path):
    opened = []

    def make(count):
        opened.extend(Peer(tmp_path / f"{number}.db", number) for number in range(count))
        opened[0].sql(TABLES)
        converge(opened)
        return opened

    yield make
    for peer in opened:
        peer.close()


def between(peer, do):
    """Call `do` after each transaction but the last of a call."""
    peer.replica.outbox._hooks = Hooks(pause=do)


def of_one_commit(peer, *statements):
    peer.sql("BEGIN")
    for statement, *values in statements:
        peer.sql(statement, *values)
    peer.sql("COMMIT")
    (bundle,) = peer.drain()
    return bundle


def joined(bundles):
    """One live batch of all the changes in some, larger than an honest node makes."""
    sections = {}
    for section in [section for bundle in bundles for section in Bundle.decode(bundle).sections]:
        whole = sections.setdefault(section.table, Section(section.table, []))
        whole.groups += section.groups
        whole.ranges += section.ranges
    return Bundle(list(sections.values())).encode()


def test_a_batch_that_a_unique_refuses_is_divided(peers):
    one, two = peers(2)
    one.wall_ms += 1_000
    one.sql(f"{COUNT} INSERT INTO t SELECT i, 'far', 'u' || i FROM n", MANY)
    two.sql(f"{COUNT} INSERT INTO t SELECT -i, 'near', 'u' || i FROM n", MANY)
    two.drain()
    counts, parked = [], "SELECT count(*) FROM mycomesh_parked"
    between(two, lambda: counts.append(two.sql(parked)[0][0]))
    two.take([joined(one.drain())], one.node_id)
    assert two.sql(parked) == [(MANY,)]
    steps = [after - before for before, after in zip([0, *counts], [*counts, MANY], strict=True)]
    assert max(steps) <= TRANSACTION_WEIGHT_MAX // (EDIT_WEIGHT + PARK_WEIGHT)
    converge([one, two])
    assert_equal(one, two)


def test_a_batch_whose_rows_displace_others_is_divided(peers):
    """The rows of this file claimed later, so they give way."""
    one, two = peers(2)
    two.wall_ms += 1_000
    one.sql(f"{COUNT} INSERT INTO t SELECT i, 'far', 'u' || i FROM n", MANY)
    two.sql(f"{COUNT} INSERT INTO t SELECT -i, 'near', 'u' || i FROM n", MANY)
    two.drain()
    counts, parked = [], "SELECT count(*) FROM mycomesh_parked"
    between(two, lambda: counts.append(two.sql(parked)[0][0]))
    two.take([joined(one.drain())], one.node_id)
    assert two.sql("SELECT count(*) FROM t WHERE v = 'far'") == [(MANY,)]
    steps = [after - before for before, after in zip([0, *counts], [*counts, MANY], strict=True)]
    assert max(steps) <= TRANSACTION_WEIGHT_MAX // (EDIT_WEIGHT + PARK_WEIGHT)


def test_an_honest_batch_of_conflicts_stays_whole(peers):
    one, two = peers(2)
    edits = CHUNK_ROWS_MAX // EDIT_WEIGHT
    one.sql(f"{COUNT} INSERT INTO words SELECT 'k' || i, 0 FROM n", edits)
    converge([one, two])
    two.sql("UPDATE words SET v = 'near'")
    two.drain()
    parts = []
    between(two, lambda: parts.append(1))
    two.take([of_one_commit(one, ("UPDATE words SET v = 'far'",))], one.node_id)
    assert not parts
    assert two.sql("SELECT count(*) FROM mycomesh_conflicts") == [(edits,)]


def test_an_honest_batch_of_new_rows_stays_whole(peers):
    one, two = peers(2)
    batch = of_one_commit(one, (f"{COUNT} INSERT INTO bag SELECT i FROM n", CHUNK_ROWS_MAX))
    parts = []
    between(two, lambda: parts.append(1))
    two.take([batch], one.node_id)
    assert not parts
    assert two.sql("SELECT count(*) FROM bag") == [(CHUNK_ROWS_MAX,)]


def test_a_batch_that_fits_is_not_divided(peers):
    one, two = peers(2)
    first = of_one_commit(one, (f"{COUNT} INSERT INTO words SELECT 'k' || i, 0 FROM n", CHUNK_ROWS_MAX))
    batches = [of_one_commit(one, (f"UPDATE words SET v = {number} WHERE rowid <= 480",)) for number in range(1, 5)]
    seen = []
    between(two, lambda: seen.append({v for (v,) in two.sql("SELECT v FROM words WHERE rowid <= 480")}))
    two.take_together([(batch, one.node_id) for batch in [first, *batches]])
    assert seen
    assert all(len(values) == 1 for values in seen)
    assert_equal(one, two)


def test_a_divided_batch_is_covered_with_its_last_part(peers):
    one, two = peers(2)
    one.sql(f"{COUNT} INSERT INTO words SELECT 'k' || i, 0 FROM n", MANY_PLAIN)
    converge([one, two])
    site = one.replica.site
    before = two.replica.tables["words"].coverage.vector.top(site)
    one.sql("UPDATE words SET v = 'later'")
    batch = joined(one.drain())
    tops = []
    between(two, lambda: tops.append(two.replica.tables["words"].coverage.vector.top(site)))
    two.take([batch], one.node_id)
    assert len(tops) >= 2
    assert set(tops) == {before}
    assert two.digests() == one.digests()


def test_writes_of_the_application_between_two_parts_win(peers):
    one, two = peers(2)
    one.sql(f"{COUNT} INSERT INTO words SELECT 'k' || i, 0 FROM n", MANY_PLAIN)
    converge([one, two])
    one.sql("UPDATE words SET v = 'far'")
    batch = joined(one.drain())
    between(two, lambda: two.sql("UPDATE words SET v = 'near' WHERE v = 'far'"))
    published = two.take([batch], one.node_id)
    between(two, lambda: None)
    one.take([*published, *two.drain()], two.node_id)
    converge([one, two])
    assert_equal(one, two)
    counts = dict(two.sql("SELECT v, count(*) FROM words GROUP BY v"))
    assert counts["near"] > counts.get("far", 0) >= 0
    assert two.sql("SELECT count(*) FROM mycomesh_conflicts") == [(0,)]


def random_batch(rng, peer):
    """A live batch with refused, colliding, known and new rows, larger than a transaction may take."""
    bundles = []
    for _ in range(rng.randrange(3, 8)):
        peer.sql("BEGIN")
        for _ in range(rng.randrange(20, 90)):
            number = rng.randrange(150)
            match rng.randrange(7):
                case 0 | 1:
                    unique = rng.choice([None, rng.randrange(80)])
                    peer.sql("INSERT OR IGNORE INTO t VALUES(?, ?, ?)", number, rng.randrange(9), unique)
                case 2:
                    peer.sql("INSERT OR REPLACE INTO words VALUES(?, ?)", f"k{number}", rng.randrange(9))
                case 3:
                    peer.sql("INSERT INTO bag VALUES(?)", number)
                case 4:
                    value = rng.randrange(-5, 40)
                    peer.sql("INSERT OR IGNORE INTO pairs VALUES(?, ?, ?)", number % 7, number, value)
                case 5:
                    peer.sql(f"UPDATE {rng.choice(['t', 'words', 'bag'])} SET v = ? WHERE v = ?", number, number % 9)
                case _:
                    peer.sql(f"DELETE FROM {rng.choice(['t', 'words', 'bag', 'pairs'])} WHERE v = ?", number % 9)
        peer.sql("COMMIT")
        bundles += peer.drain()
    return joined(bundles)


@pytest.mark.parametrize("seed", sweep(range(12), 6))
def test_crash_between_two_parts_leaves_what_round_completes(peers, monkeypatch, seed):
    rng = random.Random(seed)
    one, two, whole = peers(3)
    monkeypatch.setattr("mycomesh.sync.merge.work_budget.TRANSACTION_WEIGHT_MAX", CHUNK_ROWS_MAX + 20 * EDIT_WEIGHT)
    for _ in range(2):
        random_batch(rng, one)
        random_batch(rng, two)
        converge([one, two, whole])
    lost = random_batch(rng, two)
    whole.take([lost], two.node_id)
    batch = random_batch(rng, one)
    whole.take([batch], one.node_id)
    left = rng.randrange(6)

    def crash():
        nonlocal left
        left -= 1
        if left < 0:
            raise KilledError

    between(two, crash)
    try:
        two.take([batch], one.node_id)
    except KilledError:
        two.close()
        two.open()
        two.sql("INSERT INTO bag VALUES('after the crash')")
    else:
        between(two, lambda: None)
    random_batch(rng, two)
    converge([one, two, whole])
    assert_equal(one, two)
    assert_equal(one, whole)
    assert one.digests() == two.digests() == whole.digests()


def test_what_parts_before_failure_have_stamped_is_published(peers):
    one, two = peers(2)
    one.sql(f"{COUNT} INSERT INTO words SELECT 'k' || i, 0 FROM n", MANY_PLAIN)
    converge([one, two])
    one.sql("UPDATE words SET v = 'far'")
    batch = joined(one.drain())
    two.sql("INSERT INTO bag VALUES('written before')")

    def fail():
        raise KilledError

    between(two, fail)
    with pytest.raises(KilledError):
        two.take([batch], one.node_id)
    between(two, lambda: None)
    one.take(two.drain(), two.node_id)
    assert one.sql("SELECT v FROM bag") == [("written before",)]


def test_ranges_with_too_many_gaps_wait_for_a_round(peers):
    one, two = peers(2)
    site = one.node_id[:8] + bytes(8)
    first = (one.wall_ms << 16) + 1
    ranges = [(site, first + 10 * n, first + 10 * n + 1) for n in range(3 * RANGES_MAX)]
    applied = two.replica.apply(Bundle([Section("bag", ranges)]).encode(), two.wall_ms, origin=one.node_id)
    assert applied.gaps == ["bag"]
    vector = two.replica.tables["bag"].coverage.vector
    assert len(vector.ranges(site)) == RANGES_MAX
    two.close()
    two.open()
    assert two.replica.tables["bag"].coverage.vector == vector


def test_a_batch_of_many_facts_is_divided_too(peers):
    one, two = peers(2)
    one.sql(";".join(f"CREATE TABLE n{number}(id INTEGER PRIMARY KEY, v)" for number in range(40)))
    one.sql(";".join(f"INSERT INTO n{number} VALUES(1, 'x')" for number in range(40)))
    batch = joined(one.drain())
    tables, listing = [], "SELECT count(*) FROM sqlite_schema WHERE name GLOB 'n[0-9]*'"
    between(two, lambda: tables.append(two.sql(listing)[0][0]))
    two.take([batch], one.node_id)
    assert two.sql(listing) == [(40,)]
    for before, after in zip([0, *tables], [*tables, 40], strict=True):
        assert after - before <= TRANSACTION_WEIGHT_MAX // FACT_WEIGHT
        assert (after - before - 1) * fact_weight((), before) < TRANSACTION_WEIGHT_MAX
    assert_equal(one, two)


def test_beside_many_tables_facts_come_in_pairs(peers, monkeypatch):
    monkeypatch.setattr(work_budget, "TABLES_DOUBLING", 10)
    monkeypatch.setattr(work_budget, "TABLES_COUNTED", few := 15)
    one, two = peers(2)
    one.sql(";".join(f"CREATE TABLE n{number}(id INTEGER PRIMARY KEY, v)" for number in range(few + 8)))
    batch = joined(one.drain())
    tables, listing = [], "SELECT count(*) FROM sqlite_schema WHERE name GLOB 'n[0-9]*'"
    between(two, lambda: tables.append(two.sql(listing)[0][0]))
    two.take([batch], one.node_id)
    many = sorted({count for count in tables if count > few})
    assert {after - before for before, after in itertools.pairwise(many)} == {2}
    assert_equal(one, two)


LARGE = TRANSACTION_WEIGHT_MAX * 512


@pytest.mark.parametrize("values", [("m" * LARGE, "w" * LARGE), (b"m" * LARGE, b"w" * LARGE), (1, b"w" * LARGE)])
def test_large_loser_is_recorded_before_row_is_written(peers, values):
    one, two = peers(2)
    one.sql("INSERT INTO t(id, v) VALUES(1, ''), (2, '')")
    two.take(one.drain(), one.node_id)
    two.sql("UPDATE t SET v = ? WHERE id = 1", values[0])
    two.drain()
    later(one, two)
    one.sql("UPDATE t SET v = ? WHERE id = 1", values[1])
    one.sql("UPDATE t SET v = 'small' WHERE id = 2")
    batch = joined(one.drain())
    seen = []
    between(two, lambda: seen.append((two.sql("SELECT v FROM t WHERE id = 1")[0][0], len(conflicts(two)))))
    two.take([batch], one.node_id)
    between(two, lambda: None)
    assert (values[0], 1) in seen
    assert two.sql("SELECT v FROM t ORDER BY id") == [(values[1],), ("small",)]
    assert value_of(json.loads(conflicts(two)[0])["v"]) == values[0]
    assert len(conflicts(two)) == 1
    two.take([batch], one.node_id)
    assert len(conflicts(two)) == 1
    converge([one, two])
    assert_equal(one, two)


@pytest.mark.parametrize("moment", [1, 2, 3, 4])
def test_large_loser_that_a_program_overwrites_is_its_own(peers, moment):
    one, two = peers(2)
    one.sql("INSERT INTO t(id, v) VALUES(1, '')")
    two.take(one.drain(), one.node_id)
    two.sql("UPDATE t SET v = ?", b"m" * LARGE)
    two.drain()
    later(one, two)
    one.sql("UPDATE t SET v = ?", b"w" * LARGE)
    calls = []

    def write_once():
        calls.append(len(conflicts(two)))
        if len(calls) == moment:  # before the loser is found, before and after it is on record, or after the merge
            two.sql("UPDATE t SET v = ?", b"n" * LARGE)

    between(two, write_once)
    two.take(one.drain(), one.node_id)
    between(two, lambda: None)
    assert calls[:2] == [0, 0]
    converge([one, two])
    assert_equal(one, two)
    (value,) = one.sql("SELECT v FROM t")[0]
    lost = {value_of(json.loads(text)["v"]) for peer in (one, two) for text in conflicts(peer)}
    seen = {b"m" * LARGE}  # the program saw this value, and replaced it
    assert {value, *lost} - (seen if moment > 2 else set()) == {b"n" * LARGE, b"w" * LARGE}


@pytest.mark.parametrize("kind", ["INSERT INTO t(id, v) VALUES(9, ?)", "UPDATE t SET v = ? WHERE id = 1"])
def test_large_values_are_hashed_without_write_lock(peers, monkeypatch, kind):
    one, two = peers(2)
    one.sql("INSERT INTO t(id, v) VALUES(1, '')")
    two.take(one.drain(), one.node_id)
    one.sql(kind, b"w" * LARGE)
    batch = joined(one.drain())
    locked, hashed = [], Digests._hashed

    def note(self, prefix, own_key, hlc, existence, key, values):
        if any(isinstance(value, bytes) and len(value) == LARGE for value in values):
            locked.append(two.replica.store.is_writing)
        return hashed(self, prefix, own_key, hlc, existence, key, values)

    monkeypatch.setattr(Digests, "_hashed", note)
    two.take([batch], one.node_id)
    assert locked == [False]
    assert_equal(one, two)


@pytest.mark.parametrize("statement", ["INSERT INTO words VALUES(?, ?)", "UPDATE words SET v = ?2 WHERE k = ?1"])
def test_few_rows_with_large_keys_share_a_transaction(peers, statement):
    one, two = peers(2)
    keys = [f"{number}{'k' * 60_000}" for number in range(12)]
    if statement.startswith("UPDATE"):
        for key in keys:
            one.sql("INSERT INTO words VALUES(?, '')", key)
        two.take(one.drain(), one.node_id)
    for key in keys:
        one.sql(statement, key, "w")
    batch = joined(one.drain())
    parts = []
    between(two, lambda: parts.append(two.sql("SELECT count(*) FROM words WHERE v = 'w'")[0][0]))
    two.take([batch], one.node_id)
    steps = sorted({0, *parts, len(keys)})
    assert all(later - before <= 4 for before, later in itertools.pairwise(steps)), parts
    assert_equal(one, two)


def test_large_row_that_wins_its_value_back_is_restored(peers):
    one, two = peers(2)
    one.sql("INSERT INTO t(id, v) VALUES(1, '')")
    two.take(one.drain(), one.node_id)
    two.sql("UPDATE t SET v = 'mine'")
    two.drain()
    later(one, two)
    one.sql("UPDATE t SET v = ?", b"w" * LARGE)
    two.take([joined(one.drain())], one.node_id)
    one.sql("UPDATE t SET v = 'mine'")
    two.take(one.drain(), one.node_id)
    restored_at = "SELECT restored_at IS NULL FROM mycomesh_conflicts"
    assert two.sql(restored_at) == [(0,)]
    one.sql("UPDATE t SET v = ?", b"w" * LARGE)  # as the winner had it
    two.take([joined(one.drain())], one.node_id)
    assert two.sql(restored_at) == [(1,)]


def test_large_loser_that_a_repair_brings_is_on_record(peers):
    one, two = peers(2)
    one.sql("INSERT INTO t(id, v) VALUES(1, '')")
    two.take(one.drain(), one.node_id)
    two.sql("UPDATE t SET v = ?", b"m" * LARGE)
    two.drain()
    later(one, two)
    one.sql("UPDATE t SET v = ?", b"w" * LARGE)
    two.replica.apply(joined(one.drain()), two.wall_ms, repair=True)
    assert two.sql("SELECT v FROM t") == [(b"w" * LARGE,)]
    assert value_of(json.loads(conflicts(two)[0])["v"]) == b"m" * LARGE


def test_large_loser_without_room_in_record_ends_too(peers):
    one, two = peers(2)
    two.replica.store.conflict_room.limits = ConflictLimits(size=1_000)
    one.sql("INSERT INTO t(id, v) VALUES(1, '')")
    two.take(one.drain(), one.node_id)
    two.sql("UPDATE t SET v = ?", b"m" * LARGE)
    two.drain()
    later(one, two)
    one.sql("UPDATE t SET v = ?", b"w" * LARGE)
    two.take(one.drain(), one.node_id)
    assert two.sql("SELECT v FROM t") == [(b"w" * LARGE,)]
    assert conflicts(two) == []


def test_a_loser_beyond_a_mebibyte_stays_open(peers):
    one, two = peers(2)
    for size in (restored.COMPARED_BYTES_MAX - 1, restored.COMPARED_BYTES_MAX, restored.COMPARED_BYTES_MAX + 1):
        lost = "m" * (size - len('{"v": ""}'))
        one.sql("DELETE FROM t; INSERT INTO t(id, v) VALUES(1, '')")
        two.take(one.drain(), one.node_id)
        two.sql("UPDATE t SET v = ?", lost)
        two.drain()
        later(one, two)
        one.sql("UPDATE t SET v = 'w'")
        two.take(one.drain(), one.node_id)
        assert len(conflicts(two)[-1]) == size
        one.sql("UPDATE t SET v = ?", lost)
        two.take(one.drain(), one.node_id)
        (noted,) = two.sql("SELECT restored_at FROM mycomesh_conflicts ORDER BY seq DESC LIMIT 1")
        assert (noted == (None,)) == (size > restored.COMPARED_BYTES_MAX)


def later(peer, other):
    """The writes of the peer that follow are later than those of the other."""
    peer.replica.store.clock.witness(other.replica.store.clock.last + 100)


def conflicts(peer):
    return [lost for (lost,) in peer.sql("SELECT lost FROM mycomesh_conflicts ORDER BY seq")]


def test_facts_of_wide_tables_are_made_one_by_one(peers):
    one, two = peers(2)
    columns = ", ".join(f"c{number}" for number in range(TRANSACTION_WEIGHT_MAX // COLUMN_WEIGHT))
    for number in range(3):
        one.sql(f"CREATE TABLE n{number}(id INTEGER PRIMARY KEY, {columns})")
    tables, listing = [], "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name GLOB 'n[0-9]*'"
    between(two, lambda: tables.append(two.sql(listing)[0][0]))
    two.take([joined(one.drain())], one.node_id)
    assert tables[:2] == [1, 2]
    assert two.sql(listing) == [(3,)]


def test_rows_refused_by_a_partial_index_need_no_scan(peers):
    one, two = peers(2)
    two.sql("INSERT INTO pairs VALUES(1, 1, 7), (1, 2, 8)")
    one.sql("INSERT INTO pairs VALUES(2, 1, 7)")
    one.drain()
    two.drain()
    scanned = []
    two.replica.outbox._store.db.set_exec_trace(lambda _c, sql, _b: scanned.append(sql) or True)
    catch_up(two, one)
    two.replica.outbox._store.db.set_exec_trace(None)
    assert not [sql for sql in scanned if sql.endswith('FROM "pairs" t WHERE 1')]
    converge([one, two])
    assert_equal(one, two)
    assert len(two.sql("SELECT * FROM mycomesh_parked")) == 1
