"""The process in which the function of a flow runs: limits its memory, then becomes the command or calls the Python function.

It reads one JSON object a line, the row, and answers each with one line: an object, an array of objects, or null. It ends when
its standard input does, and on Linux with the process that started it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ctypes
import importlib
import inspect
import itertools
import json
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ERROR", "RESULTS_MAX", "main"]

ERROR = "_error"  # the key of an answer that says why a function has failed
ERROR_CHARS = 2_000  # of the text of an exception
READ_BYTES = 1 << 20
RESULTS_MAX = 10_000  # of one row
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run `MIB exec COMMAND`, `MIB python MODULE:FUNCTION DIRECTORY`, `MIB onnx OPEN-FILE` or `MIB http URL CREDENTIALS CA`."""
    mib, kind, what, *more = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_AS, (int(mib) << 20, int(mib) << 20))
    if kind == "exec":
        os.execv("/bin/sh", ["/bin/sh", "-c", what])  # noqa: S606 -- the operator's own command
    answers = os.dup(1)
    os.dup2(2, 1)  # what the function prints is no answer
    if kind == "onnx":
        _serve(importlib.import_module("mycomesh.tools.models.runtime").load(int(what)), answers)
        return
    if kind == "http":
        _serve(importlib.import_module("mycomesh.tools.flows.http_call").caller(what, *more), answers)
        return
    sys.path.insert(0, more[0])
    module, _, name = what.partition(":")
    _serve(getattr(importlib.import_module(module), name), answers)


def _serve(function: Callable[[dict[str, Any]], Any], answers: int) -> None:
    rest = b""
    # One loop, so that a function may keep its connections; the worker of a model could open none.
    runner = asyncio.Runner() if inspect.iscoroutinefunction(function) else None
    with runner or contextlib.nullcontext():
        while piece := os.read(0, READ_BYTES):
            *lines, rest = (rest + piece).split(b"\n")
            rows = [json.loads(line, object_hook=_blob) for line in lines]
            step = getattr(function, "at_once", len(rows)) or 1
            for start in range(0, len(rows), step):
                some = rows[start : start + step]
                made = runner.run(_all(function, some)) if runner else [_answer(function, row) for row in some]
                with open(answers, "wb", closefd=False) as file:
                    file.write(b"".join(made))


def _answer(function: Callable[[dict[str, Any]], Any], row: dict[str, Any]) -> bytes:
    try:
        return _line(function(row))
    except MemoryError:  # what the function holds goes with the process, and the next row gets another one
        sys.stderr.write("MemoryError\n")
        sys.stderr.flush()
        os._exit(1)
    except Exception as error:  # noqa: BLE001 -- a function may raise anything
        return _failed(error)


async def _all(function: Callable[[dict[str, Any]], Any], rows: list[dict[str, Any]]) -> list[bytes]:
    made = await asyncio.gather(*map(function, rows), return_exceptions=True)
    answers = []
    for each in made:
        try:
            answers.append(_failed(each) if isinstance(each, BaseException) else _line(each))
        except (TypeError, ValueError) as error:
            answers.append(_failed(error))
    return answers


def _line(result: Any) -> bytes:
    if inspect.isgenerator(result):
        result = list(itertools.islice(result, RESULTS_MAX + 1))  # one without end is as one with too many rows
    return json.dumps(result, default=_plain).encode() + b"\n"


def _failed(error: BaseException) -> bytes:
    try:
        text = str(error)[:ERROR_CHARS]
    except Exception:  # noqa: BLE001 -- that of a function's own error may raise anything too
        text = ""
    return json.dumps({ERROR: f"{type(error).__name__}: {text}".rstrip(": ")}).encode() + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    raise TypeError(f"a value of a row may be text, a number, bytes or None, not {type(value).__name__}")


def _blob(value: dict[str, Any]) -> Any:
    return base64.b64decode(value["base64"]) if value.keys() == {"base64"} else value


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        main()
