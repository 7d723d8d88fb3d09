"""The control socket: one line each way, private, and unharmed by slow or rude clients."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import threading
import time

import pytest
import uvloop

from mycomesh.mesh.node.control import server
from mycomesh.mesh.node.control.client import PAST_MAX, REQUEST_BYTES_MAX, ask, in_directory, watch
from mycomesh.mesh.node.control.server import ControlServer
from mycomesh.mesh.node.errors import NodeError, NoNodeError, RefusedError
from mycomesh.mesh.node.home import Home

WAIT_S = 20


class Running:
    """A control server on its own loop in its own thread, so that tests can use the blocking client."""

    def __init__(self, home, answer, new_loop=asyncio.new_event_loop):
        self.loop = new_loop()
        self.server = ControlServer(home.sockets[0], answer)
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.do(self.server.start())

    def do(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(WAIT_S)

    def stop(self):
        self.do(self.server.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(WAIT_S)
        self.loop.close()


async def echo(request):
    if request.get("do") == "refuse":
        raise NodeError("not today")
    return {"asked": request}


@pytest.fixture
def home(tmp_path):
    home = Home.locate(tmp_path / "h", {})
    home.prepare()
    return home


@pytest.fixture
def running(home):
    running = Running(home, echo)
    yield running
    running.stop()


def connect(home):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(WAIT_S)
    with in_directory(home.sockets[0]) as short:
        client.connect(short)
    return client


def test_a_question_gets_its_answer(home, running):
    assert ask(home, "status", word="ü") == {"asked": {"do": "status", "word": "ü"}}


def test_a_refusal_comes_with_the_nodes_own_words(home, running):
    with pytest.raises(RefusedError, match="not today"):
        ask(home, "refuse")


def test_only_the_owner_can_reach_the_socket(home, running):
    assert stat.S_IMODE(home.sockets[0].stat().st_mode) == 0o600


def test_without_node_the_answer_says_how_to_start_one(home):
    with pytest.raises(NoNodeError, match="mycomesh up"):
        ask(home, "status")


def test_leftover_socket_of_killed_node_is_no_node(home):
    leftover = socket.socket(socket.AF_UNIX)
    with in_directory(home.sockets[0]) as short:
        leftover.bind(short)
    leftover.close()
    with pytest.raises(NoNodeError):
        ask(home, "status")


def test_leftover_socket_does_not_keep_node_from_starting(home):
    home.sockets[0].touch()
    running = Running(home, echo)
    try:
        assert ask(home, "x")["asked"]["do"] == "x"
    finally:
        running.stop()
    assert not home.sockets[0].exists()


def test_a_home_deeper_than_a_socket_name_holds_works(tmp_path):
    deep = Home.locate(tmp_path / ("d" * 100) / ("e" * 100), {})
    deep.prepare()
    running = Running(deep, echo)
    try:
        assert ask(deep, "x")["asked"]["do"] == "x"
    finally:
        running.stop()


def test_several_questions_on_one_connection(home, running):
    with connect(home) as client, client.makefile("rb") as lines:
        for number in range(3):
            client.sendall(json.dumps({"do": str(number)}).encode() + b"\n")
            assert json.loads(lines.readline())["result"]["asked"]["do"] == str(number)


@pytest.mark.parametrize("rubbish", [b"\n", b"[]\n", b"\xff\xfe\n", b"{\n", b"[" * 60_000 + b"\n"])
def test_rubbish_is_answered_with_one_line_and_harms_nobody(home, running, rubbish):
    with connect(home) as client, client.makefile("rb") as lines:
        client.sendall(rubbish)
        answer = json.loads(lines.readline())
        assert answer["ok"] is False
        assert "\n" not in answer["error"]
    assert ask(home, "x")["asked"]["do"] == "x"


def test_an_endless_line_loses_its_connection_only(home, running):
    with connect(home) as client, client.makefile("rb") as lines:
        try:
            client.sendall(b"x" * (REQUEST_BYTES_MAX * 4))
            answer = lines.readline()
        except ConnectionError:  # the reset may meet the sending or the reading
            answer = b""
        assert answer == b""
    assert ask(home, "x")["asked"]["do"] == "x"


def test_a_watcher_gets_every_line_until_the_node_stops(home):
    running = Running(home, echo)
    lines = watch(home)
    got = []
    reader = threading.Thread(target=lambda: got.extend(lines))
    reader.start()
    while not any(running.server._writers.values()):
        running.do(asyncio.sleep(0))
    for number in range(3):
        running.loop.call_soon_threadsafe(running.server.publish, {"n": number})
    running.stop()
    reader.join(WAIT_S)
    assert got == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_watcher_that_comes_late_hears_what_was_said_last(home, running):
    async def say():
        for number in range(PAST_MAX + 5):
            running.server.publish({"n": number})
        running.server.publish({"n": "noise"}, keep=False)

    running.do(say())
    lines = watch(home, past=3)
    last = PAST_MAX + 5
    assert [next(lines) for _ in range(3)] == [{"n": last - 3}, {"n": last - 2}, {"n": last - 1}]
    running.loop.call_soon_threadsafe(running.server.publish, {"n": "now"})
    assert next(lines) == {"n": "now"}
    everything = watch(home, past=10 * PAST_MAX)
    assert next(everything) == {"n": 6}


@pytest.mark.parametrize("past", [-1, "3", None, 1.5, [3]])
def test_a_past_without_a_number_of_lines_is_empty(home, running, past):
    running.loop.call_soon_threadsafe(running.server.publish, {"n": 0})
    with connect(home) as client, client.makefile("rb") as lines:
        client.sendall(json.dumps({"do": "watch", "past": past}).encode() + b"\n")
        assert json.loads(lines.readline())["ok"] is True
        running.loop.call_soon_threadsafe(running.server.publish, {"n": 1})
        assert json.loads(lines.readline()) == {"n": 1}


def test_a_watcher_that_stops_reading_is_dropped(home, running, monkeypatch):
    monkeypatch.setattr(server, "WATCH_QUEUE_BYTES_MAX", 10_000)
    with connect(home) as client, client.makefile("rb") as lines:
        client.sendall(b'{"do":"watch"}\n')
        assert json.loads(lines.readline())["ok"] is True

        async def flood():
            while running.server._writers:
                running.server.publish({"text": "x" * 10_000})
                await asyncio.sleep(0)

        running.do(flood())
    assert ask(home, "x")["asked"]["do"] == "x"


def test_more_clients_than_the_limit_are_turned_away(home, running, monkeypatch):
    monkeypatch.setattr(server, "CLIENTS_MAX", 1)
    with connect(home) as first, first.makefile("rb") as lines:
        first.sendall(b'{"do":"x"}\n')
        lines.readline()
        with connect(home) as second:
            assert second.recv(1) == b""


def test_watching_ends_when_the_reader_of_the_pipe_leaves(home, running):
    reading, writing = os.pipe()
    os.close(reading)
    assert list(watch(home, pipe=writing)) == []
    os.close(writing)


def test_notices_that_came_together_are_yielded_one_by_one(home, running):
    reading, writing = os.pipe()
    for text in ("one", "two"):
        running.loop.call_soon_threadsafe(running.server.publish, {"text": text})
    running.do(asyncio.sleep(0))
    notices = watch(home, past=2, pipe=writing)
    assert [next(notices)["text"] for _ in range(2)] == ["one", "two"]
    notices.close()
    os.close(reading)
    os.close(writing)


def test_clients_that_leave_before_their_answers_are_no_error(home):
    async def late(request):
        await asyncio.sleep(0.02)
        return {"asked": request, "much": "x" * 10_000}

    running = Running(home, late, uvloop.new_event_loop)
    errors = []
    running.loop.set_exception_handler(lambda _loop, context: errors.append(context))
    try:
        for _ in range(20):
            client = connect(home)
            client.sendall(b'{"do": "watch"}\n' + b'{"do": "status"}\n' * 50)
            client.recv(1)
            client.close()  # with unread answers, so that the node's next read fails too
            running.loop.call_soon_threadsafe(running.server.publish, {"event": "x", "text": "y" * 10_000})
        assert ask(home, "status")["asked"] == {"do": "status"}
        deadline = time.monotonic() + WAIT_S
        while running.server._writers and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not running.server._writers
    finally:
        running.stop()
    assert errors == []
