"""The `mycomesh` command line: dispatches to a command's module and turns errors into one line and an exit code.

Only the chosen command's module is imported, so that quick commands stay quick (tests/tools/test_cli.py). No mistake of a user
ends in a traceback.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import json
import os
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol, cast

from mycomesh.mesh.node.errors import ConfigError, NodeError, NoNodeError
from mycomesh.mesh.node.home import Home
from mycomesh.mesh.node.journal import printable
from mycomesh.mesh.node.version import __version__
from mycomesh.tools import exits, lean
from mycomesh.tools.manual import MANUAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mycomesh.tools.manual import Page

__all__ = ["COMMANDS", "Command", "command_named", "main", "parser_of", "top_parser"]


@dataclass(frozen=True, slots=True)
class Command:
    """One command; a module in `tools.commands` implements it with `add_arguments(parser)` and `run(args, home) -> int`.

    `implementation` is MODULE:OBJECT if the module does not have the command's name. `stays` marks a node's process: it loads
    only what it needs, because that stays in memory for months.
    """

    name: str
    summary: str
    group: str
    implementation: str = ""
    stays: bool = False


class CommandModule(Protocol):
    """The interface of a command module."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""

    def run(self, args: argparse.Namespace, home: Home) -> int:
        """Run the command and return its exit code."""


SET_UP, RUN, LOOK, DECIDE, REHEARSE, HELP = GROUPS = (
    "Set up a mesh",
    "Run a node",
    "See what happens",
    "Decide, repair, copy",
    "Rehearse",
    "Help",
)
COMMANDS = (
    Command("init", "create a mesh: its root key and this node's identity", SET_UP),
    Command("invite", "print a join code for another machine", SET_UP),
    Command("join", "join a mesh, with a code from 'mycomesh invite' or a ticket", SET_UP),
    Command("ticket", "write a file that makes another machine a member without a network", SET_UP),
    Command("members", "list the members, or remove those that are gone", SET_UP),
    Command("revoke", "remove a member for good and rotate the mesh secret", SET_UP),
    Command("up", "serve a database file: run the node in the foreground", RUN, stays=True),
    Command("service", "install a systemd unit that runs the node from boot or login on", RUN),
    Command("bridge", "connect tables with brokers, vehicles and TAK servers", RUN),
    Command("flow", "let the writes of a table go through a function whose results are rows", RUN),
    Command("model", "add, list, test and roll out the models that flows run", RUN),
    Command("down", "stop the running node", RUN),
    Command("status", "show the running node with its file, peers and tables", LOOK),
    Command("top", "watch the mesh live: map, peers, tables and events", LOOK),
    Command("web", "serve a page with the map, the mesh and the tables, and an HTTP API", LOOK, stays=True),
    Command("peers", "list the members that the running node knows", LOOK, "listings:peers"),
    Command("tables", "list the replicated tables with their hashes", LOOK, "listings:tables"),
    Command("verify", "check that this node and its peers, or two files, are equal", LOOK),
    Command("wait", "wait until several nodes have the latest writes", LOOK),
    Command("log", "print the running node's last events and follow new ones", LOOK),
    Command("tail", "print the changes of a table, local and remote, as they come in", LOOK),
    Command("cursors", "list the readers of the change feed and how far they are behind", LOOK),
    Command("dead", "list the changes that readers have set aside, and retry them", LOOK),
    Command("why", "show who wrote each cell of a row, when, and which writes lost", LOOK),
    Command("conflicts", "list concurrent writes that lost to later ones", LOOK),
    Command("parked", "list rows of peers that a local constraint refuses, and why", LOOK),
    Command("metrics", "print the running node's metrics for Prometheus", LOOK),
    Command("doctor", "check this machine for problems, with remedies", LOOK),
    Command("explain", "explain the code of an error or a notice, or an exit code", LOOK),
    Command("restore", "write the losing side of a conflict again, so that it wins", DECIDE),
    Command("counter", "make a column a counter, so that concurrent changes to it add up", DECIDE),
    Command("policy", "show or set what happens to rows of one id, or have all rows signed", DECIDE),
    Command("retain", "show or set how long the rows of a table are kept", DECIDE),
    Command("area", "cut a table into areas by a column, so that nodes keep some of them", DECIDE),
    Command("migrate", "drop or rename tables and columns on every node", DECIDE),
    Command("scrub", "find and capture writes that bypassed the triggers", DECIDE, "orders:scrub"),
    Command("accept-drop", "let rows go that one member reports as deleted", DECIDE, "accept_drop"),
    Command("keep-rows", "write rows again that a member wrongly reports as deleted", DECIDE, "keep_rows"),
    Command("backup", "copy the served database; the copy is safe to serve later", DECIDE),
    Command("mailbox", "carry rows between bases without a link, on a stick or in a folder", DECIDE),
    Command("import", "import a flight log, a track, CSV or GeoJSON as rows", DECIDE, "importing"),
    Command("forget", "remove triggers and internal tables from a file that no node serves", DECIDE),
    Command("isolate", "cut this node off from the mesh, to rehearse a split", REHEARSE, "orders:isolate"),
    Command("rejoin", "end the isolation that 'isolate' began", REHEARSE, "orders:rejoin"),
    Command("demo", "run three nodes on this machine through a real flight and a split", REHEARSE),
    Command("simulate", "simulate many nodes in virtual time", REHEARSE),
    Command("completion", "print a completion script for bash, zsh or fish", HELP),
    Command("help", "describe a command, with its arguments and examples", HELP),
)

