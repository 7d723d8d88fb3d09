"""`mycomesh init`: creates a mesh and makes this machine its first member."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

from mycomesh.mesh.errors import MeshError
from mycomesh.mesh.membership.identity import create_mesh
from mycomesh.mesh.node.keystore import Keystore
from mycomesh.tools import exits
from mycomesh.tools.render import add_json, tell

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "node_name_default", "run"]

# Of the first member's certificate. Its renewal needs the root key, which is on the same machine: a long life costs no safety.
LIFETIME_S = 10 * 365 * 24 * 3600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--name", default="mesh", metavar="MESH", help="name of the mesh (default: mesh)")
    parser.add_argument("--node-name", metavar="NAME", help="name of this node (default: the host name)")
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Create the root key and this node's identity; refuse if this home belongs to a mesh."""
    store = Keystore(home)
    with home.locked():
        try:
            identity, root_seed = create_mesh(
                args.name,
                args.node_name or node_name_default(),
                entropy=os.urandom,
                wall_ms=time.time_ns() // 1_000_000,
                lifetime_s=LIFETIME_S,
            )
        except MeshError as error:
            raise exits.UsageError(f"cannot create the mesh: {error}") from error
        store.store_mesh(identity, root_seed)
        store.forget_join()
    names = {"mesh": identity.mesh_name, "mesh_id": identity.mesh_id.hex()}
    tell(
        args,
        names | {"node": identity.name, "node_id": identity.node_id.hex()},
        f"created mesh {identity.mesh_name!r}; this node is {identity.name!r} (keys in {home.state})",
        "next: 'mycomesh up FILE.db' here, then 'mycomesh invite' for each other machine",
    )
    return exits.DONE


def node_name_default() -> str:
    """Return the host name without its domain."""
    return socket.gethostname().partition(".")[0] or "node"
