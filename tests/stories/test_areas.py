"""Tables that are cut into areas, on real files and exchanges: nodes of different interest agree on what they share."""

from __future__ import annotations

import random
import shutil
from collections import Counter

import pytest

from mycomesh.sync.capture import drain
from mycomesh.sync.errors import MigrationError
from mycomesh.sync.events import CommitSeen, MembersKnown
from mycomesh.sync.exchange.area_release import SITES_ASKED_MAX, AreaRelease
from mycomesh.sync.replica import ReplicaConfig
from mycomesh.sync.replication.inbox import Inbox
from mycomesh.sync.replication.rights import Rights
from mycomesh.sync.replication.table_settings import TableSetting
from mycomesh.sync.storage.areas import Areas
from mycomesh.sync.wire.interest import Interest
from mycomesh.sync.wire.units import unit_name
from tests.sync.exchanges import World
from tests.sync.peers import Peer
from tests.sync.scale import sweep

AREAS = ("1", "2", "3")
KEYLESS = "CREATE TABLE t(area INTEGER, uid TEXT, n INTEGER)"
KEYED = "CREATE TABLE t(area INTEGER, uid TEXT, n INTEGER, PRIMARY KEY(area, uid))"


def interest(areas):
    return Interest({} if areas is None else {"t": frozenset(areas)})


class Fleet(World):
    """Nodes that keep some areas each; None keeps the table whole."""

    @classmethod
    def begin(cls, folder, keeps, definition=KEYLESS):
        peers = [
            Peer(folder / f"{number}.db", number, config=ReplicaConfig(interest=interest(areas)))
            for number, areas in enumerate(keeps)
        ]
        fleet = cls(peers)
        first = fleet.nodes[0]
        fleet.write(first, definition)
        fleet.keeps = list(keeps)
        fleet.link_all()
        fleet.run(3_000)
        first.peer.replica.decisions.decide_area("t", "area")
        fleet.do(first, CommitSeen())
        fleet.run(3_000)
        return fleet

    def link_all(self):
        linked = {frozenset((id(node), id(self.links[other][0]))) for node, other in self.links.values()}
        for number, one in enumerate(self.nodes):
            for two in self.nodes[number + 1 :]:
                if frozenset((id(one), id(two))) not in linked:
                    self.link(one, two)
        self.know_members()

    def know_members(self):
        for node in self.nodes:
            others = tuple((other.peer.node_id, 0) for other in self.nodes if other is not node)
            self.do(node, MembersKnown(others))

    def keep(self, number, areas):
        self.keeps[number] = areas
        peer = self.nodes[number].peer
        peer.config = ReplicaConfig(interest=interest(areas))
        peer.replica.set_interest(interest(areas))

    def is_kept(self, number, area):
        return self.keeps[number] is None or area in self.keeps[number]

    def rows(self, number, area=None):
        where = "" if area is None else f"WHERE area = {area}"
        return self.nodes[number].sql(f"SELECT area, uid, n FROM t {where} ORDER BY area, uid, n")

    def unit(self, number, area):
        return self.nodes[number].peer.replica.registry.unit(unit_name("t", area))

    def check_sums(self):
        """The sums in memory are those of a scan."""
        for node in self.nodes:
            table = node.peer.replica.tables["t"]
            scanned = Areas(table.store, table.table_id, "t", "area", table.coverage)
            scanned.load(table.log.name, table.log.runs.name)
            assert {area: table.areas.digest(area) for area in table.areas.known()} == {
                area: scanned.digest(area) for area in scanned.known()
            }

    def check_unrepaired(self):
        """No two nodes covered the same and held something else: only damage is repaired."""
        assert [notice for node in self.nodes for notice in node.noticed() if notice == "repair.done"] == []

    def check_shared(self):
        """All that keep an area have it equal, and nobody else has rows of it once enough do."""
        for area in AREAS:
            keepers = [number for number in range(len(self.nodes)) if self.is_kept(number, area)]
            for number in keepers:
                assert self.rows(number, area) == self.rows(keepers[0], area), (area, number)
                one, two = self.unit(number, area), self.unit(keepers[0], area)
                assert (one.digest, one.vector_digest) == (two.digest, two.vector_digest), (area, number)
            if len(keepers) >= 2:
                others = [number for number in range(len(self.nodes)) if number not in keepers]
                assert [number for number in others if self.rows(number, area)] == [], area


