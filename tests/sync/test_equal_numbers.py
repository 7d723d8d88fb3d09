"""Numbers that compare equal and are stored otherwise (1 and 1.0, 0.0 and -0.0): triggers do not tell them apart, replicas do."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.sync.peers import assert_equal, converge

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
def test_a_number_becomes_its_equal_beside_a_column_that_was_written_apart(trio, ddl, before, after):
    one, two, _ = trio
    one.sql(f"CREATE TABLE t({ddl}); INSERT INTO t(id, b) VALUES(1, 0)")
    converge(trio)
    two.sql(f"UPDATE t SET c = {before}")
    converge(trio)
    one.sql(f"UPDATE t SET b = 7, c = {after}")
    converge(trio)
    all_equal(trio)
    assert [shown(peer) for peer in trio] == [[repr(one.sql(f"SELECT {after}")[0][0])]] * 3


def test_the_one_integer_that_a_column_of_integers_keeps_apart_from_its_equal(pair):
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
def test_a_column_that_was_added_shows_the_equal_of_its_default(pair, default, beside):
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


def test_a_number_that_becomes_its_equal_takes_no_other_column_from_anybody(pair):
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


def test_an_update_beside_numbers_that_have_equals_owns_nothing_but_what_it_changed(pair):
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
