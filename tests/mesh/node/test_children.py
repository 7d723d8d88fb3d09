"""Child processes of a node: restarts, reports, pauses, and an end with their node."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path

import pytest

from mycomesh.mesh.node import children
from mycomesh.mesh.node.children import REPORT_BYTES_MAX, Children, command_line
from mycomesh.mesh.node.config import Section
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.home import Home


@pytest.fixture
def within(tmp_path, monkeypatch):
    """Run a story with one child, whose program is the given lines of Python."""
    monkeypatch.setattr(children, "PAUSES_S", (0.01,))

    def run(program, story):
        home = Home.locate(tmp_path, {})
        home.state.mkdir(parents=True, exist_ok=True)
        write_config(tmp_path, "[bridge.b]\n")
        script = tmp_path / "child.py"
        script.write_text(f"import json, os, sys, time\n{program}")
        monkeypatch.setattr(children, "command_line", lambda _: [sys.executable, str(script)])
        notices = []

        async def bounded():
            kids = Children([Section("bridge", "b")], home, notices.append)
            kids.start()
            try:
                async with asyncio.timeout(30):
                    await story(kids)
            finally:
                await kids.close()

        asyncio.run(bounded())
        return notices

    return run


def write_config(tmp_path, text):
    config = Home.locate(tmp_path, {}).config_file
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(text)
    config.chmod(0o600)


async def until(kids, check):
    while not check(kids.views[0]):  # noqa: ASYNC110 - a process sets no event
        await asyncio.sleep(0.01)
    return kids.views[0]


def is_alive(pid):
    with contextlib.suppress(FileNotFoundError):
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


REPORT = 'print(json.dumps({"state": "running", "text": "well", "figures": {"sent": 3}}), flush=True)\n'


def test_a_report_is_shown_as_it_came(within):
    async def story(kids):
        view = await until(kids, lambda view: view.state == "running")
        assert (view.text, view.figures, view.starts) == ("well", {"sent": 3}, 1)
        assert is_alive(view.pid)

    within(f"{REPORT}time.sleep(60)", story)


def test_a_child_that_ends_is_started_again(within):
    async def story(kids):
        await until(kids, lambda view: view.starts >= 3)

    notices = within("print('mycomesh: out of luck', file=sys.stderr); sys.exit(1)", story)
    assert notices[0].event == "child.ended"
    assert "bridge 'b': out of luck; starts again in" in notices[0].text


def test_a_refused_section_waits_for_resume(within):
    async def story(kids):
        view = await until(kids, lambda view: view.state == "refused")
        await asyncio.sleep(0.1)
        assert (kids.views[0].starts, view.text) == (1, "no url")
        await kids.answer({"action": "resume", "kind": "bridge", "name": "b"})
        await until(kids, lambda view: view.starts == 2)

    notices = within("print('mycomesh: no url', file=sys.stderr); sys.exit(2)", story)
    assert [notice.event for notice in notices][:1] == ["child.refused"]


def test_pause_ends_the_process_and_resume_starts_it(within):
    async def story(kids):
        view = await until(kids, lambda view: view.state == "running")
        await kids.answer({"action": "pause", "kind": "bridge", "name": "b"})
        assert (kids.views[0].state, kids.views[0].pid) == ("paused", None)
        assert not is_alive(view.pid)
        await asyncio.sleep(0.1)
        assert kids.views[0].starts == 1
        answer = await kids.answer({"action": "resume", "kind": "bridge", "name": "b"})
        assert answer["children"][0]["name"] == "b"
        await until(kids, lambda view: view.state == "running" and view.starts == 2)
        with pytest.raises(NodeError, match="there are: b"):
            await kids.answer({"action": "pause", "kind": "bridge", "name": "c"})

    assert within(f"{REPORT}time.sleep(60)", story) == []


def test_a_pause_outlives_the_node_until_resume(within):
    program = f"{REPORT}time.sleep(60)"

    async def pause(kids):
        await kids.answer({"action": "pause", "kind": "bridge", "name": "b"})

    async def resume(kids):
        await asyncio.sleep(0.1)
        assert (kids.views[0].state, kids.views[0].starts) == ("paused", 0)
        assert kids.views[0].text == "'mycomesh bridge resume b' lets it go on"
        await kids.answer({"action": "resume", "kind": "bridge", "name": "b"})
        await until(kids, lambda view: view.state == "running")

    async def runs(kids):
        await until(kids, lambda view: view.state == "running")
        await kids.answer({"action": "pause", "kind": "bridge", "name": "b", "keep": False})  # as a replay does

    for story in (pause, resume, runs, runs):
        assert within(program, story) == []


@pytest.mark.parametrize("data", [b"{", b"[1]", b"[[1, 2, 3]]", b"7"])
def test_damaged_pauses_are_told_and_all_start(within, tmp_path, data):
    state = Home.locate(tmp_path, {}).state
    state.mkdir(parents=True, exist_ok=True)
    (state / "paused").write_bytes(data)
    (state / "paused").chmod(0o600)

    async def story(kids):
        await until(kids, lambda view: view.state == "running")

    (notice,) = within(f"{REPORT}time.sleep(60)", story)
    assert notice.event == "child.paused_unread"


@pytest.mark.parametrize("size", [-100, 0, 1])
def test_a_long_report_is_skipped(within, size):
    """Lines below the limit count, those above it do not; what follows them does."""
    program = f"""