@pytest.fixture
def fleet_of(tmp_path):
    fleets = []

    def begin(keeps, definition=KEYLESS):
        fleets.append(Fleet.begin(tmp_path, keeps, definition))
        return fleets[-1]

    yield begin
    for fleet in fleets:
        fleet.close()


def test_what_nobody_has_holds_up_no_release(fleet_of):
    """Its writer has gone with it, so all that cover the writer's later rows have a gap before them."""
    fleet = fleet_of([None] * 4)
    writer = fleet.nodes[3]
    fleet.write(writer, "INSERT INTO t VALUES(1, 'seen', 0)")
    fleet.run(2_000)
    fleet.publishing = False
    fleet.write(writer, "INSERT INTO t VALUES(1, 'lost', 0)")
    fleet.publishing = True
    fleet.write(writer, "INSERT INTO t VALUES(1, 'after', 0)")
    fleet.run(100)  # too short for a round
    for link in [link for link, (node, _) in fleet.links.items() if node is writer]:
        fleet.cut(link)
    gone = fleet.nodes.pop()
    fleet.know_members()
    fleet.keep(2, ("2",))
    fleet.run(60_000)
    fleet.check_shared()
    assert fleet.rows(0) == fleet.rows(1) == [(1, "after", 0), (1, "seen", 0)]
    assert fleet.rows(2) == []
    fleet.nodes.append(gone)  # to be closed


def test_a_node_stores_only_what_it_keeps(fleet_of):
    fleet = fleet_of([None, ("1",), ("2",)])
    fleet.write(fleet.nodes[0], "INSERT INTO t VALUES(1, 'a', 0), (2, 'b', 0), (3, 'c', 0), (NULL, 'd', 0)")
    fleet.run(20_000)
    assert fleet.rows(1) == [(None, "d", 0), (1, "a", 0)]
    assert fleet.rows(2) == [(None, "d", 0), (2, "b", 0)]
    fleet.check_shared()
    fleet.check_sums()


def test_own_writes_elsewhere_go_once_two_have_them(fleet_of):
    fleet = fleet_of([None, ("1",), ("1", "2")])
    fleet.write(fleet.nodes[1], "INSERT INTO t VALUES(2, 'mine', 0), (3, 'alone', 0)")
    fleet.run(60_000)
    assert fleet.rows(1) == [(3, "alone", 0)]  # only one other node keeps area 3
    assert fleet.rows(0) == [(2, "mine", 0), (3, "alone", 0)]
    fleet.write(fleet.nodes[1], "INSERT INTO t VALUES(2, 'again', 0)")
    fleet.run(60_000)
    assert fleet.rows(2) == [(2, "again", 0), (2, "mine", 0)]
    fleet.check_shared()
    assert not fleet.unit(1, "2").has_entries


def test_a_late_batch_claims_nothing_released(fleet_of):
    fleet = fleet_of([None, ("1",), ("1", "2"), ("2",)])
    late = fleet.nodes[3]
    for link in [link for link, (node, _) in fleet.links.items() if node is late]:
        fleet.cut(link)
    fleet.write(fleet.nodes[1], "INSERT INTO t VALUES(2, 'first', 0)")
    fleet.run(60_000)
    assert fleet.rows(1) == []
    fleet.link(fleet.nodes[1], late)  # which has missed the first write, and gets the next one from its writer alone
    fleet.write(fleet.nodes[1], "INSERT INTO t VALUES(2, 'second', 0)")
    fleet.run(1_000)
    fleet.link_all()
    fleet.run(60_000)
    assert fleet.rows(3) == fleet.rows(0, 2) == [(2, "first", 0), (2, "second", 0)]
    fleet.check_unrepaired()


def test_nothing_passed_on_is_claimed(fleet_of):
    fleet = fleet_of([None, ("1",), ("2",)])
    late = fleet.nodes[2]
    for link in [link for link, (node, _) in fleet.links.items() if node is late]:
        fleet.cut(link)
    fleet.write(fleet.nodes[0], "INSERT INTO t VALUES(2, 'a', 0)")
    fleet.run(5_000)
    fleet.link(fleet.nodes[1], late)
    fleet.run(20_000)
    assert fleet.rows(2) == []
    fleet.link_all()
    fleet.run(60_000)
    assert fleet.rows(2) == [(2, "a", 0)]
    fleet.check_unrepaired()


