"""Circuit plan: which circuits a member opens to members that it reaches only through relays.

Relays store no tables, so catch-up needs a connection between members. Members that reach each other without a relay form a
group. In each group, the member with the lowest node id that has a link to a relay is the leader. The leaders, ordered by
node id, form a tree of degree CHILDREN: each parent, which has the lower node id, opens the circuits to its children. The
result is one circuit between two neighbouring groups of the tree, and at most `CHILDREN + 1` circuits for a group.

Invariants: the plan follows from the link-states alone, so all members compute the same plan. Groups that members join get no
circuit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mycomesh.mesh.relay.circuit_frame import RELAYS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mycomesh.mesh.overlay.topology import LinkState

__all__ = ["CircuitPlan", "MeshGraph"]

CHILDREN = 4  # circuits that one member opens at most: a mast with 60 isolated drones makes a tree three circuits deep

Route = tuple[bytes, ...]


class MeshGraph:
    """The mesh as the link-states describe it, but with this node's actual `links`, of which some are `circuits`.

    A search sees a small part of a large mesh, so a link-state is read when the search comes to its node.
    """

    __slots__ = ("_circuits", "_edges", "_neighbours", "_states", "links", "own")

    def __init__(
        self, own: bytes, links: Iterable[bytes], states: Iterable[LinkState], circuits: Iterable[bytes] = ()
    ) -> None:
        self.own = own
        self.links = dict.fromkeys(sorted(links))
        self._states = {each.node_id: each for each in states}
        self._neighbours: dict[bytes, dict[bytes, None]] = {}
        self._circuits = {own: dict.fromkeys(circuits)}
        self._edges: dict[bytes, list[bytes]] = {}

    @property
    def nodes(self) -> Iterable[bytes]:
        """The nodes that have a link-state."""
        return self._states

    def edges(self, node_id: bytes) -> list[bytes]:
        """Return the nodes that a node is linked with.

        This node knows its own links. A link between others counts only if the link-states of both ends claim it.
        """
        known = self._edges.get(node_id)
        if known is None:
            known = self._edges[node_id] = self._both(node_id)
        return known

    def carriers(self, node_id: bytes) -> list[bytes]:
        """Return the nodes that a node is linked with, without circuits: a circuit through a circuit passes some link twice."""
        inside = self._circuits_of(node_id)
        return [each for each in self.edges(node_id) if each not in inside and node_id not in self._circuits_of(each)]

    def _both(self, node_id: bytes) -> list[bytes]:
        if node_id == self.own:
            return list(self.links)
        both = [
            each for each in self._neighbours_of(node_id) if each != self.own and node_id in self._neighbours_of(each)
        ]
        return [*both, self.own] if node_id in self.links else both

    def _neighbours_of(self, node_id: bytes) -> dict[bytes, None]:
        """Return the nodes that a node's link-state names, in order."""
        known = self._neighbours.get(node_id)
        if known is None:
            state = self._states.get(node_id)
            named = () if state is None else sorted(each.node_id for each in state.neighbours)
            known = self._neighbours[node_id] = dict.fromkeys(named)
        return known

    def _circuits_of(self, node_id: bytes) -> dict[bytes, None]:
        known = self._circuits.get(node_id)
        if known is None:
            state = self._states.get(node_id)
            named = () if state is None else state.neighbours
            known = self._circuits[node_id] = {each.node_id: None for each in named if each.is_circuit}
        return known


class CircuitPlan:
    """The circuits of one node in a mesh. `is_relay` returns whether a node is a relay, or None if it is not a member."""

    __slots__ = ("_graph", "_is_relay")

    def __init__(self, graph: MeshGraph, is_relay: Callable[[bytes], bool | None]) -> None:
        self._graph = graph
        self._is_relay = is_relay

    def routes_to_open(self) -> list[Route]:
        """Return the routes of the circuits that this node should open: itself, relays, the other end."""
        routes: list[Route] = []
        seen: dict[bytes, None] = {}
        for relay in self._graph.links:
            if self._is_relay(relay) and relay not in seen:
                routes += self._children(self._around(relay, seen))
        return routes

    def is_joined(self, member: bytes) -> bool:
        """Return whether this node reaches a member without relays, also without its own link to that member."""
        return member in self.group(self._graph.own, besides=member)

    def _children(self, around: dict[bytes, Route]) -> list[Route]:
        leaders: list[bytes] = []
        grouped: dict[bytes, None] = {}
        for member in sorted(around):
            if member not in grouped:
                leaders.append(member)
                grouped |= self.group(member)
        if self._graph.own not in leaders:
            return []
        first = leaders.index(self._graph.own) * CHILDREN + 1
        return [around[each] for each in leaders[first : first + CHILDREN]]

    def _around(self, relay: bytes, seen: dict[bytes, None]) -> dict[bytes, Route]:
        """Return the members linked with that relay, or with relays that it reaches through relays alone: each with its route.

        The search is breadth-first, so each route is a shortest one.
        """
        found: dict[bytes, Route] = {self._graph.own: (self._graph.own,)}
        front: list[Route] = [(self._graph.own, relay)]
        seen[relay] = None
        for _ in range(RELAYS_MAX):
            following: list[Route] = []
            for route in front:
                for each in self._graph.carriers(route[-1]):
                    role = self._is_relay(each)
                    if role is False:
                        found.setdefault(each, (*route, each))
                    elif role and each not in seen:
                        seen[each] = None
                        following.append((*route, each))
            front = following
        return found

    def group(self, member: bytes, *, besides: bytes | None = None) -> dict[bytes, None]:
        """Return the members that a member reaches without relays; ignore this node's link with `besides`."""
        group = {member: None}
        front = [member]
        while front:
            node_id = front.pop()
            for each in self._graph.edges(node_id):
                left_out = besides is not None and {node_id, each} == {self._graph.own, besides}
                if each not in group and not left_out and self._is_relay(each) is False:
                    group[each] = None
                    front.append(each)
        return group
