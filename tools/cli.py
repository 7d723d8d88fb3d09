"""The `mycomesh` command: finds the command module, parses its arguments, turns errors into one line and an exit code.

What always holds: only the chosen command's module is imported, so that quick commands stay quick; nothing that a user
can cause ends in a traceback. It must not know what any command does.
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
    """One command, implemented by `add_arguments(parser)` and `run(args, home) -> int` of a module in `tools.commands`.

    `implementation` is MODULE:OBJECT if the module is not named like the command. A command that `stays` is a node: it
    loads nothing that it does not need, since that would stay in memory for months.
    """

    name: str
    summary: str
    group: str
    implementation: str = ""
    stays: bool = False


class CommandModule(Protocol):
    """What a command module offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""

    def run(self, args: argparse.Namespace, home: Home) -> int:
        """Do it and return the exit code."""


SET_UP, RUN, LOOK, DECIDE, REHEARSE, HELP = GROUPS = (
    "Set up a mesh",
    "Run a node",
    "See what happens",
    "Decide, repair, copy",
    "Rehearse",
    "Help",
)
COMMANDS = (
    Command("init", "make a mesh on this machine: root key and this node's identity", SET_UP),
    Command("invite", "print a join code for one more machine", SET_UP),
    Command("join", "join a mesh with a code from 'mycomesh invite', or a ticket", SET_UP),
    Command("ticket", "write a file that makes one more machine a member without a network", SET_UP),
    Command("members", "list who belongs to the mesh: roles, expiry, who is revoked", SET_UP),
    Command("revoke", "remove a member for good and rotate the mesh secret", SET_UP),
    Command("up", "serve a database file: run the node in the foreground", RUN, stays=True),
    Command("service", "have systemd run the node, from boot or login on", RUN),
    Command("down", "stop the running node", RUN),
    Command("status", "show the running node: mesh, file, peers, tables", LOOK),
    Command("top", "watch the mesh: a map, peers, tables and events", LOOK),
    Command("peers", "list the members that the running node knows", LOOK, "listings:peers"),
    Command("tables", "list the replicated tables with their hashes", LOOK, "listings:tables"),
    Command("verify", "check that this node and its peers, or two files, are equal", LOOK),
    Command("wait", "wait until the latest writes are on several nodes", LOOK),
    Command("log", "print the last events of the running node and follow new ones", LOOK),
    Command("why", "show who wrote each cell of a row, when, and which writes lost", LOOK),
    Command("conflicts", "list the writes that lost to others that had not seen them", LOOK),
    Command("parked", "list rows of peers that the local tables refuse, and why", LOOK),
    Command("metrics", "print the running node's figures for Prometheus", LOOK),
    Command("doctor", "check this machine for problems, with remedies", LOOK),
    Command("explain", "explain an error, a notice or an exit code, with the remedy", LOOK),
    Command("restore", "write the losing side of a conflict again, so that it wins", DECIDE),
    Command("counter", "make a column a counter: concurrent changes to it add up", DECIDE),
    Command("policy", "show or decide what happens when two nodes give two rows one id", DECIDE),
    Command("migrate", "drop and rename tables and columns, on every node", DECIDE),
    Command("scrub", "find writes that bypassed the triggers, and capture them", DECIDE, "orders:scrub"),
    Command("backup", "copy the served database, safe to serve again later", DECIDE),
    Command("forget", "remove every trigger and internal table from a file without a node", DECIDE),
    Command("isolate", "cut this node off from the mesh on purpose, to rehearse a split", REHEARSE, "orders:isolate"),
    Command("rejoin", "end what 'isolate' began", REHEARSE, "orders:rejoin"),
    Command("demo", "three nodes on this machine, a real flight, a split and its healing", REHEARSE),
    Command("simulate", "run many nodes under virtual time", REHEARSE),
    Command("completion", "print a script that completes commands in bash, zsh or fish", HELP),
    Command("help", "describe a command, with its arguments and examples", HELP),
)

# What a write to standard output meets; whatever else fails names a file, and is told where that is known.
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
            sys.stdout.flush()  # at the interpreter's end a full disk would be told in other words, with another code
    except (exits.UsageError, ConfigError) as error:
        return _say(error, exits.USAGE)
    except NoNodeError as error:
        return _say(error, exits.NO_NODE)
    except NodeError as error:
        return _say(error, exits.FAILED)
    except BrokenPipeError:
        _drop_output()  # whoever read it has gone (`| head`)
        return exits.FAILED
    except OSError as error:
        if error.filename is not None or error.errno not in OUTPUT_FAULTS:
            raise
        _drop_output()
        return _say(NodeError(f"cannot write the output: {error.strerror}; it is not whole"), exits.FAILED)
    except KeyboardInterrupt:
        return exits.INTERRUPTED


def command_named(name: str) -> Command:
    """Return the command of that name; `UsageError` if there is none."""
    command = next((command for command in COMMANDS if command.name == name), None)
    if command is None:
        names = [command.name for command in COMMANDS]
        near = importlib.import_module("difflib").get_close_matches(name, names, n=2)
        known = f"did you mean {' or '.join(near)}?" if near else "'mycomesh help' lists them"
        raise exits.UsageError(f"no command {name!r}; {known}")
    return command


def parser_of(command: Command) -> argparse.ArgumentParser:
    """Return the parser of a command's arguments; imports its module."""
    return _parser_of(command, _loaded(command))


class _Parser(argparse.ArgumentParser):
    """One line for a usage error, not the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(exits.USAGE, f"{self.prog}: {message}; see '{self.prog} --help'\n")


def _open_streams() -> None:
    """Give standard streams that were closed (`>&-`) a place: the next file that is opened would become one of them.

    What a name has and the encoding of standard output has not is written as an escape, as Python does on standard error.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 -- for the whole process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """What is left in the buffer goes nowhere, so that the interpreter does not complain about it at exit."""
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
    module = _loaded(command)
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


def _loaded(command: Command) -> CommandModule:
    if command.stays:
        lean.load()
    name, _, part = (command.implementation or command.name).partition(":")
    module = importlib.import_module(f"mycomesh.tools.commands.{name}")
    return cast("CommandModule", getattr(module, part) if part else module)


def top_parser() -> argparse.ArgumentParser:
    """Return the parser of what stands before and around a command."""
    lines = []
    for group in GROUPS:
        lines += ["", f"{group}:"]
        lines += [f"  {command.name:<10} {command.summary}" for command in COMMANDS if command.group == group]
    parser = _Parser(
        prog="mycomesh",
        description="Peer-to-peer sync of ordinary SQLite databases: plain SQL in, plain SQL out, no server.",
        epilog="\n".join([*lines[1:], "", "'mycomesh COMMAND --help' tells more.", _EXITS]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_home(parser)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument("command", nargs="?", metavar="COMMAND", help="what to do")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="its arguments")
    return parser


def _add_home(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--home", type=Path, metavar="DIR", help="keep keys, state and socket under DIR (else MYCOMESH_HOME, else XDG)"
    )


def _say(error: Exception, code: int) -> int:
    known = getattr(error, "code", "")
    print(printable(f"mycomesh: {error}{f' [{known}]' if known else ''}"), file=sys.stderr)
    return code
