"""Answers `invite`, `members` and `ticket` from the stored files where no node runs.

A module of its own, so that a request to a running node does not load the cryptography.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.control import members
from mycomesh.mesh.node.keystore import Keystore

if TYPE_CHECKING:
    from mycomesh.mesh.node.home import Home

__all__ = ["ask_files"]


def ask_files(home: Home, request: dict[str, Any]) -> dict[str, Any]:
    """Answer a request from the stored files; an invitation takes effect at the next `up`."""
    with home.locked():
        return members.answer(Keystore(home), None, request)