def test_changed_interest_fills_and_frees(fleet_of):
    fleet = fleet_of([None, None, ("1",)])
    numbers = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 600)"
    fleet.write(fleet.nodes[0], f"{numbers} INSERT INTO t SELECT i % 3 + 1, i, 0 FROM c")
    fleet.run(20_000)
    fleet.keep(2, ("2", "3"))
    fleet.link_all()
    fleet.run(90_000)
    assert {area for area, _, _ in fleet.rows(2)} == {2, 3}
    fleet.check_shared()
    fleet.check_sums()


def test_a_row_moves_with_its_area(fleet_of):
    fleet = fleet_of([None, ("1",), ("2",)])
    fleet.write(fleet.nodes[0], "INSERT INTO t VALUES(1, 'a', 7)")
    fleet.run(20_000)
    fleet.write(fleet.nodes[1], "UPDATE t SET n = 8")
    fleet.run(20_000)
    fleet.write(fleet.nodes[0], "UPDATE t SET area = 2")
    fleet.run(20_000)
    assert [fleet.rows(number) for number in range(3)] == [[(2, "a", 8)], [], [(2, "a", 8)]]


def test_rows_from_before_stay_until_they_move(tmp_path):
    peers = [
        Peer(tmp_path / f"{number}.db", number, config=ReplicaConfig(interest=interest(areas)))
        for number, areas in enumerate([None, ("1",)])
    ]
    fleet = Fleet(peers)
    fleet.write(fleet.nodes[0], f"{KEYLESS}; INSERT INTO t VALUES(1, 'a', 0), (2, 'b', 0)")
    fleet.keeps = [None, ("1",)]
    fleet.link_all()
    fleet.run(5_000)
    peers[0].replica.decisions.decide_area("t", "area")
    fleet.do(fleet.nodes[0], CommitSeen())
    fleet.run(5_000)
    assert fleet.rows(1) == [(1, "a", 0), (2, "b", 0)]
    fleet.write(fleet.nodes[0], "UPDATE t SET n = 1 WHERE uid = 'b'")
    fleet.run(5_000)
    assert fleet.rows(1) == [(1, "a", 0), (2, "b", 1)]
    fleet.write(fleet.nodes[0], "UPDATE t SET area = 3 WHERE uid = 'b'")
    fleet.run(20_000)
    assert fleet.rows(1) == [(1, "a", 0)]
    fleet.close()


def test_a_version_without_areas_lacks_them(tmp_path):
    peers = [
        Peer(tmp_path / "0.db", 0, config=ReplicaConfig(interest=interest(None))),
        Peer(tmp_path / "1.db", 1),
    ]
    fleet = Fleet(peers)
    fleet.write(fleet.nodes[0], KEYLESS)
    fleet.link_all()
    fleet.run(5_000)
    peers[0].replica.decisions.decide_area("t", "area")
    fleet.do(fleet.nodes[0], CommitSeen())
    fleet.write(fleet.nodes[0], "INSERT INTO t VALUES(1, 'a', 0), (NULL, 'b', 0)")
    fleet.run(30_000)
    assert fleet.rows(1) == [(None, "b", 0)]
    assert [node.dropped for node in fleet.nodes] == [[], []]
    peers[1].config = ReplicaConfig(interest=interest(None))
    for link in list(fleet.links):
        fleet.cut(link)
    fleet.nodes[1].reopen()
    fleet.link_all()
    fleet.run(30_000)
    assert fleet.rows(1) == fleet.rows(0) == [(None, "b", 0), (1, "a", 0)]
    fleet.close()


def test_many_areas_are_asked_about_in_turn(fleet_of):
    fleet = fleet_of([None, None, ()])
    rows = ", ".join(f"({number}, 'x', 0)" for number in range(3 * SITES_ASKED_MAX))
    fleet.write(fleet.nodes[2], f"INSERT INTO t VALUES {rows}")
    fleet.run(12_000)
    assert len(fleet.rows(2)) == 2 * SITES_ASKED_MAX
    fleet.run(100_000)
    assert fleet.rows(2) == []
    assert len(fleet.rows(0)) == 3 * SITES_ASKED_MAX
    assert [node.dropped for node in fleet.nodes] == [[], [], []]


