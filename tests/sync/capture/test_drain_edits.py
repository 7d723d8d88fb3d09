"""Updates and deletes are stamped many at a time: as they would be one by one, in whatever order."""

from __future__ import annotations

import random
import shutil
from collections import Counter

import pytest

from mycomesh.sync.capture import drain, drain_edits
from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.storage import row_batch, row_view
from mycomesh.sync.storage.change_log import unpack_mask
from mycomesh.sync.wire.bundle import Bundle
from tests.sync.merge.test_bulk_edit import NAMES, ROWS, TABLES, edit, filled
from tests.sync.peers import Peer, assert_equal, catch_up, converge
from tests.sync.scale import sweep


@pytest.fixture
def pair(tmp_path):
    peers = [Peer(tmp_path / f"{number}.db", number) for number in range(2)]
    yield peers
    for peer in peers:
        peer.close()


def changes(bundles):
    """Return the changes in bundles without their clocks: kind, columns, key, values and priors of each."""
    found = Counter()
    for section in (section for bundle in bundles for section in Bundle.decode(bundle).sections):
        for group in section.groups:
            assert all(low < high for low, high in zip(group.hlcs, group.hlcs[1:], strict=False))
            for number, row in enumerate(group.rows):
                key = group.keys[number] if group.keys is not None else None
                prior = group.priors[number] if group.priors is not None else []
                found[section.table, group.kind, group.columns, repr(key), repr(row), repr(prior)] += 1
    return found


def entries(peer, before):
    """The entries of every row: those that were there before with all they have, the others without clock and digest."""
    found = {}
    for name, table in sorted(peer.replica.tables.items()):
        assert (table.log.count, *table.log.sums) == table.log.read_sums()
        rows = dict.fromkeys(row for _, _, row, _ in table.log.scan(-1, -1, 1_000_000))
        for row, stored_entries in table.log.entries_of_rows(list(rows)).items():
            found[name, repr(row)] = sorted(
                (place, hlc, unpack_mask(mask), digest, prior)
                if (name, place, hlc) in before
                else (place, 0, unpack_mask(mask), 0, prior)
                for place, hlc, _, mask, digest, prior in stored_entries
            )
    return found


def stamps(peer):
    return {
        (name, place, hlc)
        for name, table in peer.replica.tables.items()
        for place, hlc, _, _ in table.log.scan(-1, -1, 1_000_000)
    }


def drained_in_both_ways(peer, folder):
    """Drain a peer, and a copy of its file row by row; both must come to the same. Returns the bundles of the peer."""
    before = stamps(peer)
    peer.close()
    folder.mkdir(parents=True)
    for path in peer.path.parent.glob(f"{peer.path.name}*"):
        shutil.copy(path, folder / path.name)
    copy = Peer(folder / peer.path.name, peer.number, wall_ms=peer.wall_ms)
    peer.open()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drain, "stamp_uniform", lambda *args: None)
        patch.setattr(drain, "find_plain_edits", lambda table, rows: {})
        patch.setattr(drain, "_may_be_new", lambda pending: False)
        alone = copy.drain()
    bundles = peer.drain()
    assert changes(bundles) == changes(alone)
    assert entries(peer, before) == entries(copy, before)
    assert peer.tables() == copy.tables()
    assert peer.recorded("mycomesh_conflicts") == copy.recorded("mycomesh_conflicts")
    copy.close()
    shutil.rmtree(folder)
    return bundles


def retype(rng, peer):
    """An update that also gives numbers another type, which no trigger sees."""
    u = "iif(typeof(u) = 'real', CAST(u AS INTEGER), u + 0.0)"
    peer.sql(f"UPDATE {rng.choice(NAMES)} SET a = a + 1, u = {u} WHERE u IS NOT NULL")


def history(pair, folder, rng, steps=6, retypes=False):
    """Two files that write, meet and lose writes to each other; every drain goes both ways."""
    pair[0].sql(TABLES)
    filled(pair[0])
    converge(pair)
    for step in range(steps):
        for number, peer in enumerate(pair):
            peer.sql("BEGIN")
            for _ in range(rng.randrange(1, 5)):
                (retype if retypes and not rng.randrange(3) else edit)(rng, peer)
            peer.sql("COMMIT")
            bundles = drained_in_both_ways(peer, folder / f"{step}-{number}")
            if rng.randrange(2):
                pair[1 - number].take(bundles, peer.node_id)
        if rng.randrange(2):
            catch_up(*rng.sample(pair, 2))
    converge(pair)
    if retypes:  # an entry may have got another digest on one file alone, which only a repair finds
        return
    assert_equal(*pair)
    for peer in pair:
        assert peer.scrub().found == 0
        assert not peer.drain()


