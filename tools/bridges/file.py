"""The scheme `file://DIRECTORY`: topics are files of JSON lines in a directory, for logs, batch jobs and trials.

A line that goes out has the headers and the row: `{"mesh-id": ..., "mesh-op": ..., "value": {...}}`, with null after a delete. A
line that comes in is such a line, or the row alone. Lines are on the disk when they are acknowledged; the position in each file
that is read is kept in the database.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from mycomesh.tools.bridges.scheme import Arrival, Finding, Limits, LinkError, Message, Options, Scheme, SchemeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["FileScheme"]

POLL_S = 0.1
READ_BYTES_MAX = 4 << 20  # read at once from one file
LINE_BYTES_MAX = 1 << 20  # of a longer one the rest is cut, so that it becomes a dead letter


class FileScheme(Scheme):
    """JSON lines in the files of one directory."""

    limits = Limits(payload_max=LINE_BYTES_MAX)
    separator = "/"
    wildcard_rest = "**"
    everywhere = True

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._directory = _directory(options)
        self._ends: dict[str, int] = {}  # topic -> where its next line begins
        self._offsets: dict[str, int] = {}

    @classmethod
    def check(cls, options: Options) -> None:
        """Refuse a URL without a directory, and topics that lead out of it."""
        _directory(options)
        for topic in (*options.outgoing, *options.incoming):
            if topic.startswith("/") or ".." in topic.split("/"):
                raise SchemeError(f"topic {topic!r} leads out of the directory of {options.url}")

    async def connect(self) -> None:
        """Check that the directory is there, or create it."""
        if self.options.create:
            self._directory.mkdir(parents=True, exist_ok=True)
        if not self._directory.is_dir():
            raise SchemeError(f"there is no directory {self._directory}; create it, or set create = true")
        self._ends.clear()

    async def publish(self, messages: Sequence[Message]) -> Sequence[str]:
        """Append lines, and write them through to the disk."""
        lines: dict[str, bytearray] = {}
        for message in messages:
            lines.setdefault(message.topic, bytearray()).extend(_line(message))
        try:
            await asyncio.to_thread(self._append, lines)
        except OSError as error:
            raise LinkError(f"cannot write {error.filename or self._directory}: {error.strerror}") from error
        return [""] * len(messages)

    def _append(self, lines: Mapping[str, bytearray]) -> None:
        for topic, data in lines.items():
            path = self._directory / topic
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if topic not in self._ends:  # a crash may have left part of a line, which was never acknowledged
                    self._ends[topic] = _whole_lines(descriptor)
                    os.ftruncate(descriptor, self._ends[topic])
                os.lseek(descriptor, 0, os.SEEK_END)
                left = memoryview(data)
                while left:
                    left = left[os.write(descriptor, left) :]
                os.fdatasync(descriptor)
            except OSError:
                self._ends.pop(topic, None)
                raise
            finally:
                os.close(descriptor)

    async def subscribe(self, offsets: Mapping[str, int]) -> None:
        """Remember how far each file was read."""
        self._offsets = dict(offsets)

    async def receive(self) -> list[Arrival]:
        """Return the next lines of the files that the patterns name."""
        while True:
            try:
                arrivals = await asyncio.to_thread(self._read)
            except OSError as error:
                raise LinkError(f"cannot read {error.filename or self._directory}: {error.strerror}") from error
            if arrivals:
                return arrivals
            await asyncio.sleep(POLL_S)

    def _read(self) -> list[Arrival]:
        arrivals: list[Arrival] = []
        for pattern in self.options.incoming:
            for path in sorted(self._directory.glob(pattern)):
                topic = path.relative_to(self._directory).as_posix()
                if path.is_file() and len(arrivals) < self.options.in_flight_max:
                    arrivals += self._read_file(path, topic, self.options.in_flight_max - len(arrivals))
        return arrivals

    def _read_file(self, path: Path, topic: str, lines_max: int) -> list[Arrival]:
        with path.open("rb") as file:
            info = os.fstat(file.fileno())
            source = f"{topic}#{info.st_ino}"
            offset = self._offsets.get(source, 0)
            if info.st_size <= offset:
                return []
            file.seek(offset)
            data = file.read(READ_BYTES_MAX)
        found: list[Arrival] = []
        for line in data.splitlines(keepends=True)[:lines_max]:
            if not line.endswith(b"\n") and len(data) < READ_BYTES_MAX:
                break  # the writer has not finished it
            offset += len(line)
            if line.strip():
                found.append(_arrival(line, topic, source, offset))
        self._offsets[source] = offset
        return found

    async def probe(self) -> list[Finding]:
        """Write a line to a file of its own, read it back and remove it."""
        path = self._directory / f".mycomesh-test-{os.getpid()}"
        try:
            path.write_bytes(b"{}\n")
            good = path.read_bytes() == b"{}\n"
            path.unlink()
        except OSError as error:
            return [Finding("write and read", False, f"{error.filename}: {error.strerror}")]
        return [Finding("write and read", good, str(self._directory))]


def _directory(options: Options) -> Path:
    parts = urlsplit(options.url)
    if parts.netloc or not parts.path.startswith("/"):
        raise SchemeError(f"{options.url!r} is not the URL of a directory; write file:///PATH")
    return Path(unquote(parts.path))


def _line(message: Message) -> bytes:
    head = json.dumps(message.headers, ensure_ascii=False)[1:-1].encode()
    if message.body is None:
        value = b"null"
    else:
        try:
            json.loads(message.body)
            value = message.body
        except ValueError:  # CBOR
            value = json.dumps({"base64": base64.b64encode(message.body).decode()}).encode()
    return b'{%s, "value": %s}\n' % (head, value)


def _arrival(line: bytes, topic: str, source: str, offset: int) -> Arrival:
    headers: dict[str, str] = {}
    body = line.strip()[:LINE_BYTES_MAX]
    delete = False
    try:
        value: Any = json.loads(line)
    except ValueError:
        value = None  # the bridge says what is wrong with it
    if isinstance(value, dict) and "mesh-id" in value and "value" in value:
        headers = {name: str(each) for name, each in value.items() if name != "value"}
        delete = value["value"] is None
        body = b"" if delete else json.dumps(value["value"]).encode()
    return Arrival(topic, body, f"{source}@{offset}", headers, delete=delete, source=source, offset=offset)


def _whole_lines(descriptor: int) -> int:
    """Return where the last whole line of a file ends."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - LINE_BYTES_MAX)
        piece = os.pread(descriptor, end - start, start)
        found = piece.rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
