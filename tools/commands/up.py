"""`mycomesh up FILE.db`: runs the node in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mycomesh.mesh.mailbox.mailbox import MailboxError
from mycomesh.mesh.mailbox.storages import check_url
from mycomesh.mesh.node import config
from mycomesh.mesh.node.daemon import serve
from mycomesh.mesh.node.errors import ConfigError
from mycomesh.tools import exits
from mycomesh.tools.commands.mailbox import url_of

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "add_network_arguments", "network_overrides", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "file", type=Path, metavar="FILE.db", help="the SQLite database to serve; created if it does not exist"
    )
    parser.add_argument("--only", action="append", metavar="TABLE", help="replicate this table only (repeatable)")
    parser.add_argument(
        "--except", action="append", metavar="TABLE", dest="exclude", help="do not replicate this table (repeatable)"
    )
    parser.add_argument(
        "--urgent",
        action="append",
        metavar="TABLE",
        help="send this table before the others on a slow link (repeatable)",
    )
    parser.add_argument(
        "--keep",
        action="append",
        metavar="TABLE=AREA",
        help="of a table that is cut into areas, keep this one; 'self' is this node's own, TABLE= keeps none (repeatable)",
    )
    add_network_arguments(parser)
    parser.add_argument(
        "--log-format",
        choices=config.LOG_FORMATS,
        metavar="FORM",
        help="format of the log: text, or json with one object a line",
    )
    parser.add_argument(
        "--metrics",
        type=config.metrics_address,
        metavar="HOST:PORT",
        help="serve Prometheus metrics at this address, such as 127.0.0.1:9464",
    )
    parser.add_argument(
        "--web",
        metavar="HOST:PORT",
        help=f"serve the web console too, such as 127.0.0.1:{config.CONSOLE_PORT_DEFAULT}; see 'mycomesh web'",
    )
    parser.add_argument(
        "--mailbox",
        metavar="URL",
        help="be a gateway to this mailbox, such as dir:/media/share: it carries changes to and from other bases",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log debug events too")


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the network options that `up` and `join` share."""
    parser.add_argument(
        "--peer",
        action="append",
        metavar="HOST:PORT",
        help="dial this member; needed where multicast is blocked; nats://HOST:PORT meets others at a server (repeatable)",
    )
    parser.add_argument(
        "--peer-credentials",
        metavar="FILE",
        help="a private TOML file with user, password, token or ca for peers at nats://",
    )
    parser.add_argument(
        "--port",
        type=int,
        metavar="N",
        help=f"TCP port; 0 takes any free one (default {config.PORT_DEFAULT}, or any if that is taken)",
    )
    parser.add_argument(
        "--loopback",
        action="store_true",
        default=None,
        help="find only nodes on this machine; keep all traffic on it",
    )
    parser.add_argument(
        "--no-multicast",
        action="store_false",
        default=None,
        dest="multicast",
        help="do not use mDNS; reach peers by --peer alone",
    )


def network_overrides(args: argparse.Namespace) -> dict[str, object]:
    """Return the settings of the shared options; None for an option that is not given."""
    peers = None if args.peer is None else tuple(config.PeerName.peer(text) for text in args.peer)
    found = args.peer_credentials
    credentials = None if found is None else str(Path(found).absolute())
    return {
        "peers": peers,
        "peer_credentials": credentials,
        "port": args.port,
        "loopback": args.loopback,
        "multicast": args.multicast,
    }


def run(args: argparse.Namespace, home: Home) -> int:
    """Serve until SIGTERM, SIGINT or `mycomesh down`."""
    if args.web is not None:
        config.console_address(args.web)  # before anything is opened
    settings = config.load(
        home.config_file,
        only=None if args.only is None else tuple(args.only),
        exclude=None if args.exclude is None else tuple(args.exclude),
        urgent=None if args.urgent is None else tuple(args.urgent),
        keep=args.keep,
        log_level="debug" if args.verbose else None,
        log_format=args.log_format,
        metrics=args.metrics,
        web=args.web,
        mailbox=None if args.mailbox is None else url_of(args.mailbox),
        **network_overrides(args),
    )
    if settings.base is not None:
        try:
            check_url(settings.base.mailbox)
        except MailboxError as error:  # before anything is opened
            raise ConfigError(str(error)) from error
    serve(home, args.file, settings)
    return exits.DONE
