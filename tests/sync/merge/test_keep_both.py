"""Both rows of one id: two nodes number two rows alike while split, and every replica shows both, under the same ids."""

from __future__ import annotations

import itertools

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.sync.errors import BatchRefusedError, DecodeError, PolicyError
from mycomesh.sync.schema.catalog import SCHEMA_TABLE
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section
from tests.sync.exchanges import World
from tests.sync.peers import Peer, assert_equal, catch_up, converge
from tests.sync.scale import examples
from tests.sync.templates import equal_peers

COUNT_TO = "WITH RECURSIVE i(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM i LIMIT {})"
LOG = "CREATE TABLE log(id INTEGER PRIMARY KEY, what, n INTEGER)"


def kept(peers, ddl=LOG, fill=""):
    peers[0].sql(ddl)
    peers[0].sql(fill)
    peers[0].drain()
    peers[0].replica.decisions.decide_policy("log", "keep-both")
    converge(peers)
    assert {peer.replica.decisions.policy("log") for peer in peers} == {"keep-both"}
    return peers


def written(peer, script, ms=10):
    peer.wall_ms += ms
    peer.sql(script)
    return peer.drain()


def rows(peers, columns="id, what"):
    """Return the rows that all replicas show, which must be the same."""
    for one, two in itertools.pairwise(peers):
        assert_equal(one, two)
    return peers[0].sql(f"SELECT {columns} FROM log ORDER BY what")


def test_the_earlier_row_keeps_its_id(trio):
    one, two, three = kept(trio)
    written(one, "INSERT INTO log(what) VALUES('first')")
    written(two, "INSERT INTO log(what) VALUES('second')", ms=20)
    converge(trio)
    (first, _), (second, _) = rows(trio)
    assert first == 1
    assert -(2**52) <= second < 0
    written(three, "INSERT INTO log(what) VALUES('third')")
    converge(trio)
    assert rows(trio)[2] == (2, "third")


def test_a_lost_row_is_repaired(tmp_path):
    world = World.made(tmp_path, 2)
    one, two = world.nodes
    world.write(one, LOG)
    world.write(one, "INSERT INTO log(what) VALUES('first')")
    one.peer.replica.decisions.decide_policy("log", "keep-both")
    world.write(one, "INSERT INTO log(what) VALUES('second'), ('third')")
    world.link(one, two)
    world.run(3_000)
    world.write(one, "UPDATE log SET n = 3 WHERE what = 'third'")
    world.run(3_000)
    damage = apsw.Connection(str(two.peer.path))
    damage.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    damage.execute("DELETE FROM log")
    damage.close()
    log = two.peer.replica.tables["log"].log
    with two.peer.replica.store.transaction():
        for stored_entries in log.entries_of_rows(range(1, 4)).values():
            for stored in stored_entries:
                log.remove(stored)
        log.flush()
    assert not world.equal()
    world.run(120_000)
    assert [node.sql("SELECT id, what, n FROM log ORDER BY id") for node in world.nodes] == [
        [(1, "first", None), (2, "second", None), (3, "third", 3)]
    ] * 2
    assert_equal(one.peer, two.peer)
    world.close()


def test_the_trace_says_under_which_id_it_is_kept(trio):
    one, two, _ = kept(trio)
    written(one, "INSERT INTO log(what) VALUES('first')")
    written(two, "INSERT INTO log(what) VALUES('second')", ms=20)
    converge(trio)
    moved = rows(trio)[1][0]
    for peer in trio:
        found = [c for c in peer.replica.conflicts.latest(10) if c.reason.startswith("both rows are kept")]
        assert [(c.key, c.lost, c.won, c.reason) for c in found] == [
            ("1", {"id": 1}, {"id": 1}, f"both rows are kept, this one as {moved}")
        ]
        assert (found[0].lost_site, found[0].won_site) == (two.replica.site.hex(), one.replica.site.hex())
        with pytest.raises(PolicyError, match="nothing was lost"):
            peer.replica.conflicts.restore(str(found[0].number), peer.wall_ms)


