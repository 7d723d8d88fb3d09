"""Fetching: what this replica asks of which peer, and what it makes of the answers.

Owns the receiver's side of rounds. What always holds: a table is fetched from one peer at a time while that goes on; a
sender's vector is adopted only after every chunk of its stream was applied, and, where rows may have ended that the sender
cannot tell of any more, after an audit. It must not know sockets or what is sent to peers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.errors import DatabaseBusyError, DatabaseError, KeyMismatchError
from mycomesh.sync.exchange.config import ExchangeConfig
from mycomesh.sync.exchange.tombstone_audit import TombstoneAudit
from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.replica import Applied, Replica
from mycomesh.sync.wire import messages as wire

__all__ = ["Fetcher", "Progress"]

# A stream begins again where a process ended, and brings what is here already: four million rows of that are enough.
NOOP_CHUNKS_MAX = 4_096
# What broken streams had brought is remembered for so many peers.
PARTIAL_PEERS_MAX = 64
# A comparison that shows a difference is left to the live path this often in a row, where that has brought something since.
DEFERRALS_MAX = 3
# How often a person hears of a long round.
PROGRESS_MS = 1_000

# table -> (vector digest, entry digest)
Digests = Mapping[str, tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Progress:
    """A round under way, for people: changes received and expected (about; 0: not known yet), bytes, milliseconds left."""

    rows: int
    expected: int
    received_bytes: int
    left_ms: int | None


@dataclass(slots=True)
class _Round:
    """What is being fetched over one link."""

    tables: dict[str, bool]  # whether this replica held anything of the table when it asked
    since_ms: int
    failed: bool = False  # a chunk could not be applied: the end of the stream proves nothing
    refused: bool = False  # ... because its stamps lie too far ahead: asking again at once would not help
    abandoned: bool = False  # given up: nothing has come for long, others are asked
    noop_chunks: int = 0  # chunks in a row that brought nothing
    rows: int = 0
    expected: int = 0
    size: int = 0
    notified_at: int = 0
    audit: TombstoneAudit | None = None
    dropped: int = 0  # rows that the audit has dropped


@dataclass(slots=True)
class _Link:
    peer: bytes
    digests: Digests = field(default_factory=dict)
    first: bool = True  # they are the first that the peer has told on this link
    requested: dict[str, bytes] = field(default_factory=dict)  # vector digests that a round has answered or will
    round: _Round | None = None
    failures: int = 0
    rows: int = 0
    deferred_vectors: Mapping[str, bytes] | None = (
        None  # vector digests here when it was put off to ask; None: nothing is put off
    )
    deferrals: int = 0  # in a row


class Fetcher:
    """The rounds of every link."""

    def __init__(self, replica: Replica, config: ExchangeConfig) -> None:
        self._replica = replica
        self._config = config
        self._links: dict[int, _Link] = {}
        self._claims: dict[str, tuple[int, int]] = {}  # table -> (link that it is fetched from, since when)
        self._due_at: dict[int, int] = {}  # link -> when to ask it, or to give its round up
        self._partial: dict[bytes, dict[str, Vector]] = {}  # peer -> what broken streams have brought

    def on_link_opened(self, number: int, peer: bytes) -> None:
        """A link stands."""
        self._links[number] = _Link(peer)

    def on_link_closed(self, number: int, turn: Turn) -> None:
        """A link is gone: what it was to bring is asked of others."""
        self._links.pop(number, None)
        self._release(number)
        for other in sorted(self._links):
            self.request_soon(other, turn.now_ms)

    def next_deadline(self) -> int | None:
        """When `on_timer` is due."""
        return min(self._due_at.values(), default=None)

    def is_fetching(self, name: str, now_ms: int) -> bool:
        """Whether a round is bringing that table: until it ends, more is held than the vector covers."""
        return not self._unclaimed(name, now_ms)

    def rows_received(self, number: int) -> int:
        """How many changes have come over that link."""
        return self._links[number].rows

    def progress(self, number: int, now_ms: int) -> Progress | None:
        """The round under way on that link."""
        current = self._links[number].round
        if current is None or current.abandoned:
            return None
        left_ms = None
        if current.rows and current.expected >= current.rows:
            left_ms = (now_ms - current.since_ms) * (current.expected - current.rows) // current.rows
        return Progress(current.rows, current.expected, current.size, left_ms)

    # ---- asking

    def on_digests(self, number: int, theirs: Digests, turn: Turn, *, first: bool) -> None:
        """A peer has told what it holds, for the `first` time on this link or once more.

        On a link that has been compared, what differs is most often on its way here: we ask only if it does not come.
        """
        link = self._links[number]
        link.digests, link.first = theirs, first
        mine = self._vectors()
        if (
            first
            or link.deferrals >= DEFERRALS_MAX
            or number in self._due_at
            or not self._tables_to_request(link, mine, turn.now_ms)
        ):
            self._request(number, turn)
            return
        self.request_soon(number, turn.now_ms)
        link.deferrals += 1
        link.deferred_vectors = mine

    def request_soon(self, number: int, now_ms: int) -> None:
        """The live path shows a gap: ask this peer, unless the gap is filled before."""
        if number in self._links:
            self._links[number].deferred_vectors = None
            self._due_at.setdefault(number, now_ms + self._config.gap_ms)

    def _request(self, number: int, turn: Turn) -> None:
        """Asks a peer for what it covers and we do not, except what another peer is sending already."""
        link = self._links[number]
        if link.round is not None:
            return  # one at a time: the end of one stream must not be taken for that of another
        before, link.deferred_vectors = link.deferred_vectors, None
        mine = self._vectors()
        wanted = self._tables_to_request(link, mine, turn.now_ms)
        if before is not None:
            # Where something has come since, the peer's digests are old: the comparison that follows each change tells.
            wanted = [name for name in wanted if mine.get(name) == before.get(name)]
        if not wanted:
            return
        link.deferrals = 0
        for name in wanted:
            self._claims[name] = number, turn.now_ms
            link.requested[name] = link.digests[name][0]
        link.round = _Round({name: self._has_entries(name) for name in wanted}, turn.now_ms, notified_at=turn.now_ms)
        turn.send(number, wire.Vectors(tuple((name, self._covered_from(name, link.peer)) for name in wanted)))
        self._due_at[number] = turn.now_ms + self._config.stall_ms

    def _vectors(self) -> dict[str, bytes]:
        return {digest.table: digest.vector for digest in self._replica.digests(remember=True)}

    def _tables_to_request(self, link: _Link, mine: Mapping[str, bytes], now_ms: int) -> list[str]:
        """The tables of which the peer has told something else than we hold, and nobody is asked for yet."""
        return [
            name
            for name, (vector, _) in sorted(link.digests.items())
            if mine.get(name) != vector
            # At first a peer is asked all the same: it shows whether a file went back, theirs or ours.
            and (link.first or not self._peer_is_behind(name, vector))
            and link.requested.get(name) != vector
            and self._unclaimed(name, now_ms)
            and self._replica.admits(name)
            and self._replica.rights.may_write(link.peer, name)
        ]

    def _has_entries(self, name: str) -> bool:
        table = self._replica.tables.get(name)
        return table is not None and table.log.count > 0

    def _peer_is_behind(self, name: str, vector: bytes) -> bool:
        """Whether the peer is where this replica was a moment ago: it asks us, there is nothing to ask it for."""
        table = self._replica.tables.get(name)
        return table is not None and vector in table.passed

    def _unclaimed(self, name: str, now_ms: int) -> bool:
        claim = self._claims.get(name)
        return claim is None or now_ms >= claim[1] + self._config.claim_ms

    def _covered_from(self, name: str, peer: bytes) -> Vector:
        """What needs not be sent: what is covered here, and what a broken stream of the same peer has brought."""
        if self._replica.forgot(name):
            for brought in self._partial.values():
                brought.pop(name, None)
        vector = self._replica.vector(name)
        partial = self._partial.get(peer, {}).get(name)
        if partial is not None:
            vector.merge(partial)
        return vector

    def _request_from_others(self, number: int, turn: Turn) -> None:
        for other in sorted(self._links):
            if other != number:
                self._request(other, turn)

    # ---- the answers

    def on_plan(self, number: int, changes: int) -> None:
        """The stream begins."""
        current = self._links[number].round
        if current is not None:
            current.expected = changes

    def on_chunk(self, number: int, bundle: bytes, size: int, turn: Turn) -> Applied | None:
        """Apply one chunk; `size` is what it took on the wire. None if nothing was applied."""
        link = self._links[number]
        current = link.round
        if current is None or current.audit is not None:
            turn.drop(number, "sends rows that nobody asked for")
            return None
        turn.send(number, wire.Ack(size))
        current.abandoned = False  # it goes on after all: what it brings now need not be asked for again
        self._due_at[number] = turn.now_ms + self._config.stall_ms
        current.size += size
        try:
            applied = self._replica.apply(bundle, turn.wall_ms, voucher=link.peer)
        except DatabaseBusyError:
            current.failed = True
            return None
        except DatabaseError:
            current.failed = True  # what was not applied is not covered, whatever else the round brings
            raise
        except KeyMismatchError as error:  # an honest peer learns over this very link what the table's definition is
            applied = Applied(misfit=str(error))
        turn.publish(applied.published)
        if applied.misfit:
            current.failed = True
            text = f"changes from {link.peer.hex()[:8]} do not fit: {applied.misfit}"
            turn.notify("round.refused", text, {"node_id": link.peer.hex()}, "warning")
        elif applied.refused:
            current.failed = current.refused = True
            text = f"{applied.refused} changes from {link.peer.hex()[:8]} are stamped too far ahead; check its clock"
            turn.notify("round.refused", text, {"changes": applied.refused, "node_id": link.peer.hex()}, "warning")
        elif applied.withheld:
            current.failed = True
        else:
            self._record_partial(link.peer, applied)
        current.rows += applied.changes
        link.rows += applied.merged.changes
        current.noop_chunks = 0 if applied.merged.changes else current.noop_chunks + 1
        if current.noop_chunks > NOOP_CHUNKS_MAX:
            turn.drop(number, "sends a round that brings nothing and does not end")
        self._notify_progress(number, link, current, turn)
        return applied

    def _record_partial(self, peer: bytes, applied: Applied) -> None:
        """Windows that were brought whole need not come again from this peer, whose own past they are (ADR 0003)."""
        partial = self._partial.setdefault(peer, {})
        for name, site, after, upto in applied.windows:
            partial.setdefault(name, Vector()).add(site, after, upto)
        while len(self._partial) > PARTIAL_PEERS_MAX:
            del self._partial[next(iter(self._partial))]

    def _notify_progress(self, number: int, link: _Link, current: _Round, turn: Turn) -> None:
        progress = self.progress(number, turn.now_ms)
        if progress is None or turn.now_ms < current.notified_at + PROGRESS_MS:
            return
        current.notified_at = turn.now_ms
        share = f" of about {progress.expected:,}" if progress.expected else ""
        left = "" if progress.left_ms is None else f", {progress.left_ms / 1000:.0f} s left"
        size = f"{progress.received_bytes / 1e6:.1f} MB"
        text = f"catching up with {link.peer.hex()[:8]}: {progress.rows:,}{share} rows, {size}{left}"
        detail = {"rows": progress.rows, "expected": progress.expected, "bytes": progress.received_bytes}
        turn.notify("round.progress", text, detail | {"node_id": link.peer.hex()})

    def on_done(self, number: int, message: wire.Done, turn: Turn) -> None:
        """The stream is complete: its vectors are adopted, if nothing speaks against it."""
        link = self._links[number]
        current = link.round
        if current is None or current.audit is not None:
            turn.drop(number, "ends a stream that nobody asked for")
            return
        if current.abandoned:
            link.round = None
            self._request(number, turn)
            return
        vectors = {name: vector for name, vector in message.vectors if name in current.tables}
        collected = {name: vector for name, vector in message.collected if name in vectors}
        if current.failed:
            self._finish(number, turn, [])
            return
        held = [name for name, held in current.tables.items() if held]
        audit = TombstoneAudit(self._replica, vectors, collected, held)
        current.audit = audit
        self._continue_audit(number, audit.begin(), turn)

    def on_audit_reply(self, number: int, message: wire.AuditReply, turn: Turn) -> None:
        """A peer tells which entries it holds."""
        current = self._links[number].round
        if current is not None and current.audit is not None and current.audit.awaiting_reply:
            self._continue_audit(number, current.audit.on_audit_reply(message), turn)

    def _continue_audit(self, number: int, question: wire.AuditRequest | None, turn: Turn) -> None:
        if question is not None:
            turn.send(number, question)
            self._due_at[number] = turn.now_ms + self._config.stall_ms
            return
        current = self._links[number].round
        assert current is not None
        assert current.audit is not None
        try:
            audited = current.audit.step(turn.wall_ms)
        except DatabaseBusyError:
            current.failed = True
            self._finish(number, turn, [])
            return
        turn.publish(audited.published)
        current.dropped += audited.rows
        if not audited.done:
            self._due_at[number] = turn.now_ms
            return
        if current.dropped:
            text = f"{current.dropped} row(s) were deleted elsewhere long ago, and are gone here too"
            turn.notify("round.audited", text, {"rows": current.dropped})
            turn.changed = True
        self._finish(number, turn, audited.advanced)
        for name in audited.incomplete:  # the sender's clock is a little ahead: the next comparison asks again
            self._links[number].requested.pop(name, None)

    def _finish(self, number: int, turn: Turn, advanced: list[str]) -> None:
        link = self._links[number]
        current = link.round
        assert current is not None
        self._release(number)
        link.round = None
        if current.failed:
            link.failures += 1
            for name in current.tables:
                link.requested.pop(name, None)
            backoff_ms = min(self._config.gap_ms << min(link.failures, 16), self._config.compare_ms)
            self._due_at[number] = turn.now_ms + (self._config.compare_ms if current.refused else backoff_ms)
            return
        link.failures = 0
        self._discard_partial(link.peer, current)
        if advanced:
            text = f"caught up with {link.peer.hex()[:8]}"
            turn.notify("round.done", text, {"rows": link.rows, "tables": advanced, "node_id": link.peer.hex()})
            turn.covered_more = True
        self._request_from_others(number, turn)
        self._request(number, turn)

    def _discard_partial(self, peer: bytes, current: _Round) -> None:
        """What is covered needs no remembering."""
        partial = self._partial.get(peer, {})
        for name in current.tables:
            partial.pop(name, None)
        if not partial:
            self._partial.pop(peer, None)

    def _release(self, number: int) -> None:
        self._due_at.pop(number, None)
        for name in [name for name, (link, _) in self._claims.items() if link == number]:
            del self._claims[name]

    # ---- time

    def on_timer(self, turn: Turn) -> None:
        """A gap that the live path did not fill is asked for; a round that stalled is given up, and others are asked."""
        for number, at in sorted(self._due_at.items()):
            if turn.now_ms >= at:
                self._on_overdue(number, turn)

    def _on_overdue(self, number: int, turn: Turn) -> None:
        link = self._links[number]
        if link.round is not None and link.round.audit is not None and not link.round.audit.awaiting_reply:
            self._continue_audit(number, None, turn)
            return
        link.requested.clear()
        self._release(number)
        if link.round is None:
            self._request(number, turn)
            return
        link.round.abandoned = True
        if link.round.audit is not None:
            link.round = None  # its stream has ended: nothing late can be taken for the next one's
        self._request_from_others(number, turn)
