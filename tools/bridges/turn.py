"""Whose turn it is: of the nodes with a bridge that reach each other, one publishes, and the others stand by."""

from __future__ import annotations

import asyncio

__all__ = ["Turn"]


class Turn:
    """Whether this node publishes. It begins with no turn."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.holder = ""  # the name of the node whose turn it is

    @property
    def active(self) -> bool:
        """Whether it is this node's turn."""
        return self._event.is_set()

    def set(self, *, active: bool, holder: str) -> None:
        """Begin or end the turn."""
        self.holder = holder
        if active:
            self._event.set()
        else:
            self._event.clear()

    async def wait(self) -> None:
        """Return once it is this node's turn."""
        await self._event.wait()