def test_each_side_goes_on_writing_its_own_row(trio):
    one, two, three = kept(trio)
    written(one, "INSERT INTO log VALUES(1, 'one', 0)")
    written(two, "INSERT INTO log VALUES(1, 'two', 0)", ms=20)
    written(two, "UPDATE log SET n = 2, what = 'two too' WHERE id = 1")
    written(one, "UPDATE log SET n = 1 WHERE id = 1", ms=50)
    converge(trio)
    assert [row[1:] for row in rows(trio, "id, what, n")] == [("one", 1), ("two too", 2)]
    moved = rows(trio)[1][0]
    written(three, f"UPDATE log SET n = 3 WHERE id = {moved}")
    written(three, "UPDATE log SET n = 4 WHERE id = 1")
    converge(trio)
    assert rows(trio, "what, n") == [("one", 4), ("two too", 3)]


def test_a_moved_row_does_not_move_back(trio):
    """The site that gave the id away has written the other one."""
    one, two, _ = kept(trio)
    written(one, "INSERT INTO log(what) VALUES('first')")
    written(two, "INSERT INTO log(what) VALUES('second')", ms=20)
    converge(trio)
    moved = rows(trio)[1][0]
    written(one, "DELETE FROM log WHERE id = 1")
    converge(trio)
    assert rows(trio) == [(moved, "second")]
    assert [peer.sql("SELECT count(*) FROM mycomesh_moved") for peer in trio] == [[(0,)]] * 3


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_three_rows_of_one_id_arrive_in_any_order(trio, order, tmp_path):
    kept(trio)
    late = Peer(tmp_path / "late.db", 7, wall_ms=1_000)
    catch_up(late, trio[0])
    mail = [
        written(peer, f"INSERT INTO log VALUES(5, 'row {number}', 0)", ms=10 * number)
        for number, peer in enumerate(trio)
    ]
    for number in order:
        late.take(mail[number], trio[number].node_id)
        assert late.sql("SELECT count(*) FROM log WHERE id = 5") == [(1,)]
    assert late.sql("SELECT what FROM log WHERE id = 5") == [("row 0",)]
    assert late.sql("SELECT count(*) FROM log") == [(3,)]
    shown = late.sql("SELECT id, what FROM log ORDER BY what")
    converge([*trio, late])
    assert rows([*trio, late]) == shown
    late.close()


def test_a_row_deleted_before_its_rival_arrives(trio):
    """Where the two never met in one file, the later row keeps its id; where they did, it moves back to it."""
    one, two, three = kept(trio)
    first = written(one, "INSERT INTO log(what) VALUES('first')")
    second = written(two, "INSERT INTO log(what) VALUES('second')", ms=20)
    ended = written(one, "DELETE FROM log", ms=50)
    three.take(first, one.node_id)
    three.take(second, two.node_id)
    assert three.sql("SELECT count(*) FROM log") == [(2,)]
    three.take(ended, one.node_id)
    assert three.sql("SELECT id, what FROM log") == [(1, "second")]
    converge(trio)
    assert rows(trio) == [(1, "second")]


def test_replace_and_reinsert_are_new_rows_with_one_id(trio):
    one, two, _ = kept(trio, fill="INSERT INTO log VALUES(1, 'old', 0)")
    written(one, "REPLACE INTO log VALUES(1, 'replaced', 1)")
    converge(trio)
    assert rows(trio) == [(1, "replaced")]
    written(two, "DELETE FROM log; INSERT INTO log VALUES(1, 'again', 2)")
    converge(trio)
    assert rows(trio) == [(1, "again")]
    written(two, "INSERT INTO log VALUES(1, 'upserted', 3) ON CONFLICT(id) DO UPDATE SET what = excluded.what")
    written(two, "UPDATE log SET id = 9")
    converge(trio)
    assert rows(trio) == [(9, "upserted")]


def test_both_sides_replace_one_row(trio):
    one, two, _ = kept(trio, fill="INSERT INTO log VALUES(1, 'old', 0)")
    written(one, "REPLACE INTO log VALUES(1, 'one', 1)")
    written(two, "REPLACE INTO log VALUES(1, 'two', 1)", ms=20)
    converge(trio)
    assert [what for _, what in rows(trio)] == ["one", "two"]
    assert rows(trio)[0][0] == 1


