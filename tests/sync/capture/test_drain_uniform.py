"""A chunk whose log records all say the same is stamped as its rows would be alone."""

from __future__ import annotations

import random

import pytest

from mycomesh.sync.capture import drain, drain_uniform
from mycomesh.sync.sqlite.table_spec import encode_keys
from mycomesh.sync.storage import row_batch
from tests.sync.capture.test_drain_edits import drained_in_both_ways
from tests.sync.peers import Peer, assert_equal, catch_up, converge

TABLES = """
CREATE TABLE t(id INTEGER PRIMARY KEY, a REAL, b TEXT, c INTEGER);
CREATE TABLE bag(n INTEGER, a REAL, b TEXT, c INTEGER);
CREATE TABLE words(n TEXT COLLATE NOCASE PRIMARY KEY, a REAL, b TEXT, c INTEGER) WITHOUT ROWID;
CREATE TABLE pairs(p INTEGER, n TEXT, a REAL, b TEXT, c INTEGER, PRIMARY KEY(p, n));
CREATE TABLE loose(n INTEGER PRIMARY KEY, a, b, c)
"""
KEYS = {"t": "id", "bag": "n", "words": "n", "pairs": "p, n", "loose": "n"}
ROWS = 30


@pytest.fixture
def pair(tmp_path):
    peers = [Peer(tmp_path / f"{number}.db", number) for number in range(2)]
    yield peers
    for peer in peers:
        peer.close()


@pytest.fixture
def taken(monkeypatch):
    """Whether each drain of a table was of this path."""
    found, stamp = [], drain.stamp_uniform

    def note(*args):
        done = stamp(*args)
        found.append(done is not None)
        return done

    monkeypatch.setattr(drain, "stamp_uniform", note)
    return found


def filled(peer, tables=KEYS):
    for table in tables:
        peer.sql("BEGIN")
        for number in range(ROWS):
            key = {"words": f"'k{number}'", "pairs": f"{number % 2}, 'k{number}'"}.get(table, number)
            peer.sql(f"INSERT INTO {table}({KEYS[table]}, a, b, c) VALUES({key}, 1, 'b', {number})")
        peer.sql("COMMIT")
        peer.drain()


def statement(rng, table):
    """Any statement, most of which change columns of some rows alike."""
    first = rng.randrange(ROWS)
    where = rng.choice(["1", f"c >= {first}", f"c % {rng.randrange(2, 5)} = 0", f"c = {first}"])
    match rng.randrange(9):
        case 0 | 1 | 2:
            return f"UPDATE {table} SET a = a + {rng.randrange(3)} WHERE {where}"
        case 3 | 4:
            return f"UPDATE {table} SET b = b || 'x', a = 7 WHERE {where}"
        case 5:
            return f"UPDATE {table} SET b = CAST(x'ff' AS TEXT) WHERE {where} AND c % 7 = 0"
        case 6:
            return f"UPDATE {table} SET c = c + 1 WHERE {where}"
        case 7:
            return f"DELETE FROM {table} WHERE {where} AND c % 2 = 0"
        case _:
            key = {"words": f"'k{first}'", "pairs": f"{first % 2}, 'k{first}'"}.get(table, first)
            return f"INSERT OR REPLACE INTO {table}({KEYS[table]}, a, b, c) VALUES({key}, 2, 'again', {first})"


def history(pair, folder, rng, steps=6):
    """Two files that write one statement at a time, and sometimes meet; every drain goes both ways."""
    pair[0].sql(TABLES)
    converge(pair)
    for peer in pair:
        filled(peer, ["bag"])
    filled(pair[0], ["t", "words", "loose"])
    filled(pair[1], ["pairs"])
    converge(pair)
    for step in range(steps):
        for number, peer in enumerate(pair):
            for _ in range(rng.randrange(1, 3)):
                peer.sql(statement(rng, rng.choice(list(KEYS))))
            bundles = drained_in_both_ways(peer, folder / f"{step}-{number}")
            if rng.randrange(2):
                pair[1 - number].take(bundles, peer.node_id)
        if not rng.randrange(4):
            catch_up(*rng.sample(pair, 2))
    converge(pair)
    assert_equal(*pair)
    for peer in pair:
        assert peer.scrub().found == 0
        assert not peer.drain()


def lonely_history(pair, folder, rng, steps=16):
    """One file that writes to rows of its own; every drain goes both ways."""
    one, two = pair
    one.sql(TABLES)
    converge(pair)
    filled(one)
    for step in range(steps):
        one.sql(statement(rng, rng.choice(list(KEYS))))
        drained_in_both_ways(one, folder / str(step))
    converge(pair)
    assert_equal(one, two)


