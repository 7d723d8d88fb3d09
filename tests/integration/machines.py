"""Machines as a user has them: a home, a database file, the `mycomesh` command and the stock sqlite3 shell."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.home import Home
from tests.integration import fork_server
from tests.sync.scale import SCALE

ROOT = Path(__file__).parents[2]
MYCOMESH = [sys.executable, "-m", "tools"]
SQLITE = shutil.which("sqlite3")
WAIT_S = 60
STEP_S = 0.02  # between two checks at first; later a tenth of what was waited: a check takes time from what it awaits
STEP_S_MAX = 0.1
PAUSE_S_MAX = 0.5  # after a check that took as long
CHANGED_S = 0.3  # a change of a file that its times and sizes do not show is seen this late
FORKS = SCALE == 1 and hasattr(os, "pidfd_open")  # Linux


def eventually(check, what, wait_s=None):
    """Call `check` until its result is true; return the result. `what` is a text, or a function that makes it when time is up."""
    wait_s = wait_s or WAIT_S  # read when it is called, so that a long test may raise it
    began = time.monotonic()
    while True:
        asked = time.monotonic()
        answer = check()
        if answer:
            return answer
        now = time.monotonic()
        waited_s = now - began
        assert waited_s < wait_s, f"not within {wait_s} s: {what() if callable(what) else what}"
        # A check that is a command or looks into a browser takes most of a processor, if it follows itself at once.
        time.sleep(max(min(max(STEP_S, waited_s / 10), STEP_S_MAX), min(now - asked, PAUSE_S_MAX)))


class Machine:
    """One home and one database file on this machine, and the commands that a user types there."""

    def __init__(self, parent, name, prefix=(), net=("--no-multicast",)):
        """Create the machine's directory in `parent`.

        `prefix` runs its commands elsewhere (in a network namespace); `net` are the options of every `up`.
        """
        self.name = name
        self.prefix = list(prefix)
        self.net = net
        self.dir = parent / name
        self.dir.mkdir(exist_ok=True)  # a copy of a home may be there
        self.file = self.dir / "fleet.db"
        self.home = Home.locate(self.dir / "home", {})
        self.process = None
        self.log = self.dir / "log.txt"
        self.program = MYCOMESH

    @property
    def forks(self):
        """Whether its commands are forks (fork_server) rather than interpreters of their own."""
        return FORKS and not self.prefix and self.program is MYCOMESH

    def words(self, *words):
        return ["--home", str(self.home.config), *words]

    def command(self, *words):
        return [*self.prefix, *self.program, *self.words(*words)]

    def run(self, *words):
        """Run one command to its end."""
        if self.forks:
            return fork_server.run(self.words(*words), WAIT_S * 2)
        return subprocess.run(
            self.command(*words), cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S * 2, check=False
        )

    def done(self, *words):
        """Run one command that must succeed; return its stdout."""
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def launch(self, *words):
        """Start `up` and return at once."""
        words = ("up", str(self.file), *self.net, *(words or ("--port", "0")))
        with self.log.open("ab") as log:
            if self.forks:
                self.process = fork_server.start(self.words(*words), log, log)
                return
            self.process = subprocess.Popen(self.command(*words), cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)

    def up(self, *words):
        """Start `up` and return when it serves."""
        self.launch(*words)
        eventually(lambda: self.status().get("phase") == "serving", lambda: f"{self.name} serves; {self.output()}")
        return self

    def status(self):
        if self.process is not None:
            assert self.process.poll() is None, f"{self.name} ended: {self.output()}"
        try:
            return ask(self.home, "status")
        except NodeError:
            return {}

    @property
    def address(self):
        return f"127.0.0.1:{self.status()['port']}"

    def output(self):
        return self.log.read_text() if self.log.exists() else ""

    def sql(self, text):
        """Run statements in the stock sqlite3 shell; return its stdout, or stderr if it fails."""
        done = subprocess.run(
            [SQLITE, str(self.file), "-cmd", f".timeout {WAIT_S * 1000}", text],
            capture_output=True,
            text=True,
            timeout=WAIT_S * 2,
            check=False,
        )
        return done.stdout if done.returncode == 0 else done.stderr

    def shows(self, select, answer):
        """Wait for this answer of the stock shell, which is started only when somebody has written to the file."""
        seen, asked_at = None, 0.0

        def is_shown():
            nonlocal seen, asked_at
            state, now = self._written(), time.monotonic()
            if state == seen and now - asked_at < CHANGED_S:
                return False
            seen, asked_at = state, now
            return self.sql(select) == answer

        eventually(is_shown, lambda: f"{self.name}: {select} is {answer!r}, not {self.sql(select)!r}; {self.output()}")

    def _written(self):
        """Return what differs after most writes to the file: sizes and times of the file and of its log."""
        found = []
        for path in (self.file, self.file.with_name(self.file.name + "-wal")):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            found.append((status.st_size, status.st_mtime_ns))
        return found

    def kill(self):
        """End the process with SIGKILL, which is as close to a power cut as a process gets."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(WAIT_S)
        self.process = None

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(WAIT_S)
        self.process = None
        return code
