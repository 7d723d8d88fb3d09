"""`mycomesh web`: serves the console of the running node: a page with a map, and an HTTP API."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.config import CONSOLE_PORT_DEFAULT, console_address, sections_of
from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.errors import ConfigError, NodeError
from mycomesh.tools import exits

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]

KIND = "web"
ACTIONS = ("run", "pause", "resume")
KEYS = {"address": str, "allow_writes": bool, "token": bool, "names": list, "basemap": str}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="HOST:PORT",
        help=f"where to listen (default 127.0.0.1:{CONSOLE_PORT_DEFAULT}); elsewhere than on this machine, readers need the"
        " token. 'run' takes the section [web] of config.toml; 'pause' and 'resume' are for the console of 'up --web'",
    )
    parser.add_argument(
        "--allow-writes",
        action="store_true",
        default=None,
        help="let those who have the token restore, retry and run SQL that writes",
    )
    parser.add_argument("--token", action="store_true", default=None, help="ask for the token on this machine too")
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
    """Serve until ^C or SIGTERM, or pause or resume the console that the node runs."""
    action, words = (args.words[0], args.words[1:]) if args.words[:1] and args.words[0] in ACTIONS else ("", args.words)
    if len(words) > 1 or (words and action in ("pause", "resume")):
        raise exits.UsageError(f"unexpected argument {words[-1]!r}; see 'mycomesh web --help'")
    if action in ("pause", "resume"):
        ask(home, "children", action=action, kind=KIND, name="")
        return exits.DONE
    section = _section(home) if action == "run" else {}
    address = console_address(words[0] if words else section.get("address", f"127.0.0.1:{CONSOLE_PORT_DEFAULT}"))
    if args.replay is not None and args.allow_writes:
        raise exits.UsageError("--allow-writes: a trace has nothing to write to; leave out --replay")
    basemap = args.basemap or (home.config / section["basemap"] if "basemap" in section else None)
    file = None if args.replay is not None else Path(ask(home, "status")["file"])
    server = _server()
    options = server.Options(
        address.host,
        address.port,
        file,
        allow_writes=bool(args.allow_writes or section.get("allow_writes")),
        always_token=bool(args.token or section.get("token")),
        names=tuple(args.name or section.get("names", ())),
        basemap=basemap,
        replay=args.replay,
    )
    server.run(home, options)
    return exits.DONE


def _server() -> Any:
    try:
        return importlib.import_module("mycomesh.tools.web.server")
    except ModuleNotFoundError as error:
        if error.name != "h11":
            raise
        raise NodeError(f"the console needs the package h11: {sys.executable} -m pip install h11") from error


def _section(home: Home) -> dict[str, Any]:
    """Return the section [web] of config.toml; empty without one.

    Raises:
        ConfigError: a key is unknown, or has another type.
    """
    section = sections_of(home.config_file, KIND).get("", {})
    for key, value in section.items():
        if key not in KEYS:
            raise ConfigError(f"[web] has no key {key!r}; known keys are {', '.join(KEYS)}")
        texts = isinstance(value, list) and all(isinstance(each, str) for each in value)
        if not isinstance(value, KEYS[key]) or (isinstance(value, list) and not texts):
            wanted = {str: "text", bool: "true or false", list: "a list of names"}[KEYS[key]]
            raise ConfigError(f"[web]: {key!r} must be {wanted}, not {value!r}")
    return dict(section)
