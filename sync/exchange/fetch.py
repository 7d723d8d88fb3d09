"""The receiver's side of rounds: which tables to request from which peer, and how to apply the answers.

A round goes: request (Vectors), chunks of rows, end of stream (Done), and, if the sender has collected tombstones, an audit.
At the end the receiver adds the sender's vectors to its own.

Invariant: a table is fetched from one peer at a time while its claim lasts. The receiver takes a sender's vector only after
it has applied every chunk of the stream and has audited the rows whose delete the sender cannot send any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.errors import DatabaseError, KeyMismatchError, StatementError
from mycomesh.sync.exchange import notices
from mycomesh.sync.exchange.catch_up_stream import fitting
from mycomesh.sync.exchange.config import ExchangeConfig
from mycomesh.sync.exchange.intake import Intake
from mycomesh.sync.exchange.link_status import Progress
from mycomesh.sync.exchange.tombstone_audit import TombstoneAudit
from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.replica import Applied, Replica
from mycomesh.sync.replication.admission import clock_remedy
from mycomesh.sync.wire import messages as wire
from mycomesh.sync.wire.units import shown_unit, split_unit

__all__ = ["Fetcher", "Progress"]

# After a restart a stream repeats rows that are here already. No honest peer repeats more than four million rows.
NOOP_CHUNKS_MAX = 4_096
# The windows that broken streams delivered are remembered for this many peers.
PARTIAL_PEERS_MAX = 64
# How many comparisons in a row may leave a difference to the live path, provided that it has filled some gap since.
DEFERRALS_MAX = 3
# How often a long round reports its progress.
PROGRESS_MS = 1_000

# table -> (vector digest, entry digest)
Digests = Mapping[str, tuple[bytes, bytes]]


@dataclass(slots=True)
class _Round:
    """One round on one link."""

    tables: dict[str, bool]  # table -> whether this replica had entries of it at the request
    since_ms: int
    failed: bool = False  # a chunk was not applied, so the end of the stream proves nothing
    refused: bool = False  # ... because the peer's clock is too far ahead; do not retry immediately
    abandoned: bool = False  # nothing arrived for `stall_ms`; other peers may be asked
    noop_chunks: int = 0  # chunks in a row that changed nothing
    rows: int = 0
    expected: int = 0
    size: int = 0
    notified_at: int = 0
    audit: TombstoneAudit | None = None
    dropped: int = 0  # rows that the audit removed
    left_out: list[str] = field(default_factory=list)  # tables that the peer has sent in part


@dataclass(slots=True)
class _Link:
    peer: bytes
    digests: Digests = field(default_factory=dict)
    first: bool = True  # `digests` are the first ones on this link
    requested: dict[str, bytes] = field(
        default_factory=dict
    )  # table -> the peer's vector digest that a round has fetched or is fetching
    round: _Round | None = None
    misfit: str = ""  # the last one that was reported
    failures: int = 0
    refused: bool = False  # the last round failed because stamps lay in the future
    rows: int = 0
    owed: int = 0  # bytes of chunks that are not acknowledged: the peer pauses while this file takes in nothing
    # This replica's vector digests when it deferred the request; None if no request is deferred.
    deferred_vectors: Mapping[str, bytes] | None = None
    deferrals: int = 0  # in a row
    outdated: bool = False  # a deferred request was dropped, as the table had changed: `digests` are old
    doubted: dict[str, int] = field(
        default_factory=dict
    )  # table -> when to audit again what the peer reports as deleted


class Fetcher:
    """The rounds of all links."""

    def __init__(self, replica: Replica, config: ExchangeConfig, intake: Intake) -> None:
        self._replica = replica
        self._config = config
        self._intake = intake
        self._links: dict[int, _Link] = {}
        self._claims: dict[str, tuple[int, int]] = {}  # table -> (link that fetches it, since when)
        self._due_at: dict[int, int] = {}  # link -> when to request, or to abandon its round
        self._partial: dict[bytes, dict[str, Vector]] = {}  # peer -> windows that broken streams delivered

    def on_link_opened(self, number: int, peer: bytes) -> None:
        """Register a link."""
        self._links[number] = _Link(peer)

    def on_link_closed(self, number: int, turn: Turn) -> None:
        """Remove a link; request its unfinished tables from other peers soon."""
        self._links.pop(number, None)
        self._release(number)
        for other in sorted(self._links):
            self.request_soon(other, turn.now_ms)

    def take_outdated(self, number: int) -> bool:
        """Return whether the next comparison on a link has to ask for the peer's digests; once for each time."""
        link = self._links[number]
        outdated, link.outdated = link.outdated, False
        return outdated

    def retry_refused(self, now_ms: int) -> None:
        """Request at once what was refused as too new: this node's time has gone forward."""
        for number, link in self._links.items():
            if link.refused and link.round is None and number in self._due_at:
                self._due_at[number] = now_ms

    def next_deadline(self) -> int | None:
        """Return when `on_timer` is due."""
        return min(self._due_at.values(), default=None)

    def is_fetching(self, name: str, now_ms: int) -> bool:
        """Return whether a round is fetching a table. Until it ends, the table has more entries than its vector covers."""
        return not self._unclaimed(name, now_ms)

    def rows_received(self, number: int) -> int:
        """Return how many changes arrived on a link."""
        return self._links[number].rows

    def progress(self, number: int, now_ms: int) -> Progress | None:
        """Return the progress of the round on a link; None if there is no active round."""
        current = self._links[number].round
        if current is None or current.abandoned:
            return None
        left_ms = None
        if current.rows and current.expected >= current.rows:
            left_ms = (now_ms - current.since_ms) * (current.expected - current.rows) // current.rows
        return Progress(current.rows, current.expected, current.size, left_ms)

    # ---- requests

    def on_digests(self, number: int, theirs: Digests, turn: Turn, *, first: bool) -> None:
        """Compare a peer's digests with our vectors, and request what differs.

        The `first` digests of a link are acted on at once. On later ones most differences are live batches under way, so we
        wait for `gap_ms` and request only the tables that did not change meanwhile.
        """
        link = self._links[number]
        link.digests, link.first, link.outdated = theirs, first, False
        mine = self._vectors()
        self._settle_claims(link, mine)
        if (
            first
            or link.deferrals >= DEFERRALS_MAX
            or number in self._due_at
            or not self._tables_to_request(link, mine, turn.now_ms)
        ):
            self._request(number, turn, mine)
            return
        self.request_soon(number, turn.now_ms)
        link.deferrals += 1
        link.deferred_vectors = mine

    def _settle_claims(self, link: _Link, mine: Mapping[str, bytes]) -> None:
        """Drop the doubts about tables that are equal, or about which a person has decided."""
        guard = self._replica.drop_guard
        for name in guard.claimed_by(link.peer):
            if name in link.digests and link.digests[name][0] == mine.get(name):
                guard.settle(name, link.peer)
            elif guard.is_decided(name, link.peer):
                link.doubted.pop(name, None)
                link.requested.pop(name, None)

    def request_soon(self, number: int, now_ms: int) -> None:
        """Schedule a request to a peer after the live path has shown a gap; it is dropped if the gap fills first."""
        if number in self._links:
            self._links[number].deferred_vectors = None
            self._due_at.setdefault(number, now_ms + self._config.gap_ms)

    def _request(self, number: int, turn: Turn, mine: Mapping[str, bytes] | None = None) -> None:
        """Begin a round for the tables where the peer may cover more than we do, except those that another peer sends.

        `mine` are the digests of our vectors if the caller has just read them.
        """
        link = self._links[number]
        if link.round is not None:
            return  # one round at a time: the end of one stream must not pass for the end of another
        if not self._intake.is_open:
            return  # `on_intake_open` requests
        before, link.deferred_vectors = link.deferred_vectors, None
        mine = self._vectors() if mine is None else mine
        wanted = self._tables_to_request(link, mine, turn.now_ms)
        if before is not None:
            # A table that has changed since makes the peer's digests old. Each change leads to another comparison, which
            # asks for new ones: a peer that has sent its last batch, and withheld some on a congested link, sends none.
            unchanged = [name for name in wanted if mine.get(name) == before.get(name)]
            link.outdated = len(unchanged) < len(wanted)
            wanted = unchanged
        if not wanted:
            return
        wanted = fitting(self._replica, wanted)  # the end of this round requests the others
        link.deferrals = 0
        for name in wanted:
            self._claims[name] = number, turn.now_ms
            link.requested[name] = link.digests[name][0]
        link.round = _Round({name: self._has_entries(name) for name in wanted}, turn.now_ms, notified_at=turn.now_ms)
        vectors = wire.Vectors(tuple((name, self._covered_from(name, link.peer)) for name in wanted))
        turn.send(number, vectors, urgent=link.first and self._replica.priority.has_urgent)
        self._due_at[number] = turn.now_ms + self._config.stall_ms

    def _vectors(self) -> dict[str, bytes]:
        return {name: vector for name, (vector, _) in self._replica.digest_pairs(remember=True).items()}

    def _tables_to_request(self, link: _Link, mine: Mapping[str, bytes], now_ms: int) -> list[str]:
        """Return the tables where the peer's vector differs from ours and no round fetches that difference yet."""
        return [
            name
            for name, (vector, _) in sorted(link.digests.items())
            if mine.get(name) != vector
            # The first request of a link also goes to a peer that is behind. It shows whether a file was restored from a
            # backup, theirs or ours.
            and (link.first or not self._peer_is_behind(name, vector))
            and link.requested.get(name) != vector
            and self._unclaimed(name, now_ms)
            and link.doubted.get(name, 0) <= now_ms
            and self._replica.admits(name)
            and not self._replica.inbox.is_closed(name)
            and not self._replica.retention.is_cutting(name)  # else an audit would meet rows that are about to go
            and self._replica.rights.may_write(link.peer, name)
        ]

    def _has_entries(self, name: str) -> bool:
        unit = self._replica.registry.unit(name)
        return unit is not None and unit.has_entries

    def _peer_is_behind(self, name: str, vector: bytes) -> bool:
        """Return whether this replica had the peer's vector a moment ago: the peer requests from us, not we from it."""
        unit = self._replica.registry.unit(name)
        return unit is not None and unit.has_had(vector)

    def _unclaimed(self, name: str, now_ms: int) -> bool:
        claim = self._claims.get(name)
        return claim is None or now_ms >= claim[1] + self._config.claim_ms

    def _covered_from(self, name: str, peer: bytes) -> Vector:
        """Return the vector to request with: our own, and the windows that a broken stream of this peer filled."""
        if self._replica.inbox.begin_round(name):
            for windows in self._partial.values():
                windows.pop(name, None)
        vector = self._replica.vector(name)
        partial = self._partial.get(peer, {}).get(name)
        if partial is not None:
            vector.merge(partial)
        return vector

    def _request_from_others(self, number: int, turn: Turn) -> None:
        for other in sorted(self._links):
            if other != number:
                self._request(other, turn)

    # ---- answers

    def on_plan(self, number: int, changes: int, now_ms: int) -> None:
        """Note about how many changes the stream will have; a later one shows that a stream which waits goes on."""
        current = self._links[number].round
        if current is not None:
            current.expected = current.rows + changes
            if current.abandoned:
                self._due_at[number] = now_ms + self._config.dead_ms

    def on_chunk(self, number: int, bundle: bytes, size: int, turn: Turn) -> Applied | None:
        """Apply one chunk, which had `size` bytes on the wire; return None if it was not applied."""
        link = self._links[number]
        current = link.round
        if current is None or current.audit is not None:
            turn.drop(number, "sends rows that were not requested")
            return None
        current.abandoned = False  # the stream has resumed, so its rows need no second request
        self._due_at[number] = turn.now_ms + self._config.stall_ms
        current.size += size
        link.owed += size
        self._intake.check_space(turn)
        failed, current.failed = current.failed, True  # while these rows are missing, the sender's vector is not taken
        if not self._intake.is_open:
            return None
        try:
            applied = self._replica.apply(bundle, turn.wall_ms, sender=link.peer)
        except (KeyMismatchError, StatementError) as error:
            # Keep the link: an honest peer will learn the table's definition over it, and cannot know what SQLite fails on here.
            applied = Applied(misfit=str(error))
        current.failed = failed
        self._acknowledge(number, turn)
        turn.publish(applied.published)
        if applied.misfit:
            current.failed = True
            if link.misfit != applied.misfit:  # each further round meets it again
                link.misfit = applied.misfit
                notices.notify_refused(link.peer, 0, applied.misfit, turn)
        elif applied.refused:
            current.failed = current.refused = True
            why = f"stamped in the future; {clock_remedy(turn.wall_ms)}"
            notices.notify_refused(link.peer, applied.refused, why, turn)
        elif applied.withheld or applied.unsigned:
            current.failed = True
        else:
            if applied.crowded:  # the round goes on, and covers nothing of these sites
                notices.notify_refused(
                    link.peer, applied.crowded, "more sites or policies than this file has room for", turn
                )
            if not current.failed:  # else this chunk may leave out what an earlier one should have brought
                self._record_partial(link.peer, applied)
        current.rows += applied.changes
        link.rows += applied.merged.changes
        current.noop_chunks = 0 if applied.merged.changes else current.noop_chunks + 1
        if current.noop_chunks > NOOP_CHUNKS_MAX:
            turn.drop(number, "sends a round that changes nothing and does not end")
        self._notify_progress(number, link, current, turn)
        return applied

    def _acknowledge(self, number: int, turn: Turn) -> None:
        """Tell the peer that it may send more."""
        link = self._links[number]
        if link.owed:
            turn.send(number, wire.Ack(link.owed))
            link.owed = 0

    def on_file_error(self, number: int, turn: Turn) -> None:
        """Have the round of a link begun again: the file refused in the middle of a message, which is lost."""
        link = self._links.get(number)
        if link is None:
            return
        if self._intake.is_open:
            self._acknowledge(number, turn)
        current = link.round
        if current is None:
            link.requested.clear()
            link.failures += 1
            self._due_at[number] = turn.now_ms + self._backoff_ms(link)
            return
        current.failed = True
        if current.audit is not None:
            self._finish(number, turn, [])

    def on_intake_open(self, turn: Turn) -> None:
        """Let all streams go on, and begin the rounds that waited."""
        for number, link in sorted(self._links.items()):
            self._acknowledge(number, turn)
            if link.round is not None:
                self._due_at[number] = turn.now_ms + self._config.stall_ms
                continue
            link.requested.clear()
            link.failures, link.deferred_vectors = 0, None
            self._due_at[number] = turn.now_ms

    def _record_partial(self, peer: bytes, applied: Applied) -> None:
        """Remember the windows that a chunk filled, so that this peer need not send them again (ADR 0003).

        They do not count for other peers: the windows describe what this sender had looked through.
        """
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
        notices.notify_progress(link.peer, progress, turn)

    def on_done(self, number: int, message: wire.Done, turn: Turn) -> None:
        """Handle the end of a stream: begin the audit, unless a chunk of the round was not applied."""
        link = self._links[number]
        current = link.round
        if current is None or current.audit is not None:
            turn.drop(number, "ends a stream that was not requested")
            return
        if current.abandoned:
            link.round = None
            self._request(number, turn)
            return
        vectors = {name: vector for name, vector in message.vectors if name in current.tables}
        collected = {name: vector for name, vector in message.collected if name in vectors}
        # Other tables did not fit the peer's round, or its budgets. If nothing came, this peer has none of them for this node.
        partial = self._partial.get(link.peer, {})
        current.left_out = [name for name in current.tables if name not in vectors and (vectors or name in partial)]
        for name in current.left_out:
            link.requested.pop(name, None)
        if current.failed:
            self._finish(number, turn, [])
            return
        not_empty = [name for name, had_entries in current.tables.items() if had_entries]
        audit = TombstoneAudit(self._replica, vectors, collected, not_empty)
        current.audit = audit
        self._continue_audit(number, audit.begin(), turn)

    def on_audit_reply(self, number: int, message: wire.AuditReply, turn: Turn) -> None:
        """Continue the audit with the entries that the peer reports."""
        current = self._links[number].round
        if current is not None and current.audit is not None and current.audit.awaiting_reply:
            self._continue_audit(number, current.audit.on_audit_reply(message), turn)

    def _continue_audit(self, number: int, request: wire.AuditRequest | None, turn: Turn) -> None:
        """Send the next request of the audit; with None, all replies are here: remove rows, then end the round."""
        if request is not None:
            turn.send(number, request)
            self._due_at[number] = turn.now_ms + self._config.stall_ms
            return
        current = self._links[number].round
        assert current is not None
        assert current.audit is not None
        self._notify_doubted(self._links[number], current.audit.judge(self._links[number].peer, turn.wall_ms), turn)
        outcome = current.audit.step(turn.wall_ms)
        turn.publish(outcome.published)
        current.dropped += outcome.rows
        if outcome.kept:
            notices.notify_kept(self._links[number].peer, outcome.kept, turn)
        if not outcome.done:
            self._due_at[number] = turn.now_ms
            return
        if current.dropped:
            notices.notify_audited(self._links[number].peer, current.dropped, turn)
        self._finish(number, turn, outcome.advanced)
        # Areas of a table that this node has not cut yet, although it knows of the decision, were left out.
        uncut = [name for name in current.tables if split_unit(name) and self._replica.registry.unit(name) is None]
        for name in [*outcome.incomplete, *uncut]:
            # The sender's clock is a little ahead, or this node is. The next comparison requests the rest.
            self._links[number].requested.pop(name, None)

    def _notify_doubted(self, link: _Link, doubted: Mapping[str, int], turn: Turn) -> None:
        """Leave the tables in doubt for a while, unless another peer or a person settles them (`drop_guard`)."""
        for name, count in doubted.items():
            link.doubted[name] = turn.now_ms + self._config.doubt_ms
            notices.notify_doubted(link.peer, self._replica.registry.local_name(name), count, turn)

    def _finish(self, number: int, turn: Turn, advanced: list[str]) -> None:
        link = self._links[number]
        current = link.round
        assert current is not None
        self._release(number)
        link.round = None
        link.refused = current.failed and current.refused
        if current.failed:
            link.failures += 1
            for name in current.tables:
                link.requested.pop(name, None)
            wait_ms = self._config.compare_ms if current.refused else self._backoff_ms(link)
            self._due_at[number] = turn.now_ms + wait_ms
            return
        link.failures = 0
        self._discard_partial(link, current, turn.now_ms)
        if advanced:
            text = f"caught up with {link.peer.hex()[:8]}"
            detail = {"rows": link.rows, "tables": [*map(shown_unit, advanced)], "node_id": link.peer.hex()}
            turn.notify("round.done", text, detail)
            turn.covered_more = True
        self._request_from_others(number, turn)
        self._request(number, turn)

    def _backoff_ms(self, link: _Link) -> int:
        """Return how long to wait before the next request after failed ones."""
        return min(self._config.gap_ms << min(link.failures, 16), self._config.compare_ms)

    def _discard_partial(self, link: _Link, current: _Round, now_ms: int) -> None:
        """Forget the partial windows of tables that the vector covers after the round."""
        partial = self._partial.get(link.peer, {})
        for name in current.tables:
            if link.doubted.get(name, 0) <= now_ms and name not in current.left_out:
                partial.pop(name, None)
        if not partial:
            self._partial.pop(link.peer, None)

    def _release(self, number: int) -> None:
        self._due_at.pop(number, None)
        for name in [name for name, (link, _) in self._claims.items() if link == number]:
            del self._claims[name]

    # ---- time

    def on_timer(self, turn: Turn) -> None:
        """Request what the live path did not fill, and abandon rounds that stalled so that other peers are asked."""
        for number, at in sorted(self._due_at.items()):
            if turn.now_ms >= at:
                try:
                    self._on_overdue(number, turn)
                except DatabaseError:
                    self.on_file_error(number, turn)
                    raise

    def _on_overdue(self, number: int, turn: Turn) -> None:
        link = self._links[number]
        if link.round is not None and link.round.audit is not None and not link.round.audit.awaiting_reply:
            self._continue_audit(number, None, turn)
            return
        if link.owed:  # this side keeps the stream waiting
            self._due_at[number] = turn.now_ms + self._config.stall_ms
            return
        link.requested.clear()
        self._release(number)
        if link.round is None:
            self._request(number, turn)
            return
        if link.round.abandoned:
            turn.drop(number, f"its round has brought nothing for {self._config.dead_ms // 1000} s")
            return
        link.round.abandoned = True
        if link.round.audit is not None:
            link.round = None  # its stream has ended, so no late message can pass for one of the next round
        else:
            self._due_at[number] = turn.now_ms + self._config.dead_ms
        self._request_from_others(number, turn)
