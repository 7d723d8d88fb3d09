"""Node processes on this machine, driven as a person would drive them: what the demo and the benchmarks share.

Owns the life of child processes that run `mycomesh`. What always holds: whatever is started inside `ended` has ended after
it. It must not know what is written to the databases.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.home import Home
from mycomesh.tools import exits

__all__ = ["NodeProcess", "ProcessError", "ended"]

STOP_S_MAX = 30.0  # a node ends within ten seconds by itself, even when its disk hangs
# A self-contained build is its own interpreter.
_COMMAND = (sys.executable,) if getattr(sys, "frozen", False) else (sys.executable, "-m", "tools")


class ProcessError(Exception):
    """A `mycomesh` command failed, or a node ended by itself; the text is one line. Its log says more."""

    code = "process.failed"


@dataclass(slots=True)
class NodeProcess:
    """One node: its home, its database, and its process once it is up."""

    name: str
    home: Path
    file: Path
    prefix: tuple[str, ...] = ()  # of every command: where else it runs, such as a network namespace
    process: subprocess.Popen[bytes] | None = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.home.with_suffix(".log")

    @classmethod
    def within(cls, place: Path, name: str, prefix: tuple[str, ...] = ()) -> NodeProcess:
        """Return the node of that name with everything it has below one directory."""
        return cls(name, place / name, place / f"{name}.db", prefix)

    def run(self, *words: str) -> str:
        """Run one `mycomesh` command and return what it printed; `ProcessError` with its words if it failed."""
        done = subprocess.run(  # noqa: S603 -- our own command, no shell
            [*self.prefix, *_COMMAND, "--home", str(self.home), *words], capture_output=True, text=True, check=False
        )
        if done.returncode != exits.DONE:
            raise ProcessError(done.stderr.strip() or f"mycomesh {words[0]} ended with {done.returncode}")
        return done.stdout.strip()

    def up(self, *words: str) -> int:
        """Start `mycomesh up`, its log beside its home; return the process id."""
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 -- our own command, no shell
                [*self.prefix, *_COMMAND, "--home", str(self.home), "up", str(self.file), *words],
                stdout=log,
                stderr=log,
            )
        return self.process.pid

    def status(self) -> dict[str, Any]:
        """Return what `mycomesh status --json` says; empty while the node starts, `ProcessError` if it has ended."""
        try:
            return ask(Home.locate(self.home, {}), "status")
        except NodeError:
            if self.process is not None and self.process.poll() is not None:
                last = self.log.read_text().strip().splitlines()[-1:] or ["no message"]
                raise ProcessError(f"node {self.name} ended: {last[0]}") from None
            return {}

    @property
    def serving(self) -> bool:
        """Whether the node serves its file."""
        return self.status().get("phase") == "serving"

    @property
    def linked(self) -> int:
        """With how many other nodes this one is linked."""
        return sum(peer["state"] == "linked" for peer in self.status().get("peers", ()))

    @property
    def hashes(self) -> dict[str, str]:
        """The hash of each table; empty while any write waits to be stamped, so that equal means equal."""
        status = self.status()
        return {} if status.get("pending", 1) else {table["name"]: table["digest"] for table in status["tables"]}


@contextlib.contextmanager
def ended(nodes: Sequence[NodeProcess]) -> Iterator[None]:
    """End every node process at the end of the block, whatever happened in it."""
    try:
        yield
    finally:
        running = [node.process for node in nodes if node.process is not None]
        for process in running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in running:
            try:
                process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