def test_an_area_leaves_free_space_of_its_own(fleet_of, monkeypatch):
    fleet = fleet_of([None, None])
    floors = (TableSetting("T[1]", free_bytes_min=10), TableSetting("t[*]", free_bytes_min=1_000))
    for link in list(fleet.links):
        fleet.cut(link)
    full = fleet.nodes[1]
    full.peer.config = ReplicaConfig(interest=interest(None), tables=floors)
    take_free_space = Inbox.on_free_space
    monkeypatch.setattr(Inbox, "on_free_space", lambda *_: None)  # the machine's own disk
    full.reopen()
    take_free_space(full.peer.replica.inbox, 500)
    fleet.link_all()
    fleet.write(fleet.nodes[0], "INSERT INTO t VALUES(1, 'matters', 0), (2, 'waits', 0), (NULL, 'base', 0)")
    fleet.run(30_000)
    assert [uid for _, uid, _ in fleet.rows(1)] == ["base", "matters"]
    note = next(each.note for each in full.peer.replica.status().tables if each.name == "t")
    assert "free_mb_min" in note
    assert not fleet.unit(1, "2").vector.count
    take_free_space(full.peer.replica.inbox, 1_000)
    fleet.run(60_000)
    fleet.check_shared()


@pytest.mark.parametrize("kept", [None, ("2",)], ids=["kept all", "had stopped to keep it"])
def test_rows_of_an_area_whose_right_is_lost_go(fleet_of, kept):
    fleet = fleet_of([None, None, kept and ("1", "2")])
    member = fleet.nodes[2]
    fleet.write(fleet.nodes[0], "INSERT INTO t VALUES(1, 'a', 0), (2, 'b', 0)")
    fleet.write(member, "INSERT INTO t VALUES(1, 'own', 0)")
    fleet.run(20_000)
    assert [uid for _, uid, _ in fleet.rows(2)] == ["a", "own", "b"]
    member.sql("INSERT INTO t VALUES(1, 'refused', 0)")  # before it knows, so nobody takes it
    grants = ((member.peer.node_id, (("t[2]", "r"), ("mycomesh_schema", "r"))),)
    for node in fleet.nodes:
        node.peer.replica.set_rights(Rights(node.peer.node_id, grants))
    if kept:
        fleet.keep(2, kept)
    fleet.do(member, CommitSeen())
    fleet.run(60_000)
    assert [uid for _, uid, _ in fleet.rows(2, 1)] == ["a", "own", "refused"], "others do not have all of it"
    member.sql("DELETE FROM t WHERE uid = 'refused'")
    for node in fleet.nodes:
        node.peer.replica.set_rights(Rights(node.peer.node_id))
    fleet.do(member, CommitSeen())
    fleet.run(5_000)
    for node in fleet.nodes:
        node.peer.replica.set_rights(Rights(node.peer.node_id, grants))
    fleet.write(fleet.nodes[0], "UPDATE t SET n = 1")
    fleet.run(120_000)
    assert fleet.rows(2) == [(2, "b", 1)]
    assert [uid for _, uid, _ in fleet.rows(0)] == [uid for _, uid, _ in fleet.rows(1)] == ["a", "own", "b"]


def test_liars_count_only_where_they_may_write(fleet_of):
    fleet = fleet_of([None, None, None, ("3",)])
    writer, liars = fleet.nodes[3], fleet.nodes[1:3]
    grants = tuple((liar.peer.node_id, (("t[1]", "rw"), ("*", "r"))) for liar in liars)
    writer.peer.replica.set_rights(Rights(writer.peer.node_id, grants))
    for link in [link for link, (node, _) in fleet.links.items() if node is fleet.nodes[0]]:
        fleet.cut(link)
    fleet.write(writer, "INSERT INTO t VALUES(1, 'theirs', 0), (2, 'not theirs', 0)")
    fleet.run(60_000)
    # Both say that they have all. They may write area 1, so the writer relies on them; for area 2 it waits for node 0.
    assert [uid for _, uid, _ in fleet.rows(3)] == ["not theirs"]
    writer.peer.replica.set_rights(Rights(writer.peer.node_id))
    fleet.run(60_000)
    assert fleet.rows(3) == []


