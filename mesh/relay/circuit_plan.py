"""Which circuits a member opens, so that members whom only relays join are one mesh for catch-up too.

Owns that choice. What always holds: it follows from the link-states alone, so all members make the same one; two groups
of members that relays join get one circuit, a group has at most `CHILDREN + 1`, and groups that are joined by members
get none. Must not know: connections, frames.

Members that reach each other without a relay are a group. Of each group the lowest node id beside the relays speaks for it;
those, in order, are a tree in which each parent (always the lower node id) opens the circuits to its children.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mycomesh.mesh.relay.circuit_frame import RELAYS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mycomesh.mesh.overlay.topology import LinkState

__all__ = ["CircuitPlan"]

CHILDREN = 4  # circuits that one member opens at most: a mast with 60 lonely drones is three circuits deep

Route = tuple[bytes, ...]


class CircuitPlan:
    """The mesh as link-states tell it, with the links of this node as they are. `relays` says who is one, None: no member."""

    __slots__ = ("_claimed", "_links", "_own", "_relays")

    def __init__(
        self,
        own: bytes,
        links: Iterable[bytes],
        states: Iterable[LinkState],
        relays: Callable[[bytes], bool | None],
    ) -> None:
        self._own = own
        self._links = dict.fromkeys(sorted(links))
        self._claimed = {each.node_id: dict.fromkeys(n.node_id for n in each.neighbours) for each in states}
        self._relays = relays

    def wanted(self) -> list[Route]:
        """The routes of the circuits that this node should open: itself, relays, the other end."""
        routes: list[Route] = []
        met: dict[bytes, None] = {}
        for relay in self._links:
            if self._relays(relay) and relay not in met:
                routes += self._children(self._beside(relay, met))
        return routes

    def joined(self, member: bytes) -> bool:
        """Whether this node reaches a member over members alone, their link with each other left out."""
        return member in self._group(self._own, besides=member)

    def _children(self, beside: dict[bytes, Route]) -> list[Route]:
        speakers: list[bytes] = []
        grouped: dict[bytes, None] = {}
        for member in sorted(beside):
            if member not in grouped:
                speakers.append(member)
                grouped |= self._group(member)
        if self._own not in speakers:
            return []
        first = speakers.index(self._own) * CHILDREN + 1
        return [beside[each] for each in speakers[first : first + CHILDREN]]

    def _beside(self, relay: bytes, met: dict[bytes, None]) -> dict[bytes, Route]:
        """The members beside that relay, and beside the relays that it reaches over relays alone: with a shortest route."""
        found: dict[bytes, Route] = {self._own: (self._own,)}
        front: list[Route] = [(self._own, relay)]
        met[relay] = None
        for _ in range(RELAYS_MAX):
            following: list[Route] = []
            for route in front:
                for each in self._edges(route[-1]):
                    role = self._relays(each)
                    if role is False:
                        found.setdefault(each, (*route, each))
                    elif role and each not in met:
                        met[each] = None
                        following.append((*route, each))
            front = following
        return found

    def _group(self, member: bytes, *, besides: bytes | None = None) -> dict[bytes, None]:
        """Whom a member reaches over members alone; `besides` leaves the link of this node with that one out."""
        group = {member: None}
        front = [member]
        while front:
            node_id = front.pop()
            for each in self._edges(node_id):
                left_out = besides is not None and {node_id, each} == {self._own, besides}
                if each not in group and not left_out and self._relays(each) is False:
                    group[each] = None
                    front.append(each)
        return group

    def _edges(self, node_id: bytes) -> list[bytes]:
        """Whom a node is linked with: by our own word for ours, by that of both ends for others."""
        if node_id == self._own:
            return list(self._links)
        nobody: dict[bytes, None] = {}
        both = [
            each
            for each in sorted(self._claimed.get(node_id, nobody))
            if each != self._own and node_id in self._claimed.get(each, nobody)
        ]
        return [*both, self._own] if node_id in self._links else both
