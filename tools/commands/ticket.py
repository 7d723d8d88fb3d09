"""`mycomesh ticket NAME`: writes a file that makes another machine a member without a network."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from mycomesh.tools import exits
from mycomesh.tools.commands.rights import add_rights, ask_or_files, rights
from mycomesh.tools.render import add_json, tell

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]

FILE_MODE = 0o600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="name of the new member")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the file to write (default: NAME.ticket)")
    add_rights(parser)
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Create the file first, so that no identity is made that cannot be written."""
    path = args.output or Path(f"{args.name.replace(os.sep, '_')}.ticket")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    except FileExistsError as error:
        raise exits.UsageError(
            f"{path} already exists, and a ticket never overwrites a file; choose another file with -o"
        ) from error
    except OSError as error:
        raise exits.UsageError(f"cannot write {path}: {error.strerror}") from error
    try:
        answer, _ = ask_or_files(home, "ticket", name=args.name, **rights(args))
        os.write(descriptor, answer["ticket"].encode("ascii"))
        os.fsync(descriptor)
    except BaseException:
        path.unlink()
        raise
    finally:
        os.close(descriptor)
    tell(
        args,
        {"file": str(path), "name": args.name},
        f"wrote {path}; a machine that has it can act as {args.name!r}: carry it to that machine alone, and delete it afterwards",
        f"on that machine: mycomesh join {shlex.quote(path.name)}",
    )
    return exits.DONE