@pytest.mark.parametrize("seed", sweep(range(8), 4))
def test_edits_are_stamped_as_they_would_be_alone(pair, tmp_path, seed):
    history(pair, tmp_path, random.Random(seed))


@pytest.mark.parametrize("seed", sweep(range(4), 2))
def test_numbers_of_another_type_are_found(pair, tmp_path, seed):
    history(pair, tmp_path, random.Random(seed), retypes=True)


def _keeps_no_prior(priors, row, stored_entries):
    return None


def _forgets_entries(chunk, mask, edits, groups):
    return _STAMP(chunk, mask, [(*edit[:3], edit[3][1:], edit[4]) for edit in edits], groups)


_STAMP = drain_edits._stamp


@pytest.mark.parametrize(
    ("module", "name", "mutant"),
    [
        (row_view.Priors, "of", _keeps_no_prior),
        (row_view.Priors, "_one_part", lambda priors, place, hlc: None),
        (drain_edits, "_stamp", _forgets_entries),
        (row_batch.Taken, "take_packed", lambda taken, run, left, number: None),
        (row_batch.Taken, "supersede", lambda taken, table, keys, rows, records: []),
        (drain_edits, "_any_has_equal", lambda table, values, mask: False),
        (drain_edits, "_without_retyped", lambda table, edits, mask: edits),
        (row_batch, "encode_cells", lambda columns, rows: [b"\x80"] * len(rows)),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_histories_find_a_planted_fault(pair, tmp_path, monkeypatch, module, name, mutant):
    monkeypatch.setattr(module, name, mutant)
    with pytest.raises(AssertionError):
        history(pair, tmp_path, random.Random(3), steps=20, retypes=True)


@pytest.mark.parametrize("table", NAMES)
def test_plain_edits_need_no_row_path(pair, monkeypatch, table):
    one, two = pair
    one.sql(TABLES)
    filled(one)
    one.sql("DELETE FROM pairs WHERE p IS NULL")  # named by its rowid
    converge(pair)
    monkeypatch.setattr(drain, "_change", None)
    for peer in (one, two, two):
        peer.sql(f"UPDATE {table} SET a = a + 1")
        peer.drain()
    one.sql(f"DELETE FROM {table}")
    one.drain()
    assert not [mask for mask in _masks(one, table) if mask != EXISTENCE]


def _masks(peer, name):
    table = peer.replica.tables[name]
    rows = dict.fromkeys(row for _, _, row, _ in table.log.scan(-1, -1, 1_000_000))
    return [unpack_mask(stored[3])[0] for found in table.log.entries_of_rows(list(rows)).values() for stored in found]


def test_chunk_of_other_edits_is_divided(pair):
    one, _ = pair
    one.sql("CREATE TABLE odd(id INTEGER PRIMARY KEY, v, w TEXT)")
    fill = "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) INSERT INTO odd SELECT i, i, 'w' FROM n"
    one.sql(fill, 10 * ROWS)
    one.drain()
    one.sql("UPDATE odd SET w = 'x'")
    assert len(one.drain()) == 1
    one.sql("UPDATE odd SET v = v + 0.0, w = 'y'")
    bundles = one.drain()
    assert len(bundles) > 10 * ROWS // 65
    assert sum(changes(bundles).values()) == 10 * ROWS
    one.sql("UPDATE odd SET w = 'z' WHERE id <= 40")
    one.drain()
    one.sql("UPDATE odd SET w = 'a'")
    assert len(one.drain()) == 1  # chunks of plain edits are large again


def test_edits_of_a_chunk_are_stamped_in_order(pair):
    one, _ = pair
    one.sql(TABLES)
    filled(one)
    one.drain()
    for number in range(0, ROWS, 4):
        one.sql(f"UPDATE t SET a = 9 WHERE id = {number}; UPDATE t SET b = 'c' WHERE id = {number + 1}")
        one.sql(f"INSERT INTO t VALUES({number + 100}, 1, 'b', NULL); DELETE FROM t WHERE id = {number + 2}")
    [bundle] = one.drain()
    stamped = {}
    for group in Bundle.decode(bundle).sections[0].groups:
        keys = group.keys or [row[2] for row in group.rows]
        stamped |= dict(zip(keys, group.hlcs, strict=True))
    order = [number + more for number in range(0, ROWS, 4) for more in (0, 1, 100, 2)]
    assert sorted(stamped, key=stamped.get) == order
