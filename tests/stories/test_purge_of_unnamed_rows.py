"""Purge in tables whose rows their inserts name: each row is there once, and the change log has it under its rowid."""

import itertools
import json
import random

import pytest

from mycomesh.sync.events import CommitSeen
from mycomesh.sync.exchange.purge_schedule import ALONE_MS
from tests.sync.exchanges import World
from tests.sync.merge.test_purge import PERIOD_MS, WALL_MS, link_all, now, order, rows, settle
from tests.sync.peers import Peer
from tests.sync.scale import SCALE
from tests.sync.signing import signing_peers

DAY_MS = 86_400_000
JUMPS_MS = [sign * ms for ms in (400 * DAY_MS, 2 * DAY_MS, 3_600_000, 70_000, 30_000, 5_000) for sign in (1, -1)]
CELLS = "at, what, more DEFAULT 'none'"
TABLES = {
    "keyless": (f"CREATE TABLE t({CELLS})", ""),
    "null in the key": (f"CREATE TABLE t(code TEXT PRIMARY KEY, {CELLS})", ""),
    "keep-both": (f"CREATE TABLE t(id INTEGER PRIMARY KEY, {CELLS})", "keep-both"),
    "signed": (f"CREATE TABLE t({CELLS})", "signed"),
    "refused": ("CREATE TABLE t(at, what NOT NULL, more DEFAULT 'none')", ""),
    "unique": (f"CREATE TABLE t({CELLS}); CREATE UNIQUE INDEX one ON t(what)", ""),
}


def made(folder, kind, count=3):
    """Linked nodes with a table of this kind; the last of them is the thief."""
    schema, policy = TABLES[kind]
    peers = [Peer(folder / f"{number}.db", number, wall_ms=WALL_MS) for number in range(count)]
    if policy == "signed":
        for peer in peers:
            peer.close()
        peers = signing_peers(folder, count, wall_ms=WALL_MS)
    world = World(peers)
    world.write(world.nodes[0], schema)
    if policy:
        world.nodes[0].peer.replica.decisions.decide_policy("t", policy)
        world.do(world.nodes[0], CommitSeen())
    link_all(world)
    world.run(PERIOD_MS)
    return world


def shown(node):
    return rows(node, "SELECT at, what, more FROM t ORDER BY at, what, more")


def scrubbed(world, nodes):
    """Scrubs nodes, and asserts that no pass has found a row without its entries."""
    for node in nodes:
        assert node.peer.scrub().found == 0
        assert "scrub.found" not in node.noticed()


@pytest.mark.parametrize("kind", ["keyless", "null in the key", "keep-both", "signed"])
@pytest.mark.parametrize("away", [False, True])
def test_an_updated_row_keeps_its_entries(tmp_path, kind, away):
    world = made(tmp_path, kind)
    one, two, thief = world.nodes
    world.write(thief, "INSERT INTO t(at, what, more) VALUES(1, 'a', 'a'), (2, 'b', 'b')")
    world.run(PERIOD_MS)
    since = now(world)
    world.write(thief, "INSERT INTO t(at, what) VALUES(3, 'bad')")
    world.write(thief, "UPDATE t SET what = 'bad' WHERE at = 2")
    world.run(PERIOD_MS)
    world.write(two, "INSERT INTO t(at, what) VALUES(4, 'mine')")
    world.run(PERIOD_MS)
    if away:
        for link in [link for link, (node, _) in world.links.items() if node is thief]:
            world.cut(link)
    order(world, thief, since)
    settle(world)
    assert shown(one) == shown(two) == [(1, "a", "a"), (2, None, "b"), (4, "mine", "none")]
    assert one.peer.digests() == two.peer.digests()
    scrubbed(world, [one, two])
    world.write(two, "UPDATE t SET what = 'again' WHERE at = 2")
    world.run(PERIOD_MS)
    assert shown(one)[1] == (2, "again", "b")
    world.close()


def apart(world, since, *writes):
    """Cuts all links, has each honest node write into the row of the thief, and gives the order to each."""
    for link in sorted(world.links):
        if link in world.links:
            world.cut(link)
    honest, thief = world.nodes[:-1], world.nodes[-1]
    for node, write in zip(honest, writes, strict=True):
        world.write(node, write)
        world.run(100)
    for node in honest:
        order(world, thief, since, [node])
    world.run(ALONE_MS + PERIOD_MS)
    return honest


def settled(world, nodes):
    """Links the nodes one after the other, and lets them settle."""
    for one, two in itertools.pairwise(nodes):
        world.link(one, two)
        settle(world)
    for node in nodes[1:]:
        assert shown(node) == shown(nodes[0])
        assert node.peer.digests() == nodes[0].peer.digests()
    scrubbed(world, nodes)
    return shown(nodes[0])


