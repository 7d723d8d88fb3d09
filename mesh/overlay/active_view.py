"""Active view: how many links a node keeps. All members in a small mesh, a few in a large one.

Above `full_mesh_max` members each node keeps `view_min` to `view_max` links, like HyParView's active view. The dialler's address
book serves as its passive view. A view that is too large drops one link at a time, and only to a member with links to spare. It
waits between two drops for as long as link-states take to show how many links the others have left.

Leitao, Pereira, Rodrigues: HyParView (2007).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mycomesh.mesh.overlay.kin import PARTIAL_LINKS

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Collection

    from mycomesh.mesh.config import MeshConfig
    from mycomesh.mesh.overlay.overlay import Overlay

__all__ = ["ActiveView"]

EXPLORE_MS = 10_000  # between links beyond a full view while members are missing: a small island lasts no longer
# And this long for each reachable node: all of them explore, together once a second, and one success joins the islands.
EXPLORE_NODE_MS = 1_000
# A node that has just started links to no more members than a view has, until it learns how many there are.
STARTING_MS = 3_000
HUB_LINKS = 2  # beside a peer that wants all, which joins the others too; when it is gone, the node seeks the third
FILL_MS = 2_000  # before the last of them
STATING_MS = 12_000  # after the start phase: by then the application has said what it wants, if the mesh has such parts
_ALL = 1 << 30
# How many times longer a node waits between searches of the network (mDNS) while it needs none: 5 minutes instead of 30 s.
SEARCH_SPACING_MAX = 10
# While members are missing, so many nodes of an island search it at the full rate; with more nodes, each searches more rarely.
SEARCHERS = 4


class ActiveView:
    """The active view of one node. `links` are the node ids of its linked members."""

    __slots__ = (
        "_config",
        "_explore_ms",
        "_fill_ms",
        "_now_ms",
        "_others",
        "_overlay",
        "_rng",
        "_started_ms",
        "_starting",
        "_trim_ms",
        "wants_others",
    )

    def __init__(self, config: MeshConfig, overlay: Overlay, rng: random.Random) -> None:
        self._config = config
        self._overlay = overlay
        self._rng = rng
        self._trim_ms = 0
        self.wants_others = False  # the wanted links are with members that want nothing that this node wants
        self._explore_ms = 0
        self._others = 0  # links with members that want nothing that this node wants, at the last look
        self._fill_ms = 0
        self._starting = True
        self._now_ms = 0  # of the latest event
        self._started_ms: int | None = None  # when the start phase ends; None before the first event

    def links_wanted(self, links: Collection[bytes], now_ms: int) -> int:
        """Return how many more links this node wants."""
        if self._started_ms is None:
            self._started_ms = now_ms + STARTING_MS
            if (
                self._config.partial
            ):  # the first reports of links come later, and each node that lacks them would explore
                self._explore_ms = self._started_ms + EXPLORE_MS
        self._now_ms = now_ms
        self._starting = now_ms < self._started_ms
        partial = self._is_partial(now_ms)
        self.wants_others = partial
        if not partial and not self._starting and not self._exceeds_full_mesh():
            return _ALL
        room = self._partial_room(links, now_ms) if partial else max(0, self._config.view_min - len(links))
        if room == 0 and not self._starting and self._explore_ms <= now_ms and self._members_missing():
            # Members are missing. They may be down, or on an island that one more link would join.
            here = self._overlay.topology.reachable_count(now_ms)
            self._explore_ms = now_ms + max(EXPLORE_MS, EXPLORE_NODE_MS * here)
            room = 1
            self.wants_others = False
        return room

    def _is_partial(self, now_ms: int) -> bool:
        """Return True if this node wants parts only: a few links besides those with members that want the same carry the rest."""
        own = self._overlay.interests.own
        if own is None:
            assert self._started_ms is not None
            return self._config.partial and now_ms < self._started_ms + STATING_MS
        return bool(own)

    def _partial_room(self, links: Collection[bytes], now_ms: int) -> int:
        """Return how many more links a node wants that wants parts only.

        `Kin` seeks members with the same topics. Of others it has `PARTIAL_LINKS`, the last of them after a pause, because
        others dial too; and a whole view while no such member is linked.
        """
        kin = self._overlay.kin.members()
        others = sum(each not in kin for each in links)
        if others != self._others:
            self._others = others
            self._fill_ms = now_ms + FILL_MS
        few = HUB_LINKS if self._overlay.interests.has_hub else PARTIAL_LINKS
        wanted = few if others < len(links) or not kin else self._config.view_min
        if others < few - 1:
            return few - 1 - others
        return int(others < wanted and self._fill_ms <= now_ms)

    def excess_member(
        self, links: Collection[bytes], droppable: Callable[[], Collection[bytes]], now_ms: int
    ) -> bytes | None:
        """Return the member whose link to drop now, or None.

        It is one of the `droppable` members, and has links to spare. A relay drops no link: the other links of its members may
        be circuits through this very relay.
        """
        self._now_ms = now_ms
        if not self._too_large(links) or self._trim_ms > now_ms:
            return None
        self._trim_ms = now_ms + self._overlay.topology.spacing_ms()
        degree = self._overlay.topology.degree
        if "relay" in self._overlay.roster.identity.certificate.roles:
            return None
        spare = [node_id for node_id in droppable() if degree(node_id) > self._config.view_min]
        # At random: if all nodes dropped the member with the most links, it would lose all of them at once.
        return self._rng.choice(spare) if spare else None

    def search_spacing(self, links: Collection[bytes], now_ms: int) -> int:
        """Return how many times longer than at its start this node may wait between searches of the network for others.

        It is 1 while the node is alone or wants links, and the limit while no member is missing. In between, the nodes of an
        island share the search: answers are multicast, so one node that asks finds the others for all.
        """
        self._now_ms = now_ms
        members = len(self._overlay.roster)
        wanted = self._config.view_min if self._exceeds_full_mesh() else members - 1
        if members == 1 or len(links) < wanted:
            return 1
        if not self._members_missing():
            return SEARCH_SPACING_MAX
        reachable = self._overlay.topology.reachable_count(now_ms)
        return min(max(reachable // SEARCHERS, 1), SEARCH_SPACING_MAX)

    def deadline(self, links: Collection[bytes]) -> int | None:
        """Return when `excess_member` may return a member, when the start phase ends, or when the next link may be dialled."""
        if self._too_large(links):
            return self._trim_ms
        if self._now_ms < self._fill_ms:
            return self._fill_ms
        return self._started_ms if self._starting else None

    def _too_large(self, links: Collection[bytes]) -> bool:
        return len(links) > self._config.view_max and self._overlay.is_large(self._now_ms)

    def _exceeds_full_mesh(self) -> bool:
        """Return True if the node knows too many members to link to all. Most of them it knows before it dials any."""
        return len(self._overlay.roster) > self._config.full_mesh_max or self._overlay.is_large(self._now_ms)

    def _members_missing(self) -> bool:
        return self._overlay.topology.reachable_count(self._now_ms) < len(self._overlay.roster)
