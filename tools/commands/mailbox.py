"""`mycomesh mailbox export|import|test DIR`: carries rows between bases without a link, on a stick or in a shared folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.mailbox.directory import DirectoryMailbox
from mycomesh.mesh.mailbox.mailbox import Listed, MailboxError
from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.errors import NodeError
from mycomesh.tools import exits
from mycomesh.tools.progress import progress
from mycomesh.tools.render import add_json, tell

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]

ACTIONS = ("export", "import", "test")
WAIT_S = 24 * 3_600  # a slow stick and a large file; ^C ends it before


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "action",
        choices=ACTIONS,
        help="export: write this node's rows, sealed; import: take in those of other nodes; test: try the directory",
    )
    parser.add_argument("dir", type=Path, metavar="DIR", help="the directory: a stick, or a folder that bases share")
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Ask the running node to export or import, or try the directory, which needs no node."""
    folder = args.dir.absolute()
    if args.action == "test":
        return _test(args, folder)
    with progress(f"{args.action}: {folder}"):
        answer = _empty(folder) | ask(home, "mailbox", timeout_s=WAIT_S, action=args.action, dir=str(folder))
    if args.action == "export":
        left_out = answer["left_out"]
        remark = [f"left out, since some member may not read them: {', '.join(left_out)}"] if left_out else []
        tell(args, answer, f"{folder}: {answer['envelopes']:,} envelopes, {answer['bytes']:,} bytes", *remark)
        return exits.DONE
    parcels: list[dict[str, Any]] = answer["parcels"]
    lines = [f"{each['member']}: {each['state']}" + (f": {each['why']}" if each["why"] else "") for each in parcels]
    tell(args, answer, *(lines or [f"{folder} has no parcel of another node of this mesh"]))
    return exits.DONE if parcels and all(each["state"] == "read" for each in parcels) else exits.FAILED


def _empty(folder: Path) -> dict[str, Any]:
    """Return the JSON of an action that carried nothing."""
    return {"dir": str(folder), "envelopes": 0, "bytes": 0, "left_out": [], "parcels": []}


def _test(args: argparse.Namespace, folder: Path) -> int:
    """Append, list, read back and remove an envelope under the name of a mesh that does not exist."""
    mailbox, mesh, stream, data = DirectoryMailbox(folder), os.urandom(16), os.urandom(8), os.urandom(4_096)
    listed = Listed(stream, 1, len(data))
    try:
        appended = mailbox.append(mesh, stream, 1, data) and not mailbox.append(mesh, stream, 1, b"")
        whole = appended and mailbox.list_after(mesh, stream, 0) == [listed] and mailbox.get(mesh, listed) == data
        mailbox.remove(mesh, listed)
        gone = mailbox.list_after(mesh, stream, 0) == []
        for made in (folder / "mycomesh" / mesh.hex() / stream.hex(), folder / "mycomesh" / mesh.hex()):
            made.rmdir()
    except MailboxError as error:
        raise NodeError(str(error)) from error
    if not whole or not gone:
        raise NodeError(f"{folder} did not give back what was written; do not use it as a mailbox")
    tell(args, _empty(folder), f"{folder}: append, list, read and remove work")
    return exits.DONE
