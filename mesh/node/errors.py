"""The error tree of `mesh.node`: what a person who runs a node can meet before or beside syncing.

Every text is one line: what, where, what to do. None of these is raised by a core.
"""

from __future__ import annotations

__all__ = [
    "AlreadyServedError",
    "ConfigError",
    "HomeError",
    "KeystoreError",
    "NoNodeError",
    "NodeError",
    "RefusedError",
]


class NodeError(Exception):
    """Root of every error that `mesh.node` raises on purpose."""


class ConfigError(NodeError):
    """A setting on the command line or in config.toml is wrong. The user's fault; nothing was changed."""


class HomeError(NodeError):
    """A directory of the home cannot be made, read or written. Nothing was changed; permissions are the usual cause."""


class KeystoreError(HomeError):
    """A key or state file is missing, damaged or open to other users. It is never replaced silently."""


class AlreadyServedError(NodeError):
    """Another process serves this home or this database. Nothing was changed; stop that one first."""


class NoNodeError(NodeError):
    """No node runs for this home, so there is nobody to ask."""


class RefusedError(NodeError):
    """The running node answered that it will not do what was asked; its own words are the text."""