def retyping_history(pair, folder, steps=6):
    """One file that also gives numbers another type, which no trigger sees; every drain goes both ways."""
    one, _ = pair
    one.sql(TABLES)
    filled(one)
    for step in range(steps):
        number = "c + 0.0" if step % 3 else "CAST(c AS INTEGER)"
        one.sql(f"UPDATE loose SET b = b || 'y', c = {number} WHERE n % {step + 2} = 0")
        drained_in_both_ways(one, folder / str(step))


def test_numbers_of_another_type_are_found(pair, tmp_path, taken):
    retyping_history(pair, tmp_path)
    assert not all(taken)


def test_lost_doubts_are_found(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(drain_uniform, "digests_of", lambda table, doubts, keys, values: ())
    with pytest.raises(AssertionError):
        retyping_history(pair, tmp_path)


@pytest.mark.parametrize("seed", range(2))
def test_own_rows_are_stamped_as_they_would_be_alone(pair, tmp_path, taken, seed):
    lonely_history(pair, tmp_path, random.Random(seed))
    assert taken.count(True) > 5


@pytest.mark.parametrize("seed", range(3))
def test_chunks_are_stamped_as_their_rows_would_be_alone(pair, tmp_path, taken, seed):
    history(pair, tmp_path, random.Random(seed))
    assert any(taken)
    assert not all(taken)


def _reversed_keys(spec, keys):
    return encode_keys(spec, keys)[::-1]


def _keeps_stamps(columns, rows):
    return [b"\x80"] * len(rows)


@pytest.mark.parametrize(
    ("module", "name", "mutant"),
    [
        (row_batch.Taken, "take_run", lambda taken, run, left, numbers: None),
        (row_batch.Taken, "supersede", lambda taken, table, keys, rows, records: []),
        (row_batch, "encode_cells", _keeps_stamps),
        (drain_uniform, "encode_keys", _reversed_keys),
        (drain_uniform, "insert_key", lambda site, hlc: bytes(25)),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_histories_find_a_planted_fault(pair, tmp_path, monkeypatch, module, name, mutant):
    monkeypatch.setattr(module, name, mutant)
    with pytest.raises((AssertionError, TypeError)):
        lonely_history(pair, tmp_path, random.Random(2))


@pytest.mark.parametrize("table", KEYS)
def test_alike_records_take_this_path(pair, taken, table):
    one, two = pair
    one.sql(TABLES)
    converge(pair)
    filled(one)
    for _ in range(2):
        one.sql(f"UPDATE {table} SET a = a + 1, b = b || a")
        one.drain()
        assert taken[-1]
    for number in range(ROWS):
        one.sql(f"UPDATE {table} SET a = 9 WHERE c = {number}")
    one.drain()
    assert taken[-1]
    one.sql(f"DELETE FROM {table} WHERE c < 20")
    one.drain()
    assert taken[-1]
    converge(pair)
    assert_equal(one, two)


@pytest.mark.parametrize(
    "script",
    [
        "UPDATE t SET a = 2 WHERE id = 1; UPDATE t SET a = 3 WHERE id = 1",
        "UPDATE t SET a = 2 WHERE id = 1; UPDATE t SET b = 3 WHERE id = 2",
        "UPDATE t SET a = 2; DELETE FROM t WHERE id = 3",
        "UPDATE t SET id = 100 WHERE id = 1",
        "UPDATE t SET c = -9223372036854775808",
        "UPDATE t SET b = CAST(x'ff' AS TEXT)",
        "ALTER TABLE t ADD COLUMN d; UPDATE t SET d = 1, a = 3",
        "UPDATE t SET b = hex(zeroblob(300000))",
    ],
)
def test_other_chunks_are_left_with_nothing_done(pair, tmp_path, taken, script):
    one, _ = pair
    one.sql(TABLES)
    filled(one)
    del taken[:]
    one.sql(script)
    drained_in_both_ways(one, tmp_path / "copy")
    assert not any(taken)


def test_rows_of_other_sites_are_taken(pair, tmp_path, taken):
    one, two = pair
    one.sql(TABLES)
    filled(one)
    converge(pair)
    two.sql("UPDATE t SET a = 5 WHERE id = 3")
    converge(pair)
    del taken[:]
    one.sql("UPDATE t SET a = 6 WHERE id > 1")
    drained_in_both_ways(one, tmp_path / "copy")
    assert any(taken)
