"""Whose turn it is: of the nodes with a bridge or a flow that reach each other, one works, and the others stand by."""

from __future__ import annotations

import asyncio

__all__ = ["Turn"]


class Turn:
    """Whether this node works. It begins with no turn."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()
        self._news = asyncio.Event()
        self.holder = ""  # the name of the node whose turn it is

    @property
    def active(self) -> bool:
        """Whether it is this node's turn."""
        return self._begun.is_set()

    def set(self, *, active: bool, holder: str) -> None:
        """Begin or end the turn."""
        if holder != self.holder or active != self.active:
            self._news.set()
        self.holder = holder
        begin, end = (self._begun, self._ended) if active else (self._ended, self._begun)
        end.clear()
        begin.set()

    async def wait(self) -> None:
        """Return once it is this node's turn."""
        await self._begun.wait()

    async def wait_for_news(self) -> None:
        """Return once it has begun or ended, or another node has it; for one caller."""
        await self._news.wait()
        self._news.clear()

    async def wait_for_end(self) -> None:
        """Return once it is not."""
        await self._ended.wait()
