"""New rows enter many at a time: as they would one by one, whatever of them is known already or collides."""

from __future__ import annotations

import random

import pytest

from mycomesh.sync.merge import bulk_insert, section_merge
from mycomesh.sync.merge.bulk_insert import NewRows
from mycomesh.sync.merge.work_budget import EDIT_WEIGHT, TRANSACTION_WEIGHT_MAX
from tests.sync.merge.test_bulk_edit import logged
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
        patch.setattr(section_merge, "insert_new_rows", lambda table, group, place, keys, budget: NewRows(rest=group))
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


@pytest.mark.parametrize("seed", sweep(range(12), 4))
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


REFUSING = {
    "rowid": "CREATE TABLE r(id INTEGER PRIMARY KEY, u UNIQUE, v CHECK(v < 90), w NOT NULL)",
    "keyed": "CREATE TABLE r(id PRIMARY KEY NOT NULL, u TEXT COLLATE NOCASE UNIQUE, v CHECK(v < 90), w NOT NULL) WITHOUT ROWID",
    "pair": "CREATE TABLE r(id, w NOT NULL, u, v CHECK(v < 90), UNIQUE(u, v), PRIMARY KEY(id, w))",
    "bag": "CREATE TABLE r(id, u UNIQUE, v CHECK(v < 90) UNIQUE, w NOT NULL)",
    "expression": "CREATE TABLE r(id INTEGER PRIMARY KEY, u, v CHECK(v < 90), w NOT NULL); CREATE UNIQUE INDEX e ON r(u || '')",
}


def refused(files, monkeypatch, shape):
    """Return two files that took the same bundles, of rows that are refused for many reasons: many at a time, and one by one."""
    one, two, bulk, single = files(4)
    one.sql(REFUSING[shape])
    converge([one, two, bulk, single])
    one.sql("PRAGMA ignore_check_constraints = 1")
    two.wall_ms += 50
    one.wall_ms += 100
    rows = "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100) INSERT INTO r(id, u, v, w) SELECT"
    two.sql(f"{rows} i + 100, 'U' || i, i * 0.5, 'two' FROM n WHERE i % 3")
    earlier = two.drain()
    one.sql(f"{rows} i, 'U' || (i - 1), (i - 1) * 0.5, 'one' FROM n")
    one.sql("INSERT INTO r(id, u, v, w) VALUES(300, x'00ff', NULL, 'blob'), (301, NULL, 70, 1.5), (302, 2, 91, '')")
    batches = one.drain()
    two.wall_ms += 200
    two.sql("UPDATE r SET w = 'later' WHERE id % 2; INSERT INTO r(id, u, v, w) VALUES(400, 'U96', 48, 'late')")
    for bundles, writer in ((earlier, two), (two.drain(), two), (batches, one)):
        for bundle in bundles:
            bulk.take([bundle], writer.node_id)
            one_by_one(monkeypatch, single, bundle, writer.node_id)
    return bulk, single


@pytest.mark.parametrize("shape", REFUSING)
def test_refused_rows_are_parked_as_if_one_by_one(files, monkeypatch, shape):
    bulk, single = refused(files, monkeypatch, shape)
    assert_equal(bulk, single)
    found, expected = logged(bulk), logged(single)
    if shape in ("pair", "expression"):  # the order in which rows give way to each other shows in the reasons
        for each in (found, expected):
            each["parked"] = [row[:2] + row[3:] for row in each["parked"]]
    assert found == expected
    reasons = {reason.partition(" ")[0] for (reason,) in bulk.sql("SELECT reason FROM mycomesh_parked")}
    assert reasons == {"UNIQUE", "CHECK"}


@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        ("giving_way", lambda table, group, numbers: list(numbers)),
        ("_park", lambda table, group, site_number, rows: None),
        ("park_many", lambda *args: None),
    ],
)
def test_comparison_of_refused_rows_finds_a_planted_fault(files, monkeypatch, name, mutant):
    monkeypatch.setattr(f"mycomesh.sync.merge.bulk_park.{name}", mutant)
    bulk, single = refused(files, monkeypatch, "rowid")
    assert logged(bulk) != logged(single)


def test_refused_rows_are_divided_between_transactions(files, monkeypatch):
    one, two = files(2)
    one.sql("CREATE TABLE r(id INTEGER PRIMARY KEY, u UNIQUE)")
    converge([one, two])
    two.sql(f"{FILL.replace('many', 'r')}", 1_001, 900)
    two.sql("UPDATE r SET id = id + 10000")
    two.drain()
    one.wall_ms += 100
    one.sql(f"{FILL.replace('many', 'r')}", 1, 2_000)
    bundles = one.drain()
    monkeypatch.setattr(bulk_insert, "MANY_PARKED_WEIGHT", 100)
    parked = []
    insert = section_merge.insert_new_rows
    monkeypatch.setattr(section_merge, "insert_new_rows", lambda *args: parked.append(insert(*args)) or parked[-1])
    two.take(bundles, one.node_id)
    assert sum(each.parked for each in parked) == 900
    assert max(each.parked for each in parked) <= TRANSACTION_WEIGHT_MAX // 100
    assert not any(each.rest for each in parked)
    assert two.sql("SELECT count(*) FROM r") == [(2_000,)]


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