def with_row_of_thief(folder, kind, count=3):
    world = made(folder, kind, count)
    since = now(world)
    world.write(world.nodes[-1], "INSERT INTO t(at, what) VALUES(1, 'bad')")
    world.run(PERIOD_MS)
    return world, since


UNNAMED = ["keyless", "null in the key", "keep-both", "signed"]


@pytest.mark.parametrize("kind", UNNAMED)
def test_row_that_two_nodes_insert_again_is_there_once(tmp_path, kind):
    world, since = with_row_of_thief(tmp_path, kind)
    nodes = apart(
        world, since, "UPDATE t SET what = 'one' WHERE at = 1", "UPDATE t SET at = 7, more = 'two' WHERE at = 1"
    )
    assert [shown(node) for node in nodes] == [[(None, "one", "none")], [(7, None, "two")]]
    assert settled(world, nodes) == [(7, "one", "two")]
    assert "inserts it again" in nodes[0].sql("SELECT reason FROM mycomesh_conflicts ORDER BY seq DESC")[0][0]
    for node in nodes:
        node.peer.close()
        node.peer.open()
        node.peer.drain()
    assert shown(nodes[1]) == [(7, "one", "two")]
    world.close()


def test_row_of_three_nodes_is_there_once(tmp_path):
    world, since = with_row_of_thief(tmp_path, "keyless", 4)
    writes = [f"UPDATE t SET {column} = '{column}' WHERE at = 1" for column in ("what", "more", "at")]
    assert settled(world, apart(world, since, *writes)) == [("at", "what", "more")]
    world.close()


def test_a_later_delete_ends_the_row_inserted_again(tmp_path):
    world, since = with_row_of_thief(tmp_path, "keyless")
    nodes = apart(world, since, "UPDATE t SET what = 'one' WHERE at = 1", "DELETE FROM t WHERE at = 1")
    assert settled(world, nodes) == []
    assert nodes[0].sql("SELECT count(*) FROM mycomesh_conflicts WHERE lost LIKE '%one%'") != [(0,)]
    world.close()


def test_row_inserted_again_and_changed_since_stays(tmp_path):
    world, since = with_row_of_thief(tmp_path, "keyless")
    nodes = apart(world, since, "UPDATE t SET what = 'one' WHERE at = 1", "UPDATE t SET more = 'two' WHERE at = 1")
    world.write(nodes[0], "UPDATE t SET at = 5")
    world.write(nodes[1], "UPDATE t SET what = 'mine'")
    assert settled(world, nodes) == [(None, "mine", "two"), (5, "one", "none")]
    world.close()


def test_row_whose_id_was_purged_is_shown_everywhere(tmp_path):
    world = made(tmp_path, "keep-both")
    one, two, thief = world.nodes
    for link in sorted(world.links):
        if link in world.links:
            world.cut(link)
    world.write(two, "INSERT INTO t(at) VALUES(1)")
    world.run(100)
    world.write(thief, "INSERT INTO t(at) VALUES(2)")
    world.run(100)
    since = now(world)
    link = world.link(two, thief)
    world.run(PERIOD_MS)  # both rows want one id, so the thief writes another one into its row
    assert len(shown(two)) == 2
    world.cut(link)
    order(world, thief, since, [one, two])
    world.run(PERIOD_MS)
    assert settled(world, [one, two]) == [(1, None, "none"), (2, None, "none")]
    assert rows(one, "SELECT id, at FROM t ORDER BY id") == rows(two, "SELECT id, at FROM t ORDER BY id")
    world.close()


