"""`mycomesh join CODE`: joins a mesh by a code or a ticket.

A code needs a member on the network. If none answers within seconds, `mycomesh up` joins when it meets one.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.errors import EnrolmentError
from mycomesh.mesh.membership.enrolment import JoinCode
from mycomesh.mesh.node import config
from mycomesh.mesh.node.founding import read_ticket, store_code, use_ticket
from mycomesh.mesh.node.keystore import Keystore
from mycomesh.mesh.node.pending_join import enrol
from mycomesh.tools import exits
from mycomesh.tools.commands.up import add_network_arguments, network_overrides
from mycomesh.tools.progress import progress
from mycomesh.tools.render import add_json, tell

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.membership.identity import Identity
    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]

_FILE = (
    "best where no FILE.db exists yet: its rows come from the mesh; a changed copy doubles rows without a primary key"
)
TRY_S = 5  # a member on the same LAN answers within one second; a person does not want to wait for longer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "code", nargs="+", metavar="CODE|FILE", help="the code that 'mycomesh invite' printed, or the file of a ticket"
    )
    parser.add_argument("--node-name", metavar="NAME", help="name of this node (default: the host name)")
    add_network_arguments(parser)
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Use a ticket at once; store a code, then try for `TRY_S` to find a member that accepts it."""
    store = Keystore(home)
    if len(args.code) == 1 and _is_path(args.code[0]):
        return _use_ticket(args, home)
    try:
        code = JoinCode.parse(" ".join(args.code))
    except EnrolmentError as error:
        raise exits.UsageError(str(error)) from error
    settings = config.load(home.config_file, **network_overrides(args))
    with home.locked():
        try:
            candidate = store_code(store, code, args.node_name)
        except EnrolmentError as error:
            raise exits.UsageError(str(error)) from error
        if not args.json:
            print("looking for a member ...", file=sys.stderr)
        with progress("looking for a member"):
            identity = enrol(home, settings, seconds_max=TRY_S)
    if identity is None:
        tell(
            args,
            {"joined": False, "mesh": "", "node": candidate.name},
            "no member answered yet; the code is stored, and 'mycomesh up FILE.db' joins when it meets a member",
            "check that a node of the mesh runs on this network, and that the code is neither used up nor expired",
        )
    else:
        tell(args, _as_json(identity), _in_words(identity), _FILE)
    return exits.DONE


def _is_path(text: str) -> bool:
    try:
        return "/" in text or "." in text or Path(text).is_file()  # no code contains these characters
    except OSError:  # longer than any file name may be
        return False


def _as_json(identity: Identity) -> dict[str, Any]:
    return {"joined": True, "mesh": identity.mesh_name, "node": identity.name}


def _in_words(identity: Identity) -> str:
    return f"joined mesh {identity.mesh_name!r} as {identity.name!r}; next: mycomesh up FILE.db"


def _use_ticket(args: argparse.Namespace, home: Home) -> int:
    path = Path(args.code[0])
    try:
        identity = read_ticket(path)
    except OSError as error:
        raise exits.UsageError(f"cannot read {path}: {error.strerror}") from error
    except EnrolmentError as error:
        raise exits.UsageError(f"{path}: {error}") from error
    before = use_ticket(home, identity)
    replaced = (
        [] if before is None else [f"this machine was {before.name!r} before; if that is still a member, revoke it"]
    )
    tell(
        args,
        _as_json(identity),
        _in_words(identity),
        *replaced,
        f"delete {path}: a machine that has it can act as this node",
    )
    return exits.DONE
