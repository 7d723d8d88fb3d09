"""`mycomesh flow`: lists, adds, tries, runs and pauses the flows of config.toml."""

from __future__ import annotations

import base64
import contextlib
import importlib
import os
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.config import sections_of
from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.errors import ConfigError, NodeError, NoNodeError
from mycomesh.tools import exits
from mycomesh.tools.render import print_json, print_table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]

KIND = "flow"
ACTIONS = {
    "list": "print the flows of config.toml, also without a node",
    "status": "print what each does and has done",
    "add": "check a flow and write its section into config.toml",
    "test": "run one for the latest rows, and write nothing",
    "edit": "write other keys into the section of one, and keep the section before",
    "rollback": "write the section before the last edit, or that of a flow that was removed, with its position",
    "redo": "write the section that the last rollback took back",
    "remove": "end one, and remove its section and its position; results stay",
    "accept": "follow the flows that other members share, as the node does for [flows]",
    "run": "run one in the foreground, as the node does in the background",
    "pause": "end the process of one",
    "resume": "start one that was paused, refused or stopped",
}
SHOWN = ("inputs", "failed")  # figures
WITHOUT_NAME = ("list", "status", "accept")
SAMPLE_DEFAULT = 10
SAMPLE_MAX = 1_000
BUSY_MS = 30_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = ", ".join(f"{name} ({text})" for name, text in ACTIONS.items())
    parser.add_argument("action", choices=ACTIONS, metavar="ACTION", help=actions)
    parser.add_argument("name", nargs="?", metavar="NAME", help="the flow")
    parser.add_argument(
        "--on", metavar="TABLE", help="of 'add', 'edit' and 'test': the table, or a SELECT over it that makes 'new'"
    )
    parser.add_argument("--run", metavar="FUNCTION", help="'sql: ...', an INSERT or a SELECT FROM new")
    parser.add_argument("--into", metavar="TABLE", help="the table of the results")
    parser.add_argument("--where", metavar="PLACE", help="here (default), everywhere, one, or names with commas")
    parser.add_argument("--from", dest="begin", metavar="WHEN", help="now (default) or start")
    parser.add_argument(
        "--share",
        action="store_true",
        help="of 'add': share it with the nodes that accept it, instead of running it here",
    )
    parser.add_argument(
        "--sample", type=int, default=SAMPLE_DEFAULT, metavar="N", help=f"of 'test': how many rows, 1 to {SAMPLE_MAX:,}"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON array, for programs (list, status, test)")


def run(args: argparse.Namespace, home: Home) -> int:
    """Carry out one action."""
    if (args.name is None) != (args.action in WITHOUT_NAME):
        wanted = "takes no name" if args.name is not None else "needs the name of a flow"
        raise exits.UsageError(f"'flow {args.action}' {wanted}; 'mycomesh flow list' prints the names")
    match args.action:
        case "list":
            _list(args, home)
        case "status":
            _status(args, home)
        case "add":
            _add(args, home)
        case "edit" | "rollback" | "redo":
            _change(args, home)
        case "remove":
            _remove(args, home)
        case "accept":
            importlib.import_module("mycomesh.tools.flows.accepting").run(home)
        case "run":
            importlib.import_module("mycomesh.tools.flows.process").run(home, args.name)
        case "test":
            return _test(args, home)
        case _:
            ask(home, "children", action=args.action, kind=KIND, name=args.name)
    return exits.DONE


def _settings() -> Any:
    return importlib.import_module("mycomesh.tools.flows.settings")


def _list(args: argparse.Namespace, home: Home) -> None:
    shown = [
        {
            "name": each.name,
            "on": each.table,
            "into": each.into,
            "where": each.where if isinstance(each.where, str) else list(each.where),
            "run": each.function.text,
            "author": each.author,
        }
        for each in _settings().load_all(home)
    ]
    if args.json:
        print_json(shown)
        return
    rows = []
    for each in shown:
        where = each["where"] if isinstance(each["where"], str) else ", ".join(each["where"])
        rows.append((each["name"], f"{each['on']} -> {each['into']}", where, " ".join(each["run"].split())))
    print_table(("FLOW", "TABLES", "WHERE", "RUN"), rows)


def _status(args: argparse.Namespace, home: Home) -> None:
    status = ask(home, "status")
    children: list[dict[str, Any]] = [each for each in status["children"] if each["kind"] == KIND]
    if args.json:
        print_json(children)
        return
    behind = {reader["cursor"]: reader["behind"] for reader in status["readers"]}
    rows = []
    for each in children:
        counts = [str(round(each["figures"].get(name, 0))) for name in SHOWN]
        rows.append((each["name"], each["state"], str(behind.get(f"{KIND}.{each['name']}", 0)), *counts, each["text"]))
    print_table(("FLOW", "STATE", "BEHIND", *(name.upper() for name in SHOWN), "NOTE"), rows)


def _add(args: argparse.Namespace, home: Home) -> None:
    """Write a section behind the others, once it is known to be right together with them."""
    settings = _settings()
    section = _given(args)
    if args.name in settings.names(home):
        raise ConfigError(f"{home.config_file} has a section [flow.{args.name}] already; edit it there")
    if args.share:
        importlib.import_module("mycomesh.tools.flows.sharing").share(home, args.name, section)
        print("shared: nodes run it whose [flows] in config.toml accepts this node")
        return
    found = settings.parse(args.name, section)
    settings.check_cycles(found, settings.load_all(home))
    sections = importlib.import_module("mycomesh.tools.flows.sections")
    sections.add_section(home, args.name, section)
    _begin_now(home, found)
    print(f"added to {home.config_file}; {_taken_up(home, 'the node runs it', 'a node runs it when it starts')}")


def _begin_now(home: Home, flow: Any) -> None:
    """Let the cursor of a flow exist when the command ends: its process begins later, and what is written until then counts."""
    request = {"token": os.urandom(12).hex(), "table": flow.table, "cursor": flow.cursor}
    with contextlib.suppress(NodeError):  # no node runs, or there is no such table yet: then all its rows count
        ask(home, "changes", **request, from_now=flow.begin == "now", rows=0)
        ask(home, "changes", **request, close=True)


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """Return the keys of a section that the command line names."""
    settings = _settings()
    section: dict[str, Any] = {"on": args.on, "run": args.run, "into": args.into, "from": args.begin}
    if args.where is not None:
        plain = args.where in (settings.HERE, settings.EVERYWHERE, settings.ONE)
        section["where"] = args.where if plain else [each.strip() for each in args.where.split(",")]
    return {key: value for key, value in section.items() if value is not None}


def _change(args: argparse.Namespace, home: Home) -> None:
    """Edit a section, take its last edit back, or do it again; a node that runs it goes on with the new one."""
    editing = importlib.import_module("mycomesh.tools.flows.editing")
    match args.action:
        case "edit":
            editing.edit(home, args.name, _given(args))
        case "redo":
            editing.redo(home, args.name)
        case _:
            editing.rollback(home, args.name)
            with contextlib.suppress(NodeError), _file(home) as db:  # before a process of a removed one starts
                editing.put_position_back(home, db, args.name)
    said = "a node runs it when it starts"
    with contextlib.suppress(NoNodeError):
        before = [(each["kind"], each["name"]) for each in ask(home, "children")["children"]]
        children = ask(home, "children", action="reload")["children"]
        own = next((each for each in children if (each["kind"], each["name"]) == (KIND, args.name)), None)
        if own is not None and own["state"] != "paused" and (KIND, args.name) in before:
            for action in ("pause", "resume"):
                ask(home, "children", action=action, kind=KIND, name=args.name, keep=False)
        said = "it stays paused" if own is not None and own["state"] == "paused" else "the node runs it"
    did = {"edit": "changed", "rollback": "rolled back", "redo": "done again"}[args.action]
    print(f"{did} in {home.config_file}; {said}")


@contextlib.contextmanager
def _file(home: Home) -> Iterator[Any]:
    """Open the file that the node of this home serves; raises `NodeError`."""
    apsw = importlib.import_module("apsw")
    path = ask(home, "status", brief=True)["file"]
    with contextlib.closing(apsw.Connection(path, apsw.SQLITE_OPEN_READWRITE)) as db:
        db.set_busy_timeout(BUSY_MS)
        yield db


def _remove(args: argparse.Namespace, home: Home) -> None:
    """Remove a section, and with it the position of the flow; its results stay."""
    if args.name not in _settings().names(home) and importlib.import_module("mycomesh.tools.flows.sharing").unshare(
        home, args.name
    ):
        print("no longer shared: it ends on every node that runs it; its results stay")
        return
    if args.name not in _settings().names(home):
        raise ConfigError(f"{home.config_file} has no section [flow.{args.name}], and no flow of that name is shared")
    editing, rows = importlib.import_module("mycomesh.tools.flows.editing"), []
    section = sections_of(home.config_file, KIND)[args.name]
    importlib.import_module("mycomesh.tools.flows.sections").remove_section(home, args.name)
    said = _taken_up(home, "it has ended", "no node runs")
    with contextlib.suppress(NodeError), _file(home) as db:
        rows = editing.position_of(db, args.name)
    editing.note_removed(home, args.name, section, rows)
    with contextlib.suppress(NodeError):  # it never ran, or no node runs: then a flow of this name goes on from there
        ask(home, "cursors", drop=_settings().cursor_of(args.name))
        importlib.import_module("mycomesh.tools.flows.writer").forget(
            ask(home, "status", brief=True)["file"], args.name
        )
    print(f"removed from {home.config_file}; {said}; its results stay")


def _taken_up(home: Home, done: str, otherwise: str) -> str:
    """Let a node that runs read config.toml again; return the first text if one did, else the second."""
    try:
        ask(home, "children", action="reload")
    except NoNodeError:
        return otherwise
    return done


def _test(args: argparse.Namespace, home: Home) -> int:
    if not 1 <= args.sample <= SAMPLE_MAX:
        raise exits.UsageError(f"--sample must be 1 to {SAMPLE_MAX:,}, not {args.sample}")
    given = _given(args)
    editing = importlib.import_module("mycomesh.tools.flows.editing")
    flow = editing.drafted(home, args.name, given) if given else _settings().load(home, args.name)
    module = importlib.import_module("mycomesh.tools.flows.writer")
    writer = module.Writer(ask(home, "status", brief=True)["file"], flow)
    try:
        made = writer.sample(args.sample)
    except module.FunctionError as error:
        raise ConfigError(f"[flow.{args.name}] {error}") from error
    finally:
        writer.close()
    failed = [each for _, each in made if isinstance(each, str)]

    def plain(row: dict[str, Any]) -> dict[str, Any]:
        return {
            name: {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
            for name, value in row.items()
        }

    if args.json:
        print_json(
            [
                {
                    "row": plain(row),
                    "results": [] if isinstance(each, str) else [plain(result) for result in each],
                    "error": each if isinstance(each, str) else "",
                }
                for row, each in made
            ]
        )
    else:
        rows = []
        for row, each in made:
            results = [each] if isinstance(each, str) else [_text(result) for result in each] or ["none"]
            rows += [
                (_text(row) if not n else "", "FAILED" if isinstance(each, str) else "", text)
                for n, text in enumerate(results)
            ]
        print_table(("ROW", "", "RESULTS"), rows)
    return exits.FAILED if failed else exits.DONE


def _text(row: dict[str, Any]) -> str:
    return ", ".join(f"{name}={_short(value)}" for name, value in row.items())


def _short(value: Any) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)
