"""A table with a primary key is cut with its rows, on real files and exchanges, while nodes are away, write and crash."""

from __future__ import annotations

import random

import apsw
import pytest

from mycomesh.sync.admin import decisions
from mycomesh.sync.errors import DatabaseError, PolicyError
from mycomesh.sync.events import CommitSeen
from mycomesh.sync.replica import ReplicaConfig
from mycomesh.sync.schema.policy import area_fact
from mycomesh.sync.storage.moved_rows import mixed_site
from mycomesh.sync.storage.store import Store
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section
from tests.stories.test_areas import AREAS, KEYED, Fleet, History, interest
from tests.sync.exchanges import Node
from tests.sync.peers import Peer
from tests.sync.retained import DAY_MS, HOUR_MS, WALL_MS, confirm, pin, retain
from tests.sync.scale import sweep

NOT_NULL = "CREATE TABLE t(area INTEGER NOT NULL, uid TEXT NOT NULL, n INTEGER, PRIMARY KEY(area, uid)) WITHOUT ROWID"


class Whole(Fleet):
    """Nodes whose table is not cut yet."""

    @classmethod
    def begin(cls, folder, keeps, definition=KEYED, *, counter=False):
        peers = [
            Peer(folder / f"{number}.db", number, config=ReplicaConfig(interest=interest(areas)))
            for number, areas in enumerate(keeps)
        ]
        fleet = cls(peers)
        fleet.write(fleet.nodes[0], definition)
        fleet.keeps = list(keeps)
        fleet.link_all()
        fleet.run(3_000)
        if counter:
            fleet.nodes[0].peer.replica.decisions.declare_counter("t", "n")
            fleet.do(fleet.nodes[0], CommitSeen())
            fleet.run(3_000)
        return fleet

    def divide(self, number, column="area"):
        """Decide on one node that the table is cut."""
        self.nodes[number].peer.replica.decisions.decide_area("t", column)
        self.do(self.nodes[number], CommitSeen())

    def part(self, number):
        """Cut every link of one node."""
        for link in [link for link, (owner, _) in sorted(self.links.items()) if owner is self.nodes[number]]:
            self.cut(link)


@pytest.fixture
def whole(tmp_path):
    fleets = []

    def begin(keeps, definition=KEYED, **more):
        fleets.append(Whole.begin(tmp_path, keeps, definition, **more))
        return fleets[-1]

    yield begin
    for fleet in fleets:
        fleet.close()


def test_rows_from_before_the_cut_get_areas(whole):
    fleet = whole([None, ("1",), ("2",), None])
    fleet.write(
        fleet.nodes[0], "INSERT INTO t VALUES(1, 'a', 0), (2, 'b', 0), (3, 'c', 0), (NULL, 'd', 0), (1, 'e', 1)"
    )
    fleet.run(5_000)
    fleet.write(fleet.nodes[1], "UPDATE t SET n = 5 WHERE uid = 'b'")
    fleet.write(fleet.nodes[2], "DELETE FROM t WHERE uid = 'e'")
    fleet.divide(0)
    fleet.run(60_000)
    assert fleet.rows(0) == fleet.rows(3) == [(None, "d", 0), (1, "a", 0), (2, "b", 5), (3, "c", 0)]
    assert fleet.rows(1) == [(None, "d", 0), (1, "a", 0)]
    assert fleet.rows(2) == [(None, "d", 0), (2, "b", 5)]
    fleet.write(fleet.nodes[1], "UPDATE t SET n = 7 WHERE uid IN ('a', 'd')")
    fleet.write(fleet.nodes[2], "INSERT INTO t VALUES(1, 'e', 9)")
    fleet.run(60_000)
    assert fleet.rows(0) == [(None, "d", 7), (1, "a", 7), (1, "e", 9), (2, "b", 5), (3, "c", 0)]
    assert fleet.nodes[0].peer.recorded("mycomesh_conflicts") == []
    fleet.check_shared()
    fleet.check_sums()
    fleet.check_unrepaired()


