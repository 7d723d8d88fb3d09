"""Peers as people read them: what fits a terminal of 80 columns, and what is left out."""

from __future__ import annotations

from mycomesh.mesh.node.status import AccountView, PeerView
from mycomesh.tools.views import show_accounts, show_peers


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


def test_the_origin_with_most_bytes_comes_first(capsys):
    few, many, others = (
        AccountView("aa", "drone1", 9, 100, 0, 0, "2026-12-01T00:00:00.000+00:00", {"view": 2, "trigger": 1}),
        AccountView("bbbb", "", 5, 5_000_000, 1, 2, "2026-12-01T00:00:00.000+00:00"),
        AccountView("", "", 1, 1, 0, 0, "2026-12-01T00:00:00.000+00:00"),
    )
    show_accounts([few, others, many])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["ORIGIN", "bbbb", "drone1", "others"]
    assert lines[1][-4:-2] == ["1", "2"]
    assert lines[2][-4:] == ["1", "trigger,", "2", "view"]
