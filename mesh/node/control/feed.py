"""Requests about the change feed: pages of changes for programs outside of the node, and the list of cursors.

A client names its reader by a token of its own and asks for one page after another. Each request may acknowledge changes, the
oldest first, and say which of those have failed; up to `PAGES_MAX` pages may wait for that. With `places`, an answer has the
position behind its page, and a client that moved the cursor in a transaction of its own says so by `moved`. With `rows` 0 a
request only acknowledges, and keeps its reader open.
With `sets`, a page of up to so many changes may come as windows of the log, for a client that reads the rows in the file; with
`back`, the pages that are not acknowledged come again. With `stirs`, an empty answer comes soon after a commit to any table.
A reader whose client has gone is closed after `IDLE_S`, or as soon as another one wants its cursor.
"""

from __future__ import annotations

import asyncio
import base64
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.errors import NodeError
from mycomesh.sync.feed.position import Position
from mycomesh.sync.feed.reader import PAGE_ROWS_MAX, Page
from mycomesh.sync.feed.windows import SET_ROWS_MAX, SetPage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mycomesh.mesh.node.readers import Reader
    from mycomesh.mesh.node.serving import ServingNode
    from mycomesh.sync.feed.dead_letters import DeadLetter

__all__ = ["FeedRequests"]

IDLE_S = 15
WAIT_MS_MAX = 10_000
TOKEN_MAX = 64  # characters
BODIES_CHARS_MAX = 2 << 20  # of the dead letters in one answer, which escapes lengthen
PAGES_MAX = 4  # of a reader that wait for their acknowledgement, each at most a megabyte and one change


@dataclass(slots=True)
class _Waiting:
    page: Page | SetPage
    done: int = 0  # of its changes, so many are acknowledged


@dataclass(slots=True)
class _Session:
    reader: Reader
    pid: int | None  # of the client
    pages: list[_Waiting] = field(default_factory=list)  # those that are not acknowledged, the oldest first
    timer: asyncio.TimerHandle | None = None
    busy: bool = False


class FeedRequests:
    """The readers of the clients of one node's control socket."""

    def __init__(self) -> None:
        self._sessions: dict[str, _Session] = {}

    async def answer(self, node: ServingNode, request: dict[str, Any]) -> dict[str, Any]:
        """Answer a request about the feed.

        Raises:
            NodeError, SyncError: the request is malformed, or cannot be carried out.
        """
        match request.get("do"):
            case "dead":
                return await _dead(node, request)
            case "cursors":
                drop = request.get("drop")
                if isinstance(drop, str) and not await node.run_on_feed(lambda feed, _: feed.drop(drop)):
                    raise NodeError(f"no cursor {drop!r}; 'mycomesh cursors' lists them")
                rewind, since_ms = request.get("rewind"), request.get("since_ms")
                if isinstance(rewind, str) and isinstance(since_ms, int):
                    await node.run_on_feed(lambda feed, _: feed.rewind(rewind, since_ms))
                if isinstance(request.get("follow"), dict):
                    await _follow(node, request["follow"])
                return {"cursors": [asdict(reader) for reader in await node.cursors()]}
            case _:
                return await self._page(node, request)

    async def _page(self, node: ServingNode, request: dict[str, Any]) -> dict[str, Any]:
        token, table, cursor = request.get("token"), request.get("table"), request.get("cursor")
        if not isinstance(token, str) or not 0 < len(token) <= TOKEN_MAX or not isinstance(table, str):
            raise NodeError("a request for changes needs a token and a table")
        if cursor is not None and not isinstance(cursor, str):
            raise NodeError("the name of a cursor is text")
        session = self._sessions.get(token)
        if session is None and request.get("close") is True:
            return {"changes": [], "more": False}
        if session is None:
            self._close_dead()
            reader = await node.readers.open(table, cursor, from_now=request.get("from_now") is True)
            pid = request.get("pid")
            session = self._sessions[token] = _Session(reader, pid if isinstance(pid, int) else None)
        if session.busy and request.get("close") is True:  # its client has given up the request that waits
            self._close(token)
            return {"changes": [], "more": False}
        if session.busy:
            raise NodeError("this reader waits for an answer already; ask again after that")
        if session.timer is not None:
            session.timer.cancel()
        session.busy = True
        try:
            return await self._next(session, request)
        finally:
            session.busy = False
            if request.get("close") is True:
                self._close(token)
            elif token in self._sessions:
                session.timer = asyncio.get_running_loop().call_later(IDLE_S, self._close, token)

    async def _next(self, session: _Session, request: dict[str, Any]) -> dict[str, Any]:
        done, failed = request.get("done", 0), request.get("failed", [])
        if isinstance(done, int) and done > 0:
            moved = request.get("moved") is True
            await _acknowledge(session, done, failed if isinstance(failed, list) else [], moved=moved)
        if request.get("close") is True or request.get("rows") == 0:
            return {"changes": [], "more": False}
        part = request.get("part")
        if isinstance(part, int) and session.pages:
            return {"changes": [], "more": False, "place": _encoded(session.pages[0].page, max(part, 0))}
        if request.get("back") is True:
            session.reader.go_back([waiting.page for waiting in session.pages])
            session.pages.clear()
        if len(session.pages) >= PAGES_MAX:
            raise NodeError(f"{PAGES_MAX} pages of this reader wait for their acknowledgement; acknowledge the first")
        rows, wait_ms = request.get("rows"), request.get("wait_ms")
        rows_max = min(rows, PAGE_ROWS_MAX) if isinstance(rows, int) and rows > 0 else PAGE_ROWS_MAX
        limit_s = min(max(wait_ms, 0), WAIT_MS_MAX) / 1000 if isinstance(wait_ms, int) else 0.0
        sets = request.get("sets")
        set_max = min(sets, SET_ROWS_MAX) if isinstance(sets, int) and sets > 0 else 0
        page = await session.reader.page_or_set(
            rows_max=rows_max, set_max=set_max, wait_s=limit_s, stirs=request.get("stirs") is True
        )
        if page is None:
            return {"changes": [], "more": False}
        session.pages.append(_Waiting(page))
        place = {"place": _encoded(page, page.count)} if request.get("places") is True else {}
        if isinstance(page, SetPage):
            return {"changes": [], "set": _plain_set(page, session.reader.name_of), "more": page.more, **place}
        return {"changes": [change.to_json() for change in page.changes], "more": page.more, **place}

    def _close_dead(self) -> None:
        """Close the readers of clients that were killed."""
        for token, session in list(self._sessions.items()):
            if session.pid is not None and not _is_alive(session.pid):
                self._close(token)

    def _close(self, token: str) -> None:
        session = self._sessions.pop(token, None)
        if session is not None:
            session.reader.close()


