"""Rows that two copies of one file have in a table without a primary key: they settle as one, and no other row goes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.sync.merge import twin_rows
from tests.sync.peers import Peer, assert_equal, converge, shell
from tests.sync.scale import examples

DDL = "CREATE TABLE bag(v, w)"
ROWS = "INSERT INTO bag VALUES('a', 1), ('a', 1), ('b', 2.5), (NULL, x'00')"


@pytest.fixture
def copies(tmp_path):
    """Make nodes on files from before the mesh, one for each script."""
    made = []

    def make(*scripts):
        for script in scripts:
            number = len(made)
            shell(tmp_path / f"{number}.db", f"{script};")
            made.append(Peer(tmp_path / f"{number}.db", number))
            made[-1].drain()
        return made

    yield make
    for peer in made:
        peer.close()


def settled(peers):
    for _ in range(3):
        converge(peers)
    for peer in peers[1:]:
        assert_equal(peers[0], peer)
    return [value for (value,) in peers[0].sql("SELECT v FROM bag ORDER BY v")]


@pytest.mark.parametrize("count", [2, 3])
def test_untouched_copies_settle_as_one(copies, count):
    peers = copies(*[f"{DDL};{ROWS}"] * count)
    assert settled(peers) == [None, "a", "a", "b"]
    assert [peer.sql("SELECT count(*) FROM mycomesh_conflicts") for peer in peers] == [[(0,)]] * count
    peers[0].sql("DELETE FROM bag WHERE v = 'b'; INSERT INTO bag VALUES('c', 3)")
    assert settled(peers) == [None, "a", "a", "c"]


@pytest.mark.parametrize(
    "other",
    [
        "INSERT INTO bag VALUES('a', 1), ('a', 1), ('b', 2.5), (NULL, x'01')",
        "INSERT INTO bag VALUES('a', 1), ('a', 1), ('b', 2.5)",
        f"{ROWS}, ('more', 0)",
        "INSERT INTO bag VALUES('a', 1), ('a', 1.0), ('b', 2.5), (NULL, x'00')",
        "INSERT INTO bag VALUES('a', 1), ('b', 2.5), ('a', 1), (NULL, x'00')",
    ],
    ids=["another value", "a row less", "a row more", "another type", "another order"],
)
def test_files_that_differ_keep_all_rows(copies, other):
    peers = copies(f"{DDL};{ROWS}", f"{DDL};{other}")
    total = sum(len(peer.sql("SELECT * FROM bag")) for peer in peers)
    assert len(settled(peers)) == total


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    "edits",
    [
        ["UPDATE bag SET w = 9 WHERE v = 'b'"],
        ["UPDATE bag SET w = 9 WHERE v = 'b'", "UPDATE bag SET w = 2.5 WHERE v = 'b'"],
        ["DELETE FROM bag WHERE v = 'b'"],
    ],
    ids=["updated", "updated and back", "deleted"],
)
def test_a_touched_copy_keeps_all_rows(copies, number, edits):
    peers = copies(*[f"{DDL};{ROWS}"] * 2)
    for edit in edits:
        peers[number].sql(edit)
        peers[number].drain()
    assert len(settled(peers)) == 8 - edits[0].startswith("DELETE")


def numbered(first, last):
    return (
        f"WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last})"
        " INSERT INTO bag SELECT 'r' || i, i FROM n"
    )


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        (f"{numbered(1, 40)}; {numbered(100, 109)}", f"{numbered(1, 40)}; {numbered(200, 219)}", 70),  # both appended
        (numbered(1, 40), f"{numbered(1, 40)}; {numbered(200, 209)}", 50),  # one is a stale copy
        (
            numbered(1, 40),
            f"{numbered(1, 40)}; UPDATE bag SET w = 0 WHERE v = 'r31'",
            50,
        ),  # one row was edited: ten stay
        (numbered(1, 40), f"{numbered(1, 40)}; UPDATE bag SET w = 0 WHERE v = 'r16'", 80),  # too few are alike
        (f"{numbered(1, 20)}; {numbered(100, 130)}", f"{numbered(1, 20)}; {numbered(200, 230)}", 102),  # under half
        ("; ".join([numbered(1, 2)] * 40), "; ".join([numbered(1, 2)] * 50), 180),  # too few different ones
    ],
)
def test_equal_beginnings_of_changed_copies_settle(copies, first, second, left, turned):
    scripts = (second, first) if turned else (first, second)
    one, two = peers = copies(*[f"{DDL}; {each}" for each in scripts])
    kept = settled(peers)
    assert len(kept) == left
    assert {*kept} == {value for (value,) in one.sql("SELECT v FROM bag")} | {
        value for (value,) in two.sql("SELECT v FROM bag")
    }
    one.close()
    one.open()
    two.sql("INSERT INTO bag VALUES('later', 1)")
    assert len(settled(peers)) == len(kept) + 1


def test_rows_made_on_the_mesh_are_never_twins(copies):
    peers = copies(DDL, DDL)
    converge(peers)
    for peer in peers:
        peer.sql(ROWS)
    assert len(settled(peers)) == 8


def test_rows_inserted_beside_a_copy_stay(copies):
    peers = copies(*[f"{DDL};{ROWS}"] * 2)
    for peer in peers:
        peer.sql("INSERT INTO bag VALUES('a', 1)")
    assert settled(peers) == [None, "a", "a", "a", "a", "b"]


def test_a_row_changed_before_it_is_deleted_stays(copies, monkeypatch):
    one, two = copies(*[f"{DDL};{ROWS}"] * 2)
    monkeypatch.setattr(twin_rows.TwinQueue, "_delete", lambda *given: given[-1])
    two.take([*one.drain()])
    later(one, two)
    assert two.sql("SELECT name FROM mycomesh_meta WHERE name GLOB 'twin/*'") != []
    monkeypatch.undo()
    two.sql("UPDATE bag SET w = 'mine' WHERE rowid = 1")
    assert sorted(map(str, settled([one, two]))) == sorted(map(str, [None, "a", "a", "b", "a"]))


def later(one, two):
    """Bring what one has to two, without the drains that would never end."""
    from tests.sync.peers import catch_up

    catch_up(two, one)
    two.replica.drain(two.wall_ms)


def test_a_stopped_deletion_goes_on_after_a_restart(copies, monkeypatch):
    one, two = copies(*[f"{DDL};{ROWS}"] * 2)
    monkeypatch.setattr(twin_rows.TwinQueue, "_delete", lambda *given: given[-1])
    later(one, two)
    monkeypatch.undo()
    two.close()
    two.open()
    assert settled([one, two]) == [None, "a", "a", "b"]


def test_a_backup_from_before_the_mesh_settles_too(copies):
    one, two = copies(f"{DDL};{ROWS}", DDL)
    converge([one, two])
    one.close()
    for suffix in ("", "-wal", "-shm"):
        Path(f"{one.path}{suffix}").unlink(missing_ok=True)
    shell(one.path, f"{DDL};{ROWS};")
    one.open()
    assert settled([one, two]) == [None, "a", "a", "b"]


def test_many_rows_go_in_short_steps(copies, monkeypatch):
    many = (
        "WITH RECURSIVE i(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM i LIMIT 5000) INSERT INTO bag SELECT x, x FROM i"
    )
    peers = copies(*[f"{DDL};{many}"] * 2)
    deleted = []
    delete = twin_rows.TwinQueue._delete
    monkeypatch.setattr(twin_rows.TwinQueue, "_delete", lambda *given: deleted.append(delete(*given)) or deleted[-1])
    assert len(settled(peers)) == 5_000
    assert sum(deleted) == 5_000
    assert max(deleted) <= 64


def test_large_rows_are_compared_in_more_steps(copies, monkeypatch):
    ids = "WITH RECURSIVE i(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM i LIMIT 80)"
    many = f"{ids} INSERT INTO bag SELECT x, zeroblob(9000) FROM i"
    monkeypatch.setattr(twin_rows, "CHUNK_BYTES_MAX", 60_000)
    done = []
    compare = twin_rows.TwinQueue._compare
    monkeypatch.setattr(twin_rows.TwinQueue, "_compare", lambda *given: done.append(compare(*given)) or done[-1])
    assert len(settled(copies(*[f"{DDL};{many}"] * 2))) == 80
    assert [count for count in done if count] == [2] * 10  # eight rows each


FILES = st.lists(st.lists(st.integers(0, 2), max_size=4), min_size=2, max_size=3)


@pytest.mark.slow
@examples(60, sample=30)
@given(FILES, st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=3))
def test_no_value_is_lost_by_any_meeting(files, edits):
    with tempfile.TemporaryDirectory() as folder:
        peers = []
        for number, values in enumerate(files):
            path = Path(folder) / f"{number}.db"
            shell(path, DDL + ";" + "".join(f"INSERT INTO bag VALUES({value}, 0);" for value in values))
            peers.append(Peer(path, number))
            peers[-1].drain()
        for who, value in edits:
            peer = peers[who % len(peers)]
            peer.sql("INSERT INTO bag VALUES(?, 1)", value)
            converge([peer, peers[(who + 1) % len(peers)]])
        try:
            there = settled(peers)
            for value in range(3):
                least = max(values.count(value) for values in files) + sum(value == edit for _, edit in edits)
                assert least <= there.count(value) <= sum(values.count(value) for values in files) + len(edits)
            if all(values == files[0] for values in files):
                assert len(there) == len(files[0]) + len(edits)
        finally:
            for peer in peers:
                peer.close()
