"""A peer that says that this site has written more than its file knows: believed once in a run, and never at a loss."""

from __future__ import annotations

import pytest

from mycomesh.sync.crdt.version_vector import Vector
from tests.sync.peers import assert_equal, converge

SCRIPT = """
CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE bag(v);
INSERT INTO t VALUES(1, 'a'), (2, 'b'); INSERT INTO bag VALUES('x'), ('y'); UPDATE t SET v = 'c' WHERE id = 2;
DELETE FROM t WHERE id = 1; INSERT INTO bag SELECT v || 'z' FROM bag, (VALUES(1), (2), (3), (4), (5), (6));
"""


def claims(peer, table):
    """Tell the replica that somebody covers more of its site than it does; returns whether it takes another site."""
    return peer.replica.inbox.renew_site_if_behind({table: Vector({peer.replica.site: [(0, 1 << 62)]})})


def test_nobody_knows_more_of_a_new_site(pair):
    one, _ = pair
    one.sql(SCRIPT)
    one.drain()
    assert not claims(one, "t")


def test_such_a_claim_counts_once_in_a_run(pair):
    one, two = pair
    one.sql(SCRIPT)
    one.drain()
    one.close()
    one.open()
    before, site = one.tables(), one.replica.site
    assert claims(one, "t")
    assert one.replica.site != site
    assert not claims(one, "t")
    assert not claims(one, "bag")
    assert one.tables() == before
    converge(pair)
    assert_equal(one, two)
    assert two.tables() == before


@pytest.mark.parametrize("equal", [True, False])
def test_claim_about_a_table_that_was_equal_is_ignored(pair, equal):
    one, _ = pair
    one.sql(SCRIPT)
    one.drain()
    one.close()
    one.open()
    if equal:
        one.replica.inbox.confirm_equal(["t"], b"2" * 16)
    assert claims(one, "t") is not equal


def test_true_coverage_of_this_site_needs_no_new_site(pair):
    one, two = pair
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 'a')")
    converge(pair)
    assert not one.replica.inbox.renew_site_if_behind({name: two.replica.vector(name) for name in two.replica.tables})
