"""`mycomesh bridge`: lists, runs, pauses, replays and tests the bridges of config.toml."""

from __future__ import annotations

import importlib
import time
import tomllib
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.control.client import ask
from mycomesh.tools import exits, lean
from mycomesh.tools.moments import moment_ms
from mycomesh.tools.render import print_json, print_table

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]

KIND = "bridge"
ACTIONS = {
    "list": "print the bridges of config.toml, also without a node",
    "status": "print what each does and has done",
    "run": "run one in the foreground, as the node does in the background",
    "pause": "end the process of one",
    "resume": "start one that was paused, refused or stopped",
    "replay": "send again what was written since a time",
    "test": "publish and read back one message, and say what is wrong; NAME or a URL",
}
SHOWN = ("sent", "received", "refused", "duplicates", "dropped")  # figures
WITHOUT_NAME = ("list", "status")
WITHOUT_TLS = ("ais", "file", "gpsd", "mavlink", "sbs")  # schemes whose process needs no OpenSSL


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = ", ".join(f"{name} ({text})" for name, text in ACTIONS.items())
    parser.add_argument("action", choices=ACTIONS, metavar="ACTION", help=actions)
    parser.add_argument("name", nargs="?", metavar="NAME", help="the bridge")
    parser.add_argument("--since", metavar="TIME", help="of 'replay': 2h (that long ago), 2026-11-30T06:00Z, or all")
    parser.add_argument("--json", action="store_true", help="print a JSON array, for programs (list, status)")


def run(args: argparse.Namespace, home: Home) -> int:
    """Carry out one action."""
    if (args.name is None) != (args.action in WITHOUT_NAME):
        wanted = "takes no name" if args.name is not None else "needs the name of a bridge"
        raise exits.UsageError(f"'bridge {args.action}' {wanted}; 'mycomesh bridge list' prints the names")
    match args.action:
        case "list":
            _list(args, home)
        case "status":
            _status(args, home)
        case "run":
            _run(args.name, home)
        case "test":
            return _test(args, home)
        case "replay":
            _replay(args, home)
        case _:
            ask(home, "children", action=args.action, kind=KIND, name=args.name)
    return exits.DONE


def _run(name: str, home: Home) -> None:
    if _scheme(name, home) in WITHOUT_TLS:
        lean.load()
    importlib.import_module("mycomesh.tools.bridges.process").run(home, name)


def _scheme(name: str, home: Home) -> str:
    """Return the scheme of a section, before anything is imported that loads OpenSSL; "" where `load` will say what is wrong."""
    try:
        url = tomllib.loads(home.config_file.read_text(encoding="utf-8"))[KIND][name]["url"]
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    return url.partition(":")[0] if isinstance(url, str) else ""


def _replay(args: argparse.Namespace, home: Home) -> None:
    """Move the bridge's cursors back while its process does not run."""
    if args.since is None:
        raise exits.UsageError("'bridge replay' needs --since TIME, such as 2h or all")
    try:
        since_ms = moment_ms(args.since, time.time_ns() // 1_000_000)
    except ValueError as error:
        raise exits.UsageError(f"--since: {error}") from error
    paused = [each["name"] for each in ask(home, "children")["children"] if each["state"] == "paused"]
    ask(home, "children", action="pause", kind=KIND, name=args.name, keep=False)
    try:
        module = importlib.import_module("mycomesh.tools.succession")
        module.forget_positions(ask(home, "status", brief=True)["file"], module.BRIDGES, args.name)
        ask(home, "cursors", rewind=f"bridge.{args.name}", since_ms=since_ms)
    finally:
        if args.name not in paused:
            ask(home, "children", action="resume", kind=KIND, name=args.name, keep=False)


def _test(args: argparse.Namespace, home: Home) -> int:
    findings = importlib.import_module("mycomesh.tools.bridges.probe").probe(home, args.name)
    if args.json:
        print_json([{"step": each.step, "good": each.good, "text": each.text} for each in findings])
    else:
        print_table(
            ("STEP", "", "SEEN"), [(each.step, "ok" if each.good else "FAILED", each.text) for each in findings]
        )
    return exits.DONE if all(each.good for each in findings) else exits.FAILED


def _list(args: argparse.Namespace, home: Home) -> None:
    settings = importlib.import_module("mycomesh.tools.bridges.settings")
    found = [settings.load(home, name) for name in settings.names(home)]
    shown = [
        {
            "name": each.name,
            "url": each.url,
            "out": {table: template.text for table, template in each.out.items()},
            "in": {pattern.text: pattern.table for pattern in each.incoming},
        }
        for each in found
    ]
    if args.json:
        print_json(shown)
        return
    rows = []
    for each in shown:
        ways = [f"{table} -> {topic}" for table, topic in each["out"].items()]
        ways += [f"{table} <- {topic}" for topic, table in each["in"].items()]
        rows += [
            (each["name"] if not number else "", each["url"] if not number else "", way)
            for number, way in enumerate(ways)
        ]
    print_table(("BRIDGE", "URL", "FLOW"), rows)


def _status(args: argparse.Namespace, home: Home) -> None:
    status = ask(home, "status")
    children: list[dict[str, Any]] = [each for each in status["children"] if each["kind"] == KIND]
    behind = {f"bridge.{each['name']}": 0 for each in children}
    for reader in status["readers"]:
        if reader["cursor"] in behind:
            behind[reader["cursor"]] += reader["behind"]
    if args.json:
        print_json([{**each, "behind": behind[f"bridge.{each['name']}"]} for each in children])
        return
    rows = []
    for each in children:
        figures = each["figures"]
        counts = [str(behind[f"bridge.{each['name']}"]), *(str(round(figures.get(name, 0))) for name in SHOWN)]
        rows.append((each["name"], each["state"], *counts, each["text"]))
    print_table(("BRIDGE", "STATE", "BEHIND", *(name.upper() for name in SHOWN), "NOTE"), rows)
