"""A flow's worker process: rows go in as lines of JSON, one line answers each, within limits of time and memory.

A worker that hangs or dies is ended, and the rows without an answer go singly into another one, so that the row which did it is
known. Calls are repeated then; their results are written once.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ANSWER_BYTES_MAX", "AwayError", "Failure", "Worker"]

ANSWER_BYTES_MAX = 4 << 20  # of one line
READ_BYTES = 1 << 20
TOO_MANY = "answered with more lines than it got; it has to write one line for each"
TOO_LONG = "answered with a line of more than"
ERRORS_BYTES = 4_096  # of the standard error that are kept to say why a worker ended


class AwayError(Exception):
    """The system that the function asks cannot be reached, which is no fault of a row."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a row has no answer, and whether another try may help."""

    why: str
    again: bool = True


class Worker:
    """One worker at a time. Not thread-safe."""

    def __init__(
        self, words: Sequence[str], directory: str, timeout_s: float, memory_mib: int, files: Sequence[int] = ()
    ) -> None:
        """Take a kind with what follows, the directory to run in, and the open files that the worker gets."""
        self._words = [sys.executable, "-P", "-m", "mycomesh.tools.flows.launch", str(memory_mib), *words]
        self._directory = directory
        self._files = files
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._said = b""  # the end of its standard error
        self._rest = b""

    def answers(self, lines: Sequence[bytes]) -> list[bytes | Failure]:
        """Return the answer to each line."""
        made: list[bytes | Failure] = []
        singly = False
        while len(made) < len(lines):
            asked = lines[len(made) : len(made) + 1] if singly else lines[len(made) :]
            got, failure = self._exchange(asked)
            made += got
            if failure is not None:
                self.close()
                if len(asked) == 1:
                    made.append(failure)
                singly = len(asked) > 1
        return made

    @property
    def pid(self) -> int:
        """The process that runs, 0 if none does."""
        return self._process.pid if self._process is not None else 0

    def close(self) -> None:
        """End the worker and what it has started."""
        if self._process is not None:
            process, self._process = self._process, None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.stdout.close()
            assert process.stderr is not None
            process.stderr.close()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(  # noqa: S603 -- the operator's own function
            self._words,
            cwd=self._directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            pass_fds=self._files,
        )
        assert process.stdin is not None
        assert process.stderr is not None
        os.set_blocking(process.stdin.fileno(), False)
        os.set_blocking(process.stderr.fileno(), False)
        self._rest = self._said = b""
        return process

    def _running(self) -> subprocess.Popen[bytes] | None:
        """Return a worker that waits for rows, None if it has written what nobody asked for."""
        process = self._process
        if process is not None and process.stdout is not None and select.select([process.stdout], [], [], 0)[0]:
            if os.read(process.stdout.fileno(), READ_BYTES):
                return None
            self.close()  # it has died between two calls, of no row
        if self._process is None:
            self._process = self._start()
        return self._process

    def _exchange(self, lines: Sequence[bytes]) -> tuple[list[bytes], Failure | None]:
        """Return the answers that come, and why there are not more, None if there are enough."""
        process = self._running()
        if process is None:
            return [], Failure(TOO_MANY, again=False)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        pending, made = memoryview(b"".join(lines)), list[bytes]()
        end = time.monotonic() + self._timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(process.stdin, selectors.EVENT_WRITE)
            selector.register(process.stderr, selectors.EVENT_READ)
            while len(made) < len(lines):
                ready = [key.fileobj for key, _ in selector.select(max(0, end - time.monotonic()))]
                if process.stdin in ready:
                    pending = _write(process.stdin.fileno(), pending)
                    if not pending:
                        selector.unregister(process.stdin)
                if process.stderr in ready and not self._listen(process):
                    selector.unregister(process.stderr)
                if process.stdout in ready:
                    got, failure = self._read(process)
                    made += got
                    if failure is not None:
                        return made, failure
                    if got:
                        end = time.monotonic() + self._timeout_s
                elif time.monotonic() > end:  # whatever else it does
                    return made, Failure(f"took longer than {self._timeout_s:g} s", again=False)
        if len(made) > len(lines) or self._rest:
            return [], Failure(TOO_MANY, again=False)
        return made, None

    def _read(self, process: subprocess.Popen[bytes]) -> tuple[list[bytes], Failure | None]:
        """Return the lines that have come, and why there will be no more."""
        assert process.stdout is not None
        piece = os.read(process.stdout.fileno(), READ_BYTES)
        if not piece:
            return [], Failure(self._last_words(process))
        *got, self._rest = (self._rest + piece).split(b"\n")
        too_long = Failure(f"{TOO_LONG} {ANSWER_BYTES_MAX >> 20} MiB", again=False)
        return got, too_long if len(self._rest) > ANSWER_BYTES_MAX else None

    def _last_words(self, process: subprocess.Popen[bytes]) -> str:
        """Return why a worker has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        while self._listen(process):
            pass
        said = self._said.decode(errors="replace").strip().splitlines()
        code = process.returncode
        ended = (
            "closed its output" if code is None else f"killed by signal {-code}" if code < 0 else f"ended with {code}"
        )
        return f"{ended}: {said[-1]}" if said else ended

    def _listen(self, process: subprocess.Popen[bytes]) -> bool:
        """Keep the end of what a worker says; return whether there may be more now."""
        assert process.stderr is not None
        try:
            piece = os.read(process.stderr.fileno(), READ_BYTES)
        except BlockingIOError:
            return False
        self._said = (self._said + piece)[-ERRORS_BYTES:]
        return bool(piece)


def _write(pipe: int, pending: memoryview) -> memoryview:
    """Write what a pipe takes; return the rest, none if its reader has closed it, and may answer what it has."""
    try:
        return pending[os.write(pipe, pending[:READ_BYTES]) :]
    except BrokenPipeError:
        return pending[:0]