def test_areas_that_come_with_the_decision_are_fetched(whole):
    """The first round after the decision asks for areas of a table that the node has not cut when the round ends."""
    fleet = whole([None, ("1",)])
    fleet.write(fleet.nodes[0], "INSERT INTO t VALUES(1, 'a', 0), (2, 'b', 0)")
    fleet.run(5_000)
    fleet.part(1)
    fleet.divide(0)
    fleet.run(2_000)
    fleet.write(fleet.nodes[0], "INSERT INTO t VALUES(1, 'c', 0), (2, 'd', 0)")
    fleet.run(2_000)
    fleet.link_all()
    fleet.run(60_000)
    assert fleet.rows(1) == [(1, "a", 0), (1, "c", 0)]
    fleet.check_shared()


def test_a_node_that_was_away_brings_its_writes(whole):
    fleet = whole([None, None, ("1",)])
    fleet.write(fleet.nodes[0], "INSERT INTO t VALUES(1, 'a', 0), (2, 'b', 0), (1, 'c', 0), (2, 'd', 0)")
    fleet.run(5_000)
    fleet.part(1)
    away = fleet.nodes[1]
    fleet.write(
        away, "UPDATE t SET n = 10 WHERE uid = 'a'; DELETE FROM t WHERE uid = 'c'; INSERT INTO t VALUES(2, 'e', 3)"
    )
    fleet.run(2_000)
    fleet.write(fleet.nodes[0], "UPDATE t SET n = 20 WHERE uid = 'd'")
    fleet.divide(0)
    fleet.write(fleet.nodes[2], "UPDATE t SET n = 30 WHERE uid = 'b'; INSERT INTO t VALUES(1, 'f', 4)")
    fleet.run(10_000)
    fleet.link_all()
    fleet.run(90_000)
    assert fleet.rows(0) == fleet.rows(1) == [(1, "a", 10), (1, "f", 4), (2, "b", 30), (2, "d", 20), (2, "e", 3)]
    assert fleet.rows(2) == [(1, "a", 10), (1, "f", 4)]
    assert [node.peer.recorded("mycomesh_conflicts") for node in fleet.nodes] == [[], [], []]
    fleet.check_shared()
    fleet.check_sums()
    fleet.check_unrepaired()


def test_areas_are_compared_once_the_rows_have_moved(whole):
    fleet = whole([None, None])
    fleet.part(1)
    fleet.write(fleet.nodes[0], "INSERT INTO t VALUES(1, 'a', 0)")
    fleet.write(fleet.nodes[1], "INSERT INTO t VALUES(1, 'b', 0)")
    fleet.divide(0)
    fleet.run(5_000)
    fleet.link_all()
    fleet.run(5_000)  # a periodic comparison comes later
    assert fleet.rows(0) == fleet.rows(1) == [(1, "a", 0), (1, "b", 0)]


def test_nothing_of_the_whole_table_is_served(whole):
    fleet = whole([None, None])
    fleet.write(fleet.nodes[0], "INSERT INTO t VALUES(1, 'a', 0)")
    fleet.run(5_000)
    fleet.part(1)
    fleet.divide(0)
    replica = fleet.nodes[0].peer.replica
    assert replica.registry.unit("t") is None
    assert not replica.admits("t")
    assert sorted(replica.digest_pairs()) == ["mycomesh_area\0t\x001", "mycomesh_schema"]
    late = fleet.nodes[1].peer
    late.sql("INSERT INTO t VALUES(1, 'b', 0)")
    applied = replica.apply(late.drain()[0], late.wall_ms, origin=late.node_id)
    assert applied.unknown == ["t"]
    assert fleet.rows(0) == [(1, "a", 0)]
    fleet.link_all()
    fleet.run(60_000)
    assert fleet.rows(0) == fleet.rows(1) == [(1, "a", 0), (1, "b", 0)]


