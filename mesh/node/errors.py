"""The error tree of `mesh.node`: what a person who runs a node can meet before or beside syncing.

Every text is one line: what, where, what to do. None of these is raised by a core.
"""

from __future__ import annotations

from typing import Self

__all__ = [
    "AlreadyServedError",
    "ConfigError",
    "HomeError",
    "KeystoreError",
    "NoNodeError",
    "NodeError",
    "RefusedError",
    "SqlError",
]


class NodeError(Exception):
    """Root of every error that `mesh.node` raises on purpose."""

    code = "node.refused"  # stable: what `mycomesh explain` takes

    @classmethod
    def of(cls, error: Exception) -> Self:
        """Return the same complaint, code too, for whom the other tree of errors is not known."""
        found = cls(str(error))
        found.code = getattr(error, "code", cls.code)
        return found


class ConfigError(NodeError):
    """A setting on the command line or in config.toml is wrong. The user's fault; nothing was changed."""

    code = "config.wrong"


class HomeError(NodeError):
    """A directory of the home cannot be made, read or written. Nothing was changed; permissions are the usual cause."""

    code = "home.unusable"


class KeystoreError(HomeError):
    """A key or state file is missing, damaged or open to other users. It is never replaced silently."""

    code = "keystore.unusable"


class AlreadyServedError(NodeError):
    """Another process serves this home or this database. Nothing was changed; stop that one first."""

    code = "node.running"


class NoNodeError(NodeError):
    """No node runs for this home, so there is nobody to ask."""

    code = "node.none"


class RefusedError(NodeError):
    """The running node answered that it will not do what was asked; its own words and code."""

    def __init__(self, text: str, code: str = NodeError.code) -> None:
        super().__init__(text)
        self.code = code


class SqlError(NodeError):
    """SQLite refuses what a program asked of its own file; SQLite's words and the statement."""

    code = "sql.refused"
