"""The event loop of a process that serves: uvloop's where it is installed."""

from __future__ import annotations

import asyncio
import importlib

__all__ = ["event_loop"]


def event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop: uvloop's if it is installed, else asyncio's."""
    try:
        loop: asyncio.AbstractEventLoop = importlib.import_module("uvloop").new_event_loop()
    except ImportError:
        loop = asyncio.new_event_loop()
    return loop