def test_a_table_moves_in_steps_over_restarts(whole, monkeypatch):
    monkeypatch.setattr("mycomesh.sync.replication.outbox.STEP_ENTRIES", 7)
    fleet = whole([None, ("1",)])
    fleet.write(fleet.nodes[0], "INSERT INTO t SELECT value % 3 + 1, value, 0 FROM json_each(?)", str([*range(1, 61)]))
    fleet.run(5_000)
    node = fleet.nodes[0].peer
    node.replica.decisions.decide_area("t", "area")
    for _ in range(5):
        node.replica.drain(node.wall_ms)
        node.sql("UPDATE t SET n = n + 1 WHERE uid IN (1, 30, 60)")
        areas = node.replica.tables["t"].areas
        assert areas is None or areas.idle
        assert "mycomesh_area\0t\x001" not in node.replica.digest_pairs()
        fleet.nodes[0].reopen()
    fleet.part(0)
    fleet.link_all()
    fleet.do(fleet.nodes[0], CommitSeen())
    fleet.run(60_000)
    assert node.replica.tables["t"].areas.moved.entries >= 60
    assert fleet.rows(0) == sorted((n % 3 + 1, str(n), 5 * (n in (1, 30, 60))) for n in range(1, 61))
    assert fleet.rows(1) == [row for row in fleet.rows(0) if row[0] == 1]
    fleet.check_shared()
    fleet.check_sums()
    assert node.scrub().found == 0


def test_entries_with_another_site_move_on(whole, monkeypatch):
    monkeypatch.setattr("mycomesh.sync.replication.outbox.STEP_ENTRIES", 7)
    fleet = whole([None, None])
    fleet.part(0)
    node = fleet.nodes[0].peer
    node.sql("INSERT INTO t SELECT value % 3 + 1, value, 0 FROM json_each(?)", str([*range(1, 41)]))
    node.sql("CREATE TABLE other(id INTEGER PRIMARY KEY, x)")
    node.drain()
    node.replica.decisions.decide_area("t", "area")
    for _ in range(3):
        node.replica.drain(node.wall_ms)
    assert node.replica.tables["t"].areas.moving
    assert 0 < node.replica.tables["t"].areas.moved.entries < 40
    peer = fleet.nodes[1].peer
    peer.sql("CREATE TABLE other(id INTEGER PRIMARY KEY, x); INSERT INTO other VALUES(1, 'meanwhile')")
    node.take(peer.drain(), origin=peer.node_id)
    assert node.sql("SELECT x FROM other") == [("meanwhile",)]
    assert node.replica.tables["t"].areas.moving  # no merge waits for it
    node.replica.outbox.set_clock_back(0, node.wall_ms)
    fleet.link_all()
    fleet.do(fleet.nodes[0], CommitSeen())
    fleet.run(60_000)
    table = node.replica.tables["t"]
    assert {table.areas.of(number) for number in table.log.site_numbers()} == set(AREAS)
    assert fleet.rows(0) == fleet.rows(1)
    assert len(fleet.rows(0)) == 40
    fleet.check_shared()
    fleet.check_sums()


def test_two_cuts_park_the_table_in_one_line(whole):
    fleet = whole([None, None, None], "CREATE TABLE t(area INTEGER, uid TEXT, n INTEGER, PRIMARY KEY(area, uid))")
    fleet.write(fleet.nodes[0], "INSERT INTO t VALUES(1, 'a', 0), (2, 'b', 0)")
    fleet.run(5_000)
    fleet.part(0)
    fleet.divide(0, "uid")
    fleet.run(2_000)
    fleet.divide(1)
    fleet.write(fleet.nodes[0], "INSERT INTO t VALUES(1, 'c', 0)")
    fleet.link_all()
    fleet.run(60_000)
    note = fleet.nodes[0].peer.replica.registry.notes.by_name()["t"]
    assert note.startswith("it was cut by uid here, and by area on the mesh")
    assert fleet.rows(0) == [(1, "a", 0), (1, "c", 0), (2, "b", 0)]
    assert fleet.rows(1) == fleet.rows(2) == [(1, "a", 0), (2, "b", 0)]
    fleet.write(fleet.nodes[1], "INSERT INTO t VALUES(1, 'd', 0)")
    fleet.run(10_000)
    assert fleet.rows(2) == [(1, "a", 0), (1, "d", 0), (2, "b", 0)]
    assert [node.dropped for node in fleet.nodes] == [[], [], []]


