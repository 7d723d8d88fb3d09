"""Supervisor of a node's child processes: one `mycomesh KIND run NAME` for each section such as [bridge.NAME] in config.toml.

A child that ends is started again, later each time. One that refuses its section (exit code 2) waits for `resume`, and so does
one that a person has paused, also after a restart of the node: the file `paused` in the state folder names it. A child
reads its standard input, a pipe of this process, and ends when that ends, so that it never outlives the node, even after
kill -9. A line "retry" there asks it to try its dead letters again. It reports on standard output, one JSON object a line:
`state`, `text` and `figures` replace those it reported before, and `notice` goes to the node's log.

A node without such sections does not import this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.events import Notice
from mycomesh.mesh.node.config import SECTIONS_MAX, Section, load
from mycomesh.mesh.node.errors import HomeError, NodeError
from mycomesh.mesh.node.home import read_private, write_private
from mycomesh.mesh.node.status import ChildView
from mycomesh.sync.feed.letters_sql import RECEIVER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mycomesh.mesh.node.home import Home

__all__ = ["Children", "command_line"]

PAUSES_S = (1, 2, 5, 10, 30)  # before a child that has ended is started again
STEADY_S = 60  # a child that has run for so long starts with the shortest pause again
END_S = 4  # a child gets SIGTERM, and this long; the node itself has 10 s to stop
REPORT_BYTES_MAX = 64 * 1024  # one line of a child
ERRORS_BYTES_MAX = 4_096  # of a child's standard error that are kept to say why it ended
REFUSED = 2  # the exit code of a command that cannot use its arguments or its section
_Key = tuple[str, str]  # kind and name of a section
COMMANDS = {"flows": ("flow", "accept")}  # of kinds that are not the command themselves
LEVELS = ("debug", "info", "warning", "error")


def command_line(home: Home) -> list[str]:
    """Return the words that run a `mycomesh` command for this home, with this interpreter."""
    frozen = getattr(sys, "frozen", False)
    own = [sys.executable] if frozen else [sys.executable, "-P", "-m", "mycomesh.tools"]
    return [*own, "--home", str(home.config)] if home.state.parent == home.config else own


class Children:
    """The child processes of one node. All methods run on the event loop's thread."""

    def __init__(self, sections: Sequence[Section], home: Home, notify: Callable[[Notice], None]) -> None:
        self._home = home
        self._words = command_line(home)
        self._notify = notify
        self._runs = {(each.kind, each.name): _Child(each, self._words, notify) for each in sections}
        self._tasks: dict[_Key, asyncio.Task[None]] = {}
        self._also: tuple[Section, ...] = ()  # that a child has asked for, without a section in config.toml
        self._paused_file = home.state / "paused"
        self._paused: dict[_Key, None] = {}  # when the node started; one that a child asks for later is among them

    def start(self) -> None:
        """Start every child, and keep it running."""
        loop = asyncio.get_running_loop()
        self._paused = dict.fromkeys(self._paused_before())
        for key, run in self._runs.items():
            if key in self._paused:
                run.begin_paused()
        self._tasks = {key: loop.create_task(run.forever()) for key, run in self._runs.items()}

    async def reload(self) -> None:
        """Read config.toml again: start the children of new sections, and end those whose section has gone.

        Raises:
            ConfigError: the file cannot be used; nothing changes.
        """
        sections = load(self._home.config_file).children
        if any(each.kind in COMMANDS for each in sections):  # the one that asked
            sections += self._also
        found = {(each.kind, each.name): each for each in sections}
        if len(found) > SECTIONS_MAX:
            raise NodeError(
                f"{len(found)} processes beside the node are more than {SECTIONS_MAX}; remove some sections"
            )
        given = {key: run for key, run in self._runs.items() if key in found or run.is_of_command_line}
        gone = [self._tasks.pop(key) for key in self._runs if key not in given]
        self._paused = {key: None for key in self._paused if key in given or key not in self._runs}
        fresh = {key: _Child(each, self._words, self._notify) for key, each in found.items() if key not in given}
        order = [*found, *(key for key in given if key not in found)]
        self._runs = {key: given.get(key) or fresh[key] for key in order}
        for key, run in fresh.items():
            if key in self._paused:
                run.begin_paused()
            self._tasks[key] = asyncio.get_running_loop().create_task(run.forever())
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        self._keep_paused()

    def request_retry(self, reader: str) -> None:
        """Ask the child behind a reader of the feed, such as `flow.NAME`, to try its dead letters again."""
        kind, _, name = reader.partition(".")
        child = self._runs.get((kind, name.removesuffix(RECEIVER))) or self._runs.get((kind, name))
        if child is not None:
            child.request_retry()

    def _paused_before(self) -> list[_Key]:
        try:
            return [(str(kind), str(name)) for kind, name in json.loads(read_private(self._paused_file) or b"[]")]
        except (HomeError, ValueError, TypeError) as error:
            text = f"cannot read which children are paused, so that all start: {self._paused_file}: {error}"
            self._notify(Notice("child.paused_unread", text, level="warning"))
            return []

    def _keep_paused(self) -> None:
        for key, child in self._runs.items():
            if child.paused:
                self._paused[key] = None
            else:
                self._paused.pop(key, None)
        paused = list(self._paused)
        if paused or self._paused_file.exists():
            write_private(self._paused_file, json.dumps(paused).encode())

    async def close(self) -> None:
        """End all children; return when they have ended."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    @property
    def views(self) -> tuple[ChildView, ...]:
        """Every child, in the order of config.toml."""
        return tuple(run.view for run in self._runs.values())

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Pause or resume one child (`action`, `kind`, `name`), reload all, or do neither; return all children as plain values.

        With the action `also`, the children of a kind with these `names` run beside those of config.toml.

        Raises:
            NodeError: config.toml has no such section or cannot be used, or the pause cannot be kept.
        """
        action = request.get("action")
        if action == "also":
            before = self._also
            self._also = Section.parse(str(request.get("kind")), {name: {} for name in request.get("names", ())})
            try:
                await self.reload()
            except NodeError:
                self._also = before
                raise
        if action == "reload":
            await self.reload()
        if action in ("pause", "resume"):
            key = str(request.get("kind")), str(request.get("name"))
            fresh = key not in self._runs
            if fresh:  # written since the file was read
                await self.reload()
            child = self._runs.get(key)
            if child is None:
                known = ", ".join(name for kind, name in self._runs if kind == request.get("kind")) or "none"
                raise NodeError(f"{self._home.config_file} has no {key[0]} {key[1]!r}; there are: {known}")
            if action == "pause":
                await child.pause()
            elif not fresh or child.paused:  # else it starts already
                await child.resume()
            if request.get("keep", True) is not False:
                self._keep_paused()
        return {"children": [view.to_json() for view in self.views]}


