"""`mycomesh ticket NAME`: one file that makes a machine a member without meeting anybody."""

from __future__ import annotations

import os
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
    parser.add_argument("name", metavar="NAME", help="what the machine is called in the mesh")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="where to write it (default: NAME.ticket)")
    add_rights(parser)
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Take the file's name first, so that no identity is made that could not be written."""
    path = args.output or Path(f"{args.name.replace(os.sep, '_')}.ticket")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    except FileExistsError as error:
        raise exits.UsageError(f"{path} is there already, and a ticket is never written over; choose -o") from error
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
        f"wrote {path}: whoever has it is {args.name!r}; carry it to that machine alone, and delete it afterwards",
        f"there: mycomesh join {path.name}",
    )
    return exits.DONE
