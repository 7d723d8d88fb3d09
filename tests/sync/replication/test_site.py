"""A peer that says that this site has written more than its file knows: believed so often, and never at a loss."""

from __future__ import annotations

import pytest

from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.errors import DecodeError
from mycomesh.sync.replication.site import RENEWALS_MAX
from tests.sync.peers import assert_equal, converge


def test_a_peer_that_lies_about_this_site_is_refused(pair):
    one, two = pair
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE bag(v)")
    one.sql(
        "INSERT INTO t VALUES(1, 'a'), (2, 'b'); INSERT INTO bag VALUES('x'), ('y'); UPDATE t SET v = 'c' WHERE id = 2"
    )
    one.sql(
        "DELETE FROM t WHERE id = 1; INSERT INTO bag SELECT v || 'z' FROM bag, (VALUES(1), (2), (3), (4), (5), (6))"
    )
    one.drain()
    before, sites = one.tables(), {one.replica.site}
    for _ in range(RENEWALS_MAX):
        assert one.replica.inbox.renew_site_if_behind({"t": Vector({one.replica.site: [(0, 1 << 40)]})})
        sites.add(one.replica.site)
    assert len(sites) == RENEWALS_MAX + 1
    with pytest.raises(DecodeError, match="keeps reporting writes"):
        one.replica.inbox.renew_site_if_behind({"t": Vector({one.replica.site: [(0, 1 << 40)]})})
    assert one.replica.site in sites
    assert one.tables() == before
    converge(pair)
    assert_equal(one, two)
    assert two.tables() == before


def test_true_coverage_of_this_site_needs_no_new_site(pair):
    one, two = pair
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 'a')")
    converge(pair)
    assert not one.replica.inbox.renew_site_if_behind({name: two.replica.vector(name) for name in two.replica.tables})