def test_unique_columns_still_have_one_winner(trio):
    one, two, _ = kept(trio, "CREATE TABLE log(id INTEGER PRIMARY KEY, what UNIQUE)")
    written(one, "INSERT INTO log(what) VALUES('same')")
    written(two, "INSERT INTO log(what) VALUES('same')", ms=20)
    converge(trio)
    assert rows(trio) == [(1, "same")]
    assert [len(peer.recorded("mycomesh_parked")) for peer in trio] == [1, 1, 1]
    written(one, "DELETE FROM log WHERE id = 1")
    converge(trio)
    assert rows(trio) == [(1, "same")]
    assert [len(peer.recorded("mycomesh_parked")) for peer in trio] == [0, 0, 0]


def test_counters_in_moved_rows_add_up(trio):
    one, two, three = kept(trio)
    one.replica.decisions.declare_counter("log", "n")
    converge(trio)
    written(one, "INSERT INTO log VALUES(1, 'one', 10)")
    written(two, "INSERT INTO log VALUES(1, 'two', 20)", ms=20)
    converge(trio)
    for peer in trio:
        peer.sql("UPDATE log SET n = n + 1")
    converge(trio)
    assert rows(trio, "what, n") == [("one", 13), ("two", 23)]
    three.sql("UPDATE log SET n = n - 1")
    converge(trio)
    assert rows(trio, "what, n") == [("one", 12), ("two", 22)]


def test_autoincrement_is_not_disturbed(trio):
    one, two, three = kept(trio, "CREATE TABLE log(id INTEGER PRIMARY KEY AUTOINCREMENT, what)")
    written(one, "INSERT INTO log(what) VALUES('a'), ('b')")
    written(two, "INSERT INTO log(what) VALUES('c')", ms=20)
    converge(trio)
    written(three, "INSERT INTO log(what) VALUES('z')")
    converge(trio)
    assert rows(trio)[-1] == (3, "z")


# ---- a table that has rows already


def test_a_table_with_a_history(trio):
    one, two, three = trio
    one.sql(LOG)
    one.sql(
        "WITH RECURSIVE i(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM i LIMIT 50) INSERT INTO log SELECT x, 'row ' || x, 0 FROM i"
    )
    converge(trio)
    written(two, "UPDATE log SET n = 1 WHERE id % 3 = 0; DELETE FROM log WHERE id % 7 = 0")
    converge(trio)
    before = rows(trio)
    written(three, "UPDATE log SET n = 2 WHERE id = 4; INSERT INTO log VALUES(99, 'three', 0)")
    written(two, "INSERT INTO log VALUES(99, 'two', 0)", ms=20)
    one.replica.decisions.decide_policy("log", "keep-both")
    converge(trio)
    after = rows(trio)
    assert [row for row in after if row[1] not in ("two", "three")] == before
    assert [what for what in ("two", "three") if (99, what) in after] in (["two"], ["three"])
    assert len(after) == len(before) + 2
    written(one, "UPDATE log SET n = n + 1; DELETE FROM log WHERE id < 10")
    converge(trio)
    assert len(rows(trio)) == len([row for row in after if row[0] >= 10])


def test_a_row_deleted_before_the_policy_stays_deleted(trio):
    one, two, three = trio
    one.sql(LOG)
    one.sql("INSERT INTO log VALUES(1, 'deleted', 0), (2, 'kept', 0)")
    converge(trio)
    written(one, "DELETE FROM log WHERE id = 1")
    one.replica.decisions.decide_policy("log", "keep-both")
    converge([one, two])
    written(three, "UPDATE log SET n = 7 WHERE id = 2")
    converge(trio)
    assert rows(trio, "id, what, n") == [(2, "kept", 7)]
    written(three, "INSERT INTO log VALUES(1, 'new', 0)", ms=1_000)
    converge(trio)
    assert rows(trio) == [(2, "kept"), (1, "new")]


def test_node_without_the_policy_is_not_merged_or_broken(trio):
    one, two, _ = trio
    one.sql(LOG)
    one.sql("INSERT INTO log VALUES(1, 'row', 0)")
    converge(trio)
    one.replica.decisions.decide_policy("log", "keep-both")
    fact = one.drain()
    update = written(one, "UPDATE log SET n = 1")
    with pytest.raises(BatchRefusedError, match="log: identifies rows by another policy"):
        two.take(update, one.node_id)
    old = written(two, "UPDATE log SET n = 2", ms=50)
    with pytest.raises(BatchRefusedError, match="log: identifies rows by another policy"):
        one.take(old, two.node_id)
    assert one.replica.apply(old[0], one.wall_ms).withheld
    two.take(fact, one.node_id)
    converge(trio)
    assert rows(trio, "id, what, n") == [(1, "row", 2)]


