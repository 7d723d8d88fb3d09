"""The mesh: who is a member, encrypted links between members, and spreading of opaque bytes over them.

For programs that embed a node, `mesh.open("fleet.db")` and `mesh.open_sync`; `mesh.NodeConfig`, `mesh.NodeError`,
`mesh.SqlError` go with them (docs/API.md). They come from `mesh.node`, and only when they are asked for: nothing else in here
knows tables; what crosses the border to the rest is bytes and `mesh.events`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesh.node.config import NodeConfig
    from mesh.node.embedded import Node, SyncNode, open_sync
    from mesh.node.embedded import open_node as open  # noqa: A004 - reads as mesh.open
    from mesh.node.errors import NodeError, SqlError

__version__ = "0.1.0"  # of the program, stated here alone: reading it from the installed metadata costs 3 MB

__all__ = ["Node", "NodeConfig", "NodeError", "SqlError", "SyncNode", "open", "open_sync"]

_PLACES = {
    "open": ("mesh.node.embedded", "open_node"),
    "open_sync": ("mesh.node.embedded", "open_sync"),
    "Node": ("mesh.node.embedded", "Node"),
    "SyncNode": ("mesh.node.embedded", "SyncNode"),
    "NodeConfig": ("mesh.node.config", "NodeConfig"),
    "NodeError": ("mesh.node.errors", "NodeError"),
    "SqlError": ("mesh.node.errors", "SqlError"),
}


def __getattr__(name: str) -> Any:
    """Load what an embedding program asks for (PEP 562); the daemon and the cores never pay for it."""
    if name not in _PLACES:
        raise AttributeError(f"module 'mesh' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(importlib.import_module(module), attribute)