text = "x" * {REPORT_BYTES_MAX + size}
print(json.dumps({{"state": "long", "text": text}})[:{REPORT_BYTES_MAX + size - 2}] + '"}}', flush=True)
{REPORT}time.sleep(60)
"""
    seen = []

    async def story(kids):
        def check(view):
            seen.append(view.state)
            return view.state == "running"

        await until(kids, check)

    within(program, story)
    assert set(seen) <= {"starting", "long", "running"}


def test_lines_that_are_no_reports_change_nothing(within):
    async def story(kids):
        await until(kids, lambda view: view.state == "running")

    notices = within(f'print("[1]")\nprint("hello")\nprint(json.dumps({{"state": 3}}))\n{REPORT}time.sleep(60)', story)
    assert notices == []


def test_a_notice_goes_to_the_log(within):
    async def story(kids):
        await until(kids, lambda view: view.state == "running")

    notice = json.dumps({"notice": {"event": "bridge.waiting", "text": "no broker", "level": "warning"}})
    (seen,) = within(f"print('{notice}')\n{REPORT}time.sleep(60)", story)
    assert (seen.event, seen.text, seen.level) == ("bridge.waiting", "no broker", "warning")


def test_a_child_that_ignores_the_end_is_killed(within, monkeypatch):
    monkeypatch.setattr(children, "END_S", 0.2)
    pids = []

    async def story(kids):
        pids.append((await until(kids, lambda view: view.state == "running")).pid)

    within(f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{REPORT}\nwhile True: time.sleep(1)", story)
    assert not is_alive(pids[0])


def test_the_command_names_a_home_that_was_given(tmp_path):
    assert command_line(Home.locate(tmp_path, {}))[-2:] == ["--home", str(tmp_path)]
    assert "--home" not in command_line(Home.locate(None, {"HOME": str(tmp_path)}))
    assert os.path.exists(command_line(Home.locate(None, {"HOME": str(tmp_path)}))[0])  # noqa: PTH110


def test_sections_are_taken_up_and_let_go_at_once(within, tmp_path):
    async def story(kids):
        first = await until(kids, lambda view: view.state == "running")
        write_config(tmp_path, '[flow.new]\non = "t"\n[bridge.b]\nurl = "file:x"\n')
        await kids.answer({"action": "reload"})
        assert [(view.kind, view.name) for view in kids.views] == [("flow", "new"), ("bridge", "b")]
        await until(kids, lambda view: view.state == "running")
        assert kids.views[1].pid == first.pid, "the other one runs on"
        started = kids.views[0].pid
        await kids.answer({"action": "pause", "kind": "bridge", "name": "b"})
        write_config(tmp_path, "")
        await kids.answer({"action": "reload"})
        assert kids.views == ()
        assert not is_alive(started)
        assert json.loads((Home.locate(tmp_path, {}).state / "paused").read_text()) == []

    within(f"{REPORT}time.sleep(60)", story)


def test_children_asked_for_run_beside_those_of_sections(within, tmp_path):
    async def story(kids):
        write_config(tmp_path, "[flows]\n[bridge.b]\n")
        await kids.answer({"action": "also", "kind": "flow", "names": ["x", "y"]})
        await kids.answer({"action": "pause", "kind": "flow", "name": "x"})
        await kids.answer({"action": "reload"})
        assert [view.name for view in kids.views] == ["", "b", "x", "y"]
        with pytest.raises(NodeError, match="a name has 1 to 64"):
            await kids.answer({"action": "also", "kind": "flow", "names": ["a b"]})
        again = Children([Section("flows", ""), Section("bridge", "b")], Home.locate(tmp_path, {}), print)
        again.start()
        try:
            await again.answer({"action": "also", "kind": "flow", "names": ["y", "x"]})
            assert {view.name: view.state == "paused" for view in again.views}["x"], "also after a restart of the node"
            await again.answer({"action": "also", "kind": "flow", "names": ["y"]})
            await again.answer({"action": "also", "kind": "flow", "names": ["x", "y"]})
            assert not any(view.state == "paused" for view in again.views), "it was gone"
            names = [f"n{number}" for number in range(31)]
            with pytest.raises(NodeError, match="33 processes beside the node are more than 32"):
                await again.answer({"action": "also", "kind": "flow", "names": names})
            await again.answer({"action": "reload"})
            assert len(again.views) == 4, "nothing has changed"
        finally:
            await again.close()
        write_config(tmp_path, "[bridge.b]\n")
        await kids.answer({"action": "reload"})
        assert [view.name for view in kids.views] == ["b"], "the one that asked has gone"

    within("time.sleep(60)", story)


def test_a_section_written_since_is_found_by_its_name(within, tmp_path):
    async def story(kids):
        write_config(tmp_path, "[flow.new]\n[bridge.b]\n")
        await kids.answer({"action": "pause", "kind": "flow", "name": "new"})
        assert kids.views[0].state == "paused"
        with pytest.raises(NodeError, match="has no flow 'other'; there are: new"):
            await kids.answer({"action": "resume", "kind": "flow", "name": "other"})
        write_config(tmp_path, "[flow")
        with pytest.raises(NodeError, match=r"config\.toml"):
            await kids.answer({"action": "reload"})
        assert len(kids.views) == 2, "nothing changes"

    within("time.sleep(60)", story)


def test_a_child_is_asked_to_try_dead_letters_again(within):
    program = 'for line in sys.stdin:\n    print(json.dumps({"state": line.strip()}), flush=True)\n'

    async def story(kids):
        kids.request_retry("bridge.b.in")  # before it runs: nothing is lost, since it looks when it starts
        await until(kids, lambda view: view.pid is not None)
        kids.request_retry("bridge.other")
        kids.request_retry("bridge.b")
        await until(kids, lambda view: view.state == "retry")

    within(program, story)
