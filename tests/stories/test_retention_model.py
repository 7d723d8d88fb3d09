"""Random histories of the rules of retention: in the model first, then with replicas on files."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sync.retention_model import DELETE, INSERT, NO_TIME, UPDATE, Replica, Row, catch_up, repair

AGE, STEP = 100, 10
TIME = Row.time  # the right rule, whatever a test plants
KEYS = st.integers(0, 3)
NODES = st.integers(0, 2)

steps = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), NODES, KEYS, st.integers(-150, 20)),
        st.tuples(st.just("untimed"), NODES, KEYS),
        st.tuples(st.just("move"), NODES, KEYS, st.integers(-150, 20)),
        st.tuples(st.just("edit"), NODES, KEYS),
        st.tuples(st.just("delete"), NODES, KEYS),
        st.tuples(st.just("pass"), st.integers(1, 120)),
        st.tuples(st.just("round"), NODES, NODES),
        st.tuples(st.just("repair"), NODES, NODES),
        st.tuples(st.just("wrong"), NODES, st.integers(-300, 0)),
        st.tuples(st.just("cut"), NODES),
    ),
    max_size=50,
)


class _History:
    def __init__(self, by):
        self.nodes = [Replica(number, by, AGE, clock=1_000) for number in range(3)]
        self.wrong = [0, 0, 0]  # how far each clock is off, while nobody corrects it
        self.now = 1_000
        self.written = {}  # key -> every entry
        self.born = 0

    def tick(self, number):
        node = self.nodes[number]
        # A hybrid clock never goes back, and is never behind what it has seen.
        seen = max((entry.stamp[0] for _, entry in node.covered), default=0)
        node.clock = max(node.clock, self.now + self.wrong[number], seen)
        return node

    def note(self, key, entry):
        self.written.setdefault(key, set()).add(entry)

    def run(self, step):
        match step:
            case ("insert" | "untimed", number, key, *ago):
                self.insert(number, key, self.now + ago[0] if ago else NO_TIME)
            case ("move", number, key, ago):
                self.change(number, key, at=self.now + ago, writes_time=True)
            case ("edit", number, key):
                self.change(number, key, at=NO_TIME, writes_time=False)
            case ("delete", number, key):
                node = self.tick(number)
                for name in self.named(node, key):
                    self.note(name, node.write(name, DELETE))
            case ("pass", ms):
                self.now += ms
            case ("round", one, two):
                if one != two:
                    catch_up(self.tick(one), self.tick(two))
            case ("repair", one, two):
                repair(self.tick(one), self.tick(two))
            case ("wrong", number, off):
                self.wrong[number] = off
            case ("cut", number):
                node = self.tick(number)
                if not self.wrong[number]:  # a clock that no other confirms moves no horizon
                    node.move(step=STEP)

    def insert(self, number, key, at):
        """Each insert is a row of its own, as in a table without a primary key."""
        node = self.tick(number)
        self.born += 1
        name = (key, self.born)
        self.note(name, node.write(name, INSERT, at=at))

    def named(self, node, key):
        return sorted(name for name, row in node.rows.items() if name[0] == key and row.visible)

    def change(self, number, key, *, at, writes_time):
        node = self.tick(number)
        for name in self.named(node, key):
            self.note(name, node.write(name, UPDATE, at=at, writes_time=writes_time))

    def end(self):
        """Everybody meets, with right clocks, for several rounds; then the horizon is one."""
        self.wrong = [0, 0, 0]
        for number in range(3):
            self.tick(number).move(step=STEP)
        for _ in range(4):
            for one in self.nodes:
                for two in self.nodes:
                    if one is not two:
                        catch_up(one, two)
            for node in self.nodes:
                node.cut()
            for one in self.nodes:
                for two in self.nodes:
                    if one is not two:
                        repair(one, two)
            for node in self.nodes:
                node.cut()


def _check(by, history):
    world = _History(by)
    for step in history:
        world.run(step)
    world.end()
    shown = [node.shown() for node in world.nodes]
    assert shown[0] == shown[1] == shown[2]
    horizon = world.nodes[0].horizon
    for name, entries in world.written.items():
        joined = Row().join(frozenset(entries))
        at = TIME(joined, by)
        assert (name in shown[0]) == (joined.visible and (at is None or at >= horizon)), (name, joined)
    world.now += 3 * AGE
    world.end()
    for row in (row for node in world.nodes for row in node.rows.values()):
        assert TIME(row, by) is None or TIME(row, by) >= world.now - AGE - STEP, "kept for ever"
        assert row.born is not None, "updates without their insert go too"


@settings(max_examples=300, deadline=None)
@given(st.booleans(), steps)
def test_model_ends_equal_and_loses_nothing_above_the_horizon(by, history):
    _check(by, history)


def _drawn(seed):
    """A history of 60 steps in which few rows meet many of them."""
    rng = random.Random(seed)
    history = []
    for _ in range(60):
        kind = rng.choice(
            ("insert", "insert", "move", "move", "edit", "delete", "untimed", "pass", "round", "repair", "cut", "cut")
        )
        node, key, ago = rng.randrange(3), rng.randrange(2), rng.randrange(-150, 20)
        more = {"insert": (node, key, ago), "move": (node, key, ago), "pass": (rng.randrange(1, 60),), "cut": (node,)}
        pair = (node, rng.randrange(3))
        history.append((kind, *more.get(kind, pair if kind in ("round", "repair") else (node, key))))
    return seed % 2 == 0, history


def _update_goes_by_its_value_alone(row, by):
    at = TIME(row, by)
    last = max((entry for entry in row.entries if entry.writes_time), default=None)
    return last.at if by and row.visible and last is not None and last.kind == UPDATE else at


def _updates_stay_without_insert(row, by):
    return None if row.born is None else TIME(row, by)


def _untimed_goes_by_its_stamp(row, by):
    at = TIME(row, by)
    return row.born.stamp[0] if at is None and row.visible else at


@pytest.mark.parametrize(
    "planted", [_update_goes_by_its_value_alone, _updates_stay_without_insert, _untimed_goes_by_its_stamp]
)
def test_drawn_histories_find_a_wrong_rule(planted, monkeypatch):
    for seed in range(40):
        _check(*_drawn(seed))
    monkeypatch.setattr(Row, "time", planted)
    assert any(_fails(seed) for seed in range(40))


def _fails(seed):
    try:
        _check(*_drawn(seed))
    except AssertionError:
        return True
    return False
