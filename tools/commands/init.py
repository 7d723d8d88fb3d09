"""`mycomesh init`: creates a mesh and makes this machine its first member."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mycomesh.mesh.errors import MeshError
from mycomesh.mesh.node.founding import found
from mycomesh.tools import exits
from mycomesh.tools.render import add_json, tell

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--name", default="mesh", metavar="MESH", help="name of the mesh (default: mesh)")
    parser.add_argument("--node-name", metavar="NAME", help="name of this node (default: the host name)")
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Create the root key and this node's identity; refuse if this home belongs to a mesh."""
    try:
        identity = found(home, args.name, args.node_name)
    except MeshError as error:
        raise exits.UsageError(f"cannot create the mesh: {error}") from error
    names = {"mesh": identity.mesh_name, "mesh_id": identity.mesh_id.hex()}
    tell(
        args,
        names | {"node": identity.name, "node_id": identity.node_id.hex()},
        f"created mesh {identity.mesh_name!r}; this node is {identity.name!r} (keys in {home.state})",
        "next: 'mycomesh up FILE.db' here, then 'mycomesh invite' for each other machine",
    )
    return exits.DONE
