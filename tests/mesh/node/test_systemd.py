"""Messages to the service manager: nothing without one, signs of life while the node answers, silence when it does not."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from mycomesh.mesh.node.systemd import Watchdog, notify_manager, watchdog_s


@pytest.fixture
def heard(tmp_path, monkeypatch):
    """A manager's end of the socket; call it for all that was said so far."""
    place = tmp_path / "notify"
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(place))
    manager.setblocking(False)
    monkeypatch.setenv("NOTIFY_SOCKET", str(place))

    def said():
        lines = []
        while True:
            try:
                lines.append(manager.recv(4_096).decode())
            except BlockingIOError:
                return lines

    with manager:
        yield said


def test_without_manager_nothing_is_sent_and_no_timer_runs(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    notify_manager("READY=1")

    async def story():
        Watchdog(lambda: pytest.fail("asked for nobody")).start()
        await asyncio.sleep(0.02)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(story())


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("3000000", "", 3.0),
        pytest.param("3000000", str(os.getpid()), 3.0, id="its own"),
        ("3000000", "1", None),
        ("0", "", None),
        ("", "", None),
        ("soon", "", None),
        ("-5", "", None),
    ],
)
def test_the_manager_says_how_patient_it_is(monkeypatch, usec, pid, seconds):
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert watchdog_s() == seconds


def test_a_responsive_node_sends_watchdog_signs_until_it_stops(heard, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "30000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)

    async def story():
        async def alive():
            pass

        watchdog = Watchdog(alive)
        watchdog.start()
        while len(said) < 3:
            await asyncio.sleep(0.005)
            said.extend(heard())
        watchdog.stop()
        await asyncio.sleep(0)
        heard()
        await asyncio.sleep(0.05)
        assert heard() == []

    said = []
    asyncio.run(asyncio.wait_for(story(), 10))
    assert set(said) == {"WATCHDOG=1"}


def test_a_node_whose_file_does_not_answer_falls_silent(heard, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "30000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)

    async def story():
        hangs = asyncio.get_running_loop().create_future()
        Watchdog(lambda: hangs).start()
        await asyncio.sleep(0.1)

    asyncio.run(story())
    assert heard() == []
