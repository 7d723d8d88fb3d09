"""Replication of one SQLite file: capture, merge and anti-entropy, without any network code.

The names below load on first use, so that a process which needs one small module, such as a bridge, does not load all of them.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["Applied", "Exchange", "ExchangeConfig", "Replica", "ReplicaConfig", "ReplicaStatus"]

_EXCHANGE = frozenset({"Exchange", "ExchangeConfig"})


def __getattr__(name: str) -> Any:
    """Load a name of the library surface (docs/ARCHITECTURE.md)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "exchange.exchange" if name in _EXCHANGE else "replica"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
