"""Membership, encrypted links and overlay: moves bytes between members, knows no tables.

`import mesh` is also the short name of the embedding API: `mesh.open`, `mesh.open_sync` and the names that go with them are
those of `mycomesh`, loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mycomesh import (
        Change,
        ChangePage,
        Member,
        Node,
        NodeConfig,
        NodeError,
        Row,
        SqlError,
        SyncNode,
        SyncTransaction,
        Transaction,
        __version__,
        init,
        invite,
        join,
        open,  # noqa: A004 - reads as mesh.open
        open_sync,
    )

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


def __getattr__(name: str) -> Any:
    """Return a name of the embedding API (PEP 562).

    Raises:
        AttributeError: the API has no such name.
    """
    if name not in __all__:
        raise AttributeError(f"module 'mesh' has no attribute {name!r}")
    return getattr(importlib.import_module("mycomesh"), name)


def __dir__() -> list[str]:
    """Return the public names, loaded or not, so that editors complete them."""
    return sorted(__all__)
