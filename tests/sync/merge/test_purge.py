"""Purge of a revoked member's writes: what goes, what stays, what comes back, and that all replicas end equal."""

import random

import pytest

from mycomesh.sync.events import CommitSeen, RightsKnown
from mycomesh.sync.exchange.purge_schedule import ALONE_MS
from mycomesh.sync.merge.purge import Counted
from tests.sync.exchanges import World
from tests.sync.peers import Peer
from tests.sync.scale import SCALE, sweep
from tests.sync.signing import signing_peers

PERIOD_MS = 1_000
WALL_MS = 1_700_000_000_000  # before the machine's own time, so that each write is stamped with the virtual one
KEYED = "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b DEFAULT 'none', c)"
PURGED_ROWS = 2_000 if SCALE == 1 else 5_000


@pytest.fixture
def world(tmp_path):
    made = World([Peer(tmp_path / f"{number}.db", number, wall_ms=WALL_MS) for number in range(3)])
    yield made
    made.close()


def link_all(world, nodes=None):
    nodes = world.nodes if nodes is None else nodes
    return [world.link(one, two) for at, one in enumerate(nodes) for two in nodes[at + 1 :]]


def order(world, thief, since_ms, nodes=None):
    """Hands the signed order to nodes, as their mesh does."""
    for node in world.nodes if nodes is None else nodes:
        if node is not thief:
            known = RightsKnown(node.peer.node_id, (), (), ((thief.peer.node_id, since_ms),))
            world.do(node, known)


def now(world):
    return world.nodes[0].peer.wall_ms + world.now


def rows(node, listing="SELECT * FROM t ORDER BY 1, 2, 3"):
    return node.sql(listing)


def settle(world, ms=60_000):
    world.run(ms)


def test_an_order_waits_for_later_writes_of_others(world):
    one, two, thief = world.nodes
    links = link_all(world)
    world.write(one, KEYED)
    world.run(PERIOD_MS)
    since = now(world)
    world.write(thief, "INSERT INTO t VALUES(1, 'bad', 'bad', 'bad')")
    world.run(PERIOD_MS)
    world.write(two, "UPDATE t SET a = 'old'")
    world.run(PERIOD_MS)
    for link in links:
        world.cut(link)
    order(world, thief, since, [two])
    world.run(ALONE_MS + PERIOD_MS)
    world.write(two, "UPDATE t SET a = 'new'")
    world.run(PERIOD_MS)
    world.write(one, "UPDATE t SET b = 'mine'")
    world.run(PERIOD_MS)
    # The order comes with the link. With its later stamp, a row that is written again at once would bring the old value.
    order(world, thief, since, [one])
    world.link(one, two)
    settle(world)
    assert rows(one) == rows(two) == [(1, "new", "mine", None)]


def test_rows_and_cells_since_then_go(world):
    one, two, thief = world.nodes
    link_all(world)
    world.write(one, KEYED)
    world.run(PERIOD_MS)
    world.write(thief, "INSERT INTO t VALUES(1, 'before', 'before', 'before')")
    world.run(PERIOD_MS)
    since = now(world)
    world.write(thief, "INSERT INTO t VALUES(2, 'bad', 'bad', 'bad')")
    world.write(thief, "UPDATE t SET a = 'bad' WHERE id = 1")
    world.run(PERIOD_MS)
    assert rows(two)[0][1] == "bad"
    order(world, thief, since)
    settle(world, PERIOD_MS)
    for node in (one, two):
        assert rows(node) == [(1, None, "before", "before")]
        assert [notice.event for notice in node.notices].count("purge.done") == 1
    assert one.peer.digests() == two.peer.digests()
    lost = one.sql("SELECT lost, reason FROM mycomesh_conflicts ORDER BY seq")
    assert [text for text, _ in lost] == ['{"a": "bad", "b": "bad", "c": "bad", "id": 2}', '{"a": "bad"}'], lost


