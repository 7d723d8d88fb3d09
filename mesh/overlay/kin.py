"""Links by interest: which members want the same topics as this node, and which links with them it lacks or needs.

Members of one topic that have no link among themselves need a circuit for rounds, whose bytes every link on the way carries. So
a node dials them beyond its view, and drops no link that joins them.

Invariants: a link is dropped only if a triangle of members that want the same topics has two links before it in the order of all
links. So ends that look at the same links never drop what joins them: the relative neighbourhood graph contains a spanning tree.

Toussaint: The relative neighbourhood graph of a finite planar set (1980).
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from mycomesh.mesh.overlay.interests import MEMBER_BYTES, have_common, keeper_sets

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from mycomesh.mesh.events import Wishes
    from mycomesh.mesh.membership.roster import Roster
    from mycomesh.mesh.overlay.interests import Interests
    from mycomesh.mesh.overlay.topology import Topology

__all__ = ["KIN_LINKS", "KIN_LINKS_MAX", "PARTIAL_LINKS", "Kin"]

# Members with the same topic that a node links with, where it can: with two each, a group is seldom apart, and one may fail.
KIN_LINKS = 2
# Links beyond which a node seeks and protects none: a base of a fleet has one with each vehicle, of some 20 bytes a second.
KIN_LINKS_MAX = 256
# Links of a node that wants parts only with members that want other parts: they carry what concerns the mesh, and batches of
# others that have no way of their own. Three each join a thousand nodes.
PARTIAL_LINKS = 3
LOOK_MS = 1_000  # between two looks at what is lacking: while a mesh forms, every event changes it


class Kin:
    """The members that want the same topics as one node."""

    __slots__ = (
        "_interests",
        "_known",
        "_looked_ms",
        "_looks",
        "_members",
        "_roster",
        "_sets",
        "_sought",
        "_topology",
        "_wishes",
    )

    def __init__(self, roster: Roster, interests: Interests, topology: Topology) -> None:
        self._roster = roster
        self._interests = interests
        self._topology = topology
        self._known: object = None  # the state that `_wishes` was made of
        self._wishes: dict[bytes, Wishes] = {}  # of the members, and this node: what `_sets` was made of
        self._sets: list[frozenset[bytes]] = []
        self._members: frozenset[bytes] = frozenset()
        self._looked_ms: int | None = None
        self._looks = 0
        self._sought: frozenset[bytes] = frozenset()

    def members(self) -> frozenset[bytes]:
        """Return the members that want some topic which this node wants."""
        self._keepers()
        return self._members

    def sought(self, links: Callable[[], tuple[list[bytes], list[bytes]]], now_ms: int) -> frozenset[bytes]:
        """Return the members to dial in any case, given the members with a direct link and those with a circuit.

        These are members with the same topics as long as too few of them are linked, and the other ends of circuits.
        """
        if self._interests.own is None:
            return frozenset()
        if self._looked_ms is None or now_ms - self._looked_ms >= LOOK_MS:
            self._looked_ms = now_ms
            direct, circuits = links()
            self._sought = self._look(direct, circuits) if len(direct) < KIN_LINKS_MAX else frozenset()
        return self._sought

    def _look(self, links: list[bytes], circuits: list[bytes]) -> frozenset[bytes]:
        """Return whom to dial: as many of each topic as are lacking, in the next second others, as these may be out of reach."""
        own = self._roster.own_id
        sought = set(circuits)
        self._looks += 1
        for keepers in self._keepers():
            lacking = min(KIN_LINKS, len(keepers) - 1) - sum(each in keepers for each in links)
            if lacking > 0:
                others = sorted(keepers.difference(links, (own,)), key=lambda each: _weight(own, each))
                start = self._looks * lacking % len(others)
                sought.update((*others[start:], *others[:start])[:lacking])
        return frozenset(sought.difference(links, (own,)))

    def needs(self, member: bytes, links: Collection[bytes]) -> bool:
        """Return True if the link with a member joins members with the same topics, or if either end has few such links.

        Of members with other topics, too, either end may have no more than it seeks: it would dial another one, which may have
        to drop a third in turn, and so on without end.
        """
        own = self._interests.own
        if own is None or len(links) > KIN_LINKS_MAX:
            return False
        if own and member not in self.members():
            theirs = self._interests.of(member) or {}
            others = self._others(theirs, self._topology.neighbours(member))
            return min(self._others(own, links), others) <= PARTIAL_LINKS
        return any(member in keepers and self._joins(member, keepers, links) for keepers in self._keepers())

    def _others(self, wishes: Wishes, links: Iterable[bytes]) -> int:
        """Return how many of the links of a member with these wishes are with members that want nothing of that."""
        stated = (self._interests.of(each) for each in links)
        return sum(each is None or not have_common(wishes, each) for each in stated)

    def _joins(self, member: bytes, keepers: frozenset[bytes], links: Collection[bytes]) -> bool:
        ours = [each for each in links if each in keepers]
        theirs = [each for each in self._topology.neighbours(member) if each in keepers]
        if min(len(ours), len(theirs)) <= KIN_LINKS:
            return True
        own = self._roster.own_id
        weight = _weight(own, member)
        return not any(
            self._topology.are_linked(each, member) and _weight(own, each) < weight > _weight(each, member)
            for each in ours
            if each != member
        )

    def _keepers(self) -> list[frozenset[bytes]]:
        state = self._interests.version, self._roster.version, len(self._roster)
        if self._known != state:
            self._known = state
            stated = self._interests.members
            # In any order: while a mesh forms this is done for each certificate and statement, over all that came before.
            wishes: dict[bytes, Wishes] = {
                node_id: stated[node_id[:MEMBER_BYTES]]
                for node_id, certificate in self._roster.items()
                if node_id[:MEMBER_BYTES] in stated and "relay" not in certificate.roles
            }
            if self._interests.own is not None:
                wishes[self._roster.own_id] = self._interests.own
            if wishes != self._wishes:
                self._wishes = wishes
                self._sets = keeper_sets(self._interests.own, wishes)
                self._members = frozenset().union(*self._sets).difference((self._roster.own_id,))
        return self._sets


def _weight(left: bytes, right: bytes) -> bytes:
    """Return the place of a link in the order of all links."""
    return blake2b(min(left, right) + max(left, right), digest_size=8).digest()