def test_a_file_with_rows_of_its_own_joins_late(whole, tmp_path):
    fleet = whole([None, None])
    fleet.write(fleet.nodes[0], "INSERT INTO t VALUES(1, 'a', 0), (2, 'b', 0)")
    fleet.run(5_000)
    fleet.divide(0)
    fleet.run(5_000)
    path = tmp_path / "own.db"
    own = apsw.Connection(str(path))
    own.execute(f"{KEYED}; INSERT INTO t VALUES(1, 'a', 7), (3, 'c', 7), (NULL, 'd', 7)")
    own.close()
    late = Node(Peer(path, 5, config=ReplicaConfig(interest=interest(None))))
    fleet.nodes.append(late)
    fleet.keeps.append(None)
    fleet.do(late, CommitSeen())
    fleet.link_all()
    fleet.run(60_000)
    expected = [(None, "d", 7), (1, "a", 0), (2, "b", 0), (3, "c", 7)]  # rows from before the mesh lose to all others
    assert [fleet.rows(number) for number in range(3)] == [expected] * 3
    fleet.write(late, "UPDATE t SET n = 8 WHERE uid = 'c'")
    fleet.run(10_000)
    assert fleet.rows(0)[3] == (3, "c", 8)
    fleet.check_shared()
    fleet.check_sums()


def test_a_reader_goes_on_where_it_was(whole):
    fleet = whole([None, None])
    one, two = fleet.nodes
    fleet.write(one, "INSERT INTO t VALUES(1, 'a', 0), (2, 'b', 0)")
    fleet.run(5_000)
    feed = one.peer.replica.feed
    feed.create("reader", "t", one.peer.wall_ms)
    page, _ = feed.read("t", feed.position("reader", "t"), one.peer.wall_ms)
    assert len(page.changes) == 2
    feed.move("reader", "t", page.position, one.peer.wall_ms)
    fleet.part(1)
    fleet.write(two, "INSERT INTO t VALUES(1, 'late', 0)")
    fleet.divide(0)
    fleet.run(2_000)
    page, _ = feed.read("t", feed.position("reader", "t"), one.peer.wall_ms)
    assert page.changes == []
    fleet.link_all()
    fleet.run(60_000)
    fleet.write(one, "INSERT INTO t VALUES(2, 'c', 1)")
    page, _ = feed.read("t", feed.position("reader", "t"), one.peer.wall_ms)
    assert sorted(change.values["uid"] for change in page.changes) == ["c", "late"]


