"""`mycomesh web`: serves the console of the running node: a page with a map, and an HTTP API."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from mycomesh.mesh.node.config import PeerName
from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.errors import NodeError
from mycomesh.tools import exits

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["PORT_DEFAULT", "add_arguments", "run"]

PORT_DEFAULT = 7480


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "address",
        nargs="?",
        default=f"127.0.0.1:{PORT_DEFAULT}",
        metavar="HOST:PORT",
        help=f"where to listen (default 127.0.0.1:{PORT_DEFAULT}); elsewhere than on this machine, readers need the token",
    )
    parser.add_argument(
        "--allow-writes",
        action="store_true",
        help="let those who have the token restore, retry and run SQL that writes",
    )
    parser.add_argument("--token", action="store_true", help="ask for the token on this machine too")
    parser.add_argument(
        "--name",
        action="append",
        metavar="HOST",
        help="answer under this name of the machine too, as behind a proxy (repeatable)",
    )
    parser.add_argument(
        "--basemap", type=Path, metavar="FILE", help="draw this map below the data: a .pmtiles or .mbtiles file"
    )
    parser.add_argument(
        "--replay",
        type=Path,
        metavar="TRACE",
        help="show the trace of a simulation, from 'mycomesh simulate --report', instead of a node",
    )


def run(args: argparse.Namespace, home: Home) -> int:
    """Serve until ^C or SIGTERM."""
    address = PeerName.parse(args.address, "console", PORT_DEFAULT, free=True)
    if args.replay is not None and args.allow_writes:
        raise exits.UsageError("--allow-writes: a trace has nothing to write to; leave out --replay")
    file = None if args.replay is not None else Path(ask(home, "status")["file"])
    try:
        server = importlib.import_module("mycomesh.tools.web.server")
    except ModuleNotFoundError as error:
        if error.name != "h11":
            raise
        raise NodeError("the console needs the package h11: pip install 'mycomesh[web]'") from error
    options = server.Options(
        address.host,
        address.port,
        file,
        allow_writes=args.allow_writes,
        always_token=args.token,
        names=tuple(args.name or ()),
        basemap=args.basemap,
        replay=args.replay,
    )
    server.run(home, options)
    return exits.DONE
