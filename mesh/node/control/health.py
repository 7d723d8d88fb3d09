"""The answer of `/healthz`: whether a node does its work, for load balancers, containers and supervisors.

A node without peers, with an unequal peer or an isolated one is healthy: a restart would not help it, and local writes go on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mycomesh.mesh.node.status import Status

__all__ = ["BUSY", "unhealthy"]

BUSY = "the database thread did not answer in time"


def unhealthy(status: Status, wall_s: int) -> str:
    """Return why the node does not do its work, in one line with the code if it has one; "" while it does."""
    if status.revoked:
        return "this node was revoked [identity.revoked]"
    if 0 < status.not_after_s <= wall_s:
        return "this node's certificate has expired [certificate.expired]"
    match status.phase:
        case "joining":
            return "waiting for a member of the mesh [join.waiting]"
        case "starting":
            return "opening the file"
    if status.trouble is not None:
        return f"{status.trouble.text}, for {status.trouble.since_ms_ago // 1000} s [{status.trouble.code}]"
    return ""
