"""The errors of the console: each has a status of HTTP, one line, and a code that `mycomesh explain` knows."""

from __future__ import annotations

from mycomesh.mesh.node.errors import NodeError, NoNodeError

__all__ = [
    "BusyError",
    "HostError",
    "HttpError",
    "OriginError",
    "QueryError",
    "ReadOnlyError",
    "RefusedByNodeError",
    "TokenError",
    "UnknownError",
]

_Headers = tuple[tuple[str, str], ...]


class HttpError(Exception):
    """A request that cannot be answered; nothing was changed. The text is one line for the client."""

    code = "web.request"
    status = 400

    def __init__(self, text: str, status: int | None = None, *, headers: _Headers = ()) -> None:
        super().__init__(text)
        self.status = status or self.status
        self.headers = headers


class UnknownError(HttpError):
    """There is no such address, table, row or file."""

    code = "web.unknown"
    status = 404


class TokenError(HttpError):
    """The request lacks the token, or has another one."""

    code = "web.token"
    status = 401


class HostError(HttpError):
    """The console was asked under a name that is not its own."""

    code = "web.host"
    status = 421


class OriginError(HttpError):
    """A page of another site sent the request."""

    code = "web.origin"
    status = 403


class ReadOnlyError(HttpError):
    """The console was not started with `--allow-writes`."""

    code = "web.read-only"
    status = 403


class BusyError(HttpError):
    """Too many requests of one kind are open, or another program holds the write lock."""

    code = "web.busy"
    status = 503


class QueryError(HttpError):
    """SQLite or the console refuses a statement, or it took too long."""

    code = "web.sql"


class RefusedByNodeError(HttpError):
    """The node refused what the console asked, or does not run; the code is the node's."""

    def __init__(self, error: NodeError, status: int = 400) -> None:
        super().__init__(str(error), 503 if isinstance(error, NoNodeError) else status)
        self.code = error.code
