"""Counters of many rows at once: stamped and merged as each row would be alone."""

from __future__ import annotations

import random

import pytest

from mycomesh.sync.capture import drain, drain_uniform
from mycomesh.sync.merge import bulk_edit, registers, section_merge
from tests.sync.capture.test_drain_edits import drained_in_both_ways
from tests.sync.merge.test_bulk_edit import assert_same, one_by_one
from tests.sync.peers import Peer, assert_equal, converge
from tests.sync.scale import sweep

TABLES = """
CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER DEFAULT 3, m INTEGER CHECK (m < 60), note TEXT);
CREATE TABLE bag(id INTEGER, n INTEGER DEFAULT 3, m INTEGER CHECK (m < 60), note TEXT);
CREATE TABLE words(id TEXT PRIMARY KEY, n INTEGER DEFAULT 3, m, note) WITHOUT ROWID
"""
NAMES = ("t", "bag", "words")
ROWS = 12
END = (1 << 63) - 1


@pytest.fixture
def peers(tmp_path):
    """Two writers, and two readers of the same bundles."""
    found = [Peer(tmp_path / f"{number}.db", number) for number in range(4)]
    yield found
    for peer in found:
        peer.close()


def filled(peers, *, late=()):
    """Rows of tables with two counters each; those of `late` are declared after the rows were there."""
    one = peers[0]
    one.sql(TABLES)
    one.drain()
    for turn in (False, True):
        for table in NAMES:
            if (table in late) is turn:
                for column in ("n", "m"):
                    one.replica.decisions.declare_counter(table, column)
        one.drain()
        if not turn:
            one.sql("BEGIN")
            for table in NAMES:
                for number in range(ROWS):
                    key = f"'k{number}'" if table == "words" else number
                    one.sql(f"INSERT INTO {table} VALUES({key}, {number}, 1, 'a')")
            one.sql("COMMIT")
            one.drain()
    converge(peers)


def statement(rng):
    table, step, first = rng.choice(NAMES), rng.choice([-1, 1, 7, END]), rng.randrange(ROWS)
    where = rng.choice(["1", f"n % 2 = {first % 2}", f"CAST(ltrim(id, 'k') AS INTEGER) >= {first}"])
    match rng.randrange(10):
        case 0 | 1 | 2 | 3:
            return f"UPDATE {table} SET n = n + {step} WHERE typeof(n + {step}) = 'integer' AND {where}"
        case 4 | 5:
            return f"UPDATE {table} SET n = n - 1, m = m + {abs(step) % 5} WHERE {where} AND n > -9000000"
        case 6:
            return f"UPDATE {table} SET note = note || 'x' WHERE {where}"
        case 7:
            return f"UPDATE {table} SET note = 'y', n = n + 2 WHERE {where} AND n < 9000000"
        case 8:
            return f"UPDATE {table} SET n = {rng.choice(['NULL', '7', '1.5'])} WHERE {where}"
        case _:
            return f"DELETE FROM {table} WHERE CAST(ltrim(id, 'k') AS INTEGER) = {first}"


def history(peers, folder, rng, steps=8):
    """Two writers that count and sometimes meet; each drain, and each bundle at the readers, goes both ways."""
    one, two, bulk, single = peers
    for step in range(steps):
        for peer in (one, two):
            for _ in range(rng.choice([1, 1, 2])):
                peer.sql("INSERT OR IGNORE INTO t(id, m) VALUES(100, 1)" if rng.randrange(8) == 0 else statement(rng))
            for bundle in drained_in_both_ways(peer, folder / f"{step}-{peer.number}"):
                bulk.take([bundle], peer.node_id)
                one_by_one(single, bundle, peer.node_id)
                assert_same(bulk, single)
                if rng.randrange(2):
                    (two if peer is one else one).take([bundle], peer.node_id)
    converge(peers)
    for peer in peers[1:]:
        assert_equal(one, peer)
        assert peer.scrub().found == 0


def histories(folder, count):
    for seed in range(count):
        place = folder / str(seed)
        place.mkdir()
        found = [Peer(place / f"{number}.db", number) for number in range(4)]
        try:
            filled(found)
            history(found, place / "copies", random.Random(seed))
        finally:
            for peer in found:
                peer.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", sweep(range(4), 2))
def test_counts_are_as_each_row_alone_would_have_them(peers, tmp_path, seed):
    filled(peers, late=NAMES[: seed % 3])
    history(peers, tmp_path, random.Random(seed))


@pytest.mark.parametrize("table", NAMES)
def test_plain_counts_need_no_row_path(peers, monkeypatch, table):
    filled(peers)
    one, two, *_ = peers
    monkeypatch.setattr(drain, "_change", None)
    monkeypatch.setattr(section_merge, "merge_rows", None)
    for writer, reader in ((one, two), (two, one), (one, two), (one, two)):
        writer.sql(f"UPDATE {table} SET n = n + 1, m = m - 1")
        reader.take(writer.drain(), writer.node_id)
        writer.sql(f"UPDATE {table} SET note = note || 'x'" if writer is one else "SELECT 1")
        reader.take(writer.drain(), writer.node_id)
        assert_equal(one, two)
    assert one.sql(f"SELECT sum(n), sum(m) FROM {table}") == [(sum(range(ROWS)) + 4 * ROWS, ROWS - 4 * ROWS)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "mutant"),
    [
        (registers, "number_of", lambda value: 0),
        (registers.Registers, "with_bases", lambda found, records: list(records)),
        (registers.Registers, "with_base", lambda found, number, record: record),
        (bulk_edit._Edits, "_hold", lambda edits, numbers, taken: None),
        (drain_uniform._Counts, "hold", lambda counts, chunk, lost, hlcs: None),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_histories_find_a_planted_fault(tmp_path, monkeypatch, module, name, mutant):
    monkeypatch.setattr(module, name, mutant)
    with pytest.raises((AssertionError, KeyError)):
        histories(tmp_path, 8)


def test_column_added_later_counts_from_its_default(peers, monkeypatch):
    filled(peers)
    one, two, *_ = peers
    one.sql("ALTER TABLE t ADD COLUMN later INTEGER DEFAULT 5")
    one.drain()
    one.replica.decisions.declare_counter("t", "later")
    converge(peers)
    monkeypatch.setattr(drain, "_change", None)
    monkeypatch.setattr(section_merge, "merge_rows", None)
    one.sql("UPDATE t SET later = later + 1")
    two.take(one.drain(), one.node_id)
    assert two.sql("SELECT DISTINCT later FROM t") == [(6,)]
    assert_equal(one, two)
