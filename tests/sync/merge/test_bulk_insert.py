"""New rows enter many at a time: as they would one by one, whatever of them is known already or collides."""

from __future__ import annotations

import random

import pytest

from mycomesh.sync.merge import section_merge
from mycomesh.sync.merge.work_budget import EDIT_WEIGHT, TRANSACTION_WEIGHT_MAX
from tests.sync.peers import Peer, assert_equal, catch_up, converge
from tests.sync.scale import sweep

TABLES = """
CREATE TABLE t(id INTEGER PRIMARY KEY, v, u UNIQUE);
CREATE TABLE bag(v, u UNIQUE);
CREATE TABLE words(k TEXT COLLATE NOCASE PRIMARY KEY, v, u UNIQUE);
CREATE TABLE pairs(p, q, v, u UNIQUE, PRIMARY KEY(p, q));
CREATE TABLE many(id INTEGER PRIMARY KEY, v)
"""
FILL = (
    "WITH RECURSIVE n(i) AS (SELECT ? UNION ALL SELECT i + 1 FROM n LIMIT ?) INSERT INTO many SELECT i, 'v' || i FROM n"
)


@pytest.fixture
def files(tmp_path):
    opened = []

    def make(count):
        opened.extend(Peer(tmp_path / f"{number}.db", number) for number in range(len(opened), len(opened) + count))
        return opened[-count:]

    yield make
    for peer in opened:
        peer.close()


def one_by_one(monkeypatch, peer, bundle, origin):
    with monkeypatch.context() as patch:
        patch.setattr(section_merge, "insert_new_rows", lambda table, group, place, keys, budget: (0, group))
        return peer.take([bundle], origin)


def write_at_random(rng, peer):
    """One commit of many rows, some of which are or will be another's too."""
    first = rng.randrange(40)
    ids = range(first, first + rng.randrange(1, 40))
    unique = [rng.choice([None, None, None, rng.randrange(60)]) for _ in ids]
    what = rng.randrange(10)
    for number, u in zip(ids, unique, strict=True):
        name = f"{'kK'[number % 2]}{number}"
        p, q = number % 5 or None, number // 5
        peer.sql("INSERT OR IGNORE INTO t VALUES(?, ?, ?)", number, f"{peer.number}", u)
        peer.sql("INSERT OR IGNORE INTO bag VALUES(?, ?)", f"{peer.number} {number}", u)
        peer.sql("INSERT OR REPLACE INTO words VALUES(?, ?, ?)", name, f"{peer.number}", u)
        peer.sql("INSERT OR IGNORE INTO pairs VALUES(?, ?, ?, ?)", p, q, peer.number, u)
    if what < 3:
        for table in ("t", "bag", "words", "pairs"):
            peer.sql(f"DELETE FROM {table} WHERE rowid % ? = 0", rng.randrange(2, 6))
    elif what < 6:
        for table in ("t", "bag", "words", "pairs"):
            peer.sql(f"UPDATE {table} SET v = v || '+' WHERE rowid % ? = 0", rng.randrange(2, 6))


@pytest.mark.parametrize("seed", sweep(range(12), 6))
def test_rows_end_as_they_would_one_by_one(files, monkeypatch, seed):
    rng = random.Random(seed)
    left, right, bulk, single = files(4)
    left.sql(TABLES)
    converge([left, right, bulk, single])
    mail = []
    for _ in range(10):
        writer = rng.choice([left, right])
        writer.wall_ms += rng.randrange(3)
        writer.sql("BEGIN")
        write_at_random(rng, writer)
        writer.sql("COMMIT")
        mail += [(bundle, writer.node_id) for bundle in writer.drain()]
        if rng.randrange(3) == 0:
            catch_up(*rng.sample([left, right], 2))
    rng.shuffle(mail)
    mail += rng.sample(mail, len(mail) // 3)
    for bundle, origin in mail:
        bulk.take([bundle], origin)
        one_by_one(monkeypatch, single, bundle, origin)
        for peer in (bulk, single):
            peer.drain()  # refused rows that there was no room to try again
        assert_equal(bulk, single)
    for peer in (bulk, single):
        catch_up(peer, left)
        catch_up(peer, right)
    assert_equal(bulk, single)
    converge([left, right, bulk, single])
    assert_equal(left, bulk)


def test_rows_that_come_again_change_nothing(files):
    one, two = files(2)
    one.sql(TABLES)
    one.sql("BEGIN")
    one.sql(FILL, 1, 500)
    for number in range(100):
        one.sql("INSERT INTO bag VALUES(?, NULL)", number)
        one.sql("INSERT INTO words VALUES(?, ?, NULL)", f"k{number}", number)
    one.sql("COMMIT")
    bundles = one.drain()
    two.take(bundles, one.node_id)
    assert_equal(one, two)
    written = two.replica.store.db.total_changes()
    for bundle in bundles:
        two.replica.apply(bundle, two.wall_ms, repair=False)  # as a restarted stream brings it
    assert two.replica.store.db.total_changes() - written < 10  # of the file's own records
    assert_equal(one, two)


def test_a_round_of_known_rows_frees_the_write_lock(files):
    """One file's rows on two machines before they met: each row of the other is looked at by itself."""
    one, two = files(2)
    two.wall_ms += 1_000
    for peer in (one, two):
        peer.sql(TABLES)
        peer.sql(FILL, 1, 1_000)
        peer.drain()
    store, changed = one.replica.store, []

    def on_lock(held):
        changed.append((held, store.db.total_changes()))

    store._on_lock = on_lock
    catch_up(one, two)
    store._on_lock = lambda held: None
    catch_up(two, one)
    assert_equal(one, two)
    counts = [count for _, count in changed]
    steps = [after - before for before, after in zip(counts[::2], counts[1::2], strict=True)]
    assert max(steps) <= TRANSACTION_WEIGHT_MAX // EDIT_WEIGHT
    assert sum(steps) >= 1_000
    assert one.sql("SELECT count(*) FROM many") == [(1_000,)]
