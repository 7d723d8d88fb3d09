"""What some commands do where no node runs; apart, so that asking a running node does not load the keys' libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mesh.node import members
from mesh.node.keystore import Keystore

if TYPE_CHECKING:
    from mesh.node.home import Home

__all__ = ["ask_files"]


def ask_files(home: Home, request: dict[str, Any]) -> dict[str, Any]:
    """Answer `invite`, `members` or `ticket` from the stored files; what is made holds from the next `up` on."""
    store = Keystore(home)
    with home.locked():
        match request["do"]:
            case "invite":
                return {"code": members.invited(store, request)[0]}
            case "members":
                return {"members": members.members_of(members.stored_membership(store))}
            case "ticket":
                return {"ticket": members.ticket(store, members.stored_membership(store), request)}
            case other:
                raise AssertionError(f"{other!r} needs a running node")
