"""Interests of members: which live batches a peer wants on its link, and what all other members want.

A batch may be about one topic of a group of topics. It goes only to peers that want the topic. Each node tells its peers what it
wants (`Wants`), so a relay knows it too. The application tells what members without a link want, which it spreads by its own
means; links and circuits are chosen by it. Only the application can read what a batch is about (`MeshConfig.topic_of`).

A peer that has stated nothing gets everything, as one of an older version does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mycomesh.mesh.messages import Wants
from mycomesh.mesh.results import Result, Send

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mycomesh.mesh.config import Topic, TopicOf
    from mycomesh.mesh.events import StateInterests, Wishes

__all__ = ["MEMBER_BYTES", "Interests", "Ways", "have_common", "keeper_sets", "wishes_for"]

TOWARDS_MAX = 1_024  # topics whose way is remembered
MEMBER_BYTES = 8  # of a node id, by which the application names members


def wishes_for(wishes: Wishes | None, topic: Topic) -> bool:
    """Return True if a member with these wishes wants a topic; None is a member that has stated nothing."""
    wanted = None if wishes is None else wishes.get(topic[0])
    return wanted is None or topic[1] in wanted


def have_common(one: Wishes, other: Wishes) -> bool:
    """Return True if members with these wishes both want some topic."""
    if not one or not other:
        return True  # that one wants all
    return any(group not in one or group not in other or one[group] & other[group] for group in {*one, *other})


def keeper_sets(own: Wishes | None, wishes: Mapping[bytes, Wishes]) -> list[frozenset[bytes]]:
    """Return the sets of members that want a topic which a node with the wishes `own` wants, each set once; it is in all.

    `wishes` are those of all members, that node's among them.
    """
    if own is None:
        return []
    naming: dict[str, list[bytes]] = {}
    for node_id, each in wishes.items():
        for group in each:
            naming.setdefault(group, []).append(node_id)
    # A member may name thousands of topics and groups that nobody else does: they all have the same keepers.
    found: dict[tuple[tuple[bytes, ...], tuple[bytes, ...]], frozenset[bytes]] = {}
    for group, named in sorted(naming.items()):
        by_topic: dict[str, list[bytes]] = {}
        for node_id in named:
            for topic in wishes[node_id][group]:  # in any order: the sets are sorted below
                by_topic.setdefault(topic, []).append(node_id)
        nobody: list[bytes] = []  # names the topics of the others
        wanted = map(by_topic.__getitem__, own[group]) if group in own else (nobody, *by_topic.values())
        for more in dict.fromkeys(map(tuple, wanted)):
            key = tuple(named), more
            if key not in found:
                found[key] = frozenset(wishes).difference(named).union(more)
    return sorted((each for each in dict.fromkeys(found.values()) if len(each) > 1), key=sorted)


class Ways(Protocol):
    """The ways through the mesh, as far as link-states describe them."""

    def version(self) -> int:
        """Return a number that increases when a way may have changed."""

    def first_link(self, wanted: Callable[[bytes], bool]) -> int | None:
        """Return the link that begins a shortest way to the nearest other node that is wanted, None if nothing leads there."""


class Interests:
    """The interests that one node knows."""

    __slots__ = ("_links", "_towards", "_ways", "copies", "held", "members", "own", "topic_of", "version")

    def __init__(self, topic_of: TopicOf, ways: Ways) -> None:
        self.topic_of = topic_of
        self._ways = ways
        self._towards: tuple[tuple[int, int], dict[Topic, int | None]] = (
            (-1, -1),
            {},
        )  # links, while nothing has changed
        self.own: Wishes | None = None  # None: this node has stated nothing
        self.members: Mapping[
            bytes, Wishes
        ] = {}  # other members that have stated something, by `MEMBER_BYTES` of the node id
        self.held: tuple[
            Topic, ...
        ] = ()  # topics of which this node has something to hand on, as it does not want them
        self.copies = 0  # members to which it is handed on
        self.version = 0  # increases with each statement
        self._links: dict[int, Wishes | None] = {}

    def wants(self, link: int, topic: Topic) -> bool:
        """Return True if the peer of a link wants batches about a topic."""
        return wishes_for(self._links.get(link), topic)

    def towards(self, topic: Topic, source: int) -> int | None:
        """Return the link that begins the way to the nearest member that wants a topic, None if no such member is reachable.

        A batch that came on the link `source` is passed on only by a node that does not want it: any other is where it was to go.
        """
        if source >= 0 and wishes_for(self.own, topic):
            return None
        state = self.version, self._ways.version()
        if self._towards[0] != state:
            self._towards = state, {}
        known = self._towards[1]
        if topic not in known:
            if len(known) >= TOWARDS_MAX:
                known.clear()
            known[topic] = self._ways.first_link(lambda node_id: self._is_keeper(node_id, topic))
        return known[topic] if known[topic] != source else None

    def _is_keeper(self, node_id: bytes, topic: Topic) -> bool:
        stated = self.of(node_id)
        return stated is not None and wishes_for(stated, topic)

    def of(self, node_id: bytes) -> Wishes | None:
        """Return what another member has stated, None if it has stated nothing."""
        return self.members.get(node_id[:MEMBER_BYTES])

    @property
    def has_hub(self) -> bool:
        """True if the peer of some link has said that it wants everything."""
        return any(wishes is not None and not wishes for wishes in self._links.values())

    def shares(self, link: int) -> bool:
        """Return True if the peer of a link wants something that this node wants; all, while this node has stated nothing."""
        theirs, own = self._links.get(link), self.own
        if theirs is None or own is None:
            return theirs is not None and not theirs
        return have_common(own, theirs)

    def is_apart(self, link: int) -> bool:
        """Return True if the peer of a link has said that it wants parts, and none of them is known to be one of this node's."""
        return bool(self._links.get(link)) and not self.shares(link)

    def state(self, stated: StateInterests) -> list[Result]:
        """Take what this node and other members want; tell the peers if this node wants something else than before."""
        own = stated.own
        self.version += 1
        self.members, self.held, self.copies = stated.members, stated.held, stated.copies
        if own == self.own:
            return []
        self.own = own
        return [Send(link, Wants.of(own or {}), 0) for link in self._links]

    # ---- links

    def on_link_up(self, link: int) -> list[Result]:
        """Add a link; tell the peer what this node wants."""
        self._links[link] = None
        self._towards = ((-1, -1), {})
        return [] if self.own is None else [Send(link, Wants.of(self.own), 0)]

    def on_link_down(self, link: int) -> None:
        """Remove a link."""
        self._links.pop(link, None)
        self._towards = ((-1, -1), {})

    def on_wants(self, link: int, message: Wants) -> None:
        """Record what the peer of a link wants."""
        if link in self._links:
            self._links[link] = message.wishes()