def test_a_node_that_was_away_brings_the_earlier_values(world):
    one, two, thief = world.nodes
    links = link_all(world)
    world.write(one, KEYED)
    world.write(one, "INSERT INTO t VALUES(1, 'good', 'good', 'good'), (2, 'good', 'good', 'good')")
    world.run(PERIOD_MS)
    for link in links[:1] + links[2:]:
        world.cut(link)  # the second node is alone
    since = now(world)
    world.write(thief, "UPDATE t SET a = 'bad' WHERE id = 1; DELETE FROM t WHERE id = 2")
    world.run(PERIOD_MS)
    assert rows(one) == [(1, "bad", "good", "good")]
    order(world, thief, since, [one])
    world.run(PERIOD_MS)
    assert rows(one) == [(1, None, "good", "good")]
    order(world, thief, since, [two])
    world.link(one, two)
    settle(world)
    assert rows(one) == rows(two) == [(1, "good", "good", "good"), (2, "good", "good", "good")]
    assert one.peer.digests() == two.peer.digests()


def test_rows_that_arrive_after_the_order_stay_out(world):
    one, two, thief = world.nodes
    world.write(one, KEYED)
    first = world.link(one, two)
    world.link(two, thief)
    world.run(PERIOD_MS)
    world.cut(first)
    since = now(world)
    world.write(thief, "INSERT INTO t VALUES(2, 'bad', 'bad', 'bad')")
    world.run(PERIOD_MS)
    order(world, thief, since, [one])
    world.link(one, two)  # has not heard of the order yet
    world.run(PERIOD_MS)
    assert rows(one) == []
    assert len(rows(two)) == 1
    order(world, thief, since, [two])
    settle(world)
    assert rows(two) == []
    assert one.peer.digests() == two.peer.digests()


def test_later_writes_of_others_stay(world):
    one, two, thief = world.nodes
    link_all(world)
    world.write(one, KEYED)
    world.run(PERIOD_MS)
    since = now(world)
    world.write(thief, "INSERT INTO t VALUES(1, 'bad', 'bad', 'bad'), (2, 'bad', 'bad', 'bad')")
    world.run(PERIOD_MS)
    world.write(one, "UPDATE t SET a = 'mine' WHERE id = 1")
    world.write(two, "REPLACE INTO t VALUES(2, 'whole', 'whole', 'whole')")
    world.run(PERIOD_MS)
    order(world, thief, since)
    settle(world)
    assert rows(one) == rows(two) == [(1, "mine", "none", None), (2, "whole", "whole", "whole")]
    assert one.peer.digests() == two.peer.digests()


def test_each_writer_restores_what_had_lost(world):
    one, two, thief = world.nodes
    links = link_all(world)
    world.write(one, KEYED)
    world.write(one, "INSERT INTO t VALUES(1, 'old', 'old', 'old'), (2, 'old', 'old', 'old')")
    world.run(PERIOD_MS)
    for link in links[1:]:
        world.cut(link)  # the thief is alone
    since = now(world)
    world.write(two, "UPDATE t SET a = 'mine' WHERE id = 1; UPDATE t SET b = 'mine' WHERE id = 2")
    world.run(PERIOD_MS)
    world.write(thief, "UPDATE t SET a = 'bad' WHERE id = 1; DELETE FROM t WHERE id = 2")
    link_all(world, [one, thief])
    world.link(two, thief)
    world.run(PERIOD_MS)
    assert rows(one) == rows(two) == [(1, "bad", "old", "old")]
    order(world, thief, since)
    settle(world)
    assert rows(one) == rows(two)
    assert rows(one)[0] == (1, "mine", "old", "old")
    assert rows(one)[1][2] == "mine"
    assert one.peer.digests() == two.peer.digests()


def test_a_delete_that_had_lost_counts_again(world):
    one, two, thief = world.nodes
    links = link_all(world)
    world.write(one, KEYED)
    world.write(one, "INSERT INTO t VALUES(1, 'old', 'old', 'old')")
    world.run(PERIOD_MS)
    for link in links[1:]:
        world.cut(link)  # the thief is alone
    since = now(world)
    world.write(two, "DELETE FROM t WHERE id = 1")
    world.run(PERIOD_MS)
    world.write(thief, "REPLACE INTO t VALUES(1, 'bad', 'bad', 'bad')")
    link_all(world, [one, thief])
    world.link(two, thief)
    world.run(PERIOD_MS)
    assert rows(one) == rows(two) == [(1, "bad", "bad", "bad")]
    order(world, thief, since)
    settle(world)
    assert rows(one) == rows(two) == []
    assert one.peer.digests() == two.peer.digests()


