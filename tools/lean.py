"""Imports asyncio, uvloop, hashlib and hmac without TLS, to save memory in a node's process.

asyncio and uvloop import `ssl` only to name its classes; hashlib and hmac look for OpenSSL's hashes beside Python's own. A node
uses no TLS but at a NATS server with a login (tools/cli.py asks), and libssl, libcrypto and the `ssl` module are 4.5 MB of the
47 MB of an idle node (ADR 19). The modules loaded here can use no TLS later.

Invariant: a later import of `ssl` or `_hashlib` gets the real module (tests/tools/test_lean.py). A program that embeds a node
does not call this.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from types import ModuleType
from typing import Any

__all__ = ["load"]

_IMPORTERS = ("asyncio", "hashlib", "hmac", "uvloop")


def load() -> None:
    """Import the four modules, unless one of them or `ssl` is loaded already."""
    if sys.modules.keys() & {"ssl", *_IMPORTERS}:
        return
    absent: dict[str, Any] = {"ssl": _NoTls("ssl"), "_hashlib": None}  # None: the import raises ModuleNotFoundError
    sys.modules.update(absent)
    try:
        for name in _IMPORTERS:
            with contextlib.suppress(ImportError):  # uvloop may be missing
                importlib.import_module(name)
    finally:
        for name in absent:
            sys.modules.pop(name, None)


class _NoTls(ModuleType):
    """A stand-in for `ssl` that has every name an importer binds: exceptions never raised, classes never used, numbers."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = 0 if name.isupper() else type(name, (Exception,) if name.endswith("Error") else (), {})
        setattr(self, name, value)
        return value
