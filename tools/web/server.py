"""The console's process: routes requests, checks them, and runs until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.home import Home
from mycomesh.mesh.node.uv_loop import event_loop
from mycomesh.mesh.node.version import __version__
from mycomesh.tools.child import Reports, end_with_parent, is_supervised
from mycomesh.tools.web.access import Access, is_local, names_of, stored_token
from mycomesh.tools.web.api import Api
from mycomesh.tools.web.api_routes import ROUTES
from mycomesh.tools.web.database import Database, limit_heap
from mycomesh.tools.web.errors import HttpError, UnknownError
from mycomesh.tools.web.feeds import Feeds
from mycomesh.tools.web.files import Basemap, Page, open_basemap
from mycomesh.tools.web.http import HttpServer, Request, Response
from mycomesh.tools.web.routes import Route, document, matches
from mycomesh.tools.web.trace import moments_of
from mycomesh.tools.web.watching import Commits

__all__ = ["ALL_ROUTES", "Console", "Options", "run"]

ALL_ROUTES = (
    *ROUTES,
    Route("GET", "/api/console", "console", "The options of this console", "a JSON object", public=True),
    Route("GET", "/api/openapi.json", "openapi", "This description", "OpenAPI 3.1", public=True),
    Route("GET", "/api/trace", "trace", "The simulation that this console replays", "the mesh at each recorded moment"),
    Route("POST", "/session", "session", "Exchange the token for a cookie", "nothing", public=True),
    Route("GET", "/", "page", "The page", "HTML", public=True),
    Route("GET", "/static/{name}", "static", "A file of the page", "the file", public=True),
    Route("GET", "/basemap/file", "basemap", "A range of the base map", "bytes"),
    Route("GET", "/basemap/tiles/{place...}", "tile", "A tile of the base map", "an image, or a vector tile"),
)


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of a console.

    host, port: where it listens; port 0 takes any free one.
    file: the database that the node serves; None for a console that only replays a trace.
    names: further names of this machine under which it answers.
    always_token: ask for the token on the loopback too.
    """

    host: str
    port: int
    file: Path | None
    allow_writes: bool = False
    always_token: bool = False
    names: tuple[str, ...] = ()
    basemap: Path | None = None
    replay: Path | None = None