def test_purged_rows_can_be_restored(world):
    one, two, thief = world.nodes
    link_all(world)
    world.write(one, KEYED)
    world.write(one, "INSERT INTO t VALUES(3, 'good', 'good', 'good')")
    world.run(PERIOD_MS)
    since = now(world)
    world.write(thief, "INSERT INTO t VALUES(2, 'right', 'right', 'right')")
    world.run(PERIOD_MS)
    order(world, thief, since)
    settle(world, PERIOD_MS)
    assert rows(two) == [(3, "good", "good", "good")]
    which = one.peer.replica.conflicts.latest(1)[0]
    assert which.reason.startswith("its writer was revoked")
    one.peer.replica.conflicts.restore(which.id, now(world))
    one.peer.replica.outbox.invalidate()
    settle(world)
    assert rows(one) == rows(two) == [(2, "right", "right", "right"), (3, "good", "good", "good")]


@pytest.mark.parametrize(
    "definition",
    [KEYED, "CREATE TABLE t(id, a, b, c)", f"CREATE TABLE t(id, {', '.join(f'x{n}' for n in range(70))}, a)"],
)
def test_purged_cell_that_is_restored_spreads(world, definition):
    """The order leaves the cell without an entry. The restore records which columns it wrote."""
    one, two, thief = world.nodes
    link_all(world)
    world.write(one, definition)
    world.write(one, "INSERT INTO t(id, a) VALUES(1, 'good')")
    world.run(PERIOD_MS)
    since = now(world)
    world.write(thief, "UPDATE t SET a = 'late'")
    world.run(PERIOD_MS)
    order(world, thief, since)
    settle(world)
    cell = "SELECT id, a FROM t"
    assert rows(one, cell) == rows(two, cell) == [(1, None)]
    which = one.peer.replica.conflicts.latest(1)[0].id
    for write, value in ((one.peer.replica.conflicts.restore, "late"), (one.peer.replica.conflicts.undo, None)):
        write(*((which, now(world)) if value else (which,)))
        world.do(one, CommitSeen())
        world.run(PERIOD_MS)
        assert rows(one, cell) == rows(two, cell) == [(1, value)]
        assert one.peer.digests() == two.peer.digests()


@pytest.mark.slow
def test_keyless_rows_and_counts(world):
    one, two, thief = world.nodes
    link_all(world)
    world.write(one, "CREATE TABLE k(a, b)")
    world.write(one, "INSERT INTO k VALUES('good', 1)")
    world.run(PERIOD_MS)
    since = now(world)
    with thief.peer.app:
        thief.peer.app.executemany("INSERT INTO k VALUES('bad', ?)", [(n,) for n in range(PURGED_ROWS)])
    world.write(thief, "UPDATE k SET b = 2 WHERE a = 'good'")
    world.run(PERIOD_MS)
    world.write(one, "UPDATE k SET b = 'mine' WHERE b = 7")
    world.run(PERIOD_MS)
    counted = two.peer.replica.purges.count(thief.peer.node_id, since)
    assert counted == {"k": Counted(inserts=PURGED_ROWS, updates=1, deletes=0)}
    assert two.peer.replica.purges.count(one.peer.node_id, now(world)) == {}
    order(world, thief, since)
    settle(world)
    assert rows(one, "SELECT * FROM k ORDER BY 1, 2") == rows(two, "SELECT * FROM k ORDER BY 1, 2")
    assert rows(two, "SELECT * FROM k ORDER BY 2") == [(None, "mine"), ("good", None)] or rows(two, "SELECT * FROM k")
    assert one.peer.digests() == two.peer.digests()
    assert two.peer.replica.purges.count(thief.peer.node_id, since) == {}


