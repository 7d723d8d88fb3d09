"""The error tree of `mesh.node`: errors of starting, configuring, controlling and embedding a node.

Each message is one line that says what failed, where, and what to do. The cores raise none of these.
"""

from __future__ import annotations

from typing import Self

__all__ = [
    "AlreadyServedError",
    "ConfigError",
    "HomeError",
    "JoinRefusedError",
    "KeystoreError",
    "NoNodeError",
    "NodeError",
    "RefusedError",
    "SqlError",
]


class NodeError(Exception):
    """Root of every error that `mesh.node` raises on purpose."""

    code = "node.refused"  # stable: the argument of `mycomesh explain`

    @classmethod
    def of(cls, error: Exception) -> Self:
        """Return an error of another tree as a `NodeError` with the same message and code."""
        own = cls(str(error))
        own.code = getattr(error, "code", cls.code)
        return own


class ConfigError(NodeError):
    """A setting on the command line or in config.toml is wrong. The user's fault; nothing was changed."""

    code = "config.wrong"


class HomeError(NodeError):
    """A directory of the home cannot be created, read or written. Nothing was changed; permissions are the usual cause."""

    code = "home.unusable"


class KeystoreError(HomeError):
    """A key or state file is missing, damaged or readable by other users. The node never replaces it silently."""

    code = "keystore.unusable"


class AlreadyServedError(NodeError):
    """Another process serves this home or this database. Nothing was changed; stop that process first."""

    code = "node.running"


class NoNodeError(NodeError):
    """No node runs for this home, so no node can answer the request."""

    code = "node.none"


class JoinRefusedError(NodeError):
    """A member in reach did not accept the join code. The code stays stored; a new one is usually needed."""

    code = "join.unanswered"


class RefusedError(NodeError):
    """The running node refused a request; message and code are the node's."""

    def __init__(self, text: str, code: str = NodeError.code) -> None:
        super().__init__(text)
        self.code = code


class SqlError(NodeError):
    """SQLite refuses a statement of the embedding program; the message is SQLite's, followed by the statement."""

    code = "sql.refused"
