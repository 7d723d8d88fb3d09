"""The console's requests to its node: single ones, notices, and pages of a table's changes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from mycomesh.mesh.node.control.health import BUSY, unhealthy
from mycomesh.mesh.node.errors import NodeError, NoNodeError
from mycomesh.mesh.node.home import Home
from mycomesh.mesh.node.status import from_json
from mycomesh.tools.node_link import NodeLink

__all__ = ["PAGE_ROWS", "PAGE_WAIT_MS", "ask", "health_of", "notices", "pages"]

PAGE_WAIT_MS = 10_000
PAGE_ROWS = 1_024
END_S = 1.0
HEALTH_ANSWER_S = 5.0
PAST = 50  # notices from before, to begin with


async def ask(home: Home, what: str, **arguments: Any) -> dict[str, Any]:
    """Send one request to the running node; raises as `NodeLink.ask`."""
    link = NodeLink(home)
    try:
        return await link.ask(what, **arguments)
    finally:
        link.close()


async def health_of(home: Home) -> str:
    """Return why the node does not do its work, in one line; "" while it does."""
    try:
        async with asyncio.timeout(HEALTH_ANSWER_S):
            status = from_json(await ask(home, "status"))
    except TimeoutError:
        return BUSY
    except NoNodeError:
        return "no node runs"
    except NodeError as error:
        return f"{error} [{error.code}]"
    return unhealthy(status, int(time.time()))


async def notices(home: Home) -> AsyncIterator[dict[str, Any]]:
    """Yield the last notices of the node and those that follow, until it ends; raises as `NodeLink.ask`."""
    link = NodeLink(home)
    try:
        async for line in link.notices(PAST):
            yield line
    finally:
        link.close()


async def pages(home: Home, table: str, *, from_now: bool = True, once: bool = False) -> AsyncIterator[list[str]]:
    """Yield the changes of a table as pages of JSON lines; an empty page means that the reader has caught up.

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
