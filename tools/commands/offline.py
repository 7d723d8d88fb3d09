"""What some commands do where no node runs; apart, so that asking a running node does not load the keys' libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.control import members
from mycomesh.mesh.node.keystore import Keystore

if TYPE_CHECKING:
    from mycomesh.mesh.node.home import Home

__all__ = ["ask_files"]


def ask_files(home: Home, request: dict[str, Any]) -> dict[str, Any]:
    """Answer `invite`, `members` or `ticket` from the stored files; what is made holds from the next `up` on."""
    with home.locked():
        return members.answer(Keystore(home), None, request)
