"""Audit before a release: whether a member holds the rows that it covers, in a table whose rows go by the time in a column.

Such a member may have removed a row before an update of the column came that makes it younger. It then covers all of it and holds
the update alone. Among members that keep the area a repair brings the rest, but this node does not keep it, and is about to give
up the only insert. So it asks for the stamps that the member has, and sends the rows of which the member has a part.
ADR 80.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from mycomesh.sync.codec import require
from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.exchange.flow_control import TokenBucket
from mycomesh.sync.exchange.tombstone_audit import lacking
from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.replica import Replica
from mycomesh.sync.sqlite.table_spec import Row
from mycomesh.sync.storage.unit import Unit
from mycomesh.sync.wire import messages as wire

__all__ = ["REQUESTS_MAX", "TRIES_MAX", "AreaAudit"]

# A peer closes the link on more than 64 requests at once and another each half second, of all kinds.
REQUESTS_MAX = 16
REQUESTS_PERIOD_MS = 1_000
# A peer whose file refuses does not reply.
REPLY_MS_MAX = 30_000
# How often rows are sent of which a member goes on having a part: a file that is full takes none, and some were superseded.
TRIES_MAX = 3


@dataclass(slots=True)
class _Link:
    peer: bytes
    requests: TokenBucket = field(default_factory=lambda: TokenBucket(REQUESTS_MAX, REQUESTS_PERIOD_MS))
    asked: wire.AuditRequest | None = None
    asked_at: int = 0
    tries: int = 0  # of the window that was asked for


class AreaAudit:
    """The audits of one node; at most one under way on each link."""

    def __init__(self, replica: Replica, send_rows: Callable[[int, str, list[Row]], None]) -> None:
        """Take what sends whole rows of a unit on a link."""
        self._replica = replica
        self._send_rows = send_rows
        self._links: dict[int, _Link] = {}
        self._held: dict[str, dict[bytes, Vector]] = {}  # unit -> member -> what it was found to hold

    def on_link_opened(self, number: int, peer: bytes) -> None:
        """Register a link."""
        self._links[number] = _Link(peer)

    def on_link_closed(self, number: int) -> None:
        """Remove a link and the audit under way on it."""
        self._links.pop(number, None)

    def forget(self, but: Iterable[str] = ()) -> None:
        """Forget what members were found to hold, but of some units."""
        self._held = {name: self._held[name] for name in but if name in self._held}

    def needs(self, unit: Unit) -> bool:
        """Return True if coverage alone does not say that a member holds the rows of a unit."""
        horizon = unit.table.coverage.horizon
        return horizon is not None and bool(horizon.rule.by)

    def held_by(self, unit: Unit, peer: bytes) -> Vector:
        """Return what a member was found to hold of a unit, but for what later writes have superseded."""
        return self._held.setdefault(unit.name, {}).setdefault(peer, Vector())

    def request(self, number: int, unit: Unit, turn: Turn) -> None:
        """Ask the peer of a link for the next entries of which it has not said whether it holds them."""
        link = self._links[number]
        missing = next(iter(unit.vector.missing_from(self.held_by(unit, link.peer))), None)
        waits = link.asked is not None and turn.now_ms < link.asked_at + REPLY_MS_MAX
        if missing is None or waits or not link.requests.take(turn.now_ms):
            return
        site, (after, upto) = missing
        link.asked_at = turn.now_ms
        link.asked = wire.AuditRequest(unit.name, site, after, upto)
        turn.send(number, link.asked)

    def on_reply(self, number: int, reply: wire.AuditReply, turn: Turn) -> bool:
        """Take a reply, and send the rows of which the peer has a part; return False if the reply is to another request.

        Raises:
            DecodeError: a reply that does not fit its request.
        """
        link = self._links[number]
        asked = link.asked
        if asked is None or (reply.table, reply.site, reply.after) != (asked.table, asked.site, asked.after):
            return False
        require(asked.after < reply.reached <= asked.upto, "replies to another audit request")
        link.asked = None
        unit = self._replica.registry.unit(reply.table)
        if unit is None or self._replica.holds(reply.table):
            return True
        found: list[Row] = []
        turn.publish(self._replica.outbox.read_drained(turn.wall_ms, lambda: found.extend(_in_part(unit, reply))))
        if found and link.tries < TRIES_MAX:
            link.tries += 1
            self._send_rows(number, unit.name, found)
            return True
        link.tries = 0
        self.held_by(unit, link.peer).add(reply.site, reply.after, reply.reached)
        self.request(number, unit, turn)
        return True


def _in_part(unit: Unit, reply: wire.AuditReply) -> list[Row]:
    """Return the rows of which the peer lacks an entry and has another one, as far as its reply tells; the caller has drained."""
    table, absent = unit.table, lacking(unit.table, reply)
    rows = dict.fromkeys(table.log.rows_of(absent).values())
    stored_entries = table.log.entries_of_rows(list(rows))
    lost = set(absent)
    return [row for row in rows if any(stored[:2] not in lost for stored in stored_entries[row])]
