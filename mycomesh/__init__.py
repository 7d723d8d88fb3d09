"""Peer-to-peer sync of ordinary SQLite databases: the API for programs that embed a node (docs/API.md).

`mycomesh.open("fleet.db")` serves a file from asyncio code, `mycomesh.open_sync` from a script. The names load on first
use, so `import mycomesh` costs next to nothing. The folders beside this file are the source tree's (ADR 27).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.version import __version__

if TYPE_CHECKING:
    from mycomesh.mesh.node.changes import Change, ChangePage
    from mycomesh.mesh.node.config import NodeConfig
    from mycomesh.mesh.node.database import Transaction
    from mycomesh.mesh.node.embedded import Node, SyncNode, SyncTransaction, open_sync
    from mycomesh.mesh.node.embedded import open_node as open  # noqa: A004 - reads as mycomesh.open
    from mycomesh.mesh.node.errors import NodeError, SqlError
    from mycomesh.mesh.node.joining import Member, init, invite, join
    from mycomesh.mesh.node.rows import Row

__all__ = [
    "Change",
    "ChangePage",
    "Member",
    "Node",
    "NodeConfig",
    "NodeError",
    "Row",
    "SqlError",
    "SyncNode",
    "SyncTransaction",
    "Transaction",
    "__version__",
    "init",
    "invite",
    "join",
    "open",
    "open_sync",
]

_HOMES = {
    "open": ("mycomesh.mesh.node.embedded", "open_node"),
    "open_sync": ("mycomesh.mesh.node.embedded", "open_sync"),
    "Node": ("mycomesh.mesh.node.embedded", "Node"),
    "SyncNode": ("mycomesh.mesh.node.embedded", "SyncNode"),
    "SyncTransaction": ("mycomesh.mesh.node.embedded", "SyncTransaction"),
    "Transaction": ("mycomesh.mesh.node.database", "Transaction"),
    "Row": ("mycomesh.mesh.node.rows", "Row"),
    "Change": ("mycomesh.mesh.node.changes", "Change"),
    "ChangePage": ("mycomesh.mesh.node.changes", "ChangePage"),
    "Member": ("mycomesh.mesh.node.joining", "Member"),
    "init": ("mycomesh.mesh.node.joining", "init"),
    "invite": ("mycomesh.mesh.node.joining", "invite"),
    "join": ("mycomesh.mesh.node.joining", "join"),
    "NodeConfig": ("mycomesh.mesh.node.config", "NodeConfig"),
    "NodeError": ("mycomesh.mesh.node.errors", "NodeError"),
    "SqlError": ("mycomesh.mesh.node.errors", "SqlError"),
}


def __getattr__(name: str) -> Any:
    """Load a name of the API on first use (PEP 562).

    Raises:
        AttributeError: the API has no such name.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'mycomesh' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    """Return the public names, loaded or not, so that editors complete them."""
    return sorted(__all__)
