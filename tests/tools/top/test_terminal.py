"""`top` in a terminal: stopped and continued, another size, and the terminal as it was at the end."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time

import pytest

from tests.integration.machines import MYCOMESH, ROOT, WAIT_S

TRACE = [
    {"t": 0, "kind": "header", "version": 1, "scenario": "split", "seed": 7, "names": ["node0", "node1"]},
    {"t": 0, "kind": "topology", "label": "", "groups": [0, 0], "links": [[0, 1, 4.0, 10]]},
]


class Screen:
    """A pseudo terminal with `top` in it; the process is of our session, so that it can be stopped."""

    def __init__(self, trace):
        self.master, slave = pty.openpty()
        self.slave = slave
        self.size(80, 24)
        self.before = termios.tcgetattr(slave)
        self.seen = ""
        env = {**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
        env.pop("COLUMNS", None)
        env.pop("LINES", None)
        self.process = subprocess.Popen(
            [*MYCOMESH, "top", "--replay", str(trace)],
            cwd=ROOT, env=env, stdin=slave, stdout=slave, stderr=slave, process_group=0,
        )  # fmt: skip

    def size(self, columns, lines):
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def until(self, wanted):
        """Read until it shows that; what it showed up to there is forgotten."""
        end = time.monotonic() + WAIT_S
        while wanted not in self.seen:
            assert time.monotonic() < end, f"{wanted!r} is not in {self.seen[-500:]!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 65_536).decode(errors="replace")
        self.seen = self.seen.partition(wanted)[2]

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(WAIT_S)
        os.close(self.slave)
        os.close(self.master)


@pytest.fixture
def screen(tmp_path):
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(json.dumps(line) + "\n" for line in TRACE))
    screen = Screen(trace)
    yield screen
    screen.close()


def test_the_terminal_is_restored_after_every_way_out(screen):
    screen.until("node1")
    assert termios.tcgetattr(screen.slave) != screen.before
    screen.process.send_signal(signal.SIGTSTP)
    _, state = os.waitpid(screen.process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(state)
    screen.until("\x1b[?1049l")
    assert termios.tcgetattr(screen.slave)[3] == screen.before[3]
    screen.process.send_signal(signal.SIGCONT)
    screen.until("\x1b[?1049h")
    screen.until("node1")
    screen.until("end of the trace")  # the last line of the frame
    screen.size(132, 43)
    screen.process.send_signal(signal.SIGWINCH)
    screen.until("\x1b[2J")
    screen.until("─" * 100)  # a rule for which 80 cells have no room
    os.write(screen.master, b"q")
    assert screen.process.wait(WAIT_S) == 0
    screen.until("\x1b[?1049l")
    assert termios.tcgetattr(screen.slave) == screen.before


def test_a_hang_up_gives_the_terminal_back(screen):
    screen.until("node1")
    screen.process.send_signal(signal.SIGHUP)
    assert screen.process.wait(WAIT_S) == 128 + signal.SIGHUP
    assert termios.tcgetattr(screen.slave) == screen.before
