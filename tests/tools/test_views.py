"""Peers as people read them: what fits a terminal of 80 columns, and what is left out."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from mycomesh.mesh.node.snapshot import mailbox_states
from mycomesh.mesh.node.status import (
    AccountView,
    AreaView,
    BudgetView,
    LinkView,
    MailboxView,
    PeerView,
    ProgressView,
    ReaderView,
    ScrubView,
    Status,
    StreamView,
    TableView,
    to_json,
)
from mycomesh.tools.cli import main
from mycomesh.tools.top.model import Live
from mycomesh.tools.top.screens import SCREENS, View, draw
from mycomesh.tools.views import show_accounts, show_budget, show_mailboxes, show_peers


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


HOSTILE = "x\x1b]0;owned\x07\x9b31m\u202e\r\n\x7f"


def hostile(value):
    """Return a view with each text in it replaced, and each number as large as a peer can make it."""
    match value:
        case str():
            return HOSTILE
        case bool() | None:
            return value
        case int():
            return 2**65
        case float():
            return 2.0**63
        case tuple():
            return tuple(map(hostile, value))
        case dict():
            return dict.fromkeys((HOSTILE,), 2**65)
        case _:
            own = ("state", "digest", "phase", "node_id", "site")  # words of this node, and hexadecimal digits
            said = [each.name for each in fields(value) if each.name not in own]
            return replace(value, **{name: hostile(getattr(value, name)) for name in said})


LINKED = PeerView("b", "n", ("member",), "linked", "h", 1.0, 1.0, None, 1, 1, 1, ProgressView(1, 0, 1, 1))
STREAM = StreamView("m", "b", "n", 1, 1, 1.0, 1, 1, 1, 1, "why", ("t",), 1.0)
MANY = Status(
    1, "0", "serving", "fleet", "m", "ground", "a", 1, 5, "f.db", 7447, "s", 0, "hint", 1.0,
    peers=(replace(LINKED, links=(LinkView("c", 5, 100),), protocol="1"),),
    tables=(TableView("t", 1, "ab", 1, 1, "note", 1, "2026", 1, 1, "by"),),
    scrub=ScrubView(1, 1, ("t",)),
    roles=("member",),
    accounts=(AccountView("aa", "", 1, 1, 1, 1, "2026", {"view": 2}),),
    readers=(ReaderView("c", "t", 1, 1.0, "2026", idle=False),),
    mailboxes=(MailboxView("dir:/x", "b", "waiting", "text", 1, 1, 1, 1, (STREAM,)),),
    areas=(AreaView("t", "1", True, 1, "ab", 1, 1, 1, 2),),
)  # fmt: skip


@pytest.mark.parametrize("words", [["status", "--accounts"], ["status", "--json"]])
def test_no_text_of_a_peer_steers_the_terminal(words, capsys, monkeypatch, tmp_path):
    """Names of tables and areas, reasons of a storage, numbers of a million links: all are shown, on their own lines."""
    monkeypatch.setattr("mycomesh.tools.commands.status.ask", lambda *_: to_json(replace(hostile(MANY), schema=1)))
    assert main(["--home", str(tmp_path), *words]) == 0
    out, err = capsys.readouterr()
    assert "owned" in out
    assert [char for char in (out + err).replace("\n", "") if not char.isprintable()] == []
    if "--json" not in words:
        assert len(out.splitlines()) < 40


def test_hostile_numbers_and_names_fit_every_screen():
    live = Live()
    for uptime_ms in (5, 6):
        picture = live.picture(replace(hostile(MANY), uptime_ms=uptime_ms))
    for screen in (*SCREENS, "node", "help"):
        shown = "\n".join(line.plain for line in draw(picture, View(screen), {}, 80, 24))
        assert all(len(line) <= 80 for line in shown.splitlines())
        assert shown.replace("\n", "").isprintable()


def test_a_gateway_says_who_may_delete(capsys):
    box = MailboxView("dir:/share", "", "running", "", 1, 10, 1, 10)
    show_mailboxes([box])
    assert capsys.readouterr().out.splitlines()[1] == "  removes its own old envelopes, and no others: unknown"
    denied = replace(box, removes="no", removes_text="access denied", clock="this node's clock is 3 days behind")
    show_mailboxes([denied])
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  removes its own old envelopes, and no others: no: access denied",
        "  clock: this node's clock is 3 days behind",
    ]
    (state,) = mailbox_states([denied])
    assert state.note == "this node's clock is 3 days behind; may not remove its old envelopes: access denied"


def test_budgets_name_tables_that_wait_without_their_escapes(capsys):
    show_budget(BudgetView(2, 1, 50_000, None, 7_700, ("tele\x1b[31mmetry", "video")))
    show_budget(BudgetView(1, 0, None, None, 0))
    first, second = capsys.readouterr().out.splitlines()
    assert "\x1b" not in first
    assert "1 of them waiting (for its own budget: tele" in first
    assert first.endswith("limits: 50.0 kB/s each")
    assert second.endswith("limits: those of single tables")
