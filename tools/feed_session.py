"""Pages of the change feed over the node's control socket, and their acknowledgement, for bridges and flows."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.errors import NoNodeError, RefusedError
from mycomesh.tools.node_link import NodeLink

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mycomesh.mesh.node.home import Home

__all__ = ["FeedSession"]

WAIT_MS = 10_000  # of one request for changes, which the node answers sooner if there are any
ROWS_MAX = 1_024


class FeedSession:
    """One reader of a table's changes. Several pages may wait for their acknowledgement."""

    def __init__(
        self, home: Home, table: str, cursor: str | None, *, from_now: bool, rows_max: int, stirs: bool = False
    ) -> None:
        """Read a table from a cursor; with `stirs`, a commit to any table ends the wait for a page, too."""
        self._link = NodeLink(home)
        self._request: dict[str, Any] = {
            "token": os.urandom(12).hex(),
            "pid": os.getpid(),
            "table": table,
            "rows": min(rows_max, ROWS_MAX),
            "from_now": from_now,
        }
        if cursor is not None:
            self._request["cursor"] = cursor
        if stirs:
            self._request["stirs"] = True
        self.place = b""  # the position behind the last page, for a program that moves its cursor itself

    async def place_after(self, count: int) -> bytes:
        """Return the position behind the first `count` changes of the oldest page that waits for its acknowledgement."""
        answer = await self._link.ask("changes", **self._request, part=count)
        return base64.b64decode(answer["place"])

    async def page_beyond(
        self, moved: int, *, wait_ms: int = WAIT_MS, sets: int = 0, back: bool = False
    ) -> list[dict[str, Any]] | dict[str, Any]:
        """Return the next page, after the caller has moved the cursor past `moved` changes in its own transaction.

        With `sets`, up to so many changes may come as windows of the log (`sync.feed.windows.SetPage`), a dict; with `back`, the
        pages that are not acknowledged come once more.
        """
        more = {"back": True} if back else {}
        answer = await self._link.ask(
            "changes", **self._request, done=moved, moved=True, places=True, wait_ms=wait_ms, sets=sets, **more
        )
        if "place" in answer:
            self.place = base64.b64decode(answer["place"])
        if "set" in answer:
            found: dict[str, Any] = answer["set"]
            return found
        return json.loads(f"[{','.join(answer['changes'])}]")  # type: ignore[no-any-return]

    async def page(
        self, *, done: int = 0, failed: Sequence[tuple[int, str]] = (), wait_ms: int = WAIT_MS
    ) -> list[dict[str, Any]]:
        """Acknowledge the first `done` changes that wait for it, and return the next ones; none if there are none in time.

        `failed` are (number, why) of those among them that become dead letters.
        """
        more = {"failed": list(failed)} if failed else {}
        answer = await self._link.ask("changes", **self._request, done=done, wait_ms=wait_ms, **more)
        return [json.loads(line) for line in answer["changes"]]

    async def close(self, *, done: int = 0, failed: Sequence[tuple[int, str]] = ()) -> None:
        """Acknowledge the last changes, and let another reader use the cursor."""
        with contextlib.suppress(NoNodeError, RefusedError):
            await self._link.ask("changes", **self._request, done=done, failed=list(failed), close=True)
        self._link.close()
