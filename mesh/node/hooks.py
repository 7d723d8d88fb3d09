"""Hooks: commands of the user's that get the changes of a table as JSON lines, at least once each.

A command has done its work when it exits with 0. One that fails is tried again, later each time; then its changes are tried one
by one, and a change that goes on failing becomes a dead letter. A hook stops when 20 of its last 50 changes have failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING

from mycomesh.mesh.events import Notice
from mycomesh.mesh.node.readers import FAILED_MAX, JUDGED_MAX
from mycomesh.sync.errors import NoTableError, SyncError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mycomesh.mesh.node.config import Hook
    from mycomesh.mesh.node.readers import Reader, Readers
    from mycomesh.sync.feed.change import Change

__all__ = ["HookCommands"]

CHANGES_MAX = 100  # given to one run of a command
TRIES_MAX = 3  # of a change by itself, before it is set aside
PAUSES_S = (1, 5, 30)  # before a command is tried again
OUTPUT_MAX = 4_096  # bytes of a command's errors that are kept
END_S = 2  # a command that runs when the node ends gets SIGTERM, and this long


class HookCommands:
    """The hooks of one node."""

    def __init__(self, hooks: Sequence[Hook], readers: Readers, notify: Callable[[Notice], None]) -> None:
        self._runs = {hook.name: _Run(hook, readers, notify) for hook in hooks}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Run every hook as a task of its own."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(run.forever()) for run in self._runs.values()]

    async def close(self) -> None:
        """End all hooks and their commands."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def resume(self, name: str) -> bool:
        """Let a hook that has stopped go on; return False if there is no such hook."""
        run = self._runs.get(name)
        if run is not None:
            run.resume()
        return run is not None

    @property
    def stopped(self) -> list[str]:
        """The names of the hooks that have stopped."""
        return [name for name, run in self._runs.items() if run.stopped]


class _Run:
    """One hook."""

    def __init__(self, hook: Hook, readers: Readers, notify: Callable[[Notice], None]) -> None:
        self._hook = hook
        self._readers = readers
        self._notify = notify
        self._resumed = asyncio.Event()
        self._from_now = hook.from_now
        self.stopped = False

    def resume(self) -> None:
        """Forget the failures and go on."""
        self._resumed.set()

    async def forever(self) -> None:
        """Read and run until the node ends; report an error of the file or of the table, and try again."""
        tries, told = 0, ""
        while not self._readers.ended:
            try:
                await self._read()
            except SyncError as error:
                if str(error) != told:
                    told = str(error)
                    self._tell_failure(f"cannot read: {error}")
            await asyncio.sleep(PAUSES_S[min(tries, len(PAUSES_S) - 1)])
            tries += 1

    async def _read(self) -> None:
        hook = self._hook
        try:
            reader = await self._readers.open(hook.on, f"hook.{hook.name}", from_now=self._from_now)
        except NoTableError:
            self._from_now = False  # all rows of a table that is made later are newer than this hook
            raise
        try:
            while (page := await reader.page(rows_max=CHANGES_MAX)) is not None:
                failed = await self._handle(reader, page.changes)
                await reader.move(page.position, len(page.changes) - failed)
                if reader.stopped:
                    await self._stop()
                    reader.resume()
        finally:
            reader.close()

    async def _handle(self, reader: Reader, changes: Sequence[Change]) -> int:
        """Run the command for some changes, together or then one by one; return how many it has set aside."""
        if len(changes) > 1:
            why = await self._run(changes)
            if not why:
                return 0
            self._tell_failure(f"{why}; trying its {len(changes)} changes one by one")
        failed = 0
        for change in changes:
            why = await self._run([change])
            tries = 1
            while why and tries < TRIES_MAX:
                await asyncio.sleep(PAUSES_S[tries - 1])
                why = await self._run([change])
                tries += 1
            if why:
                failed += 1
                await reader.set_aside(change, why, tries)
                self._tell_failure(f"{why}; change {change.id} is a dead letter now ('mycomesh dead')")
        return failed

    async def _stop(self) -> None:
        self.stopped = True
        self._resumed.clear()
        text = (
            f"{FAILED_MAX} of its last {JUDGED_MAX} changes failed, so it stops;"
            f" repair the command, then run: mycomesh dead --resume {self._hook.name}"
        )
        self._notify(Notice("hook.stopped", self._named(text), {"hook": self._hook.name}, "warning"))
        await self._resumed.wait()
        self.stopped = False

    async def _run(self, changes: Sequence[Change]) -> str:
        """Run the command once; return what is wrong, "" if it has done its work."""
        hook = self._hook
        lines = "".join(f"{change.to_json()}\n" for change in changes).encode()
        environ = {**os.environ, "MYCOMESH_HOOK": hook.name, "MYCOMESH_TABLE": hook.on}
        process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            hook.run,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=environ,
            start_new_session=True,  # so that what the command has started ends with it
        )
        try:
            async with asyncio.timeout(hook.timeout_s):
                said = await _communicate(process, lines)
        except TimeoutError:
            return f"the command did not end within {hook.timeout_s} s"
        finally:
            await _end(process)
        if not process.returncode:
            return ""
        text = " ".join(said.decode(errors="replace").split())
        return f"the command ended with {process.returncode}" + (f": {text[-300:]}" if text else "")

    def _tell_failure(self, text: str) -> None:
        self._notify(Notice("hook.failed", self._named(text), {"hook": self._hook.name}, "warning"))

    def _named(self, text: str) -> str:
        return f"hook {self._hook.name!r} on {self._hook.on}: {text}"


async def _communicate(process: asyncio.subprocess.Process, lines: bytes) -> bytes:
    """Give the lines to a process; return the end of what it writes to its standard error, when it has ended."""
    assert process.stdin is not None
    assert process.stderr is not None
    stdin, stderr = process.stdin, process.stderr

    async def give() -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a command need not read all
            stdin.write(lines)
            await stdin.drain()
        stdin.close()

    async def listen() -> bytes:
        kept = b""
        while piece := await stderr.read(OUTPUT_MAX):
            kept = (kept + piece)[-OUTPUT_MAX:]
        return kept

    _, said = await asyncio.gather(give(), listen())
    await process.wait()
    return said


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a process that still runs, and what it has started."""
    if process.returncode is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await process.wait()
            return
