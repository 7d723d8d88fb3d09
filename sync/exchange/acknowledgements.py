"""Acknowledgements: which peers cover the writes of this replica, for "on how many nodes is this write?".

Invariant: a write counts as replicated to a peer only after the peer reported that it covers it. The peer covers a write
in the same transaction that stores it, so later writes of other nodes do not change the answer.
"""

from __future__ import annotations

from collections.abc import Mapping

from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.replica import Replica
from mycomesh.sync.storage.unit import Unit
from mycomesh.sync.wire import messages as wire
from mycomesh.sync.wire.units import split_unit

__all__ = ["PEERS_MAX", "REPLY_MS_MAX", "Acknowledgements", "write_position"]

# Reports are kept after their links close, because a peer does not lose what it covers. No mesh has more members.
PEERS_MAX = 1_024
# A peer replies at once unless it is asked too often. A request is repeated after this long without a reply.
REPLY_MS_MAX = 1_000


def write_position(replica: Replica) -> dict[str, int]:
    """Return the clock of the last stamped write of this replica's own site, by the name of the unit."""
    tops = {unit.name: unit.vector.top(unit.own_site(replica.site)) for unit in replica.registry.units()}
    return {name: top for name, top in tops.items() if top}


def _held_upto(unit: Unit, site: bytes, after: int) -> int:
    """Return how far this file covers a site of a unit from a clock on, and has lost nothing to a pin; 0 while it has one."""
    horizon = unit.table.coverage.horizon
    if unit.area is None or horizon is None:
        return unit.vector.upto(site, after)
    return 0 if horizon.is_pinned else horizon.vouched(unit.vector).upto(site, after)


class Acknowledgements:
    """The clocks up to which peers cover one replica's own writes."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._site = replica.site
        self._links: dict[int, bytes] = {}
        self._covered: dict[bytes, Mapping[str, int]] = {}  # peer -> table -> clock of this replica's site
        self._requested_at: dict[int, int] = {}  # link -> when the request without a reply was sent

    def on_link_opened(self, number: int, peer: bytes) -> None:
        """Register a link."""
        self._links[number] = peer

    def on_link_closed(self, number: int) -> None:
        """Remove a link, and the request under way on it."""
        self._links.pop(number, None)
        self._requested_at.pop(number, None)

    def request_coverage(self, turn: Turn) -> None:
        """Send a request to every linked peer, except where an earlier one still waits for its reply."""
        if self._site != self._replica.site:
            self._site = self._replica.site
            self._covered.clear()
        for number in sorted(self._links):
            requested_at = self._requested_at.get(number)
            if requested_at is None or turn.now_ms - requested_at >= REPLY_MS_MAX:
                self._requested_at[number] = turn.now_ms
                turn.send(number, wire.CoverageRequest(self._site))

    def on_coverage_request(self, number: int, site: bytes, after: int, turn: Turn) -> None:
        """Tell a peer how far this replica covers a site from a clock on, in the units that it keeps and the peer may read.

        A file writes each area under a site that follows from its own. A peer asks about such a site itself if it relies on
        this file to hold what it covers (`area_release`), also if it has lost the right to read the area: else its rows stay.
        """
        peer, registry = self._links[number], self._replica.registry
        tops = [
            (unit.name, max(_held_upto(unit, site, after), unit.vector.upto(unit.own_site(site), after)))
            for unit in registry.units()
            if registry.keeps(unit.name) and (unit.area is not None or self._replica.rights.may_read(peer, unit.name))
        ]
        turn.send(number, wire.CoverageReply(site, tuple((name, top) for name, top in tops if top), after))

    def on_coverage_reply(self, number: int, message: wire.CoverageReply) -> None:
        """Record a peer's reply; ignore one that was not requested, or that is about another site."""
        is_own = message.site == self._site and not message.after  # others are of areas that this node releases
        if is_own and self._requested_at.pop(number, None) is not None:
            peer = self._links[number]
            self._covered.pop(peer, None)
            self._covered[peer] = dict(message.tables)
            if len(self._covered) > PEERS_MAX:
                del self._covered[next(iter(self._covered))]

    @property
    def highest_covered(self) -> int:
        """The highest clock of this replica's site that any peer reported to cover in any table."""
        return max((top for covered in self._covered.values() for top in covered.values()), default=0)

    def peers_covering(self, site: bytes, position: Mapping[str, int]) -> tuple[bytes, ...]:
        """Return the peers that cover a site up to a write position in all its units.

        Return no peers if `site` is not the site under which this replica stamps.
        """
        if site != self._replica.site or site != self._site:
            return ()
        return tuple(
            peer
            for peer, covered in sorted(self._covered.items())
            if all(covered.get(name, 0) >= top for name, top in position.items())
        )

    def replicas(self, site: bytes, position: Mapping[str, int]) -> tuple[int, str]:
        """Return on how many nodes, this one included, each write of a site up to a position is at least, and where on the least.

        The tables count together. An area counts by itself, as no other node has to keep it together with another one; its name
        is returned if it is on fewer nodes than the tables, else "".
        """
        tables = {name: top for name, top in position.items() if split_unit(name) is None}
        least, where = 1 + len(self.peers_covering(site, tables)), ""
        for name in sorted(position.keys() - tables.keys()):
            unit = self._replica.registry.unit(name)
            here = unit is not None and unit.vector.top(unit.own_site(site)) >= position[name]
            count = here + len(self.peers_covering(site, {name: position[name]}))
            if count < least:
                least, where = count, name
        return least, where