def test_what_a_pin_removed_is_not_claimed(whole):
    fleet = whole([None, None, None])
    one, two, three = fleet.nodes
    for node in fleet.nodes:
        confirm(fleet, node)
    retain(fleet, one, "t", 7 * DAY_MS, "n")
    young = (WALL_MS - DAY_MS) // 1_000
    fleet.write(one, f"INSERT INTO t VALUES(1, 'old', {young}), (9, 'alone', {young})")
    fleet.run(5_000)
    pin(fleet, two, "t", HOUR_MS)
    fleet.run(60_000)
    assert fleet.rows(1) == []
    kept = fleet.rows(0)
    fleet.divide(2)
    fleet.run(60_000)
    assert two.peer.replica.tables["t"].areas.moved.tops.keys() == {one.peer.replica.site}
    assert fleet.rows(0) == fleet.rows(2) == kept
    assert fleet.rows(1) == []
    fleet.write(two, f"INSERT INTO t VALUES(9, 'new', {WALL_MS // 1_000})")
    fleet.run(10_000)
    assert fleet.rows(0) == fleet.rows(2) == sorted([*kept, (9, "new", WALL_MS // 1_000)])
    pin(fleet, two, "t", 0)
    fleet.run(90_000)
    assert fleet.rows(1) == fleet.rows(0)
    assert three.dropped == []


def test_nodes_that_share_no_area_are_equal(whole):
    fleet = whole([("1",), ("2",)])
    fleet.write(fleet.nodes[0], "INSERT INTO t VALUES(1, 'a', 0), (2, 'b', 0)")
    fleet.run(5_000)
    fleet.divide(0)
    fleet.run(90_000)
    for node in fleet.nodes:
        [link] = node.exchange.links(fleet.now)
        assert link.equal
        assert "t" in dict(link.equal_ms)


def test_a_column_that_folds_texts_is_refused(whole):
    fleet = whole([None], "CREATE TABLE t(area TEXT COLLATE NOCASE, uid TEXT, n INTEGER, PRIMARY KEY(area, uid))")
    fleet.write(fleet.nodes[0], "INSERT INTO t VALUES('A', 'a', 0)")
    with pytest.raises(PolicyError, match=r"t\.area compares by NOCASE"):
        fleet.nodes[0].peer.replica.decisions.decide_area("t", "area")


def test_a_column_of_too_many_values_is_refused(whole, monkeypatch):
    monkeypatch.setattr("mycomesh.sync.admin.decisions.NODE_AREA_SITES_MAX", 3)
    fleet = whole([None])
    fleet.write(fleet.nodes[0], "INSERT INTO t VALUES(1, 'a', 0), (2, 'b', 0), (3, 'c', 0), (4, 'd', 0)")
    with pytest.raises(PolicyError, match=r"t\.area has more than 3 values"):
        fleet.nodes[0].peer.replica.decisions.decide_area("t", "area")
    fleet.write(fleet.nodes[0], "DELETE FROM t WHERE area = 4")
    fleet.divide(0)
    assert fleet.nodes[0].peer.replica.tables["t"].areas.known() == ["1", "2", "3", "4"]  # the delete is of one too


def test_sites_made_up_for_a_cut_stop_no_move(whole):
    fleet = whole([None, None])
    one, liar = fleet.nodes
    fleet.part(1)
    fleet.write(one, "INSERT INTO t VALUES(1, 'a', 0), (2, 'b', 0)")
    site = liar.peer.node_id[:8] + b"inventor"
    twin = mixed_site(site, "t", "area", "1")
    hlc = one.peer.replica.store.clock.last
    for each, uid in ((site, "c"), (twin, "d"), (mixed_site(twin, "t", "area", "2"), "e")):
        group = Group(each, Kind.INSERT, ("area", "n", "uid"), [hlc], None, [[1, 0, uid]], None)
        batch = Bundle([Section("t", [(each, 0, hlc)], [group])]).encode()
        one.peer.take([batch], origin=liar.peer.node_id)
    assert [uid for _, uid, _ in fleet.rows(0)] == ["a", "c", "d", "e", "b"]
    fleet.divide(0)
    fleet.run(30_000)
    assert not one.peer.replica.tables["t"].areas.moving
    assert one.peer.scrub().done
    fleet.link_all()
    fleet.run(60_000)
    assert fleet.rows(0) == fleet.rows(1)
    assert {"a", "b"} <= {uid for _, uid, _ in fleet.rows(0)}
    fleet.check_sums()


def test_a_fact_of_rows_cuts_no_keyless_table(whole):
    fleet = whole([None], "CREATE TABLE t(area INTEGER, uid TEXT, n INTEGER)")
    node = fleet.nodes[0].peer
    fleet.write(fleet.nodes[0], "INSERT INTO t VALUES(1, 'a', 0)")
    with node.replica.store.transaction():
        node.replica.catalog.decide(area_fact("t", "area", rows=True))
    fleet.do(fleet.nodes[0], CommitSeen())
    fleet.write(fleet.nodes[0], "INSERT INTO t VALUES(2, 'b', 0)")
    table = node.replica.tables["t"]
    assert table.areas.moved is None
    assert table.areas.known() == ["2"]


def test_the_site_of_an_area_leads_back():
    site = bytes(range(16))
    mixed = mixed_site(site, "t", "area", "7")
    assert mixed[:8] == site[:8]
    assert mixed != site
    assert mixed_site(mixed, "t", "area", "7") == site
    assert len({mixed, mixed_site(site, "t", "area", "8"), mixed_site(site, "t", "uid", "7")}) == 3


class LateHistory(History):
    """A history in which one node decides at some moment that the table is cut."""

    def __init__(self, fleet, rng, nullable):
        super().__init__(fleet, rng)
        self.decided_at = rng.randrange(20, 90)
        self.areas = (*AREAS, "NULL") if nullable else AREAS
        self.steps = 0

    def step(self):
        fleet, rng = self.fleet, self.rng
        self.steps += 1
        number = rng.randrange(len(fleet.nodes))
        if self.steps == self.decided_at:
            fleet.divide(number)
        elif rng.random() < 0.15:  # one row that several nodes insert, each without the others
            uid = f"s{rng.randrange(3)}"
            fleet.write(fleet.nodes[number], f"REPLACE INTO t VALUES({rng.choice(AREAS)}, ?, {self.steps})", uid)
            self.unsure.add(uid)
        else:
            super().step()

    def finish(self, keeps):
        super().finish(keeps)
        moved = {node.peer.replica.tables["t"].areas.moved is not None for node in self.fleet.nodes}
        assert len(moved) == 1


@pytest.mark.each_value
@pytest.mark.parametrize("definition", [KEYED, NOT_NULL], ids=["nullable", "not-null"])
@pytest.mark.parametrize("seed", sweep(range(60), 4))
def test_random_histories_agree_on_areas_cut_late(whole, seed, definition):
    rng = random.Random(seed)
    history = LateHistory(
        whole([None, ("1",), ("2",), ("1", "3")], definition, counter=seed % 3 == 0), rng, definition is KEYED
    )
    for _ in range(120):
        history.step()
    history.finish([None, ("1",), ("2",), ("1", "2", "3")])


def test_full_disk_while_a_table_is_cut_at_opening(tmp_path, monkeypatch):
    peer = Peer(tmp_path / "0.db", 0)
    peer.sql("CREATE TABLE t(area INTEGER, uid TEXT, n, PRIMARY KEY(area, uid)); INSERT INTO t VALUES(1, 'a', 0)")
    peer.drain()
    peer.replica.decisions.decide_area("t", "area")
    peer.close()
    peer.config = ReplicaConfig(interest=interest(None))
    with monkeypatch.context() as patch:
        patch.setattr(Store, "_commit", full)
        with pytest.raises(DatabaseError, match="the disk is full"):
            peer.open()
    peer.open()
    assert peer.replica.tables["t"].areas_by == "area"
    peer.close()


def full(_):
    raise apsw.FullError("the disk is full")


def test_keys_with_several_texts_cut_nothing(whole):
    fleet = whole([None], "CREATE TABLE t(area, uid TEXT, n, PRIMARY KEY(area, uid))")
    with pytest.raises(
        PolicyError, match=r"t\.area compares values of any type, as 7 and 7\.0, so one key has several texts"
    ):
        fleet.divide(0)
    fleet.write(fleet.nodes[0], "CREATE TABLE u(area TEXT COLLATE NOCASE, uid TEXT, PRIMARY KEY(area, uid))")
    with pytest.raises(PolicyError, match=r"u\.area compares by NOCASE"):
        fleet.nodes[0].peer.replica.decisions.decide_area("u", "area")


def test_another_text_of_one_key_ends_no_link(whole, monkeypatch):
    """Earlier versions cut such tables: an honest update makes a row of one area whose key says another one."""
    fleet = whole([None, None], "CREATE TABLE t(area, uid TEXT, n, PRIMARY KEY(area, uid)); CREATE TABLE u(x)")
    monkeypatch.setattr(decisions, "new_cut_refusal", lambda *_: "")
    fleet.divide(0)
    fleet.run(5_000)
    fleet.write(fleet.nodes[0], "INSERT INTO t VALUES(7, 'a', 0)")
    fleet.run(2_000)
    fleet.write(fleet.nodes[0], "UPDATE t SET area = 7.0")
    fleet.run(30_000)
    fleet.write(fleet.nodes[0], "INSERT INTO u VALUES('goes on')")
    fleet.run(30_000)
    assert fleet.nodes[1].sql("SELECT x FROM u") == [("goes on",)]
    assert [node.dropped for node in fleet.nodes] == [[], []]


def test_a_table_with_areas_takes_no_other_policy(whole):
    fleet = whole([None])
    fleet.divide(0)
    decide = fleet.nodes[0].peer.replica.decisions.decide_policy
    for policy in ("signed", "keep-both"):
        with pytest.raises(PolicyError, match=f"t is cut into areas, which a {policy} table cannot be"):
            decide("t", policy)
    fleet.write(fleet.nodes[0], "CREATE TABLE u(id INTEGER PRIMARY KEY, v)")
    decide("u", "keep-both")
    fleet.do(fleet.nodes[0], CommitSeen())
    with pytest.raises(PolicyError, match="u is keep-both, which finds a row by its insert"):
        fleet.nodes[0].peer.replica.decisions.decide_area("u", "id")
