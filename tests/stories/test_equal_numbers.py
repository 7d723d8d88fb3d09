"""Numbers that compare equal and are stored otherwise (1 and 1.0, 0.0 and -0.0): triggers do not tell them apart, replicas do."""

from __future__ import annotations

import tempfile
from itertools import combinations, pairwise

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from tests.sync.exchanges import World
from tests.sync.machine import NUMBERS, Mail
from tests.sync.peers import assert_equal, converge
from tests.sync.scale import examples
from tests.sync.templates import equal_peers

TWINS = [("1", "1.0"), ("1.0", "1"), ("0.0", "-0.0"), ("-0.0", "0"), ("-9223372036854775808", "-9223372036854775808.0")]


def all_equal(peers):
    for one, two in pairwise(peers):
        assert_equal(one, two)
    assert [peer.scrub().found for peer in peers] == [0] * len(peers)


def shown(peer):
    """The number with its type and sign."""
    return [repr(number) for (number,) in peer.sql("SELECT c FROM t")]


@pytest.mark.parametrize(("before", "after"), TWINS)
@pytest.mark.parametrize("ddl", ["id INTEGER PRIMARY KEY, b, c", "id, b, c", "id TEXT PRIMARY KEY, b, c BLOB"])
def test_a_number_becomes_its_equal_beside_a_separate_column(trio, ddl, before, after):
    one, two, _ = trio
    one.sql(f"CREATE TABLE t({ddl}); INSERT INTO t(id, b) VALUES(1, 0)")
    converge(trio)
    two.sql(f"UPDATE t SET c = {before}")
    converge(trio)
    one.sql(f"UPDATE t SET b = 7, c = {after}")
    converge(trio)
    all_equal(trio)
    assert [shown(peer) for peer in trio] == [[repr(one.sql(f"SELECT {after}")[0][0])]] * 3


def test_an_integer_column_keeps_one_integer_from_its_equal(pair):
    one, two = pair
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, b, c INTEGER); INSERT INTO t(id) VALUES(1)")
    converge(pair)
    one.sql("UPDATE t SET c = -9223372036854775808")
    converge(pair)
    one.sql("UPDATE t SET b = 7, c = -9223372036854775808.0")
    converge(pair)
    all_equal(pair)
    assert two.sql("SELECT b, typeof(c) FROM t") == [(7, "real")]


@pytest.mark.parametrize("beside", ["", ", b = 7"])
@pytest.mark.parametrize("default", ["1", "1.0", "(1)", "0.0"])
def test_column_that_was_added_shows_equal_of_its_default(pair, default, beside):
    one, two = pair
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, b); INSERT INTO t(id) VALUES(1)")
    converge(pair)
    one.sql(f"ALTER TABLE t ADD COLUMN c DEFAULT {default}")
    converge(pair)
    value = {"1": "1.0", "1.0": "1", "(1)": "1.0", "0.0": "-0.0"}[default]
    two.sql(f"UPDATE t SET c = {value}{beside}")
    converge(pair)
    all_equal(pair)
    assert shown(one) == [value]


def test_a_number_becoming_its_equal_takes_no_other_column(pair):
    one, two = pair
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, b, c, d); INSERT INTO t VALUES(1, 1, 1, 1)")
    converge(pair)
    two.sql("UPDATE t SET b = 'theirs', d = 'theirs'")
    two.drain()
    one.wall_ms += 10
    one.sql("UPDATE t SET c = 1.0")
    converge(pair)
    all_equal(pair)
    assert one.sql("SELECT b, c, typeof(c), d FROM t") == [("theirs", 1.0, "real", "theirs")]
    assert not any(peer.recorded("mycomesh_conflicts") for peer in pair)


def test_an_update_beside_equal_numbers_owns_only_its_change(pair):
    one, two = pair
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, b, c, d); INSERT INTO t VALUES(1, 0, 1, 1.0)")
    converge(pair)
    one.sql("UPDATE t SET b = 7")
    converge(pair)
    two.sql("UPDATE t SET c = 'theirs', d = 'theirs'")
    two.drain()
    one.wall_ms += 10
    one.sql("UPDATE t SET b = 8, c = 1, d = 1.0")
    converge(pair)
    all_equal(pair)
    assert one.sql("SELECT b, c, d FROM t") == [(8, "theirs", "theirs")]


VALUES = ["0", "0.0", "-0.0", "1", "2.0", "NULL"]
OTHER_TYPE = "iif(typeof({0}) = 'real', CAST({0} AS INTEGER), {0} + 0.0)"


def update(column, _other, value, _fresh):
    return f"UPDATE t SET {column} = {value}"


def retype(column, _other, _value, _fresh):
    return f"UPDATE t SET {column} = {OTHER_TYPE.format(column)}"


def retype_beside(column, other, _value, fresh):
    return f"UPDATE t SET {column} = {OTHER_TYPE.format(column)}, {other} = {fresh}"


def both(column, other, value, fresh):
    return f"UPDATE t SET {column} = {value}, {other} = {fresh}"


STEPS = st.tuples(
    st.sampled_from([update, retype, retype_beside, both]),
    st.permutations("bc"),
    st.sampled_from(VALUES),
    st.booleans(),
)


class Numbers(Mail):
    """Three replicas of two tables of one row; its cells are written alone, one beside the other, and with the whole row."""

    def __init__(self):
        super().__init__(tempfile.TemporaryDirectory(prefix="mycomesh-numbers-"))
        tables = "CREATE TABLE t(id INTEGER PRIMARY KEY, b, c); CREATE TABLE bag(id, b, c)"
        cells = (
            "INSERT INTO t(id) VALUES(1)",
            "UPDATE t SET b = 0",
            "UPDATE t SET c = 0.0",
        )  # each is a write of its own
        scripts = (f"{script}; {script.replace(' t', ' bag')}" for script in cells)
        self.peers = equal_peers(self.folder.name, 3, tables, *scripts, wall_ms=1_000)

    @rule(number=NUMBERS, script=st.lists(STEPS, min_size=1, max_size=3))
    def write(self, number, script):
        for statement, columns, value, publish in script:
            self.count += 1
            sql = statement(*columns, value, self.count)
            self.peers[number].sql(f"{sql}; {sql.replace(' t', ' bag')}")
            if publish:
                self.publish(number)

    def check(self):
        converge(self.peers)
        if any(peer.digests() != self.peers[0].digests() for peer in self.peers):
            self.mend()
        for one, two in pairwise(self.peers):
            assert_equal(one, two)
        assert [peer.scrub().found for peer in self.peers] == [0, 0, 0]

    def mend(self):
        """An equal beside a change of a column that was written together with it takes a repair."""
        world = World(self.peers)
        for one, two in combinations(world.nodes, 2):
            world.link(one, two)
        world.run(60_000)


@pytest.mark.slow
def test_replicas_of_such_numbers_end_equal():
    run_state_machine_as_test(Numbers, settings=examples(60, sample=30, stateful_step_count=6))