# ---- each rule is needed: without it a test above fails


def _forget_tops(areas, site):
    del areas, site


def _claim_forwarded(inbox, section):
    unit = inbox._registry.unit(section.table)
    if unit is not None and not inbox._registry.keeps(section.table):
        for site, after, upto in section.rest.ranges:
            unit.table.areas.learn(site, unit.area)
            unit.table.coverage.cover(site, after, upto)
        return False
    return TAKES(inbox, section)


TAKES = Inbox._takes
BROKEN = {
    "a release forgets how far it had published": (
        Areas,
        "keep_top",
        _forget_tops,
        test_a_late_batch_claims_nothing_released,
    ),
    "what is passed on is covered": (Inbox, "_takes", _claim_forwarded, test_nothing_passed_on_is_claimed),
    "a row stays where it was": (drain, "has_moved", lambda *_: False, test_a_row_moves_with_its_area),
    "one copy is enough": (AreaRelease, "_needed", lambda *_: 1, test_own_writes_elsewhere_go_once_two_have_them),
}


@pytest.mark.parametrize("bug", sorted(BROKEN))
def test_a_broken_rule_is_found(fleet_of, monkeypatch, bug):
    owner, name, wrong, finds = BROKEN[bug]
    monkeypatch.setattr(owner, name, wrong)
    with pytest.raises(AssertionError):
        finds(fleet_of)


# ---- random histories


class History:
    """Random writes, cuts, restarts, changes of interest and one restored backup, and what must come out of them."""

    def __init__(self, fleet, rng):
        self.fleet = fleet
        self.rng = rng
        self.made = Counter()
        self.lives = {}  # uid -> the node that inserted it, of rows that nobody has deleted or moved
        self.ended = set()  # rows that were deleted, and never moved
        self.unsure = set()  # rows about which a restored node may have forgotten something
        self.written = {}  # node -> rows that it has touched since its backup
        self.backup = None
        self.areas = (*AREAS, "NULL")

    def step(self):
        fleet, rng = self.fleet, self.rng
        number = rng.randrange(len(fleet.nodes))
        kind = rng.choices(
            ("insert", "update", "delete", "move", "link", "cut", "keep", "reopen", "run", "backup", "restore"),
            (30, 15, 8, 8, 10, 8, 6, 2, 20, 2, 2),
        )[0]
        self.made[kind] += 1
        node = fleet.nodes[number]
        match kind:
            case "insert":
                uid = f"{number}-{self.made[kind]}"
                area = rng.choice(self.areas)
                fleet.write(node, f"INSERT INTO t VALUES({area}, ?, 0)", uid)
                self.lives[uid] = number
                self._touch(number, uid)
            case "update" | "delete" | "move":
                self._edit(kind, number)
            case "link":
                other = rng.choice([each for each in fleet.nodes if each is not node])
                if not any(fleet.links[far][0] is other for near, far in fleet.links.values() if near is node):
                    fleet.link(node, other)
            case "cut" if fleet.links:
                fleet.cut(rng.choice(sorted(fleet.links)))
            case "keep":
                fleet.keep(number, rng.choice((None, (), ("1",), ("2",), ("1", "3"), ("2", "3"))))
                fleet.know_members()
            case "reopen":
                self._unlink(node)
                node.reopen()
                fleet.do(node, CommitSeen())
                fleet.know_members()
            case "run":
                fleet.run(rng.choice((50, 1_000, 15_000, 40_000)))
            case "backup" if self.backup is None:
                node.peer.close()
                copy = node.peer.path.with_suffix(".backup")
                shutil.copy(node.peer.path, copy)
                node.peer.open()
                self._unlink(node)
                node.begin()
                fleet.do(node, CommitSeen())
                fleet.know_members()
                self.backup = number, copy
                self.written[number] = set()
            case "restore" if self.backup is not None and "restored" not in self.made:
                self._restore()

    def _edit(self, kind, number):
        node, rng = self.fleet.nodes[number], self.rng
        rows = self.fleet.rows(number)
        if not rows:
            return
        area, uid, _ = rng.choice(rows)
        if uid is None:
            return
        where = "WHERE uid = ? AND area IS ?"
        if kind == "update":
            self.fleet.write(node, f"UPDATE t SET n = n + 1 {where}", uid, area)
        elif kind == "delete":
            self.fleet.write(node, f"DELETE FROM t {where}", uid, area)
            if self.lives.pop(uid, None) is not None:
                self.ended.add(uid)
        else:
            target = rng.choice([each for each in (1, 2, 3) if each != area])
            if any(row[:2] == (target, uid) for row in rows):
                return
            self.fleet.write(node, f"UPDATE t SET area = {target} {where}", uid, area)
            self.lives.pop(uid, None)
            self.ended.discard(uid)
            self.unsure.add(uid)
        self._touch(number, uid)

    def _touch(self, number, uid):
        for each in self.written:
            if each == number:
                self.written[each].add(uid)

    def _unlink(self, node):
        for link in [link for link, (owner, _) in sorted(self.fleet.links.items()) if owner is node]:
            self.fleet.cut(link)

    def _restore(self):
        number, copy = self.backup
        node = self.fleet.nodes[number]
        self.made["restored"] = 1
        self._unlink(node)
        noted = node.peer.replica.noted
        node.peer.close()
        for suffix in ("-wal", "-shm"):
            node.peer.path.with_name(node.peer.path.name + suffix).unlink(missing_ok=True)
        shutil.copy(copy, node.peer.path)
        node.peer.recalled = dict([noted])
        node.peer.open()
        node.begin()
        self.fleet.do(node, CommitSeen())
        self.fleet.know_members()
        self.unsure |= self.written[number]

    def finish(self, keeps):
        fleet = self.fleet
        for number, areas in enumerate(keeps):
            fleet.keep(number, areas)
        fleet.link_all()
        fleet.run(400_000)
        fleet.check_shared()
        fleet.check_sums()
        fleet.check_unrepaired()
        shown = {uid for number in range(len(fleet.nodes)) for _, uid, _ in fleet.rows(number)}
        assert sorted(set(self.lives) - self.unsure - shown) == []
        assert sorted((self.ended - self.unsure) & shown) == []
        assert [node.dropped for node in fleet.nodes] == [[] for _ in fleet.nodes]


