"""How many links a node wants: all in a small mesh, a few in a large one.

Owns the size of the view and the times of its changes. Above `full_mesh_max` members each node keeps `view_min` to
`view_max` links, as HyParView's active view (Leitao, Pereira, Rodrigues 2007); its passive view is the dialer's address
book. What always holds: a view that is too large shrinks by one link at a time, as often as link-states tell what the others have
left, towards members with links to spare.
Must not know: connections, addresses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Collection

    from mycomesh.mesh.config import MeshConfig
    from mycomesh.mesh.overlay.overlay import Overlay

__all__ = ["ActiveView"]

EXPLORE_MS = 10_000  # between links beyond a full view while members are missing: small islands last no longer
# And so much for each node in reach: they all look, one a second together, and one that finds somebody is enough.
EXPLORE_NODE_MS = 1_000
STARTING_MS = 3_000  # of a node's life, in which it links no more than a view: meanwhile it hears how many there are
_ALL = 1 << 30


class ActiveView:
    """The view of one node. `links` are the node ids of its linked members."""

    __slots__ = ("_config", "_explore_ms", "_now_ms", "_overlay", "_rng", "_started_ms", "_starting", "_trim_ms")

    def __init__(self, config: MeshConfig, overlay: Overlay, rng: random.Random) -> None:
        self._config = config
        self._overlay = overlay
        self._rng = rng
        self._trim_ms = 0
        self._explore_ms = 0
        self._starting = True
        self._now_ms = 0  # of the latest event
        self._started_ms: int | None = None  # when the first links have told of the others; None before the first event

    def links_wanted(self, links: Collection[bytes], now_ms: int) -> int:
        """How many more links are wanted."""
        if self._started_ms is None:
            self._started_ms = now_ms + STARTING_MS
        self._now_ms = now_ms
        self._starting = now_ms < self._started_ms
        if not self._starting and not self._exceeds_full_mesh():
            return _ALL
        room = max(0, self._config.view_min - len(links))
        if room == 0 and not self._starting and self._explore_ms <= now_ms and self._members_missing():
            # Somebody is missing: perhaps only down, perhaps an island that a further link would join.
            here = self._overlay.topology.reachable_count(now_ms)
            self._explore_ms = now_ms + max(EXPLORE_MS, EXPLORE_NODE_MS * here)
            room = 1
        return room

    def excess_member(
        self, links: Collection[bytes], droppable: Callable[[], Collection[bytes]], now_ms: int
    ) -> bytes | None:
        """The member to let go now, if the view is too large and somebody has links to spare; one of the `droppable` ones.

        A relay lets nobody go: what others have beside it may be circuits that pass it.
        """
        self._now_ms = now_ms
        if not self._too_large(links) or self._trim_ms > now_ms:
            return None
        self._trim_ms = now_ms + self._overlay.topology.spacing_ms()
        degree = self._overlay.topology.degree
        if "relay" in self._overlay.roster.identity.certificate.roles:
            return None
        spare = [node_id for node_id in droppable() if degree(node_id) > self._config.view_min]
        # At random: if all let go of whoever has the most links, that one would lose them all at once.
        return self._rng.choice(spare) if spare else None

    def deadline(self, links: Collection[bytes]) -> int | None:
        """When `surplus` may have something, or a young node is grown."""
        if self._too_large(links):
            return self._trim_ms
        return self._started_ms if self._starting else None

    def _too_large(self, links: Collection[bytes]) -> bool:
        return len(links) > self._config.view_max and self._overlay.is_large(self._now_ms)

    def _exceeds_full_mesh(self) -> bool:
        """Whether so many members are known that not all can be linked: told before they are seen, most were not dialled."""
        return len(self._overlay.roster) > self._config.full_mesh_max or self._overlay.is_large(self._now_ms)

    def _members_missing(self) -> bool:
        return self._overlay.topology.reachable_count(self._now_ms) < len(self._overlay.roster)
