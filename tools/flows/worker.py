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
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
        self._errors: Any = None
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
            self._errors.close()

    def _start(self) -> subprocess.Popen[bytes]:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 -- `close` closes it
        process = subprocess.Popen(  # noqa: S603 -- the operator's own function
            self._words,
            cwd=self._directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            start_new_session=True,
            pass_fds=self._files,
        )
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)
        self._rest = b""
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
        pending, made = memoryview(b"".join(lines)), list[bytes]()
        end = time.monotonic() + self._timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(process.stdin, selectors.EVENT_WRITE)
            while len(made) < len(lines):
                ready = selector.select(max(0, end - time.monotonic()))
                if not ready:
                    return made, Failure(f"took longer than {self._timeout_s:g} s", again=False)
                for key, _ in ready:
                    if key.fileobj is process.stdin:
                        with contextlib.suppress(BrokenPipeError):
                            pending = pending[os.write(process.stdin.fileno(), pending[:READ_BYTES]) :]
                        if not pending:
                            selector.unregister(process.stdin)
                        continue
                    piece = os.read(process.stdout.fileno(), READ_BYTES)
                    if not piece:
                        return made, Failure(self._last_words(process))
                    *got, self._rest = (self._rest + piece).split(b"\n")
                    if len(self._rest) > ANSWER_BYTES_MAX:
                        return made, Failure(f"{TOO_LONG} {ANSWER_BYTES_MAX >> 20} MiB", again=False)
                    if got:
                        made += got
                        end = time.monotonic() + self._timeout_s
        if len(made) > len(lines) or self._rest:
            return [], Failure(TOO_MANY, again=False)
        return made, None

    def _last_words(self, process: subprocess.Popen[bytes]) -> str:
        """Return why a worker has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - ERRORS_BYTES))
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        code = process.returncode
        ended = (
            "closed its output" if code is None else f"killed by signal {-code}" if code < 0 else f"ended with {code}"
        )
        return f"{ended}: {said[-1]}" if said else ended