@pytest.mark.each_value
@pytest.mark.parametrize("definition", [KEYLESS, KEYED], ids=["keyless", "keyed"])
@pytest.mark.parametrize("seed", sweep(range(40), 2))
def test_random_histories_agree_on_shared_areas(fleet_of, seed, definition):
    rng = random.Random(seed)
    history = History(fleet_of([None, ("1",), ("2",), ("1", "3")], definition), rng)
    for _ in range(120):
        history.step()
    history.finish([None, ("1",), ("2",), ("1", "2", "3")])


def test_the_column_of_areas_stays(fleet_of):
    fleet = fleet_of([None, ("1",)])
    one, two = fleet.nodes
    fleet.write(one, "INSERT INTO t VALUES(1, 'a', 0)")
    fleet.run(5_000)
    with pytest.raises(MigrationError, match="cut into areas by area, which has to stay"):
        one.peer.replica.migrate("ALTER TABLE t DROP COLUMN area", one.peer.wall_ms)
    one.peer.sql("ALTER TABLE t DROP COLUMN area")  # by hand, in this file alone
    fleet.do(one, CommitSeen())
    fleet.write(one, "INSERT INTO t(uid, n) VALUES('b', 0); UPDATE t SET n = 1")
    fleet.run(20_000)
    assert two.sql("SELECT area, uid, n FROM t ORDER BY uid") == [(1, "a", 1), (None, "b", 1)]
    assert one.sql("SELECT uid, n FROM t ORDER BY uid") == [("a", 1), ("b", 1)]
    fleet.write(two, "INSERT INTO t VALUES(1, 'c', 0)")
    fleet.run(20_000)
    assert one.sql("SELECT uid, n FROM t ORDER BY uid") == [("a", 1), ("b", 1), ("c", 0)]
    assert [node.dropped for node in fleet.nodes] == [[], []]
