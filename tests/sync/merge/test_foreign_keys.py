"""Children of rows whose ids have changed: each refers to the row for which a program wrote it, on every replica."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.sync.merge import keep_both, retry
from tests.sync.peers import Peer, assert_equal, converge
from tests.sync.scale import examples

CREW = "CREATE TABLE crew(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT)"
TASK = "CREATE TABLE task(id TEXT PRIMARY KEY, crew_id INTEGER REFERENCES crew(id), title TEXT)"
PAIRS = "SELECT title, name FROM task LEFT JOIN crew ON crew.id = crew_id ORDER BY title"


def kept(peers, child=TASK, tables=("crew",)):
    peers[0].sql(f"{CREW};{child}")
    peers[0].drain()
    for table in tables:
        peers[0].replica.decisions.decide_policy(table, "keep-both")
    converge(peers)
    return peers


def written(peer, script, ms=10):
    peer.wall_ms += ms
    peer.sql(script)
    peer.drain()


def both_write(one, two):
    written(one, "INSERT INTO crew(name) VALUES('alpha'); INSERT INTO task VALUES('a', 1, 'of alpha')")
    written(two, "INSERT INTO crew(name) VALUES('bravo'); INSERT INTO task VALUES('b', 1, 'of bravo')", ms=20)


def settled(peers):
    """Let changes and what follows from them reach every replica."""
    for _ in range(3):
        converge(peers)
    for peer in peers[1:]:
        assert_equal(peers[0], peer)
    return peers[0]


def test_each_child_stays_with_its_own_parent(trio):
    one, two, _ = kept(trio)
    both_write(one, two)
    assert settled(trio).sql(PAIRS) == [("of alpha", "alpha"), ("of bravo", "bravo")]
    assert trio[2].sql("SELECT crew_id FROM task WHERE id = 'a'") == [(1,)]


def test_children_that_keep_both_follow_too(trio):
    child = "CREATE TABLE task(id INTEGER PRIMARY KEY, crew_id INTEGER REFERENCES crew, title TEXT)"
    one, two, _ = kept(trio, child, ("crew", "task"))
    written(one, "INSERT INTO crew(name) VALUES('alpha'); INSERT INTO task VALUES(1, 1, 'of alpha')")
    written(two, "INSERT INTO crew(name) VALUES('bravo'); INSERT INTO task VALUES(1, 1, 'of bravo')", ms=20)
    assert settled(trio).sql(PAIRS) == [("of alpha", "alpha"), ("of bravo", "bravo")]


def test_a_child_from_another_node_follows_too(trio):
    one, two, three = kept(trio)
    written(one, "INSERT INTO crew(name) VALUES('early')")
    written(two, "INSERT INTO crew(name) VALUES('late')", ms=20)
    converge([two, three])
    written(three, "INSERT INTO task VALUES('t', 1, 'of late')", ms=30)
    assert settled(trio).sql(PAIRS) == [("of late", "late")]


def test_a_child_written_after_they_met_stays(trio):
    one, two, _ = kept(trio)
    both_write(one, two)
    converge(trio)
    written(two, "INSERT INTO task VALUES('c', 1, 'of alpha too')")
    assert settled(trio).sql(PAIRS)[1] == ("of alpha too", "alpha")


def test_a_row_that_moves_twice_takes_its_children(trio):
    one, two, three = kept(trio)
    written(three, "INSERT INTO crew(name) VALUES('first')", ms=1)
    written(one, "INSERT INTO crew(name) VALUES('second')", ms=20)
    written(two, "INSERT INTO crew(name) VALUES('third')", ms=40)
    written(two, "INSERT INTO task VALUES('t', 1, 'of third')")
    settled([one, two])
    written(one, "INSERT INTO task VALUES('s', 1, 'of second')", ms=30)
    assert settled(trio).sql(PAIRS) == [("of second", "second"), ("of third", "third")]


def test_a_foreign_key_that_must_be_unique_follows(trio):
    child = "CREATE TABLE task(id TEXT PRIMARY KEY, crew_id INTEGER UNIQUE REFERENCES crew(id), title TEXT)"
    one, two, _ = kept(trio, child)
    both_write(one, two)
    assert settled(trio).sql(PAIRS) == [("of alpha", "alpha"), ("of bravo", "bravo")]
    assert [peer.sql("SELECT count(*) FROM mycomesh_parked") for peer in trio] == [[(0,)]] * 3


def test_rows_that_refer_to_their_own_table_follow(pair):
    one, two = pair
    one.sql("CREATE TABLE crew(id INTEGER PRIMARY KEY, name TEXT, chief INTEGER REFERENCES crew(id))")
    one.drain()
    one.replica.decisions.decide_policy("crew", "keep-both")
    converge(pair)
    written(one, "INSERT INTO crew VALUES(1, 'alpha', 1), (2, 'alpha 2', 1)")
    written(two, "INSERT INTO crew VALUES(1, 'bravo', 1), (2, 'bravo 2', 1)", ms=20)
    listing = "SELECT c.name, b.name FROM crew c JOIN crew b ON b.id = c.chief ORDER BY 1"
    alphas = [("alpha", "alpha"), ("alpha 2", "alpha")]
    assert settled(pair).sql(listing) == [*alphas, ("bravo", "bravo"), ("bravo 2", "bravo")]


@pytest.mark.parametrize(
    "child",
    [
        "CREATE TABLE task(id TEXT PRIMARY KEY, crew_id INTEGER REFERENCES crew(id) CHECK(crew_id > 0), title TEXT)",
        "CREATE TABLE task(id TEXT, crew_id INTEGER REFERENCES crew(id), title TEXT, PRIMARY KEY(id, crew_id))",
    ],
    ids=["refused", "in the key"],
)
def test_a_child_that_cannot_follow_stays(trio, child):
    one, two, _ = kept(trio, child)
    both_write(one, two)
    assert settled(trio).sql(PAIRS) == [("of alpha", "alpha"), ("of bravo", "alpha")]


def test_a_parked_child_that_cannot_follow_keeps_its_values(trio):
    check = "CREATE TABLE task(id TEXT PRIMARY KEY, crew_id INTEGER UNIQUE REFERENCES crew(id) CHECK(crew_id > 0), title TEXT)"
    one, two, _ = kept(trio, check)
    both_write(one, two)
    settled(trio)
    written(one, "DELETE FROM task WHERE id = 'a'", ms=50)
    assert settled(trio).sql("SELECT * FROM task") == [("b", 1, "of bravo")]


@pytest.mark.parametrize(
    "keys", ["id TEXT PRIMARY KEY", "id TEXT", "id INTEGER PRIMARY KEY", "id TEXT NOT NULL PRIMARY KEY"]
)
def test_many_children_follow_in_short_steps(pair, keys, monkeypatch):
    tail = " WITHOUT ROWID" if "NOT NULL" in keys else ""
    one, two = kept(pair, f"CREATE TABLE task({keys}, crew_id INTEGER REFERENCES crew(id), title TEXT){tail}")
    written(one, "INSERT INTO crew(name) VALUES('alpha')")
    ids = "WITH RECURSIVE i(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM i LIMIT 900)"
    written(two, f"INSERT INTO crew(name) VALUES('bravo'); {ids} INSERT INTO task SELECT x, x % 3, x FROM i", ms=20)
    tried = []
    step = retry.ChildPass.step
    monkeypatch.setattr(retry.ChildPass, "step", lambda *given: tried.append(step(*given)) or tried[-1])
    settled(pair)
    counts = "SELECT name, count(*) FROM task LEFT JOIN crew ON crew.id = crew_id GROUP BY name ORDER BY name"
    assert one.sql(counts) == [(None, 600), ("bravo", 300)]
    assert len(tried) > 3


def test_children_follow_after_a_restart(pair, monkeypatch):
    one, two = kept(pair)
    written(two, "INSERT INTO crew(name) VALUES('bravo'); INSERT INTO task VALUES('b', 1, 'of bravo')", ms=20)
    one.sql("INSERT INTO crew(name) VALUES('alpha')")
    with monkeypatch.context() as stopped:
        stopped.setattr(retry.ChildPass, "step", lambda *given: given[-1])
        two.take(one.drain(), one.node_id)
        assert two.sql(PAIRS) == [("of bravo", "alpha")]
        two.close()
    two.open()
    assert settled(pair).sql(PAIRS) == [("of bravo", "bravo")]


STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["parent", "child", "child", "meet", "meet"]), st.integers(0, 4)),
    max_size=14,
)


@pytest.mark.slow
@examples(60, sample=30)
@given(STEPS)
def test_no_history_gives_a_child_another_parent(steps):
    with tempfile.TemporaryDirectory() as folder:
        peers = [Peer(Path(folder) / f"{number}.db", number, wall_ms=1_000) for number in range(3)]
        kept(peers)
        meant = {}
        for number, (who, what, pick) in enumerate(steps):
            peer = peers[who]
            if what == "parent":
                written(peer, f"INSERT INTO crew(name) VALUES('{number}')")
            elif what == "meet":
                converge([peer, peers[(who + 1 + pick % 2) % 3]])
            else:
                found = peer.sql("SELECT id, name FROM crew ORDER BY id")
                if found:
                    parent, meant[str(number)] = found[pick % len(found)]
                    written(peer, f"INSERT INTO task VALUES('{number}', {parent}, '{number}')")
        try:
            assert dict(settled(peers).sql(PAIRS)) == meant
        finally:
            for peer in peers:
                peer.close()


def test_more_changed_ids_than_one_pass_takes_are_followed(pair, monkeypatch):
    monkeypatch.setattr(keep_both, "CHANGED_IDS_MAX", 3)
    one, two = kept(pair)
    ids = "WITH RECURSIVE i(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM i LIMIT 10)"
    written(one, f"{ids} INSERT INTO crew SELECT x, 'alpha ' || x FROM i")
    parents = f"{ids} INSERT INTO crew SELECT x, 'bravo ' || x FROM i"
    written(two, f"{parents}; {ids} INSERT INTO task SELECT x, x, 'bravo ' || x FROM i", 20)
    assert all(title == name for title, name in settled(pair).sql(PAIRS))
