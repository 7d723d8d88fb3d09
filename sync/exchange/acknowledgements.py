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

__all__ = ["PEERS_MAX", "SILENT_MS", "Acknowledgements", "mark_of"]

# What peers said is kept after their links end, since what they hold they go on holding; a mesh has no more members.
PEERS_MAX = 1_024
# A peer answers at once unless it is asked too often; a question is asked again after so long without an answer.
SILENT_MS = 1_000


def mark_of(replica: Replica) -> dict[str, int]:
    """Return up to which clock this replica's own site has written, by folded table name; all of it has its stamps."""
    tops = {name: table.vector.top(replica.site) for name, table in sorted(replica.tables.items())}
    return {name: top for name, top in tops.items() if top}


class Acknowledgements:
    """What peers cover of one replica's own writes."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._site = replica.site
        self._links: dict[int, bytes] = {}
        self._told: dict[bytes, Mapping[str, int]] = {}
        self._asked_at: dict[int, int] = {}  # links with a question under way

    def opened(self, number: int, peer: bytes) -> None:
        """A link is there."""
        self._links[number] = peer

    def closed(self, number: int) -> None:
        """It is gone."""
        self._links.pop(number, None)
        self._asked_at.pop(number, None)

    def ask(self, turn: Turn) -> None:
        """Asks every linked peer that has no question to answer yet."""
        if self._site != self._replica.site:
            self._site = self._replica.site
            self._told.clear()
        for number in sorted(self._links):
            asked_at = self._asked_at.get(number)
            if asked_at is None or turn.now_ms - asked_at >= SILENT_MS:
                self._asked_at[number] = turn.now_ms
                turn.send(number, wire.CoverageRequest(self._site))

    def answer(self, number: int, site: bytes, turn: Turn) -> None:
        """A peer asks about its own site."""
        peer, rights = self._links[number], self._replica.rights
        tops = [
            (name, table.vector.upto(site))
            for name, table in sorted(self._replica.tables.items())
            if rights.may_read(peer, name)
        ]
        turn.send(number, wire.CoverageReply(site, tuple((name, top) for name, top in tops if top)))

    def told(self, number: int, message: wire.CoverageReply) -> None:
        """A peer has answered; what was not asked for counts for nothing."""
        if self._asked_at.pop(number, None) is not None and message.site == self._site:
            peer = self._links[number]
            self._told.pop(peer, None)
            self._told[peer] = dict(message.tables)
            if len(self._told) > PEERS_MAX:
                del self._told[next(iter(self._told))]

    @property
    def furthest(self) -> int:
        """The highest clock of this replica's site that a peer has said to cover in any table."""
        return max((top for told in self._told.values() for top in told.values()), default=0)

    def holders(self, site: bytes, mark: Mapping[str, int]) -> tuple[bytes, ...]:
        """Return the peers that cover a site's clock up to a mark in all its tables; none for another site than ours."""
        if site != self._replica.site or site != self._site:
            return ()
        return tuple(
            peer
            for peer, told in sorted(self._told.items())
            if all(told.get(name, 0) >= top for name, top in mark.items())
        )
