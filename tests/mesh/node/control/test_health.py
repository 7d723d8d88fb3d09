"""The reasons that make a node unhealthy. A missing or unequal peer does not, since a restart would not bring it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mycomesh.mesh.node.control.health import unhealthy
from mycomesh.mesh.node.status import TroubleView
from mycomesh.tools.codes import CODES
from tests.mesh.node.control.readings import PEER, STATUS

NOW_S = STATUS.not_after_s - 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"revoked": True}, "this node was revoked [identity.revoked]"),
        ({"not_after_s": NOW_S}, "this node's certificate has expired [certificate.expired]"),
        ({"phase": "joining", "not_after_s": 0}, "waiting for a member of the mesh [join.waiting]"),
        ({"phase": "starting"}, "opening the file"),
        ({"trouble": TroubleView("disk.low", "the disk is full", 43_900)}, "the disk is full, for 43 s [disk.low]"),
    ],
)
def test_each_reason_is_one_line_with_its_code(change, reason):
    assert unhealthy(replace(STATUS, **change), NOW_S) == reason
    code = reason.partition("[")[2].rstrip("]")
    assert not code or code in CODES


@pytest.mark.parametrize("peers", [(), (replace(PEER, state="down"),), (replace(PEER, equal=False),)])
def test_missing_or_unequal_peers_are_no_illness(peers):
    assert unhealthy(replace(STATUS, peers=peers), NOW_S) == ""
