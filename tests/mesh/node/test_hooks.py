"""Hooks within a program's own node: when one stops, and how it goes on."""

from __future__ import annotations

import asyncio
import json

import pytest

import mesh
from mycomesh.mesh.node import hooks
from mycomesh.mesh.node.config import Hook
from mycomesh.mesh.node.readers import FAILED_MAX, JUDGED_MAX


async def until(check):
    while not check():  # noqa: ASYNC110 - a file that another process writes sets no event
        await asyncio.sleep(0.02)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def within(home, tmp_path, monkeypatch):
    """Run a story with a node whose hook runs a command for each change of `t`; pauses are short."""
    monkeypatch.setattr(hooks, "PAUSES_S", (0, 0, 0))
    monkeypatch.setattr(hooks, "CHANGES_MAX", 1)

    def run(command, story):
        async def bounded():
            config = mesh.NodeConfig(port=0, multicast=False, hooks=(Hook("pager", "t", command),))
            async with asyncio.timeout(60), mesh.open(tmp_path / "f.db", home=home, config=config) as node:
                await node.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")
                await story(node)

        asyncio.run(bounded())

    return run


@pytest.mark.parametrize("failed", [FAILED_MAX - 1, FAILED_MAX, FAILED_MAX + 1])
def test_a_hook_stops_when_too_many_changes_fail(within, tmp_path, monkeypatch, caplog, failed):
    monkeypatch.setattr(hooks, "TRIES_MAX", 1)
    assert FAILED_MAX < JUDGED_MAX
    out, switch = tmp_path / "out", tmp_path / "switch"

    async def letters(node):
        return (await node.execute("SELECT count(*) FROM mycomesh_dead_letters"))[0][0]

    async def story(node):
        caplog.set_level("INFO", logger="mycomesh")
        await node.executemany("INSERT INTO t VALUES(?)", [(number,) for number in range(failed)])
        runs = node._serving().hooks
        stops = failed >= FAILED_MAX
        if stops:
            await until(lambda: runs.stopped == ["pager"])
            assert "20 of its last 50 changes failed, so it stops" in caplog.text
            assert await letters(node) == FAILED_MAX
        else:
            await until(lambda: caplog.text.count("is a dead letter now") == failed)
            assert runs.stopped == []
        switch.touch()
        assert not runs.resume("nobody")
        assert runs.resume("pager")
        await node.execute("INSERT INTO t VALUES(1000)")
        await until(lambda: any(change["row"] == "1000" for change in lines(out)))
        assert runs.stopped == []

    within(f"test -e {switch} && cat >> {out}", story)


def test_a_hook_gets_all_of_a_later_table(home, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(hooks, "PAUSES_S", (0.05,))
    caplog.set_level("INFO", logger="mycomesh")
    out = tmp_path / "out"
    hook = Hook("pager", "later", f"cat >> {out}", from_now=True)

    async def story():
        config = mesh.NodeConfig(port=0, multicast=False, hooks=(hook,))
        async with mesh.open(tmp_path / "f.db", home=home, config=config) as node:
            await until(lambda: "no replicated table 'later'" in caplog.text)
            await node.execute("CREATE TABLE later(id INTEGER PRIMARY KEY); INSERT INTO later VALUES(1)")
            await until(out.exists)
            await until(lambda: [change["row"] for change in lines(out)] == ["1"])

    asyncio.run(asyncio.wait_for(story(), 30))


def test_a_hook_waits_for_its_table(within, tmp_path):
    out = tmp_path / "out"

    async def story(node):
        await node.execute("INSERT INTO t VALUES(1)")
        await until(out.exists)

    within(f"cat >> {out}", story)
