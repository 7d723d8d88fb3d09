"""The screens of `top` as text: what is said, where, at every size, and what keys do."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mycomesh.mesh.node.status import (
    AreaView,
    LinkView,
    MailboxView,
    PeerView,
    ProgressView,
    ReaderView,
    Status,
    StreamView,
    TableView,
)
from mycomesh.tools import exits
from mycomesh.tools.cli import main
from mycomesh.tools.top.layout import Layout
from mycomesh.tools.top.loop import frame
from mycomesh.tools.top.model import Live, Trace
from mycomesh.tools.top.screens import SCREENS, View, draw, on_key
from mycomesh.tools.top.sources import TraceSource
from mycomesh.tools.top.terminal import keys_of


def peer(key, name, state="linked", *, equal=True, links=(), sent=0):
    links = tuple(LinkView(other, 5, 100) for other in links)
    return PeerView(key, name, ("member",), state, "10.0.0.1:7447", 3.0, -2.0, equal, 10, sent, 20, None, links)


def status(peers, tables=()):
    return Status(
        1, "0", "serving", "fleet", "m", "ground", "a", 1, 5, "f.db", 7447, "s", 0, "", None, tuple(peers), tables,
        roles=("member", "admin"),
    )  # fmt: skip


WHOLE = View()
TABLES = (TableView("drones", 12345, "ab" * 16, 2, 1, ""),)
PEERS = (
    peer("b", "humvee", links=("a", "c")),
    peer("c", "drone", equal=False, links=("a", "b")),
    peer("d", "lost", "down"),
)


def lines(picture, view=WHOLE, width=120, height=40):
    layout = Layout()
    edges = [(edge.first, edge.second) for edge in picture.edges]
    positions = layout.update([node.key for node in picture.nodes], edges)
    return draw(picture, view, positions, width, height)


def text(picture, view=WHOLE, width=120, height=40):
    return "\n".join(line.plain for line in lines(picture, view, width, height))


@pytest.mark.parametrize(("screen", "height"), [("all", 36), ("all", 24), ("tables", 24)])
@pytest.mark.parametrize("tables", [(), TABLES])
def test_a_mailbox_is_shown_where_there_is_room(screen, height, tables):
    stream = StreamView("bravo", "bay", "b", 1, 3, 2.0, 10, 1, 0, 0, "", (), None)
    box = MailboxView("dir:/srv/share", "", "waiting", "mailbox /srv/share: full", 1, 10, 1, 10, (stream,))
    shown = text(Live().picture(replace(status(PEERS, tables), mailboxes=(box,))), View(screen), 120, height)
    for part in ("waiting  dir:/srv/share", "mailbox /srv/share: full", "FROM   BASE  WAITING", "bravo  bay   3"):
        assert part in shown


@pytest.mark.parametrize("screen", [*SCREENS, "node", "help"])
@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60), (20, 5), (30, 9), (10, 3), (1, 1)])
def test_a_screen_fills_its_size_and_no_more(screen, size):
    width, height = size
    drawn = lines(Live().picture(status(PEERS, TABLES)), View(screen), width, height)
    assert len(drawn) == height
    assert all(line.cell_len <= width for line in drawn)


def test_the_whole_shows_map_peers_tables_and_events():
    live = Live()
    live.record_notice({"time": "2026-01-02T03:04:05.678Z", "level": "info", "text": "linked with humvee"})
    live.record_notice({"time": "2026-01-02T03:04:05.678Z", "level": "debug", "text": "noise"})
    shown = text(live.picture(status(PEERS, TABLES)))
    assert "fleet: ground, 2 of 3 linked" in shown
    assert "◉" in shown
    assert "○" in shown
    assert "12,345" in shown
    assert "linked with humvee" in shown
    assert "noise" not in shown


def test_readers_are_below_the_tables_with_their_lag():
    readers = tuple(ReaderView(f"reader{n}", "drones", 10 * n, float(n) if n else None, "", n == 2) for n in range(3))
    picture = Live().picture(replace(status(PEERS, TABLES), readers=readers))
    for view, width, height in ((View("tables"), 80, 24), (WHOLE, 160, 40)):
        shown = text(picture, view, width, height)
        assert "readers" in shown
        found = [" ".join(line.split()) for line in shown.splitlines() if "reader" in line and "drones" in line]
        assert [line[line.index("reader") :] for line in found] == [
            "reader2 drones 20 rows 2.0 s idle",
            "reader1 drones 10 rows 1.0 s -",
            "reader0 drones 0 rows - -",
        ]
    many = replace(status(PEERS, TABLES * 30), readers=readers * 30)
    shown = text(Live().picture(many), View("tables"), 80, 24).splitlines()
    assert sum("more" in line for line in shown) == 2
    assert len(shown) == 24


def test_areas_are_below_the_tables_with_their_holders():
    areas = (
        AreaView("drones", "7", True, 12, "00", 1, 1, 1, 2),
        AreaView("drones", "8", False, 3, "00", 0, 0, 2, 2),
        AreaView("drones", "9", False, 3, "00", 0, 0, 2, 2, withheld=True),
    )
    picture = Live().picture(replace(status(PEERS, TABLES), areas=areas))
    for view, width, height in ((View("tables"), 80, 24), (WHOLE, 160, 40)):
        shown = text(picture, view, width, height)
        found = [" ".join(line.split()) for line in shown.splitlines() if "drones 7" in line or "keep" in line]
        assert any("drones 7 12 1/2 1/2 too few keep it" in line for line in found), shown
        assert "not kept: goes once others have it" in shown
        assert "no right to write: stays here" in shown
    many = replace(status(PEERS, TABLES), areas=areas * 60)
    shown = text(Live().picture(many), View("tables"), 80, 24).splitlines()
    assert sum("more" in line for line in shown) == 1
    assert len(shown) == 24


def test_a_table_counts_the_linked_peers_that_equal_it():
    tables = (
        TableView("drones", 5, "0" * 15 + "5" + "ab" * 16, 0, 0, "", 2),
        TableView("alerts", 5, "cd" * 16, 0, 0, "", 1),
        TableView("new", 5, "ef" * 16, 0, 0, ""),
    )
    shown = text(Live().picture(status(PEERS, tables)), View("tables"))
    assert [line.split()[:4] for line in shown.splitlines()[2:5]] == [
        ["drones", "5", "abababab", "2/2"],
        ["alerts", "5", "cdcdcdcd", "1/2"],
        ["new", "5", "efefefef", "-"],
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_every_member_is_in_the_table(width):
    shown = text(Live().picture(status(PEERS)), View("peers"), width, 24)
    assert [line.split()[:3] for line in shown.splitlines()[1:6]] == [
        ["NAME", "STATE", "EQUAL"],
        ["ground", "here", "yes"],
        ["humvee", "linked", "yes"],
        ["drone", "linked", "no"],
        ["lost", "down", "yes"],
    ]


def test_links_are_drawn_once_and_split_is_two_islands():
    picture = Live().picture(status(PEERS))
    assert [(edge.first, edge.second) for edge in picture.edges] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert picture.islands == 1
    far = (peer("b", "humvee", "reachable", links=("c",)), peer("c", "drone", "reachable", links=("b",)))
    split = Live().picture(status(far))
    assert split.islands == 2
    assert "2 islands" in text(split)


def test_a_split_off_part_stays_a_separate_island():
    far = (
        peer("b", "humvee", "down", links=("a", "c", "d")),
        peer("c", "drone", "down", links=("a", "b")),
        peer("d", "lost", "down", links=("a",)),  # it went first: it has the link with humvee no more
    )
    picture = Live().picture(status([*far, peer("e", "tower", links=("a",))]))
    assert [(edge.first, edge.second) for edge in picture.edges if edge.past] == [("b", "c")]
    assert picture.islands == 1
    assert "1 of 4 linked, 3 down" in text(picture)


def test_the_map_says_what_its_signs_mean():
    for unicode, legend in ((True, "◉ this node  ● linked  ◆ differs  ○ down"), (False, "@ this node  o linked")):
        for screen in ("all", "map"):
            assert legend in text(Live().picture(status(PEERS)), View(screen, unicode=unicode), 100, 24)


@pytest.mark.parametrize("note", ["", "waiting for a member"])
def test_the_last_line_tells_the_keys(note):
    for screen in SCREENS:
        drawn = text(Live().picture(status(PEERS), note), View(screen), 80, 24).splitlines()
        assert drawn[-1] == "1 all  2 map  3 peers  4 tables  5 events  ? help  / filter  p pause  q quit"
        assert not note or drawn[-2].rstrip() == note
    assert "q quit" in text(Live().picture(status(PEERS), note), View(), 60, 24).splitlines()[-1]
    assert "Esc" in text(Live().picture(status(PEERS), note), View(filter="a"), 80, 24).splitlines()[-1]


def test_columns_that_nobody_has_value_for_are_left_out():
    trace = Trace()
    for line in TRACE:
        trace.feed(line)
    assert text(trace.picture(), View("peers")).splitlines()[1].split() == ["NAME", "STATE", "CONTENT"]
    shown = text(Live().picture(status(PEERS)), View("peers")).splitlines()
    assert "LAG" in shown[1]
    assert "member,admin" in shown[2]
    assert "0 B" not in shown[2]


def test_a_filter_chooses_events_too():
    live = Live()
    for words in ("link with humvee", "link with drone"):
        live.record_notice({"time": "", "level": "info", "text": words})
    shown = text(live.picture(status(PEERS)), View("events", filter="HUM"))
    assert "link with humvee" in shown
    assert "link with drone" not in shown
    assert "link with drone" not in text(live.picture(status(PEERS)), View(filter="HUM"))


def test_this_node_is_seen_on_a_white_terminal(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "37m" not in frame(lines(Live().picture(status(PEERS, TABLES))), 120)


def test_link_is_busy_when_bytes_moved_since_last_look():
    live = Live()
    assert not any(edge.busy for edge in live.picture(status([peer("b", "humvee", sent=1)])).edges)
    assert all(edge.busy for edge in live.picture(status([peer("b", "humvee", sent=9)])).edges)
    assert not any(edge.busy for edge in live.picture(status([peer("b", "humvee", sent=9)])).edges)


def test_without_unicode_every_sign_is_ascii():
    assert text(Live().picture(status(PEERS, TABLES)), View(unicode=False)).isascii()


def test_no_color_is_obeyed(monkeypatch):
    drawn = lines(Live().picture(status(PEERS, TABLES)))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "32m" in frame(drawn, 120)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "32m" not in frame(drawn, 120)


def test_text_of_peers_cannot_steer_the_terminal():
    live = Live()
    live.record_notice({"time": "", "level": "info", "text": "a\x1b[2Jb"})
    assert "\x1b" not in text(live.picture(status([peer("b", "x\x1b]0;owned\x07")])))


def test_keys_choose_select_filter_and_leave():
    view = on_key(View(), "2", 3)
    assert view.screen == "map"
    assert on_key(view, "\t", 3).screen == "peers"
    assert on_key(on_key(view, "j", 3), "down", 3).selected == 2
    assert on_key(view, "k", 3).selected == 0
    assert on_key(view, "p", 3).paused
    assert on_key(view, "q", 3).quit
    assert on_key(view, "j", 0).selected == 0
    for key in "/hum\r":
        view = on_key(view, key, 3)
    assert (view.filter, view.typing) == ("hum", False)
    shown = text(Live().picture(status(PEERS)), View("peers", filter=view.filter))
    assert "humvee" in shown
    assert "drone" not in shown


def test_escape_sequences_are_keys_or_nothing():
    assert keys_of("\x1b[Aq\x1b[5~j\x1bOB\x1b") == ["up", "q", "j", "down", "\x1b"]


TRACE = [
    {"t": 0, "kind": "header", "version": 1, "scenario": "split", "seed": 7, "names": ["node0", "node1", "node2"]},
    {"t": 1, "kind": "topology", "label": "", "groups": [0, 0, None], "links": [[0, 1, 4.0, 10]]},
    {"t": 2, "kind": "fault", "fault": "Split", "text": "split 0 | 1"},
    {"t": 2, "kind": "fault", "fault": "Move", "text": "2 node(s) move on"},
    {"t": 3, "kind": "something of another version", "more": 1},
]


def test_a_trace_makes_pictures():
    trace = Trace()
    for line in TRACE:
        trace.feed(line)
    shown = text(trace.picture())
    assert "split (seed 7), t = 3.0 s" in shown
    assert "split 0 | 1" in shown
    assert [node.state for node in trace.picture().nodes] == ["linked", "linked", "down"]


def traced(*lines):
    trace = Trace()
    for line in (TRACE[0], *lines):
        trace.feed(line)
    return trace


def test_one_colour_and_sign_is_one_content():
    trace = traced({"t": 1, "kind": "topology", "groups": [0, 1, 0], "links": [[0, 1, 4.0, 10]]})
    for unicode, legend in ((True, "● content A  ◆ content B"), (False, "o content A  # content B")):
        assert legend in text(trace.picture(), View(unicode=unicode), 100, 24)
    styles = {span.style for line in lines(trace.picture(), View("peers", selected=2)) for span in line.spans}
    rows = lines(trace.picture(), View("peers", selected=2))[2:5]
    assert [str(row.style) for row in rows] == ["green", "magenta", "green reverse"], styles
    assert [row.plain.split()[:3] for row in rows] == [["node0", "up", "A"], ["node1", "up", "B"], ["node2", "up", "A"]]
    whole = traced({"t": 1, "kind": "topology", "groups": [0, 0, None], "links": []})
    assert "● equal  ○ down" in text(whole.picture(), WHOLE, 100, 24)


def test_a_replay_counts_the_nodes_that_it_draws():
    sample = {"kind": "sample", "up": 3, "agree": 1, "groups": 3, "bytes": 500}
    trace = traced({"t": 1, "kind": "topology", "groups": [0, 0, 0], "links": []}, {"t": 2, **sample})
    assert "3 of 3 equal" in trace.picture().title
    trace.feed({"t": 2, "kind": "contents", "groups": [0, 1, 2]})
    assert "1 of 3 equal" in trace.picture().title
    assert [node.group for node in trace.picture().nodes] == [0, 1, 2]
    with pytest.raises(ValueError, match="another number of nodes"):
        trace.feed({"t": 2, "kind": "contents", "groups": [0, 1]})


def test_bytes_and_lag_fill_the_room_below_the_peers():
    live = Live()
    for second, sent in enumerate((0, 1_000, 5_000)):
        lagging = replace(peer("b", "humvee", sent=sent), catching_up=ProgressView(10, 100 * second, 0, 5))
        picture = live.picture(replace(status([lagging, *PEERS[1:]]), uptime_ms=1_000 * second))
    assert picture.traffic == (1_000, 4_000)
    assert picture.nodes[1].traffic == (1_000, 4_000)
    assert picture.lags == (0, 90, 190)
    shown = text(picture).splitlines()
    assert any("bytes and lag" in line for line in shown)
    assert any("all bytes" in line and "▂█" in line and line.endswith("4.0 kB/s") for line in shown)
    assert any("all lag" in line and "▄█" in line and line.endswith("190 rows") for line in shown)
    assert any("│humvee lag" in line for line in shown)
    assert live.picture(replace(status(PEERS), uptime_ms=2_000)).traffic == (1_000, 4_000), "no time has passed"
    assert "bytes and lag" not in text(picture, WHOLE, 80, 12)


def test_more_nodes_than_a_map_can_show_are_cells():
    half = [peer(f"b{n}", f"near{n}", links=("a",)) for n in range(12)]
    far = [peer(f"c{n}", f"far{n}", "down", links=[f"c{m}" for m in range(10) if m != n]) for n in range(10)]
    picture = Live().picture(status([*half, *far, peer("d", "lost", "down")]))
    shown = text(picture, WHOLE, 80, 24)
    for words in ("island 1: 13 nodes", "10 down", "1 down", "◉ ground", "● near11", "○ far9"):
        assert words in shown
    assert "island 1" not in text(picture, WHOLE, 200, 60)
    assert "island 1" not in text(Live().picture(status(PEERS)), WHOLE, 30, 9)


def test_enter_shows_the_selected_node_and_its_links():
    live = Live()
    live.record_notice({"time": "", "level": "info", "text": "caught up with drone"})
    view = on_key(replace(WHOLE, selected=2), "\r", 4)
    assert view.screen == "node"
    shown = text(live.picture(status(PEERS)), view)
    for words in (
        "drone",
        "differs from this node",
        "10.0.0.1:7447",
        "2 links",
        "humvee",
        "ground",
        "caught up with drone",
    ):
        assert words in shown
    assert "lost" in text(live.picture(status(PEERS)), on_key(view, "j", 4))
    assert on_key(view, "\x1b", 4).screen == "all"
    assert on_key(on_key(view, "?", 4), "\x1b", 4).screen == "all"
    assert on_key(view, "3", 4).screen == "peers"
    assert "no node matches" in text(live.picture(status(PEERS)), replace(view, filter="nobody"))


def test_help_names_every_key_and_fits():
    view = on_key(View("peers"), "?", 3)
    shown = text(Live().picture(status(PEERS)), view, 80, 24)
    for key in ("1 to 5", "j, k", "Enter", "p, space", "Esc", "q, ^C", "yellow"):
        assert key in shown
    assert on_key(view, "\x1b", 3).screen == "peers"


def test_conflicts_and_parked_rows_are_in_the_title():
    head = lines(Live().picture(status(PEERS, TABLES)))[0]
    assert head.plain.rstrip().endswith("2 conflicts, 1 parked")
    assert any(
        str(span.style) == "reverse yellow" and head.plain[span.start : span.end] == "1 parked" for span in head.spans
    )
    assert head.cell_len == 120


def test_a_split_of_real_nodes_is_one_line():
    far = (peer("b", "humvee", "down", links=("c",)), peer("c", "drone", "down", links=("b",)))
    live = Live()
    live.picture(status(PEERS[:2]))
    for _ in range(3):
        picture = live.picture(status(far))
    assert [event.text for event in picture.events] == ["split, or stopped: humvee, drone | ground"]
    picture = live.picture(status(PEERS[:2]))
    assert [event.text for event in picture.events][1:] == ["connected again: all members that run"]


@pytest.fixture
def replay(tmp_path, capsys):
    def replay(content):
        path = tmp_path / "trace.jsonl"
        path.write_text(content)
        return main(["top", "--replay", str(path)]), capsys.readouterr()

    return replay


def test_a_paused_replay_goes_on_by_moments(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in TRACE))
    source = TraceSource(path, 1e-9)
    view, seen = View(), []
    for key in (".", "right", ".", "."):
        before, view = view.steps, on_key(view, key, 3)
        seen.append(source.picture(paused=view.paused, steps=view.steps - before))
    assert [picture.title.split("t = ")[1].split(",")[0] for picture in seen] == ["1.0 s", "2.0 s", "3.0 s", "3.0 s"]
    assert [bool(picture.note) for picture in seen] == [False, False, True, True]
    assert view.paused


def test_in_a_pipe_one_picture_is_printed(replay):
    code, captured = replay("".join(json.dumps(line) + "\n" for line in TRACE))
    assert code == exits.DONE
    assert "node2" in captured.out
    assert "\x1b" not in captured.out
    assert "t = 3.0 s" in captured.out  # the end
    assert "split 0 | 1" in captured.out


@pytest.mark.parametrize(
    "content",
    ["", "rubbish\n", "[]\n", '{"t": 0, "kind": "sample"}\n', '{"t": 0, "kind": "header", "version": 1}\n', "\xff"],
)
def test_a_wrong_trace_file_is_a_usage_error(replay, content):
    code, captured = replay(content)
    assert (code, captured.out) == (exits.USAGE, "")
    assert len(captured.err.splitlines()) == 1