# Errors of writing to standard output. Every other failing call names a file, and the code that made it reports it.
OUTPUT_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
EXAMPLE_CHARS = 50  # longer ones push their explanation to the right alone
_EXITS = "exit codes: 0 done, 1 failed, 2 usage, 3 not converged or timed out, 69 no node runs"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    _open_streams()
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()  # otherwise the interpreter reports a full disk at exit, with its own text and exit code
    except (exits.UsageError, ConfigError) as error:
        return _say(error, exits.USAGE)
    except NoNodeError as error:
        return _say(error, exits.NO_NODE)
    except NodeError as error:
        return _say(error, exits.FAILED)
    except BrokenPipeError:
        _drop_output()  # the reader has closed the pipe (`| head`)
        return exits.FAILED
    except OSError as error:
        if error.filename is not None or error.errno not in OUTPUT_FAULTS:
            raise
        _drop_output()
        return _say(NodeError(f"cannot write the output: {error.strerror}; it is incomplete"), exits.FAILED)
    except KeyboardInterrupt:
        return exits.INTERRUPTED


def command_named(name: str) -> Command:
    """Return the command of that name.

    Raises:
        exits.UsageError: no command has it.
    """
    command = next((command for command in COMMANDS if command.name == name), None)
    if command is None:
        names = [command.name for command in COMMANDS]
        near = importlib.import_module("difflib").get_close_matches(name, names, n=2)
        known = f"did you mean {' or '.join(near)}?" if near else "'mycomesh help' lists them"
        raise exits.UsageError(f"no command {name!r}; {known}")
    return command


def parser_of(command: Command) -> argparse.ArgumentParser:
    """Return the parser of a command's arguments; this imports its module."""
    return _parser_of(command, _load(command))


class _Parser(argparse.ArgumentParser):
    """Reports a usage error in one line that ends with its code, instead of printing the whole usage."""

    def error(self, message: str) -> NoReturn:
        # A message that names a command already says what to do.
        hint = "" if "'mycomesh" in message else f"; see '{self.prog} --help'"
        self.exit(exits.USAGE, printable(f"{self.prog}: {message}{hint} [{exits.UsageError.code}]") + "\n")