class _Child:
    """One child."""

    def __init__(self, section: Section, words: Sequence[str], notify: Callable[[Notice], None]) -> None:
        self._section = section
        self._words = [
            *words,
            *COMMANDS.get(section.kind, (section.kind, "run")),
            *([section.name] if section.name else []),
            *section.words,
        ]
        self._notify = notify
        self._process: asyncio.subprocess.Process | None = None
        self._ended = asyncio.Event()  # no process runs
        self._ended.set()
        self._go = asyncio.Event()
        self._go.set()
        self.paused = False
        self._again = False  # a person has asked for another start, so that the end of the process is no failure
        self.view = ChildView(section.kind, section.name, "starting", "", None, 0, {})

    @property
    def is_of_command_line(self) -> bool:
        """Whether it runs because of the command line of the node, also without a section."""
        return bool(self._section.words)

    def request_retry(self) -> None:
        """Ask the process to try its dead letters again; one that starts does so by itself."""
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(b"retry\n")

    async def pause(self) -> None:
        """End the process, and start none until `resume`."""
        self.begin_paused()
        await self._end()
        await self._ended.wait()

    def begin_paused(self) -> None:
        """Start no process until `resume`."""
        self.paused = True
        self._go.clear()
        command = f"mycomesh {self._section.kind} resume {self._section.name}".rstrip()
        self._set("paused", f"'{command}' lets it go on")

    async def resume(self) -> None:
        """Start the process now, also if it waits after a failure, was refused or reported that it has stopped."""
        was_paused, self.paused = self.paused, False
        if not was_paused and self._process is not None:
            self._again = True
            await self._end()
        self._go.set()

    async def forever(self) -> None:
        """Run the process again and again until this task is cancelled."""
        loop, failures = asyncio.get_running_loop(), 0
        try:
            while True:
                await self._go.wait()
                began = loop.time()
                self._set("starting", "")
                code, said = await self._run_once()
                if self.paused or self._again:
                    self._again = False
                    continue
                failures = 1 if loop.time() - began > STEADY_S else failures + 1
                pause_s = PAUSES_S[min(failures, len(PAUSES_S)) - 1]
                self._on_end(code, said, pause_s)
                self._go.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if code == REFUSED else pause_s):
                        await self._go.wait()
                if not self.paused:
                    self._go.set()
        finally:
            await self._end()

    def _on_end(self, code: int, said: str, pause_s: int) -> None:
        kind, name = self._section.kind, self._section.name
        label = f"{kind} {name!r}" if name else kind
        detail = {"kind": kind, "name": name}
        if code == REFUSED:
            text = said or "it refuses its section of config.toml"
            self._set("refused", text)
            remedy = f"repair it, then run: mycomesh {kind} resume {name}".rstrip()
            self._notify(Notice("child.refused", f"{label}: {text}; {remedy}", detail, "warning"))
            return
        why = said or (f"killed by signal {-code}" if code < 0 else f"ended with {code}")
        self._set("failed", why)
        text = f"{label}: {why}; starts again in {pause_s} s"
        self._notify(Notice("child.ended", text, detail, "warning"))

    async def _run_once(self) -> tuple[int, str]:
        """Run the process to its end; return its exit code and the last line of its errors."""
        process = self._process = await asyncio.create_subprocess_exec(
            *self._words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=REPORT_BYTES_MAX,
            env={**os.environ, "MYCOMESH_CHILD": "1"},
            start_new_session=True,  # ^C in the terminal goes to the node, which then ends its children
        )
        self._ended.clear()
        self.view = self.view.with_process(process.pid)
        try:
            said, _ = await asyncio.gather(self._read_errors(process), self._read_reports(process))
            code = await process.wait()
        finally:
            await _finish(process)
            self._process = None
            self.view = self.view.with_process(None)
            self._ended.set()
        return code, said

    async def _read_reports(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # longer than the limit; the reader has dropped it
                continue
            if not line:
                return
            with contextlib.suppress(ValueError, RecursionError):
                self._on_report(json.loads(line))

    def _on_report(self, report: Any) -> None:
        if not isinstance(report, dict):
            return
        notice = report.get("notice")
        if isinstance(notice, dict) and isinstance(notice.get("event"), str):
            level = notice["level"] if notice.get("level") in LEVELS else "info"
            detail = {"kind": self._section.kind, "name": self._section.name}
            self._notify(Notice(notice["event"], str(notice.get("text", "")), detail, level))
        if self.paused or not isinstance(report.get("state"), str):
            return
        figures = report.get("figures")
        plain = figures if isinstance(figures, dict) else {}
        numbers = {str(name): value for name, value in plain.items() if isinstance(value, int | float)}
        self._set(report["state"], str(report.get("text", "")), numbers)

    async def _read_errors(self, process: asyncio.subprocess.Process) -> str:
        """Return the last line that the process wrote to its standard error, without the command's name before it."""
        assert process.stderr is not None
        kept = b""
        while piece := await process.stderr.read(ERRORS_BYTES_MAX):
            kept = (kept + piece)[-ERRORS_BYTES_MAX:]
        lines = kept.decode(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("mycomesh: ") if lines else ""

    def _set(self, state: str, text: str, figures: dict[str, float] | None = None) -> None:
        self.view = self.view.with_state(state, text, self.view.figures if figures is None else figures)

    async def _end(self) -> None:
        if self._process is not None:
            await _finish(self._process)


async def _finish(process: asyncio.subprocess.Process) -> None:
    """End a process that still runs, and what it has started."""
    if process.stdin is not None:
        process.stdin.close()
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await process.wait()