class History:
    """Random writes of three nodes over links that come and go, the last of which is the thief."""

    def __init__(self, folder, kind, seed):
        self.rng = random.Random(f"{kind} {seed}")
        self.world = made(folder, kind)
        self.honest, self.thief = self.world.nodes[:2], self.world.nodes[2]
        self.bad = False
        self.latest_ms = WALL_MS  # that any clock has shown
        self.tokens = 0
        self.purged = {}  # at -> whether the row goes
        self.updates = []  # values of honest nodes, each written once
        self.deleted = set()  # by any node: a row that the thief deleted may come back

    def token(self, node):
        self.tokens += 1
        return f"{'bad' if self.bad and node is self.thief else 'good'} {self.tokens}"

    def write(self, node):
        rng, value = self.rng, self.token(node)
        here = [at for (at,) in node.sql("SELECT at FROM t WHERE at IS NOT NULL ORDER BY at")]
        act = rng.random()
        if act < 0.4 or not here:
            count = rng.choice((1, 1, 2, 12))
            for _ in range(count):
                self.tokens += 1
                self.purged[self.tokens] = self.bad and node is self.thief
            first = self.tokens - count + 1
            listing = ", ".join(f"({at}, '{value} {at}', '{value}')" for at in range(first, first + count))
            self.world.write(node, f"INSERT INTO t(at, what, more) VALUES {listing}")
            return
        at = rng.choice(here)
        if act < 0.9:
            if node is not self.thief:
                self.updates.append(value)
            self.world.write(node, f"UPDATE t SET {rng.choice(('what', 'more'))} = ? WHERE at = ?", value, at)
        else:
            self.deleted.add(at)
            self.world.write(node, "DELETE FROM t WHERE at = ?", at)

    def jump(self):
        """Sets the clock of one node, or of all, some time ahead or back."""
        world, rng = self.world, self.rng
        for node in rng.sample(world.nodes, 1) if rng.random() < 0.6 else world.nodes:
            node.peer.wall_ms += rng.choice(JUMPS_MS)
            self.latest_ms = max(self.latest_ms, node.peer.wall_ms)

    def live(self, steps, nodes, jumps=0.0):
        for _ in range(steps):
            if jumps and self.rng.random() < jumps:
                self.jump()
            self.write(self.rng.choice(nodes))
            if self.rng.random() < 0.25:
                self.shuffle_links()
            self.world.run(self.rng.choice((0, 20, 500)))

    def shuffle_links(self):
        world = self.world
        for link in sorted(world.links):
            if self.rng.random() < 0.4:
                world.cut(link)
        self.link_again(0.6, world.nodes)

    def link_again(self, share, nodes):
        world = self.world
        linked = {frozenset((one.number, world.links[other][0].number)) for one, other in world.links.values()}
        for at, one in enumerate(nodes):
            for two in nodes[at + 1 :]:
                if frozenset((one.number, two.number)) not in linked and self.rng.random() < share:
                    world.link(one, two)

    def check(self):
        world, (one, two) = self.world, self.honest
        assert one.peer.digests() == two.peer.digests()
        assert one.peer.tables()["t"] == two.peer.tables()["t"]
        scrubbed(world, self.honest)
        found = [at for (at,) in one.sql("SELECT at FROM t ORDER BY at")]
        cells = [cell for row in shown(one) for cell in row]
        assert not [cell for cell in cells if str(cell).startswith("bad")]
        assert not [value for value in self.updates if cells.count(value) > 1]
        parked = [text for (text,) in one.sql("SELECT content FROM mycomesh_parked")]
        for at, purged in self.purged.items():
            count = found.count(at)
            assert count <= 1, (at, found)
            if purged:
                assert not count, (at, found)
            elif at not in self.deleted:
                assert count or any(json.loads(text).get("at") == at for text in parked), (at, found)


@pytest.mark.parametrize("kind", sorted(TABLES))
@pytest.mark.parametrize("seed", range(max(1, round(SCALE))))
def test_any_history_leaves_each_row_once(tmp_path, kind, seed):
    history = History(tmp_path, kind, seed)
    world, rng = history.world, history.rng
    try:
        history.live(10, world.nodes)
        world.run(PERIOD_MS)
        history.bad, since = True, now(world)
        history.live(20, world.nodes)
        if rng.random() < 0.5:
            for node in world.nodes:
                node.peer.wall_ms += 2 * DAY_MS
        for node in rng.sample(history.honest, 2):
            order(world, history.thief, since, [node])
            history.live(3, rng.choice((world.nodes, history.honest)))
        linked = rng.random() < 0.5
        history.link_again(1, world.nodes if linked else history.honest)
        world.run(90_000)
        history.check()
    finally:
        world.close()


@pytest.mark.parametrize("seed", range(max(1, round(SCALE))))
def test_any_clocks_leave_nodes_equal_after_a_purge(tmp_path, seed):
    history = History(tmp_path, sorted(TABLES)[seed % len(TABLES)], f"clocks {seed}")
    world, rng = history.world, history.rng
    try:
        history.live(8, world.nodes, jumps=0.3)
        history.bad, since = True, now(world)
        history.live(12, world.nodes, jumps=0.3)
        for node in rng.sample(history.honest, 2):
            order(world, history.thief, since, [node])
            history.live(3, rng.choice((world.nodes, history.honest)), jumps=0.3)
        for node in world.nodes:
            node.peer.wall_ms = history.latest_ms  # no write is from the future any more
        history.link_again(1, history.honest)
        world.run(120_000)
        one, two = history.honest
        assert one.peer.tables()["t"] == two.peer.tables()["t"]
        assert one.peer.digests() == two.peer.digests()
        scrubbed(world, history.honest)
        cells = [cell for row in shown(one) for cell in row]
        assert not [value for value in history.updates if cells.count(value) > 1]
    finally:
        world.close()