@pytest.fixture
def signing(tmp_path):
    """Three members with a signed table, the last of which is the thief."""
    made = World(signing_peers(tmp_path, 3, wall_ms=WALL_MS))
    one = made.nodes[0]
    made.write(one, KEYED)
    decide(made, one, "t", "signed")
    yield made
    made.close()


def decide(world, node, table, policy):
    """A node states a policy, and the others follow it."""
    node.peer.replica.decisions.decide_policy(table, policy)
    world.do(node, CommitSeen())
    link_all(world)
    world.run(PERIOD_MS)
    assert all(each.peer.replica.decisions.policy(table) == policy for each in world.nodes if policy != "own-ids")


def test_signed_rows_and_cells_go(signing):
    one, two, thief = signing.nodes
    signing.write(one, "INSERT INTO t VALUES(1, 'good', 'good', 'good')")
    signing.run(PERIOD_MS)
    since = now(signing)
    signing.write(thief, "INSERT INTO t VALUES(2, 'bad', 'bad', 'bad'), (3, 'bad', 'bad', 'bad')")
    signing.write(thief, "UPDATE t SET a = 'bad' WHERE id = 1")
    signing.run(PERIOD_MS)
    signing.write(two, "UPDATE t SET b = 'mine' WHERE id = 3")
    signing.run(PERIOD_MS)
    assert len(rows(one)) == 3
    order(signing, thief, since)
    settle(signing)
    # The writer of the cell inserts the row again, which signs it in its own name.
    assert rows(one) == rows(two) == [(1, None, "good", "good"), (3, None, "mine", None)]
    assert one.peer.digests() == two.peer.digests()


def test_signed_tables_get_own_lost_writes_back(signing):
    one, two, thief = signing.nodes
    signing.write(one, "INSERT INTO t VALUES(1, 'old', 'old', 'old'), (2, 'old', 'old', 'old')")
    signing.run(PERIOD_MS)
    for link in [link for link, (node, _) in signing.links.items() if node is thief]:
        signing.cut(link)
    since = now(signing)
    signing.write(two, "UPDATE t SET a = 'mine' WHERE id = 1; DELETE FROM t WHERE id = 2")
    signing.run(PERIOD_MS)
    signing.write(thief, "UPDATE t SET a = 'bad' WHERE id = 1; REPLACE INTO t VALUES(2, 'bad', 'bad', 'bad')")
    signing.link(one, thief)
    signing.link(two, thief)
    signing.run(PERIOD_MS)
    assert rows(one) == rows(two) == [(1, "bad", "old", "old"), (2, "bad", "bad", "bad")]
    order(signing, thief, since, [one])
    signing.run(PERIOD_MS)
    # The first node has the lost write on record, too, and cannot sign it.
    assert rows(one, "SELECT * FROM t WHERE id = 1") == [(1, None, "old", "old")]
    order(signing, thief, since, [two])
    settle(signing)
    assert rows(one) == rows(two) == [(1, "mine", "old", "old")]
    assert one.peer.digests() == two.peer.digests()


def test_counters_lose_the_whole_share(world):
    one, two, thief = world.nodes
    world.write(one, "CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER DEFAULT 0)")
    one.peer.drain()
    one.peer.replica.decisions.declare_counter("t", "n")
    world.do(one, CommitSeen())
    link_all(world)
    world.write(one, "INSERT INTO t VALUES(1, 0), (2, 0)")
    world.run(PERIOD_MS)
    world.write(thief, "UPDATE t SET n = n + 1")
    world.write(two, "UPDATE t SET n = n + 10")
    world.run(PERIOD_MS)
    since = now(world)
    world.write(thief, "UPDATE t SET n = n + 100 WHERE id = 1")
    world.run(PERIOD_MS)
    assert rows(one, "SELECT * FROM t") == [(1, 111), (2, 11)]
    order(world, thief, since)
    settle(world)
    assert rows(one, "SELECT * FROM t") == rows(two, "SELECT * FROM t") == [(1, 10), (2, 11)]
    world.write(two, "UPDATE t SET n = n + 5")
    world.run(PERIOD_MS)
    assert rows(one, "SELECT * FROM t") == [(1, 15), (2, 16)]
    assert one.peer.digests() == two.peer.digests()


