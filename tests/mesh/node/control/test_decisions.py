"""Requests about tables as the control socket takes them."""

from __future__ import annotations

import asyncio
from array import array

import pytest

from mycomesh.mesh.node.control import decisions
from mycomesh.mesh.node.errors import NodeError
from mycomesh.sync.errors import PolicyError
from mycomesh.sync.replication.rights import Rights
from tests.sync.peers import Peer


class Node:
    """A serving node, of which a request needs this much."""

    def __init__(self, replica):
        self.replica = replica
        self.comparisons = 0

    async def run_on_replica(self, request):
        return request(self.replica)

    def names_by_site(self):
        return {}

    def request_comparison(self):
        self.comparisons += 1


@pytest.fixture
def node(tmp_path):
    peer = Peer(tmp_path / "a.db", 0)
    peer.sql("CREATE TABLE t(id INTEGER PRIMARY KEY)")
    peer.drain()
    yield Node(peer.replica)
    peer.close()


def ask(node, **request):
    return asyncio.run(decisions.answer(node, request))


def test_accepting_a_drop_compares_at_once(node):
    node.replica.drop_guard.judge("t", b"p" * 16, array("q", [1, 2, 1, 3]))
    assert ask(node, do="accept-drop", table="t") == {"changes": 2}
    assert node.comparisons == 1


def test_accepting_what_nobody_claims_is_refused(node):
    with pytest.raises(PolicyError, match="no member reports rows of 't' as deleted"):
        ask(node, do="accept-drop", table="t")
    with pytest.raises(NodeError, match="needs text for 'table'"):
        ask(node, do="accept-drop")
    assert node.comparisons == 0


@pytest.mark.parametrize(
    "request_",
    [
        {"do": "counter", "table": "t", "column": "n"},
        {"do": "policy", "table": "t", "policy": "own-ids"},
        {"do": "policy", "table": "t", "policy": "signed"},
        {"do": "retain", "table": "t", "age_ms": 86_400_000},
        {"do": "retain", "table": "t", "age_ms": 0},
        {"do": "area", "table": "t", "column": "id"},
    ],
    ids=lambda request: "-".join(map(str, request.values())),
)
def test_decisions_need_the_right_to_facts(node, request_):
    """They would hold in this file alone, which would differ from all others for good."""
    own = node.replica.store.signers.own + bytes(8)
    node.replica.set_rights(Rights(own, ((own, (("t", "rw"), ("*", "r"))),)))
    before = node.replica.store.db.execute("SELECT name, kind, sql FROM mycomesh_schema ORDER BY name").fetchall()
    with pytest.raises(PolicyError, match="no right to write mycomesh_schema; run it on a node that may") as caught:
        ask(node, **request_)
    assert "\n" not in str(caught.value)
    assert (
        node.replica.store.db.execute("SELECT name, kind, sql FROM mycomesh_schema ORDER BY name").fetchall() == before
    )
