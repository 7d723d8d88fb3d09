"""The client of the control socket: sends one JSON line, reads one JSON line or a stream of them.

It imports neither asyncio nor anything heavier: `mycomesh status` answers within 150 ms, and most of that is the interpreter's
own start. The server shares the line format and its limits.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.errors import NodeError, NoNodeError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mycomesh.mesh.node.home import Home

__all__ = [
    "PAST_MAX",
    "REQUEST_BYTES_MAX",
    "RESPONSE_BYTES_MAX",
    "ask",
    "decode_line",
    "encode_line",
    "in_directory",
    "watch",
]

REQUEST_BYTES_MAX = 1024 * 1024  # the longest request is `migrate` with a script of 256 KiB, escaped
RESPONSE_BYTES_MAX = 16 * 1024 * 1024  # 1,000 peers and 1,000 tables take under 1 MiB
PAST_MAX = 100  # notices that a node keeps for later watchers: as much as a person reads
CHUNK_BYTES = 65_536
ANSWER_S = 20  # a node in a long transaction answers after it; a node that takes longer hangs


def ask(home: Home, what: str, *, timeout_s: float = ANSWER_S, **arguments: Any) -> dict[str, Any]:
    """Send a request to the running node; return its result.

    Raises:
        NoNodeError: no node runs for this home.
        RefusedError: the node refused the request.
        NodeError: the node did not answer in time, or not in this protocol.
    """
    with contextlib.closing(_connect(home, timeout_s)) as connection:
        return _result(_exchange(connection, _Lines(connection), what, arguments))


def watch(home: Home, *, past: int = 0, pipe: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the running node's notices as plain values, until the node ends.

    The last `past` notices come first, up to `PAST_MAX` and without those of level debug. With `pipe`, the descriptor that the
    caller writes to, the notices also end when the reader of that pipe leaves.
    """
    with contextlib.closing(_connect(home, ANSWER_S)) as connection:
        lines = _Lines(connection)
        _result(_exchange(connection, lines, "watch", {"past": past}))
        connection.settimeout(None)
        while lines.wait(pipe) and (line := lines.readline(RESPONSE_BYTES_MAX)):
            yield decode_line(line)


class _Lines:
    """Reads lines from a socket and knows whether bytes are buffered, which `socket.makefile` cannot tell without blocking."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()

    def readline(self, limit: int) -> bytes:
        """Return the next line with its newline, or an incomplete one if the socket ends or `limit` bytes are read."""
        while b"\n" not in self._buffer and len(self._buffer) < limit:
            chunk = self._connection.recv(CHUNK_BYTES)
            if not chunk:
                break
            self._buffer += chunk
        end = self._buffer.find(b"\n") + 1 or len(self._buffer)
        line = bytes(self._buffer[:end])
        del self._buffer[:end]
        return line

    def wait(self, pipe: int | None) -> bool:
        """Wait for bytes; return False if the reader of `pipe` leaves first, which otherwise only the next write would notice."""
        if pipe is None or self._buffer:
            return True
        waiting = select.poll()
        waiting.register(self._connection, select.POLLIN)
        waiting.register(pipe, 0)  # errors and hang-ups are always reported
        return all(descriptor != pipe for descriptor, _ in waiting.poll())


def encode_line(value: dict[str, Any]) -> bytes:
    """Return a value as one JSON line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def decode_line(line: bytes) -> dict[str, Any]:
    """Return the object in a JSON line; raise `NodeError` for anything else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise NodeError(
            "the control socket carried a line that is not JSON; use the same version for node and command"
        ) from error
    if not isinstance(value, dict):
        raise NodeError("the control socket carried no JSON object; use the same version for node and command")
    return value


@contextlib.contextmanager
def in_directory(path: Path) -> Iterator[str]:
    """Yield a short name for a socket path: sun_path is limited to 107 bytes, and the path of a home may be longer."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)


def _connect(home: Home, timeout_s: float) -> socket.socket:
    for path in home.sockets:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        connection.settimeout(timeout_s)
        try:
            with in_directory(path) as short:
                connection.connect(short)
        except PermissionError as error:
            connection.close()
            raise NodeError(
                f"{path} belongs to another user; run this command as the user who runs the node"
            ) from error
        except OSError:
            connection.close()
            continue
        return connection
    raise NoNodeError(f"no node runs for this home ({home.state}); start one with: mycomesh up FILE.db")


def _exchange(connection: socket.socket, lines: _Lines, what: str, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        connection.sendall(encode_line({"do": what, **arguments}))
        line = lines.readline(RESPONSE_BYTES_MAX)
    except TimeoutError as error:
        raise NodeError(
            "the node did not answer in time; it may be busy with a long transaction, so try again"
        ) from error
    except OSError as error:
        raise NoNodeError("the node stopped before it answered; start it again with: mycomesh up FILE.db") from error
    if not line.endswith(b"\n"):
        raise NoNodeError("the node stopped before it answered; start it again with: mycomesh up FILE.db")
    return decode_line(line)


def _result(answer: dict[str, Any]) -> dict[str, Any]:
    if answer.get("ok") is True and isinstance(answer.get("result"), dict):
        result: dict[str, Any] = answer["result"]
        return result
    raise RefusedError(
        str(answer.get("error", "the node refused without a reason")), str(answer.get("code", NodeError.code))
    )
