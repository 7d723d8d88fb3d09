"""Topic plan: which circuits a member opens to members that want the same topics and are not linked with it.

To a topic that it does not want, a member is what a relay is to all tables: it passes frames on, stores nothing, and can take
part in no comparison. So the members that want a topic have to be joined by links among themselves. Each group of them that
others separate opens one circuit, to the nearest other group, as in Boruvka's algorithm: after a few plans all are one group,
with one circuit less than there were groups, over the shortest routes. Ties go by a hash, so that no member gets all circuits of
a star.

A member that holds batches of a topic that it does not want, its own writes, hands them on: it opens circuits to the nearest
members that want the topic.

A base has a limited number of circuits, and is the nearest member of every group that has no link with it. So a member with which
no circuit came about is avoided for a while, and another member of the topic takes its place.

Invariant: the plan follows from link-states and interests alone, so all members of a group compute the same circuit, until it
does not come about; then the member that tried opens another one.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from mycomesh.mesh.overlay.interests import keeper_sets, wishes_for
from mycomesh.mesh.relay.circuit_frame import RELAYS_MAX
from mycomesh.mesh.relay.circuit_plan import CircuitPlan, MeshGraph, Route

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from mycomesh.mesh.config import Topic
    from mycomesh.mesh.events import Wishes
    from mycomesh.mesh.overlay.interests import Interests

__all__ = ["TopicPlan"]


class TopicPlan:
    """The circuits of one node for topics. `is_relay` returns whether a node is a relay, or None if it is not a member."""

    __slots__ = ("_avoided", "_graph", "_interests", "_is_relay", "_keepers", "_wishes")

    def __init__(
        self,
        graph: MeshGraph,
        interests: Interests,
        is_relay: Callable[[bytes], bool | None],
        avoided: Collection[bytes] = (),
    ) -> None:
        """Plan for one node; with the members `avoided` no circuit has come about a while ago."""
        self._graph = graph
        self._avoided = frozenset(avoided)
        self._interests = interests
        self._is_relay = is_relay
        # Of the members that have stated something; a version that knows no topics opens no such circuits.
        self._wishes: dict[bytes, Wishes] = {} if interests.own is None else {graph.own: interests.own}
        for node_id in graph.nodes:
            stated = interests.of(node_id)
            if stated is not None and node_id != graph.own and is_relay(node_id) is False:
                self._wishes[node_id] = stated
        self._keepers = keeper_sets(interests.own, self._wishes)

    def routes_to_open(self) -> list[Route]:
        """Return the routes of the circuits that this node lacks: itself, nodes that pass frames on, the other end."""
        routes: dict[bytes, Route] = {}
        for keepers in self._keepers:
            group = CircuitPlan(self._graph, self._roles(keepers)).group(self._graph.own)
            others = keepers.difference(group)
            found = self._nearest(group, keepers, others, 1) if others else []
            found = [route for route in found if route[0] == self._graph.own]
            if any(route[-1] in self._avoided for route in found):  # nobody else of the group knows
                found = self._nearest((self._graph.own,), keepers, others - self._avoided, 1) or found
            routes |= {route[-1]: route for route in found}
        for topic in self._interests.held:
            wanting = self._wanting(topic)
            others = wanting.difference(self._graph.links)
            missing = min(self._interests.copies, len(wanting)) - (len(wanting) - len(others))
            found = self._nearest((self._graph.own,), others, others, missing) if missing > 0 else []
            routes |= {route[-1]: route for route in found}
        return list(routes.values())

    def needs(self, member: bytes) -> bool:
        """Return True if this node's link with a member joins members that want the same topic, or carries what is handed on."""
        for keepers in self._keepers:
            if member in keepers and not CircuitPlan(self._graph, self._roles(keepers)).is_joined(member):
                return True
        return any(member in self._wanting(topic) for topic in self._interests.held)

    # ---- who wants what

    def _wanting(self, topic: Topic) -> frozenset[bytes]:
        wanting = (node_id for node_id, wishes in self._wishes.items() if wishes_for(wishes, topic))
        return frozenset(node_id for node_id in wanting if node_id != self._graph.own)

    def _roles(self, keepers: frozenset[bytes]) -> Callable[[bytes], bool | None]:
        """Return what a node is to a topic: False for one of those that want it, True for one that passes frames on."""

        def role(node_id: bytes) -> bool | None:
            if node_id in keepers:
                return False
            return True if node_id in self._wishes or self._is_relay(node_id) else None

        return role

    # ---- the search

    def _nearest(
        self, starts: Iterable[bytes], keepers: frozenset[bytes], ends: frozenset[bytes], count: int
    ) -> list[Route]:
        """Return routes from any of some keepers to the `count` nearest of others, through nodes that pass frames on alone."""
        role = self._roles(keepers)
        seen: dict[bytes, None] = {}
        found: dict[bytes, Route] = {}
        front: list[Route] = [(node_id,) for node_id in sorted(starts)]
        for _ in range(RELAYS_MAX + 1):
            reached: list[Route] = []
            following: list[Route] = []
            for route in front:
                for each in self._graph.carriers(route[-1]):
                    kind = role(each)
                    if kind is False and each in ends and each not in found and len(route) > 1:
                        reached.append((*route, each))
                    elif kind and each not in seen:
                        seen[each] = None
                        following.append((*route, each))
            for route in sorted(reached, key=_tie):
                found.setdefault(route[-1], route)
            if len(found) >= count:
                break
            front = following
        return list(found.values())[:count]


def _tie(route: Route) -> bytes:
    """Return by what routes of one length are ordered, from either end."""
    return blake2b(b"".join(sorted((route[0], route[-1]))), digest_size=8).digest()
