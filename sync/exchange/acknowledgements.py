"""How far peers cover what this replica has written: the answer to "on how many nodes is this?".

Owns what each peer has said of this replica's site. What always holds: a peer counts as holding a write only after it has
said that it covers it, which it does in the transaction that stores it; whatever others write meanwhile changes nothing. It
must not know who asks, or how the rows got there.
"""

from __future__ import annotations

from collections.abc import Mapping

from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.replica import Replica
from mycomesh.sync.wire import messages as wire

__all__ = ["PEERS_MAX", "REPLY_MS_MAX", "Acknowledgements", "write_position"]

# What peers said is kept after their links end, since what they hold they go on holding; a mesh has no more members.
PEERS_MAX = 1_024
# A peer answers at once unless it is asked too often; a question is asked again after so long without an answer.
REPLY_MS_MAX = 1_000


def write_position(replica: Replica) -> dict[str, int]:
    """Return up to which clock this replica's own site has written, by folded table name; all of it has its stamps."""
    tops = {name: table.vector.top(replica.site) for name, table in sorted(replica.tables.items())}
    return {name: top for name, top in tops.items() if top}


class Acknowledgements:
    """What peers cover of one replica's own writes."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._site = replica.site
        self._links: dict[int, bytes] = {}
        self._covered: dict[bytes, Mapping[str, int]] = {}
        self._requested_at: dict[int, int] = {}  # links with a question under way

    def on_link_opened(self, number: int, peer: bytes) -> None:
        """A link is there."""
        self._links[number] = peer

    def on_link_closed(self, number: int) -> None:
        """It is gone."""
        self._links.pop(number, None)
        self._requested_at.pop(number, None)

    def request_coverage(self, turn: Turn) -> None:
        """Asks every linked peer that has no question to answer yet."""
        if self._site != self._replica.site:
            self._site = self._replica.site
            self._covered.clear()
        for number in sorted(self._links):
            requested_at = self._requested_at.get(number)
            if requested_at is None or turn.now_ms - requested_at >= REPLY_MS_MAX:
                self._requested_at[number] = turn.now_ms
                turn.send(number, wire.CoverageRequest(self._site))

    def on_coverage_request(self, number: int, site: bytes, turn: Turn) -> None:
        """A peer asks about its own site."""
        peer, rights = self._links[number], self._replica.rights
        tops = [
            (name, table.vector.upto(site))
            for name, table in sorted(self._replica.tables.items())
            if rights.may_read(peer, name)
        ]
        turn.send(number, wire.CoverageReply(site, tuple((name, top) for name, top in tops if top)))

    def on_coverage_reply(self, number: int, message: wire.CoverageReply) -> None:
        """A peer has answered; what was not asked for counts for nothing."""
        if self._requested_at.pop(number, None) is not None and message.site == self._site:
            peer = self._links[number]
            self._covered.pop(peer, None)
            self._covered[peer] = dict(message.tables)
            if len(self._covered) > PEERS_MAX:
                del self._covered[next(iter(self._covered))]

    @property
    def highest_covered(self) -> int:
        """The highest clock of this replica's site that a peer has said to cover in any table."""
        return max((top for covered in self._covered.values() for top in covered.values()), default=0)

    def peers_covering(self, site: bytes, position: Mapping[str, int]) -> tuple[bytes, ...]:
        """Return the peers that cover a site's clock up to a mark in all its tables; none for another site than ours."""
        if site != self._replica.site or site != self._site:
            return ()
        return tuple(
            peer
            for peer, covered in sorted(self._covered.items())
            if all(covered.get(name, 0) >= top for name, top in position.items())
        )
