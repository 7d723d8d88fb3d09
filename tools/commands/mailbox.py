"""`mycomesh mailbox export|import|test PLACE`: carries rows between bases without a link, by a stick, a folder or a server."""

from __future__ import annotations

import importlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.mailbox.mailbox import MailboxError
from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.errors import NodeError
from mycomesh.tools import exits
from mycomesh.tools.progress import progress
from mycomesh.tools.render import add_json, print_json, print_table, tell

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run", "url_of"]

ACTIONS = ("export", "import", "test")
WAIT_S = 24 * 3_600  # a slow stick and a large file; ^C ends it before


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "action",
        choices=ACTIONS,
        help="export: write this node's rows, sealed; import: take in those of other nodes; test: try the mailbox",
    )
    parser.add_argument(
        "place", metavar="PLACE", help="a directory, dir:PATH, s3://BUCKET/PREFIX?endpoint=URL or nats://HOST:PORT"
    )
    parser.add_argument(
        "--credentials",
        type=Path,
        metavar="FILE",
        help="a private TOML file with user, password, access_key_id, ca, ...",
    )
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Ask the running node to export or import, or try the mailbox, which needs no node."""
    url = url_of(args.place)
    if args.action == "test":
        return _test(args, url)
    credentials = None if args.credentials is None else str(args.credentials.absolute())
    with progress(f"{args.action}: {args.place}"):
        found = ask(home, "mailbox", timeout_s=WAIT_S, action=args.action, url=url, credentials=credentials)
    answer = _empty(url) | found
    if args.action == "export":
        left_out, count = answer["left_out"], answer["envelopes"]
        written = "1 envelope" if count == 1 else f"{count:,} envelopes"
        remark = [f"left out, since some member may not read them: {', '.join(left_out)}"] if left_out else []
        tell(args, answer, f"{args.place}: {written}, {answer['bytes']:,} bytes", *remark)
        return exits.DONE
    parcels: list[dict[str, Any]] = answer["parcels"]
    lines = [f"{each['member']}: {each['state']}" + (f": {each['why']}" if each["why"] else "") for each in parcels]
    tell(args, answer, *(lines or [f"{args.place} has no parcel of another node of this mesh"]))
    return exits.DONE if parcels and all(each["state"] == "read" for each in parcels) else exits.FAILED


def url_of(place: str) -> str:
    """Return the URL of a mailbox as a person has typed it: a path counts from the working directory."""
    return place if "://" in place else f"dir:{Path(place.removeprefix('dir:')).absolute()}"


def _empty(url: str) -> dict[str, Any]:
    """Return the JSON of an action that carried nothing."""
    return {"mailbox": url, "envelopes": 0, "bytes": 0, "left_out": [], "parcels": [], "findings": []}


def _test(args: argparse.Namespace, url: str) -> int:
    """Try a mailbox under the name of a mesh that does not exist; one line for each step."""
    storages = importlib.import_module("mycomesh.mesh.mailbox.storages")
    credentials = importlib.import_module("mycomesh.mesh.node.credentials").mailbox_credentials(args.credentials)
    probe = importlib.import_module("mycomesh.mesh.mailbox.probe").probe
    try:
        mailbox = storages.open_mailbox(url, credentials)
    except MailboxError as error:
        raise NodeError(str(error)) from error
    with progress(f"test: {args.place}"):
        findings = probe(mailbox, os.urandom, lambda: time.time_ns() // 1_000_000)
    mailbox.close()
    if args.json:
        seen = [{"step": each.step, "good": each.good, "text": each.text} for each in findings]
        print_json(_empty(url) | {"findings": seen})
    else:
        rows = [(each.step, "ok" if each.good else "FAILED", each.text) for each in findings]
        print_table(("STEP", "", "SEEN"), rows)
    return exits.DONE if all(each.good for each in findings) else exits.FAILED
