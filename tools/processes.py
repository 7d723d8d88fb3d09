"""Child processes that run nodes through the `mycomesh` command, for the demo and the benchmarks.

Invariant: every node that is started inside `ending` has ended when the block ends.
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

__all__ = ["NodeProcess", "ProcessError", "ending"]

STOP_S_MAX = 30.0  # a node ends by itself within ten seconds, even if its disk hangs
# A self-contained build is its own interpreter.
_COMMAND = (sys.executable,) if getattr(sys, "frozen", False) else (sys.executable, "-m", "tools")


class ProcessError(Exception):
    """A `mycomesh` command failed, or a node ended by itself. The text is one line; the node's log says more."""

    code = "process.failed"


@dataclass(slots=True)
class NodeProcess:
    """One node: its home, its database, and its process once it runs."""

    name: str
    home: Path
    file: Path
    prefix: tuple[str, ...] = ()  # precedes every command, such as `ip netns exec NAME`
    process: subprocess.Popen[bytes] | None = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.home.with_suffix(".log")

    @classmethod
    def within(cls, directory: Path, name: str, prefix: tuple[str, ...] = ()) -> NodeProcess:
        """Return a node of that name whose home and database are in one directory."""
        return cls(name, directory / name, directory / f"{name}.db", prefix)

    def run(self, *words: str) -> str:
        """Run one `mycomesh` command and return its output.

        Raises:
            ProcessError: the command failed.
        """
        done = subprocess.run(  # noqa: S603 -- our own command, no shell
            [*self.prefix, *_COMMAND, "--home", str(self.home), *words], capture_output=True, text=True, check=False
        )
        if done.returncode != exits.DONE:
            raise ProcessError(done.stderr.strip() or f"mycomesh {words[0]} ended with {done.returncode}")
        return done.stdout.strip()

    def up(self, *words: str) -> int:
        """Start `mycomesh up` with a log file beside the home; return the process id. A process from before has to be ending."""
        if self.process is not None:
            self.process.wait(STOP_S_MAX)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 -- our own command, no shell
                [*self.prefix, *_COMMAND, "--home", str(self.home), "up", str(self.file), *words],
                stdout=log,
                stderr=log,
            )
        return self.process.pid

    def status(self) -> dict[str, Any]:
        """Return the answer of `mycomesh status --json`; empty while the node starts.

        Raises:
            ProcessError: the node has ended.
        """
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
        """The number of peers that this node is linked with."""
        return sum(peer["state"] == "linked" for peer in self.status().get("peers", ()))

    @property
    def hashes(self) -> dict[str, str]:
        """The hash of each table; empty while a write waits to be stamped, so that equal hashes mean equal contents."""
        status = self.status()
        return {} if status.get("pending", 1) else {table["name"]: table["digest"] for table in status["tables"]}


@contextlib.contextmanager
def ending(nodes: Sequence[NodeProcess]) -> Iterator[None]:
    """End every node process when the block ends, also after an error."""
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