async def _follow(node: ServingNode, follow: dict[str, Any]) -> None:
    """Move a cursor forward by what a reader of the same name at another node has seen."""
    cursor, table, position = (str(follow.get(name)) for name in ("cursor", "table", "position"))
    try:
        seen = Position.decode(base64.b64decode(position, validate=True))
    except ValueError as error:
        raise NodeError(f"this is no position of a reader: {error}") from error
    seen.touched, seen.start = 0, None  # both count in the other node's file
    await node.run_on_feed(lambda feed, wall_ms: feed.move(cursor, table, seen, wall_ms))


def _plain_set(page: SetPage, name_of: Callable[[bytes], str]) -> dict[str, Any]:
    names = ("table", "log", "runs", "pending", "rowid", "keyless", "key", "count")
    windows = [
        [each.site.hex(), each.place, each.after, each.reached, each.count, name_of(each.site)] for each in page.windows
    ]
    return {**{name: getattr(page, name) for name in names}, "windows": windows}


def _encoded(page: Page | SetPage, count: int) -> str:
    """Return the position behind so many changes of a page, as a client writes it into its cursor."""
    return base64.b64encode(page.after(count).encode()).decode()


async def _acknowledge(session: _Session, count: int, failed: list[Any], *, moved: bool) -> None:
    """Acknowledge the oldest changes; those that `failed` names by their number among these become dead letters first.

    With `moved`, the client has moved the cursor.
    """
    whys = {each[0]: str(each[1]) for each in failed if isinstance(each, list) and len(each) == 2}
    number = 0
    while count > number and session.pages:
        waiting = session.pages[0]
        page = waiting.page
        upto = min(page.count, waiting.done + count - number)
        for at in range(waiting.done, upto) if whys else ():
            if number + at - waiting.done in whys and isinstance(page, Page):
                await session.reader.set_aside(page.changes[at], whys[number + at - waiting.done], 1)
        good = upto - waiting.done - sum(number <= at < number + upto - waiting.done for at in whys)
        if moved:
            session.reader.acknowledged(good)
        else:
            await session.reader.move(waiting.page.after(upto), good)
        number += upto - waiting.done
        waiting.done = upto
        if upto == page.count:
            session.pages.pop(0)


async def _dead(node: ServingNode, request: dict[str, Any]) -> dict[str, Any]:
    """List the dead letters, after one was dropped or given to its readers again, or after a hook was resumed."""
    retry, drop, resume = request.get("retry"), request.get("drop"), request.get("resume")
    done: list[DeadLetter] = []
    if isinstance(resume, str) and not node.hooks.resume(resume):
        raise NodeError(f"no hook {resume!r}; config.toml has the hooks of this node")
    if isinstance(retry, int):
        done.append(await node.run_on_feed(lambda feed, _: feed.retry_letter(retry)))
    if isinstance(drop, int):
        done.append(await node.run_on_feed(lambda feed, _: feed.drop_letter(drop)))
    letters = await node.run_on_feed(lambda feed, _: feed.letters.all())
    return {"done": _fitting(done), "letters": _fitting(letters)}


def _fitting(letters: Sequence[DeadLetter]) -> list[dict[str, Any]]:
    """Return dead letters as plain values that fit an answer: long bodies shortened, where all of them together are too long."""
    plain = [asdict(letter) for letter in letters]
    if sum(len(each["body"]) for each in plain) > BODIES_CHARS_MAX:
        share = BODIES_CHARS_MAX // len(plain)
        for each in plain:
            if len(each["body"]) > share:
                each["body"] = f"{each['body'][:share]}... ({len(each['body'])} characters)"
    return plain


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's process
        return True
    return True