class Console:
    """One running console."""

    def __init__(self, home: Home, options: Options) -> None:
        self._options = options
        self._home = home
        self._page = Page()
        self._basemap: Basemap | None = None if options.basemap is None else open_basemap(options.basemap)
        self._trace = None if options.replay is None else moments_of(options.replay)
        self._database = None if options.file is None else Database(options.file)
        self._api: Api | None = None
        if options.file is not None and self._database is not None:
            self._api = Api(home, self._database, Feeds(home), Commits(options.file))
        self._server = HttpServer(self.handle)
        self._token = stored_token(home)
        self._access: Access | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            NodeError: the address is in use, or not this machine's.
        """
        options = self._options
        try:
            await self._server.start(options.host, options.port)
        except OSError as error:
            reason = error.strerror or str(error)
            raise NodeError(
                f"cannot serve the console at {options.host}:{options.port}: {reason}; choose another HOST:PORT"
            ) from error
        self._access = Access(
            self._token,
            names_of(options.host, options.names),
            self._server.port,
            open_reads=is_local(options.host) and not options.always_token,
            allow_writes=options.allow_writes,
        )

    @property
    def address(self) -> str:
        """The address for a person's browser, with the token where it is needed."""
        options = self._options
        host = {"0.0.0.0": "THIS-MACHINE", "::": "THIS-MACHINE"}.get(options.host, options.host)  # noqa: S104 -- a name to show
        shown = f"http://{f'[{host}]' if ':' in host else host}:{self._server.port}/"
        assert self._access is not None, "started"
        return shown if self._access.open_reads and not options.allow_writes else f"{shown}#token={self._token}"

    def report(self, reports: Reports) -> None:
        """Say where the console is: to a person with the token, to the node's log without it."""
        if not is_supervised():
            print(f"console at {self.address}", flush=True)
            return
        plain, _, token = self.address.partition("#")
        text = f"console at {plain}" + (f" with the token in {self._home.state / 'web-token'}" if token else "")
        reports.report("running", text)
        reports.notify("web.serving", text)

    async def close(self) -> None:
        """End all connections."""
        await self._server.close()
        if self._database is not None:
            self._database.close()

    async def handle(self, request: Request) -> Response:
        """Answer one request.

        Raises:
            HttpError: it is refused, or wrong.
        """
        assert self._access is not None, "started"
        route, values = _find(request)
        self._access.check(request, writes=route.writes, public=route.public)
        own = getattr(self, f"_answer_{route.name}", None)
        if own is not None:
            answer: Response = await own(request, **values)
            return answer
        if self._api is None:
            raise UnknownError("this console replays a trace; it has no node")
        response: Response = await getattr(self._api, route.name)(request, **values)
        return response

    async def _answer_page(self, request: Request) -> Response:
        return self._page.response(request, "index.html")

    async def _answer_static(self, request: Request, name: str) -> Response:
        return self._page.response(request, name)

    async def _answer_openapi(self, _request: Request) -> Response:
        return Response(json.dumps(document(ALL_ROUTES), indent=2).encode())

    async def _answer_console(self, request: Request) -> Response:
        assert self._access is not None, "started"
        value: dict[str, Any] = {
            "version": __version__,
            "page": self._page.build,
            "writes": self._access.allow_writes,
            "token": not self._access.open_reads,
            "has_token": self._access.has_token(request),
            "replay": self._trace is not None,
            "basemap": None if self._basemap is None else self._basemap.about,
        }
        return Response(json.dumps(value).encode())

    async def _answer_session(self, request: Request) -> Response:
        assert self._access is not None, "started"
        cookie = self._access.cookie_for(str(request.json().get("token", "")))
        return Response(b"{}", headers=(("Set-Cookie", cookie),))

    async def _answer_trace(self, _request: Request) -> Response:
        if self._trace is None:
            raise UnknownError("this console replays no trace; start it with --replay TRACE")
        return Response(self._trace)

    async def _answer_basemap(self, request: Request) -> Response:
        return self._given_basemap().range(request)

    async def _answer_tile(self, _request: Request, place: str) -> Response:
        return self._given_basemap().tile(place)

    def _given_basemap(self) -> Basemap:
        if self._basemap is None:
            raise UnknownError("this console has no base map; start it with --basemap FILE")
        return self._basemap


def _find(request: Request) -> tuple[Route, dict[str, str]]:
    """Return the route of a request and the values in its path; HEAD is a GET whose body is not sent."""
    method = "GET" if request.method == "HEAD" else request.method
    other = []
    for route in ALL_ROUTES:
        values = matches(route, request.path)
        if values is not None:
            if route.method == method:
                return route, values
            other.append(route.method)
    if other:
        raise HttpError(f"this address answers {', '.join(other)}", 405, headers=(("Allow", ", ".join(other)),))
    raise UnknownError("no such address; GET /api/openapi.json describes all")


async def _serve(home: Home, options: Options) -> None:
    console = Console(home, options)
    await console.start()
    end_with_parent()
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, ended.set)
    console.report(Reports())
    try:
        await ended.wait()
    finally:
        await console.close()


def run(home: Home, options: Options) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP."""
    limit_heap()
    gc.freeze()  # imported modules stay, so no collection needs to walk through them
    with asyncio.Runner(loop_factory=event_loop) as runner, contextlib.suppress(KeyboardInterrupt):
        runner.run(_serve(home, options))


if __name__ == "__main__":  # the description for docs/openapi.json
    print(json.dumps(document(ALL_ROUTES), indent=2))