def _open_streams() -> None:
    """Open standard streams that were closed (`>&-`) on /dev/null: else the next file to be opened would become one of them.

    Characters that standard output cannot encode are written as escapes, as Python does on standard error.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 -- for the whole process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Send the rest of the buffer to /dev/null, so that the interpreter does not report it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(argv: list[str]) -> int:
    for word in argv:
        # Python keeps the bytes as lone surrogates, which neither SQLite nor a unit file nor JSON can hold.
        if any("\udc80" <= char <= "\udcff" for char in word):
            raise exits.UsageError(
                f"the argument {ascii(os.fsencode(word))[1:]} is not UTF-8; rename the file or directory"
            )
    top = top_parser()
    chosen = top.parse_args(argv)
    if chosen.version:
        print(f"mycomesh {__version__}")
        return exits.DONE
    if chosen.command is None:
        top.print_help(sys.stderr)
        return exits.USAGE
    command = command_named(chosen.command)
    if command.stays and not _may_use_tls(chosen):
        lean.load()
    module = _load(command)
    parser = _parser_of(command, module)
    args = parser.parse_args(chosen.rest)
    home = Home.locate(args.home or chosen.home, os.environ)
    return module.run(args, home)


def _parser_of(command: Command, module: CommandModule) -> _Parser:
    parser = _Parser(
        prog=f"mycomesh {command.name}",
        description=command.summary,
        epilog=_epilogue(MANUAL[command.name]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_home(parser)
    module.add_arguments(parser)
    return parser


def _epilogue(page: Page) -> str:
    width = min(EXAMPLE_CHARS, max(len(line) for line, _ in page.examples))
    examples = [f"  {line:<{width}}  {what}" for line, what in page.examples]
    shape = [] if page.shape is None else ["", f"--json prints {json.dumps(page.shape)}"]
    if page.shape_of_files is not None:
        shape.append(f"and of files {json.dumps(page.shape_of_files)}")
    return "\n".join(["examples:", *examples, *shape, "", _EXITS])


def _load(command: Command) -> CommandModule:
    name, _, part = (command.implementation or command.name).partition(":")
    module = importlib.import_module(f"mycomesh.tools.commands.{name}")
    return cast("CommandModule", getattr(module, part) if part else module)


def _may_use_tls(chosen: argparse.Namespace) -> bool:
    """Return whether a node may use TLS: it logs in at a NATS server, and the file of that login may name certificates."""
    explicit = chosen.home
    for word, following in pairwise([*chosen.rest, ""]):
        if word == "--home":
            explicit = Path(following)
        elif word.startswith("--home="):
            explicit = Path(word.removeprefix("--home="))
    try:
        settings = Home.locate(explicit, os.environ).config_file.read_text(errors="replace")
    except OSError:
        settings = ""
    said = " ".join([*chosen.rest, settings])
    return "nats://" in said and "credentials" in said


def top_parser() -> argparse.ArgumentParser:
    """Return the parser of the options before a command; its help lists all commands."""
    lines = []
    for group in GROUPS:
        lines += ["", f"{group}:"]
        lines += [f"  {command.name:<10} {command.summary}" for command in COMMANDS if command.group == group]
    parser = _Parser(
        prog="mycomesh",
        description="Peer-to-peer sync of ordinary SQLite databases: plain SQL in, plain SQL out, no server.",
        epilog="\n".join([*lines[1:], "", "'mycomesh COMMAND --help' describes one command.", _EXITS]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_home(parser)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument("command", nargs="?", metavar="COMMAND", help="the command to run")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="the arguments of the command")
    return parser


def _add_home(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--home",
        type=Path,
        metavar="DIR",
        help="directory of keys, state and socket (default: $MYCOMESH_HOME, else XDG directories)",
    )


def _say(error: Exception, code: int) -> int:
    known = getattr(error, "code", "")
    print(printable(f"mycomesh: {error}{f' [{known}]' if known else ''}"), file=sys.stderr)
    return code
