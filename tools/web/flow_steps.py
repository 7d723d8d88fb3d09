"""The flows of the node for the page: what config.toml has, and steps that are `mycomesh flow` commands, run as such.

A step of the page and the command that it shows cannot differ, because the command is what runs. Python, commands and webhooks
are code and addresses of the operator: the console changes flows of SQL and of models alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.config import sections_of
from mycomesh.mesh.node.errors import ConfigError
from mycomesh.tools.flows.accepted import accepted_flows
from mycomesh.tools.flows.settings import parse
from mycomesh.tools.web.errors import BusyError, HttpError

if TYPE_CHECKING:
    from mycomesh.mesh.node.home import Home

__all__ = ["ACTIONS", "OUTPUT_BYTES_MAX", "SAMPLE_MAX", "STEPS_MAX", "Steps", "listed", "words_of"]

ACTIONS = ("add", "edit", "pause", "resume", "rollback", "redo", "remove", "test")
KINDS = ("sql", "onnx")  # of functions that the console may write
KEYS = ("on", "run", "into", "where", "from")
SAMPLE_MAX = 100
STEPS_MAX = 2  # at a time: each is an interpreter
STEP_S = 60
OUTPUT_BYTES_MAX = 4 << 20
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,63}", re.ASCII)
_KIND = "flow"


def listed(home: Home) -> list[dict[str, Any]]:
    """Return every flow, of config.toml and of other members: its tables if it is right, or else what is wrong with it."""
    found = []
    for name, section in sections_of(home.config_file, _KIND).items():
        entry: dict[str, Any] = {
            "name": name,
            "section": section,
            "table": "",
            "into": "",
            "kind": "",
            "error": "",
            "author": "",
        }
        try:
            flow = parse(name, section)
        except ConfigError as error:
            entry["error"] = str(error)
        else:
            entry |= {"table": flow.table, "into": flow.into, "kind": flow.function.kind}
        found.append(entry)
    for each in accepted_flows(home):
        section = {"on": each.select or each.table, "run": each.function.text, "into": each.into}
        tables = {"table": each.table, "into": each.into, "kind": each.function.kind}
        found.append({"name": each.name, "section": section, "error": "", "author": each.author, **tables})
    return found


def words_of(body: Mapping[str, Any]) -> list[str]:
    """Return the words behind `mycomesh flow` that do a step.

    Raises:
        HttpError: it is no step, or one that the console does not do.
    """
    action, name, section = body.get("action"), body.get("name"), body.get("section", {})
    if action not in ACTIONS:
        raise HttpError(f"action is one of {', '.join(ACTIONS)}, not {action!r}")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise HttpError(f"the name of a flow has up to 64 letters, digits, _, . and -, not {name!r}")
    if not isinstance(section, dict) or not all(key in KEYS and isinstance(section[key], str) for key in section):
        raise HttpError(f"section has texts under {', '.join(KEYS)}")
    function = section.get("run")
    if function is not None and function.partition(":")[0].strip() not in KINDS:
        raise HttpError(
            "the console writes functions that begin with 'sql:' or 'onnx:'; others by the command on the machine"
        )
    words = [action, name]
    if action in ("add", "edit", "test"):
        words += [f"--{key}={section[key]}" for key in KEYS if section.get(key)]
    if action == "test":
        sample = body.get("sample", 10)
        if type(sample) is not int or not 1 <= sample <= SAMPLE_MAX:
            raise HttpError(f"sample is 1 to {SAMPLE_MAX}, not {sample!r}")
        words.append(f"--sample={sample}")
    return words


def _back(home: Home, body: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the step that takes one back, None if nothing does."""
    action, name = body["action"], body["name"]
    back = {
        "add": "remove",
        "edit": "rollback",
        "pause": "resume",
        "resume": "pause",
        "rollback": "redo" if name in sections_of(home.config_file, _KIND) else "remove",
        "redo": "rollback",
        "remove": "rollback",
    }
    return {"action": back[action], "name": name} if action in back else None


class Steps:
    """Runs steps for the console, a few at a time."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._running = 0

    async def do(self, body: Mapping[Any, Any]) -> dict[str, Any]:
        """Run one step; return what it says, its command, and the step back.

        Raises:
            HttpError: the command refuses it; nothing was changed.
        """
        words = words_of(body)
        back = _back(self._home, body)
        said, code, error = await self._run([*words, "--json"] if body["action"] == "test" else words)
        answer = {"command": shlex.join(["mycomesh", "flow", *words]), "undo": back}
        if body["action"] == "test" and said:
            return {**answer, "done": "", "rows": json.loads(said)}  # with code 1 it says which rows fail
        if code:
            raise HttpError(error or f"the command ended with {code}")
        return {**answer, "done": said.strip() or f"{body['action']} {body['name']}: done", "rows": []}

    async def _run(self, words: list[str]) -> tuple[str, int, str]:
        """Run a command; return its output, its exit code and its last line of errors."""
        if self._running >= STEPS_MAX:
            raise BusyError(f"{STEPS_MAX} steps are running; try again in a moment")
        self._running += 1
        program = [sys.executable, "-m", "mycomesh.tools", "--home", str(self._home.config), "flow", *words]
        process = await asyncio.create_subprocess_exec(
            *program,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=OUTPUT_BYTES_MAX,
        )
        try:
            async with asyncio.timeout(STEP_S):
                out, err = await process.communicate()
        except TimeoutError:
            raise HttpError(f"the command took longer than {STEP_S} s") from None
        finally:
            self._running -= 1
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.communicate()
        if len(out) > OUTPUT_BYTES_MAX:
            raise HttpError(f"the answer has more than {OUTPUT_BYTES_MAX >> 20} MiB; ask for fewer rows")
        lines = err.decode(errors="replace").strip().splitlines()
        return out.decode(errors="replace"), process.returncode or 0, lines[-1] if lines else ""
