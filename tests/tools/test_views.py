"""Peers as people read them: what fits a terminal of 80 columns, and what is left out."""

from __future__ import annotations

from mycomesh.mesh.node.status import PeerView
from mycomesh.tools.views import show_peers


def peer(name, state, seen_ms_ago):
    return PeerView(
        "b", name, ("member",), state, "192.168.1.17:7447", 12.3, -12.0, True, seen_ms_ago, 123_400, 123_400
    )


def test_linked_and_departed_peers_fit_80_columns(capsys):
    show_peers([peer("drone1", "linked", 962)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines] == [["PEER", "STATE", "EQUAL"], ["drone1", "linked", "yes"]]
    assert all(len(line) <= 80 for line in lines)
    show_peers([peer("drone1", "down", 7_300_000)])
    assert "down (2 h ago)" in capsys.readouterr().out