def test_rivals_of_an_id_move_back(world):
    one, two, thief = world.nodes
    world.write(one, "CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
    decide(world, one, "t", "keep-both")
    for link in [link for link, (node, _) in world.links.items() if node is thief]:
        world.cut(link)
    since = now(world)
    world.write(thief, "INSERT INTO t VALUES(1, 'bad'), (2, 'bad')")
    world.run(PERIOD_MS)
    world.write(two, "INSERT INTO t VALUES(1, 'good'), (3, 'good')")
    world.link(one, thief)
    world.link(two, thief)
    world.run(PERIOD_MS)
    listing = "SELECT a, count(*) FROM t GROUP BY a ORDER BY a"
    assert rows(one, listing) == rows(two, listing) == [("bad", 2), ("good", 2)]
    order(world, thief, since)
    settle(world)
    assert rows(one, listing) == [("good", 2)]
    assert rows(one, "SELECT * FROM t ORDER BY 1") == rows(two, "SELECT * FROM t ORDER BY 1")
    assert one.peer.digests() == two.peer.digests()
    world.write(one, "INSERT INTO t VALUES(2, 'after')")
    world.run(PERIOD_MS)
    assert rows(two, "SELECT a FROM t WHERE id = 2") == [("after",)]


def test_own_ids_go_on_after_a_purge(world):
    one, two, thief = world.nodes
    world.write(one, "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a)")
    decide(world, one, "t", "own-ids")
    world.write(one, "INSERT INTO t(a) VALUES('good')")
    world.write(two, "INSERT INTO t(a) VALUES('good')")
    world.run(PERIOD_MS)
    since = now(world)
    world.write(thief, "INSERT INTO t(a) VALUES('bad'), ('bad')")
    world.run(PERIOD_MS)
    assert len(rows(one, "SELECT id FROM t")) == 4
    order(world, thief, since)
    settle(world)
    left = rows(one, "SELECT * FROM t ORDER BY 1")
    assert left == rows(two, "SELECT * FROM t ORDER BY 1")
    assert [a for _, a in left] == ["good", "good"]
    world.write(one, "INSERT INTO t(a) VALUES('later')")
    world.write(two, "INSERT INTO t(a) VALUES('later')")
    world.run(PERIOD_MS)
    assert rows(one, "SELECT count(DISTINCT id) FROM t") == rows(two, "SELECT count(*) FROM t") == [(4,)]
    assert one.peer.digests() == two.peer.digests()


SCHEMA = """
CREATE TABLE t(id INTEGER PRIMARY KEY, a, b DEFAULT 'none', c);
CREATE TABLE u(code TEXT PRIMARY KEY, v UNIQUE, w NOT NULL) WITHOUT ROWID;
CREATE TABLE k(a, b);
"""


class History:
    """Random writes of four nodes over random links, the last of which is the thief."""

    def __init__(self, folder, seed):
        self.rng = random.Random(seed)
        peers = [Peer(folder / f"{number}.db", number, wall_ms=WALL_MS) for number in range(4)]
        self.world = World(peers)
        self.honest, self.thief = self.world.nodes[:3], self.world.nodes[3]
        self.tokens = 0
        self.bad = False
        self.deleted = set()  # by honest nodes
        self.kept = {}  # (table, key, column) -> honest values that some honest node showed when it heard of the order
        link_all(self.world)
        self.world.write(self.honest[0], SCHEMA)
        self.world.run(PERIOD_MS)

    def token(self, node):
        self.tokens += 1
        return f"{'bad' if self.bad and node is self.thief else 'good'} {self.tokens}"

    def write(self, node):
        value, rng = self.token(node), self.rng
        key = rng.randrange(6)
        act = rng.randrange(9)
        if act == 8 and (node is self.thief or rng.random() < 0.3):
            table = rng.choice("tu")
            if node is not self.thief:
                self.deleted.add((table, str(key)))
            self.world.write(node, f"DELETE FROM {table} WHERE {'id' if table == 't' else 'code'} = ?", key)
        elif act < 2:
            self.world.write(node, "INSERT OR IGNORE INTO t VALUES(?, ?, ?, ?)", key, value, value, value)
        elif act < 5:
            self.world.write(node, f"UPDATE t SET {rng.choice('abc')} = ? WHERE id = ?", value, key)
        elif act == 5:
            self.world.write(node, "INSERT OR IGNORE INTO u VALUES(?, ?, ?)", str(key), value, value)
        elif act == 6:
            self.world.write(node, f"UPDATE OR IGNORE u SET {rng.choice('vw')} = ? WHERE code = ?", value, str(key))
        else:
            self.world.write(node, "INSERT INTO k VALUES(?, ?)", value, key)
            self.world.write(node, "UPDATE k SET b = ? WHERE b = ?", value, key)

    def shuffle_links(self):
        for link in sorted(self.world.links):
            if self.rng.random() < 0.5:
                self.world.cut(link)
        linked = {frozenset((id(one), id(self.world.links[other][0]))) for one, other in self.world.links.values()}
        for at, one in enumerate(self.world.nodes):
            for two in self.world.nodes[at + 1 :]:
                if frozenset((id(one), id(two))) not in linked and self.rng.random() < 0.4:
                    self.world.link(one, two)

    def live(self, steps, *, thief=True):
        nodes = self.world.nodes if thief else self.honest
        for _ in range(steps):
            self.write(self.rng.choice(nodes))
            if self.rng.random() < 0.2 and thief:
                self.shuffle_links()
            self.world.run(self.rng.choice((0, 20, 500)))

    def give_order(self, node, since):
        for table, listing in (("t", "SELECT id, a, b, c FROM t"), ("u", "SELECT code, v, w FROM u")):
            for key, *cells in node.sql(listing):
                for column, cell in zip("abc", cells, strict=False):
                    if str(cell).startswith("good"):
                        self.kept.setdefault((table, str(key), column), set()).add(cell)
        order(self.world, self.thief, since, [node])

    def check(self):
        one = self.honest[0]
        for node in self.honest[1:]:
            assert node.peer.digests() == one.peer.digests()
            assert node.peer.tables() == one.peer.tables()
        shown = {}
        for table, listing in (("t", "SELECT id, a, b, c FROM t"), ("u", "SELECT code, v, w FROM u")):
            for key, *cells in one.sql(listing):
                shown.update({(table, str(key), column): cell for column, cell in zip("abc", cells, strict=False)})
        everything = [*shown.values(), *(cell for row in one.sql("SELECT * FROM k") for cell in row)]
        assert not [cell for cell in everything if str(cell).startswith("bad")]
        parked = {(table, key) for table, key in one.sql("SELECT table_name, row_key FROM mycomesh_parked")}
        lost = " ".join(
            text for node in self.honest for (text,) in node.sql("SELECT lost FROM mycomesh_conflicts ORDER BY seq")
        )
        for (table, key, column), values in sorted(self.kept.items()):
            if (table, key) in self.deleted | parked:
                continue
            cell = str(shown.get((table, key, column)))
            if not cell.startswith("good"):
                assert all(value in lost for value in values), (table, key, column, cell, values)


@pytest.mark.parametrize("seed", sweep(range(max(1, round(12 * SCALE))), 6))
def test_any_history_ends_equal_without_purged_writes(tmp_path, seed):
    history = History(tmp_path, seed)
    try:
        history.live(20)
        history.world.run(100)
        history.bad, since = True, now(history.world)
        history.live(25)
        for node in history.rng.sample(history.honest, 3):
            history.give_order(node, since)
            history.live(4, thief=history.rng.random() < 0.5)
        history.world.run(PERIOD_MS)
        link_all(history.world, history.honest)
        history.world.run(90_000)
        history.check()
    finally:
        history.world.close()
