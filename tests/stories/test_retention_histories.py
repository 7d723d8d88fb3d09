"""Random histories of real exchanges whose table goes with time: splits, late returners, restarts, wrong clocks, moved times.

All nodes end equal, no row above the horizon is lost, and none below it is left.
"""

from __future__ import annotations

import random

import pytest

from mycomesh.sync.events import TimeKnown
from tests.sync.retained import DAY_MS, HOUR_MS, WALL_MS, confirm, connect, fleet, horizon, retain
from tests.sync.scale import sweep

DEFINITIONS = {
    "keyless": "CREATE TABLE t(at INTEGER, what TEXT)",
    "rowid": "CREATE TABLE t(id INTEGER PRIMARY KEY, at INTEGER, what TEXT)",
    "keyed": "CREATE TABLE t(what TEXT PRIMARY KEY, at INTEGER, note TEXT)",
    "without rowid": "CREATE TABLE t(what TEXT, at INTEGER, note TEXT, PRIMARY KEY(what, note)) WITHOUT ROWID",
}
AGE_MS = 7 * DAY_MS


class _History:
    """One fleet, what its programs wrote, and what happens to it."""

    def __init__(self, folder, seed, definition, by):
        self.rng = random.Random(seed)
        self.by = by
        self.world = fleet(folder, 3, definition)
        self.rowid = "PRIMARY KEY, at" in definition and "id INTEGER" in definition
        retain(self.world, self.world.nodes[0], "t", AGE_MS, by)
        self.world.run(2_000)
        self.right = [WALL_MS] * 3
        self.count = 0
        self.times = {}  # label -> every time that counts for it, in ms
        self.deleted = set()

    def now(self, number):
        return self.right[number] + self.world.now

    def step(self):
        often = (*(self.insert,) * 5, *(self.update,) * 3, self.delete, self.wait, self.wait)
        self.rng.choice((*often, self.split, self.meet, self.restart, self.wrong))(self.rng.randrange(3))

    def insert(self, number):
        at_ms = self.now(number) - self.rng.choice((0, HOUR_MS, 5 * DAY_MS, 6 * DAY_MS, 9 * DAY_MS))
        self.count += 1
        label = f"r{self.count}"
        columns, values = "at, what", f"{at_ms // 1000}, '{label}'"
        if self.rowid:
            columns, values = f"id, {columns}", f"{self.count}, {values}"
        if "note" in self.columns():
            columns, values = f"{columns}, note", f"{values}, 'n'"
        self.world.write(self.world.nodes[number], f"INSERT INTO t({columns}) VALUES({values})")
        self.times[label] = [at_ms // 1000 * 1000 if self.by else self.stamped(number)]

    def stamped(self, number):
        """The time of the last stamp: a clock that is behind stamps in the past, and the row counts from then."""
        return self.world.nodes[number].peer.replica.store.clock.last >> 16

    def columns(self):
        return [row[1] for row in self.world.nodes[0].sql("PRAGMA table_info(t)")]

    def labels(self, number):
        return [label for (label,) in self.world.nodes[number].sql("SELECT what FROM t ORDER BY what")]

    def update(self, number):
        labels = self.labels(number)
        if labels:
            label = self.rng.choice(labels)
            at_ms = self.now(number) - self.rng.choice((0, 3 * DAY_MS, 9 * DAY_MS))
            self.world.write(self.world.nodes[number], f"UPDATE t SET at = {at_ms // 1000} WHERE what = '{label}'")
            if self.by:
                self.times[label] += [at_ms, self.now(number)]

    def delete(self, number):
        labels = self.labels(number)
        if labels:
            label = self.rng.choice(labels)
            self.world.write(self.world.nodes[number], f"DELETE FROM t WHERE what = '{label}'")
            self.deleted.add(label)

    def wait(self, _number):
        ms = self.rng.choice((HOUR_MS, DAY_MS, 3 * DAY_MS))
        for number, node in enumerate(self.world.nodes):
            node.peer.wall_ms += ms
            self.right[number] += ms
            self.tell(number)
        self.world.run(3_000)

    def tell(self, number):
        """Report a node's time: right if it is linked, and nothing if it is alone."""
        node = self.world.nodes[number]
        if any(owner is node for owner, _ in self.world.links.values()):
            confirm(self.world, node, self.right[number] - node.peer.wall_ms)
        else:
            self.world.do(node, TimeKnown(0, confirmed=False, apart_ms=node.peer.wall_ms))

    def split(self, number):
        node = self.world.nodes[number]
        for link, (owner, _) in list(self.world.links.items()):
            if owner is node:
                self.world.cut(link)
        for each in range(3):
            self.tell(each)

    def meet(self, _number):
        for link in list(self.world.links):
            self.world.cut(link)
        connect(self.world)
        for number in range(3):
            self.tell(number)
        self.world.run(3_000)

    def restart(self, number):
        node = self.world.nodes[number]
        self.split(number)
        node.reopen()
        self.tell(number)

    def wrong(self, number):
        """A clock that is off by hours while its node is alone."""
        node = self.world.nodes[number]
        if not any(owner is node for owner, _ in self.world.links.values()):
            node.peer.wall_ms = self.right[number] - self.rng.choice((5 * HOUR_MS, 20 * DAY_MS))
            self.tell(number)

    def end(self):
        for number, node in enumerate(self.world.nodes):
            node.peer.wall_ms = self.right[number]
        self.meet(0)
        self.world.run(60_000)


def _run(folder, seed, kind, by, steps=40):
    history = _History(folder, seed, DEFINITIONS[kind], by)
    for _ in range(steps):
        history.step()
    history.end()
    return history


@pytest.mark.parametrize("kind", DEFINITIONS)
@pytest.mark.parametrize("by", ["at", ""])
@pytest.mark.parametrize("seed", sweep(range(40), 1))
def test_random_histories_end_equal_above_the_horizon(tmp_path, seed, kind, by):
    history = _run(tmp_path, seed, kind, by)
    world = history.world
    try:
        tables = [node.peer.tables()["t"] for node in world.nodes]
        assert tables[0] == tables[1] == tables[2]
        assert world.equal()
        limit = horizon(world.nodes[0]).ms
        assert len({horizon(node).ms for node in world.nodes}) == 1
        left = set(history.labels(0))
        safe = {label for label, times in history.times.items() if min(times) >= limit}
        gone = {label for label, times in history.times.items() if max(times) < limit}
        assert safe - history.deleted <= left
        assert not left & gone
    finally:
        world.close()
