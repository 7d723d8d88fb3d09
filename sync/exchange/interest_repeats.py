"""Repeats the interest of a node that may not write facts, each time it has linked with a member.

Peers take its statement from a live batch alone, since they request no facts from it in rounds. A batch that nobody received
would leave the others without it for good.
"""

from __future__ import annotations

from mycomesh.sync.replica import Replica
from mycomesh.sync.schema.facts import SCHEMA_TABLE

__all__ = ["InterestRepeats"]

# Between two repeats: a link that flaps must not flood the mesh.
REPEAT_MS = 60_000


class InterestRepeats:
    """The repeats of one node."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._not_before = 0

    def on_link_opened(self, now_ms: int) -> None:
        """State the interest again if rounds cannot bring it; the drain that follows publishes it."""
        rights = self._replica.rights
        if now_ms < self._not_before or rights.may_write(rights.own, SCHEMA_TABLE):
            return
        if self._replica.repeat_interest():
            self._not_before = now_ms + REPEAT_MS
