"""`mycomesh up FILE.db`: run the node in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mycomesh.mesh.node import config
from mycomesh.mesh.node.daemon import serve
from mycomesh.tools import exits

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "add_network_arguments", "network_overrides", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", type=Path, metavar="FILE.db", help="the SQLite database to serve; made if it is absent")
    parser.add_argument("--only", action="append", metavar="TABLE", help="replicate this table only (repeatable)")
    parser.add_argument(
        "--except", action="append", metavar="TABLE", dest="exclude", help="leave this table out (repeatable)"
    )
    parser.add_argument(
        "--urgent",
        action="append",
        metavar="TABLE",
        help="send this table before all others on a slow link (repeatable)",
    )
    add_network_arguments(parser)
    parser.add_argument(
        "--log-format", choices=config.LOG_FORMATS, metavar="FORM", help="text, or json: one object a line"
    )
    parser.add_argument(
        "--metrics",
        type=config.metrics_address,
        metavar="HOST:PORT",
        help="serve Prometheus metrics there (try 127.0.0.1:9464)",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show every event, not only what people wait for")


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `up` and `join` share about reaching others."""
    parser.add_argument(
        "--peer", action="append", metavar="HOST:PORT", help="dial this member, where multicast is blocked (repeatable)"
    )
    parser.add_argument(
        "--port",
        type=int,
        metavar="N",
        help=f"TCP port, 0 = any free one (default {config.PORT_DEFAULT}, any if that is taken)",
    )
    parser.add_argument(
        "--loopback",
        action="store_true",
        default=None,
        help="find nodes on this very machine alone (several on one host)",
    )
    parser.add_argument(
        "--no-multicast", action="store_false", default=None, dest="multicast", help="no mDNS: static peers only"
    )


def network_overrides(args: argparse.Namespace) -> dict[str, object]:
    """Return the settings that the shared arguments name; None where they are not given."""
    peers = None if args.peer is None else tuple(config.PeerName.parse(text) for text in args.peer)
    return {"peers": peers, "port": args.port, "loopback": args.loopback, "multicast": args.multicast}


def run(args: argparse.Namespace, home: Home) -> int:
    """Serve until SIGTERM, SIGINT or `mycomesh down`."""
    settings = config.load(
        home.config_file,
        only=None if args.only is None else tuple(args.only),
        exclude=None if args.exclude is None else tuple(args.exclude),
        urgent=None if args.urgent is None else tuple(args.urgent),
        log_level="debug" if args.verbose else None,
        log_format=args.log_format,
        metrics=args.metrics,
        **network_overrides(args),
    )
    serve(home, args.file, settings)
    return exits.DONE
