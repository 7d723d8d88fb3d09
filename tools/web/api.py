"""The HTTP API of the console: status, tables, changes, queries, and the decisions that a console may carry out."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.errors import NodeError, NoNodeError
from mycomesh.mesh.node.home import Home
from mycomesh.tools.web import flow_steps, tables
from mycomesh.tools.web.api_routes import EVENTS, LIMIT
from mycomesh.tools.web.cursors import Cursors
from mycomesh.tools.web.database import ROWS_MAX, Database, Rows
from mycomesh.tools.web.errors import BusyError, HttpError, RefusedByNodeError, UnknownError
from mycomesh.tools.web.feeds import Changes, Feeds, Subscriber, browser_safe_lines, event, events_of
from mycomesh.tools.web.http import Request, Response
from mycomesh.tools.web.node_client import ask, health_of, pages
from mycomesh.tools.web.values import browser_safe

if TYPE_CHECKING:
    from mycomesh.tools.web.watching import Commits

__all__ = ["CLIENTS_MAX", "TABLES_MAX", "Api"]

CLIENTS_MAX = 128  # streams at a time: each is one reader of shared events, some tens of kB
READERS_MAX = 16  # streams with a cursor or from the start: each is a reader of its own in the node
TABLES_MAX = 64  # of one live stream
QUIET_S = 15
HEALTH_S = 1.0  # one question to the node for all who ask within it
LIVE_S_MIN = 0.1  # between two runs of a live query
LIVE_AT_ONCE = 2  # live queries that run; the others wait, and leave room for the answers that people wait for
LIVE_SHARE = 10  # and so many times what the query takes
CONFLICTS_MAX = 1_000
PARKED_MAX = 1_000
PARKED = "SELECT table_name, row_key, reason, content, since FROM mycomesh_parked ORDER BY since, table_name, row_key LIMIT ?"


@dataclass(slots=True)
class _Counts:
    streams: int = 0
    readers: int = 0


class Api:
    """The handlers of the routes: one method named as each route."""

    def __init__(self, home: Home, database: Database, feeds: Feeds, commits: Commits) -> None:
        self._home = home
        self._database = database
        self._feeds = feeds
        self._commits = commits
        self._counts = _Counts()
        self._cursors = Cursors(home)
        self._steps = flow_steps.Steps(home)
        self._health: asyncio.Task[str] | None = None
        self._asked_at = 0.0
        self._live = asyncio.Semaphore(LIVE_AT_ONCE)

    async def status(self, _request: Request) -> Response:
        """Answer with the node's status."""
        return _json(await self._ask("status"))

    async def health(self, _request: Request) -> Response:
        """Answer 200 while the node does its work, else 503 and one line; clients without the token get no more than that."""
        loop = asyncio.get_running_loop()
        if self._health is None or loop.time() - self._asked_at > HEALTH_S:
            self._asked_at = loop.time()
            self._health = loop.create_task(health_of(self._home))
        why = await asyncio.shield(self._health)
        return Response(f"{why or 'ok'}\n".encode(), 503 if why else 200, "text/plain; charset=utf-8")

    async def peers(self, _request: Request) -> Response:
        """Answer with the node's peers."""
        return _json((await self._ask("status"))["peers"])

    async def tables(self, _request: Request) -> Response:
        """Answer with the tables of the file, and what the node says about those that it serves."""
        views: dict[str, Any] = {}
        with contextlib.suppress(NoNodeError):
            views = {each["name"]: each for each in (await ask(self._home, "status"))["tables"]}

        def look() -> list[dict[str, Any]]:
            found = []
            for name, table in self._database.tables().items():
                layer = tables.layer_in(self._database, table)
                found.append(
                    {
                        "name": name,
                        "columns": table.columns,
                        "key": table.key,
                        "rows": views[name]["rows"] if name in views else None,
                        "view": views.get(name),
                        "layer": None if layer is None else asdict(layer),
                    }
                )
            return found

        return _json(await self._database.run(look))

    async def rows(self, request: Request, table: str) -> Response:
        """Answer with some rows of a table."""
        form = request.one("format") or "json"
        if form not in ("json", "csv", "geojson"):
            raise HttpError(f"format is json, csv or geojson, not {form!r}")
        limit, offset = _number(request, "limit", LIMIT, ROWS_MAX), _number(request, "offset", 0, 1 << 62)

        def read() -> Response:
            spec = self._database.table(table)
            found = self._database.page(
                spec,
                where=request.one("where") or "",
                order=request.one("order") or "",
                descending=request.one("desc") == "1",
                limit=limit,
                offset=offset,
            )
            if form == "csv":
                return Response(tables.as_csv(spec.columns, [row[1:] for row in found.rows]), content_type="text/csv")
            if form == "json":
                return Response(tables.as_json(spec, found))
            layer = tables.layer_in(self._database, spec)
            if layer is None:
                raise UnknownError(f"table {table!r} has no columns with positions", 400)
            return Response(tables.as_geojson(spec, layer, found), content_type="application/geo+json")

        return await self._database.run(read)

    async def why(self, _request: Request, table: str, key: str) -> Response:
        """Answer with the provenance of a row."""
        command = importlib.import_module("mycomesh.tools.commands.why")

        def read() -> Any:
            return command.read(self._home, self._database.path, table, key)

        try:
            return _json(await self._database.run(read))
        except NodeError as error:
            raise RefusedByNodeError(error, 404) from error

    async def changes(self, request: Request) -> Response:
        """Stream the changes of a table."""
        name, cursor, begin = request.one("table"), request.one("cursor"), request.one("from")
        if not name:
            raise HttpError("give the table: /api/changes?table=NAME")
        if begin not in (None, "now", "start"):
            raise HttpError(f"from is now or start, not {begin!r}")
        table = (await self._database.run(lambda: self._database.table(name))).name
        from_now = begin == "now" if cursor is not None else begin != "start"
        if request.one("once") == "1":
            found = self._own(table, cursor, from_now=False, once=True)
            return self._stream(self._dump(found), reader=True, content_type="application/x-ndjson")
        last = request.headers.get("last-event-id", "")
        if cursor is None and from_now:
            return self._stream(self._shared(table, last))
        return self._stream(self._events(table, self._own(table, cursor, from_now=from_now, last=last)), reader=True)

    async def acknowledge(self, request: Request, name: str) -> Response:
        """Move a durable cursor."""
        identity = request.json().get("id")
        if not isinstance(identity, str):
            raise HttpError('send {"id": TEXT}, the id of the last change that is done')
        try:
            return _json({"acknowledged": await self._cursors.acknowledge(name, identity)})
        except NodeError as error:
            raise RefusedByNodeError(error) from error

    async def live(self, request: Request) -> Response:
        """Stream the node's status, its notices and the changes of some tables."""
        names = request.query.get("table", [])
        if len(names) > TABLES_MAX:
            raise HttpError(f"{len(names)} tables are more than {TABLES_MAX}")
        found = await self._database.run(lambda: [self._database.table(name).name for name in names])
        return self._stream(self._everything(list(dict.fromkeys(found))))

    async def query(self, request: Request) -> Response:
        """Answer with the rows of a SELECT, or stream its answers."""
        sql, limit = request.one("sql"), _number(request, "limit", ROWS_MAX, ROWS_MAX)
        if not sql:
            raise HttpError("give the statement: /api/query?sql=SELECT...")
        found = await self._database.run(lambda: self._database.query(sql, rows_max=limit))
        if EVENTS in request.headers.get("accept", ""):
            return self._stream(self._answers(sql, limit, found))
        if request.one("format") == "csv":
            return Response(tables.as_csv(found.columns, found.rows), content_type="text/csv")
        return Response(tables.rows_json(found))

    async def execute(self, request: Request) -> Response:
        """Run one statement."""
        body = request.json()
        sql, values = body.get("sql"), body.get("values", [])
        if (
            not isinstance(sql, str)
            or not isinstance(values, list)
            or any(isinstance(each, list | dict) for each in values)
        ):
            raise HttpError('send {"sql": TEXT, "values": [...]}; a value is text, a number or null')
        return Response(tables.rows_json(await self._database.run(lambda: self._database.execute(sql, values))))

    async def conflicts(self, request: Request) -> Response:
        """Answer with the latest conflicts."""
        limit = _number(request, "limit", LIMIT, CONFLICTS_MAX)
        return _json((await self._ask("conflicts", limit=max(1, limit)))["conflicts"])

    async def parked(self, _request: Request) -> Response:
        """Answer with the parked rows."""
        found = await self._database.run(lambda: self._database.query(PARKED, (PARKED_MAX,)))
        names = ("table", "key", "reason", "content", "since")
        return _json([dict(zip(names, row, strict=True)) for row in found.rows])

    async def dead(self, _request: Request) -> Response:
        """Answer with the dead letters."""
        return _json((await self._ask("dead"))["letters"])

    async def restore(self, request: Request) -> Response:
        """Restore the losing side of a conflict."""
        body = request.json()
        conflict, undo, beside = str(body.get("conflict", "")), body.get("undo") is True, body.get("as_new_row") is True
        done = (await self._ask("restore", conflict=conflict, undo=undo, as_new_row=beside))["done"]
        option = " --undo" if undo else " --as-new-row" if beside else ""
        return _json({"done": done, "command": f"mycomesh restore {conflict}{option}"})

    async def retryParked(self, request: Request) -> Response:  # noqa: N802 -- the operation's name in OpenAPI
        """Try the parked rows of a table again."""
        table = str(request.json().get("table", ""))
        count = (await self._ask("retry-parked", table=table))["rows"]
        return _json(
            {"done": f"{count} parked rows of {table} are tried again", "command": f"mycomesh parked --retry {table}"}
        )

    async def decideDead(self, request: Request) -> Response:  # noqa: N802 -- the operation's name in OpenAPI
        """Retry or drop a dead letter."""
        body = request.json()
        given = {name: body[name] for name in ("retry", "drop") if type(body.get(name)) is int}
        if len(given) != 1:
            raise HttpError('send {"retry": NUMBER} or {"drop": NUMBER}')
        ((what, number),) = given.items()
        await self._ask("dead", **given)
        done = f"dead letter {number} is {'tried again' if what == 'retry' else 'forgotten'}"
        return _json({"done": done, "command": f"mycomesh dead --{what} {number}"})

    async def flows(self, _request: Request) -> Response:
        """Answer with the flows of config.toml."""
        return _json(await asyncio.to_thread(flow_steps.listed, self._home))

    async def stepFlow(self, request: Request) -> Response:  # noqa: N802 -- the operation's name in OpenAPI
        """Do one step with a flow, by its command."""
        body = request.json()
        step = {name: body[name] for name in ("action", "name", "section", "sample") if name in body}
        return _json(await self._steps.do(step))

    # ---- streams

    async def _shared(self, table: str, last: str) -> AsyncIterator[bytes]:
        subscriber = Subscriber()

        def take(found: Changes | str) -> None:
            subscriber.put(_gap(found) if isinstance(found, str) else found.events)

        yield b": connected\n\n"
        with self._feeds.table(table, take) as feed:
            missed = feed.after(last) if last else None
            if missed:
                subscriber.put(events_of(missed))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(QUIET_S):
                    await feed.running.wait()
            if last and missed is None:
                yield _gap("the id of the last event is not known any more")
            yield event("ready", json.dumps({"table": table}))
            async for data in subscriber.events(QUIET_S):
                yield data

    def _own(
        self, table: str, cursor: str | None, *, from_now: bool, last: str = "", once: bool = False
    ) -> AsyncIterator[list[str] | None]:
        """Return the pages of a reader of its own: with a name it moves when its client acknowledges."""
        if cursor is None:
            return pages(self._home, table, from_now=from_now, once=once)
        return self._cursors.pages(table, cursor, from_now=from_now, last=last, once=once)

    async def _events(self, table: str, found: AsyncIterator[list[str] | None]) -> AsyncIterator[bytes]:
        yield b": connected\n\n"
        try:
            async with _closing(found):
                async for lines in found:
                    if lines is None:
                        yield b": quiet\n\n"
                    else:
                        yield events_of(browser_safe_lines(lines)) or event("ready", json.dumps({"table": table}))
        except NodeError as error:
            yield event("error", json.dumps({"error": str(error), "code": error.code}))

    async def _dump(self, found: AsyncIterator[list[str] | None]) -> AsyncIterator[bytes]:
        try:
            async with _closing(found):
                async for lines in found:
                    if lines:
                        yield ("\n".join(browser_safe_lines(lines)) + "\n").encode()
        except NodeError as error:
            yield json.dumps({"error": str(error), "code": error.code}).encode() + b"\n"

    async def _everything(self, names: list[str]) -> AsyncIterator[bytes]:
        subscriber = Subscriber()

        def taker(table: str) -> Callable[[Changes | str], None]:
            def take(found: Changes | str) -> None:
                if isinstance(found, str):
                    subscriber.put(event("reset", json.dumps({"table": table, "why": found})))
                else:
                    subscriber.put(found.event)

            return take

        yield b": connected\n\n"
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._feeds.status(subscriber))
            started = [stack.enter_context(self._feeds.table(name, taker(name))) for name in names]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(QUIET_S):
                    for feed in started:
                        await feed.running.wait()
            yield event("ready", json.dumps({"tables": names}))
            async for data in subscriber.events(QUIET_S):
                yield data

    async def _answers(self, sql: str, limit: int, found: Rows) -> AsyncIterator[bytes]:
        """Stream the answers of a query: the first, and each that differs after a commit."""
        loop, sent = asyncio.get_running_loop(), b""
        with self._commits.observing() as committed:
            while True:
                data = event("rows", tables.rows_json(found).decode())
                del found  # between two commits a stream holds no answer
                if (seen := blake2b(data).digest()) != sent:
                    sent = seen
                    yield data
                del data
                while not await committed(QUIET_S):
                    yield b": quiet\n\n"
                try:
                    async with self._live:
                        started = loop.time()
                        found = await self._database.run(lambda: self._database.query(sql, rows_max=limit))
                except HttpError as error:
                    yield event("error", json.dumps({"error": str(error), "code": error.code}))
                    return
                await asyncio.sleep(max(LIVE_S_MIN, LIVE_SHARE * (loop.time() - started)))

    def _stream(self, pieces: AsyncIterator[bytes], *, reader: bool = False, content_type: str = EVENTS) -> Response:
        """Return a stream that counts from here to its end, or refuse it."""
        counts = self._counts
        if counts.streams >= CLIENTS_MAX or (reader and counts.readers >= READERS_MAX):
            most = READERS_MAX if counts.streams < CLIENTS_MAX else CLIENTS_MAX
            raise BusyError(f"{most} streams of this kind are open already; end some of them")
        counts.streams += 1
        counts.readers += reader

        def on_end() -> None:
            counts.streams -= 1
            counts.readers -= reader

        headers = (("X-Accel-Buffering", "no"),)
        return Response(content_type=content_type, headers=headers, pieces=pieces, on_end=on_end)

    async def _ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        try:
            return await ask(self._home, what, **arguments)
        except NodeError as error:
            raise RefusedByNodeError(error) from error


@contextlib.asynccontextmanager
async def _closing(found: AsyncIterator[Any]) -> AsyncIterator[None]:
    """Let a generator end as soon as its consumer does, and not when Python collects it."""
    try:
        yield
    finally:
        close = getattr(found, "aclose", None)
        if close is not None:
            await close()


def _json(value: Any) -> Response:
    return Response(json.dumps(browser_safe(value), ensure_ascii=False, default=list).encode())


def _gap(why: str) -> bytes:
    return event("reset", json.dumps({"why": why}))


def _number(request: Request, name: str, default: int, most: int) -> int:
    text = request.one(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise HttpError(f"{name} must be a whole number, not {text!r}")
    return min(int(text), most)
