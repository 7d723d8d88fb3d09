"""Loads what a node's process stays with, without the TLS that comes along and that no part of a node speaks.

Owns the import of asyncio, uvloop, hashlib and hmac in the `mycomesh` command. Why: asyncio and uvloop import `ssl` to name its
classes, hashlib and hmac look for OpenSSL's hashes beside Python's own; libssl, libcrypto and the module are 4.5 MB of a node
that rests with 47 (ADR 19). What always holds: whoever imports `ssl` or `_hashlib` afterwards gets the real one; a program that
embeds a node is left alone. It must not know what a node does.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from types import ModuleType
from typing import Any

__all__ = ["load"]

_HEIRS = ("asyncio", "hashlib", "hmac", "uvloop")


def load() -> None:
    """Import them, unless something has done so before."""
    if sys.modules.keys() & {"ssl", *_HEIRS}:
        return
    absent: dict[str, Any] = {"ssl": _NoTls("ssl"), "_hashlib": None}  # None: Python answers that there is none
    sys.modules.update(absent)
    try:
        for name in _HEIRS:
            with contextlib.suppress(ImportError):  # uvloop may be missing
                importlib.import_module(name)
    finally:
        for name in absent:
            sys.modules.pop(name, None)


class _NoTls(ModuleType):
    """Has every name that an importer binds: exceptions nobody raises, classes nothing is an instance of, numbers."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = 0 if name.isupper() else type(name, (Exception,) if name.endswith("Error") else (), {})
        setattr(self, name, value)
        return value