def test_changes_that_wait_for_their_row_are_fetched_again(trio):
    one, two, three = trio
    one.sql(LOG)
    converge(trio)
    written(one, "INSERT INTO log VALUES(1, 'row', 0)")
    update = written(one, "UPDATE log SET n = 1")
    three.take(update, one.node_id)
    assert three.sql("SELECT * FROM log") == []
    two.replica.decisions.decide_policy("log", "keep-both")
    converge(trio)
    assert rows(trio, "id, what, n") == [(1, "row", 1)]


def test_a_parked_row_is_still_parked_and_comes_back(trio):
    one, two, _ = trio
    one.sql("CREATE TABLE log(id INTEGER PRIMARY KEY, what, u UNIQUE)")
    converge(trio)
    written(one, "INSERT INTO log VALUES(1, 'one', 7)")
    written(two, "INSERT INTO log VALUES(2, 'two', 7)", ms=20)
    converge(trio)
    one.replica.decisions.decide_policy("log", "keep-both")
    converge(trio)
    assert [len(peer.recorded("mycomesh_parked")) for peer in trio] == [1, 1, 1]
    written(one, "UPDATE log SET u = 8")
    converge(trio)
    assert rows(trio) == [(1, "one"), (2, "two")]
    assert [len(peer.recorded("mycomesh_parked")) for peer in trio] == [0, 0, 0]


@pytest.mark.parametrize(
    ("ddl", "refusal"),
    [
        ("CREATE TABLE log(what)", "no INTEGER PRIMARY KEY"),
        ("CREATE TABLE log(what TEXT PRIMARY KEY)", "no INTEGER PRIMARY KEY"),
        ("CREATE TABLE log(id INTEGER PRIMARY KEY, what) WITHOUT ROWID", "no INTEGER PRIMARY KEY"),
        (f"{LOG}; {COUNT_TO.format(10_001)} INSERT INTO log(id) SELECT x FROM i", "10001 rows"),
    ],
)
def test_a_table_that_cannot_is_refused_with_one_line(tmp_path, ddl, refusal):
    peer = Peer(tmp_path / "file.db", 0)
    peer.sql(ddl)
    peer.drain()
    with pytest.raises(PolicyError, match=refusal) as caught:
        peer.replica.decisions.decide_policy("log", "keep-both")
    assert "\n" not in str(caught.value)
    assert peer.replica.decisions.policy("log") == "same-row"
    peer.close()


def test_there_is_no_way_back(trio):
    one, _, _ = kept(trio)
    one.replica.decisions.decide_policy("log", "keep-both")
    assert one.drain() == []
    with pytest.raises(PolicyError, match="log is keep-both, which cannot be undone"):
        one.replica.decisions.decide_policy("log", "same-row")
    with pytest.raises(PolicyError, match="no policy 'both'; there are same-row or keep-both, own-ids or shared-ids"):
        one.replica.decisions.decide_policy("log", "both")


@pytest.mark.parametrize("policy", [True, False])
@pytest.mark.parametrize("value", ["text", None, 1.5, b"blob"])
@pytest.mark.parametrize("kind", [Kind.INSERT, Kind.UPDATE])
def test_an_id_that_is_no_integer_is_refused(trio, policy, value, kind):
    one, two, _ = kept(trio) if policy else trio
    if not policy:
        one.sql(LOG)
        converge(trio)
    written(one, "INSERT INTO log(what) VALUES('row')")
    catch_up(two, one)
    keys = None
    if kind is Kind.UPDATE:
        [table] = [table for name, table in one.replica.tables.items() if name != SCHEMA_TABLE]
        keys = [table.key(1, table.log.entries_of_row(1))]
    group = Group(
        one.replica.site, kind, ("id",), [one.replica.tables["log"].store.clock.last + 1], keys, [[value]], None
    )
    bundle = Bundle([Section("log", [], [group])]).encode()
    before = two.tables()
    with pytest.raises(DecodeError, match="INTEGER PRIMARY KEY is not an integer"):
        two.replica.apply(bundle, two.wall_ms)
    assert two.tables() == before


