"""A status on its way to a command, which may be of another version than the node: after an update the old node runs on."""

from __future__ import annotations

import json

import pytest

from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.status import (
    AccountView,
    LinkView,
    PeerView,
    ProgressView,
    ScrubView,
    Status,
    TableView,
    from_json,
    to_json,
)

PEER = PeerView(
    "b", "drone", ("member",), "linked", "10.0.0.2:7447", 1.5, 0.0, False, 10, 1, 2,
    ProgressView(1, 2, 3, None), (LinkView("c", 4, 5),), "2",
)  # fmt: skip
STATUS = Status(
    1, "0", "serving", "fleet", "m", "ground", "a", 1, 5, "f.db", 7447, "s", 0, "", 1.0,
    (PEER,), (TableView("t", 1, "ab", 0, 0, "", 1),), 9, ScrubView(1, 0, ("t",)), 1.5, ("member", "admin"),
    accounts=(AccountView("b", "drone", 7, 8, 9, 10, "2026-12-01"),),
)  # fmt: skip


def plain():
    return json.loads(json.dumps(to_json(STATUS)))


def test_a_status_comes_back_as_it_went():
    assert from_json(plain()) == STATUS


def test_what_a_later_version_adds_is_left_out():
    value = plain()
    for part in (
        value,
        value["peers"][0],
        value["peers"][0]["links"][0],
        value["tables"][0],
        value["scrub"],
        value["accounts"][0],
    ):
        part["more"] = 1
    assert from_json(value) == STATUS


def test_what_an_earlier_version_lacks_has_its_default():
    value = plain()
    del value["roles"], value["scrub"], value["peers"][0]["links"], value["accounts"]
    assert from_json(value).roles == from_json(value).accounts == ()


@pytest.mark.parametrize("key", ["schema", "peers", "file"])
def test_status_that_cannot_be_shown_says_what_to_do(key):
    value = plain()
    del value[key]
    with pytest.raises(NodeError, match="restart the node after an update"):
        from_json(value)
