"""The console's requests to its node: single ones, notices, and pages of a table's changes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from typing import Any

from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.home import Home
from mycomesh.tools.node_link import NodeLink

__all__ = ["ask", "notices", "pages"]

PAGE_WAIT_MS = 10_000
PAGE_ROWS = 1_024
END_S = 1.0
PAST = 50  # notices from before, to begin with


async def ask(home: Home, what: str, **arguments: Any) -> dict[str, Any]:
    """Send one request to the running node; raises as `NodeLink.ask`."""
    link = NodeLink(home)
    try:
        return await link.ask(what, **arguments)
    finally:
        link.close()


async def notices(home: Home) -> AsyncIterator[dict[str, Any]]:
    """Yield the last notices of the node and those that follow, until it ends; raises as `NodeLink.ask`."""
    link = NodeLink(home)
    try:
        async for line in link.notices(PAST):
            yield line
    finally:
        link.close()


async def pages(
    home: Home, table: str, *, cursor: str | None = None, from_now: bool = True, once: bool = False
) -> AsyncIterator[list[str]]:
    """Yield the changes of a table as pages of JSON lines; an empty page means that the reader has caught up.

    A page is acknowledged when the next one is asked for, so a cursor moves once the consumer has taken the page.

    Raises:
        NodeError: as `NodeLink.ask`.
    """
    link, done, wait_ms = NodeLink(home), 0, 0
    request: dict[str, Any] = {
        "token": secrets.token_hex(12),
        "pid": os.getpid(),
        "table": table,
        "rows": PAGE_ROWS,
        "from_now": from_now,
    }
    if cursor is not None:
        request["cursor"] = cursor
    try:
        while True:
            answer = await link.ask("changes", **request, done=done, wait_ms=wait_ms)
            lines: list[str] = answer["changes"]
            done = len(lines)
            caught_up = not lines and wait_ms == 0
            if lines or caught_up:
                yield lines
            if once and not lines:
                return
            wait_ms = PAGE_WAIT_MS if caught_up or wait_ms else 0
    finally:
        link.close()  # its last request may still wait for changes
        with contextlib.suppress(NodeError, TimeoutError):
            async with asyncio.timeout(END_S):
                await ask(home, "changes", **request, done=0, close=True)