# ---- through the exchange


@pytest.mark.parametrize("publishing", [True, False])
def test_a_policy_decided_in_a_split_keeps_its_links(tmp_path, publishing):
    world = World.made(tmp_path, 3)
    one, two, three = world.nodes
    world.publishing = publishing
    world.write(one, LOG)
    world.write(one, f"{COUNT_TO.format(300)} INSERT INTO log SELECT x, 'row ' || x, 0 FROM i")
    world.link(two, three)
    link = world.link(one, two)
    world.run(20_000)
    assert world.equal()
    world.cut(link)
    one.peer.replica.decisions.decide_policy("log", "keep-both")
    world.write(
        one, "UPDATE log SET n = 1 WHERE id % 10 = 0; DELETE FROM log WHERE id = 7; INSERT INTO log(what) VALUES('one')"
    )
    world.write(
        three,
        "UPDATE log SET n = 3 WHERE id % 15 = 0; DELETE FROM log WHERE id = 8; INSERT INTO log(what) VALUES('three')",
    )
    world.run(5_000)
    world.link(one, two)
    world.run(1_000)
    world.write(two, "INSERT INTO log(what) VALUES('two')")
    world.run(60_000)
    assert world.equal()
    peers = [node.peer for node in world.nodes]
    for first, second in itertools.pairwise(peers):
        assert_equal(first, second)
    assert [peer.replica.decisions.policy("log") for peer in peers] == ["keep-both"] * 3
    assert [node.dropped for node in world.nodes] == [[], [], []]
    found = one.sql("SELECT what FROM log WHERE what NOT LIKE 'row%' ORDER BY what")
    assert found == [("one",), ("three",), ("two",)]
    assert one.sql("SELECT count(*) FROM log WHERE id IN (7, 8)") == [(0,)]
    assert one.sql("SELECT count(*), sum(n > 0) FROM log WHERE what LIKE 'row%'") == [(298, 40)]
    world.close()


# ---- any history, any order


IDS = st.integers(1, 3)
WRITES = st.tuples(
    st.integers(0, 2),
    st.sampled_from(
        ["INSERT OR IGNORE INTO log(id, what) VALUES({0}, '{1}')", "INSERT INTO log(what) VALUES('{1}')",
         "REPLACE INTO log(id, what) VALUES({0}, '{1}')", "DELETE FROM log WHERE id = {0}",
         "UPDATE log SET n = coalesce(n, 0) + 1 WHERE id = {0}", "UPDATE OR IGNORE log SET id = id + 1 WHERE id = {0}",
         "DELETE FROM log WHERE id < 0", "UPDATE log SET n = 5 WHERE id < 0"]
    ),
    IDS,
    st.integers(0, 30),
)  # fmt: skip


@pytest.mark.slow
@given(
    script=st.lists(st.one_of(WRITES, st.tuples(st.integers(0, 2), st.integers(0, 40))), min_size=1, max_size=25),
    decided=st.integers(0, 25),
)
@examples(60, sample=30)
def test_every_replica_shows_same_rows_and_none_is_lost(tmp_path_factory, script, decided):
    folder = tmp_path_factory.mktemp("keep-both")
    peers = equal_peers(folder, 3, LOG, wall_ms=1_000)
    mail = []
    for number, step in enumerate(script):
        if number == decided:
            converge(peers)
            peers[1].replica.decisions.decide_policy("log", "keep-both")
            converge(peers)
        peer = peers[step[0]]
        if len(step) == 2:
            if mail:
                sender, bundles = mail[step[1] % len(mail)]
                for bundle in bundles:
                    try:
                        peer.take([bundle], sender.node_id)
                    except BatchRefusedError:
                        assert number >= decided
            continue
        _, statement, row, ms = step
        peer.wall_ms += ms
        peer.sql(statement.format(row, f"w{number}"))
        mail.append((peer, peer.drain()))
    converge(peers)
    for one, two in itertools.pairwise(peers):
        assert_equal(one, two)
    if decided == 0:
        everywhere = [{what for (what,) in peer.sql("SELECT what FROM log")} for peer in peers]
        assert everywhere[0] == everywhere[1] == everywhere[2]
    for peer in peers:
        peer.close()
