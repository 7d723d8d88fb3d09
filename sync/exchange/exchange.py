"""The sync protocol of one node: live batches, and anti-entropy with each linked peer.

`Exchange.handle` takes one event with both times and returns the actions to perform; it does no I/O and reads no clock.

- Live: each commit is drained into batches, which the mesh spreads. Received batches are applied at once.
- Comparison: linked peers exchange a digest pair for each table, at the opening of a link, after changes and periodically.
- Round: where vectors differ, `fetch` requests a stream of the missing changes and `serve` sends it.
- Repair: where vectors are equal and digests differ, `repair_schedule` finds the damaged rows and both sides exchange them.

Invariants: a batch is published only after it is committed; the work for one peer is bounded by its acknowledgements; an
error of the file in any step of a round ends in a retry or a closed link (tests/sync/exchange/test_intake.py).
See design.md sections 4 to 6, and docs/PROTOCOL.md for the messages.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from functools import partial
from typing import assert_never

import apsw

from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.errors import BatchRefusedError, DatabaseError, DecodeError, FileReplacedError
from mycomesh.sync.events import (
    Action,
    BatchesReceived,
    BatchReceived,
    CommitSeen,
    CompareRequested,
    CoverageRequested,
    DropLink,
    Event,
    LinkClosed,
    LinkOpened,
    LinkWritable,
    MembersKnown,
    MessageReceived,
    Publish,
    RightsKnown,
    ScrubRequested,
    TimeKnown,
    TimerFired,
)
from mycomesh.sync.exchange import notices, tombstone_audit
from mycomesh.sync.exchange.acknowledgements import Acknowledgements
from mycomesh.sync.exchange.area_comparison import AreaComparison
from mycomesh.sync.exchange.area_release import AreaRelease
from mycomesh.sync.exchange.area_status import AreaStatus, area_statuses
from mycomesh.sync.exchange.checkpoint_schedule import CheckpointSchedule
from mycomesh.sync.exchange.clock_correction import ClockCorrection
from mycomesh.sync.exchange.config import ExchangeConfig
from mycomesh.sync.exchange.fetch import Fetcher
from mycomesh.sync.exchange.flow_control import WINDOW_FIRST, WINDOW_MIN, SendWindow, TokenBucket
from mycomesh.sync.exchange.intake import FileTrouble, Host, Intake
from mycomesh.sync.exchange.interest_repeats import InterestRepeats
from mycomesh.sync.exchange.interest_report import InterestReport
from mycomesh.sync.exchange.link import NOBODY, Link
from mycomesh.sync.exchange.link_status import LinkStatus
from mycomesh.sync.exchange.purge_schedule import PurgeSchedule
from mycomesh.sync.exchange.repair_schedule import RepairSchedule
from mycomesh.sync.exchange.retention_schedule import RetentionSchedule
from mycomesh.sync.exchange.schema_debounce import SchemaDebounce
from mycomesh.sync.exchange.scrub_schedule import ScrubSchedule
from mycomesh.sync.exchange.serve import CatchUpServer
from mycomesh.sync.exchange.tombstone_gc import TombstoneGC
from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.replica import Applied, Replica
from mycomesh.sync.replication.rights import Rights
from mycomesh.sync.schema.facts import SCHEMA_TABLE
from mycomesh.sync.wire import messages as wire
from mycomesh.sync.wire.parts import PART_TABLES_MAX
from mycomesh.sync.wire.units import split_unit, summary_table, table_of

__all__ = ["Exchange", "ExchangeConfig", "LinkStatus"]

# Comparisons, audits and coverage reports that a peer may request: a burst, and one more each half second.
REQUESTS_MAX = 64
REQUESTS_PERIOD_MS = 500
# The periodic comparison comes early by up to this fraction (1/JITTER) of its period.
JITTER = 4
UNEQUAL = (b"", b"")  # equals the digests of nothing
SAFETY_FACTOR = (
    4  # of `safety_ms`: a quarter of the wakeups at rest, and a write that nothing announced waits 4 s at most
)


class Exchange:
    """The sync half of a node: one replica, and the conversation with each linked peer."""

    def __init__(
        self, replica: Replica, *, rng: random.Random, config: ExchangeConfig, host: Host | None = None
    ) -> None:
        """Take what the machine knows about the file (`host`), nothing by default."""
        self._replica = replica
        self._rng = rng
        self._config = config
        self._links: dict[int, Link] = {}
        self._recreated = replica.recreated
        self._intake = Intake(replica.store, host or Host(), replica.inbox.on_free_space)
        self._fetcher = Fetcher(replica, config, self._intake)
        self._server = CatchUpServer(replica)
        self._repairs = RepairSchedule(replica, config, self._fetcher.is_fetching, self._intake)
        self._tombstone_gc = TombstoneGC(replica, config)
        self._purges = PurgeSchedule(replica, config, self._is_level)
        self._releases = AreaRelease(replica, config, self._repairs.send_rows)
        self._areas = AreaComparison(replica)
        self._interest_repeats = InterestRepeats(replica)
        self._interest_report = InterestReport(replica, lambda: self._releases.held, config.copies)
        self._scrub = ScrubSchedule(replica, config)
        self._checkpoints = CheckpointSchedule(replica.store)
        self.acknowledgements = Acknowledgements(replica)
        self._clock_correction = ClockCorrection(replica, self.acknowledgements, config)
        self._retention = RetentionSchedule(replica, config, self._clock_correction)
        self._schema_debounce = SchemaDebounce()
        self._drain_at: int | None = 0
        self._safety_ms = config.safety_ms
        self._settled_at: int | None = None  # when to compare because of the latest change
        self._settle_not_before = 0  # the earliest time of the next such comparison
        self._retry_at = 0  # after an error of the file no deadline is due before this

    @property
    def replica(self) -> Replica:
        """The replica that this exchange speaks for."""
        return self._replica

    def handle(self, event: Event, now_ms: int, wall_ms: int) -> list[Action]:
        """Handle one event and return the actions to perform, in order. `now_ms` is monotonic, `wall_ms` is Unix time.

        Raises:
            FileReplacedError: the content of the file is not what the replica left; open the file again.
        """
        turn = Turn(now_ms, self._clock_correction.wall_ms(now_ms, wall_ms))
        try:
            self._attempt(lambda: self._dispatch_event(event, turn), turn)
            self._attempt(lambda: self._finish_turn(turn), turn)
        except apsw.SQLError:  # another program may have dropped an internal table
            self._replica.store.check_whole()
            raise
        published = [action.payload for action in turn.actions if isinstance(action, Publish)]
        if self._links and published:
            self._replica.inbox.note_shown()
        self._report_withheld(published, turn)
        self._observe_file(turn)
        recreated, self._recreated = self._recreated, ()
        notices.notify_restored(recreated, self._replica.catalog.take_rebuilt(), turn)
        notices.notify_adopted(self._replica.catalog.take_doubling(), turn)
        return turn.actions

    def publish(self, batches: list[bytes]) -> list[Action]:
        """Return the actions for local batches that were committed outside of `handle`, as by a reader of the change feed."""
        turn = Turn(0, 0)
        turn.publish(batches)
        self._report_withheld(batches, turn)
        return turn.actions

    @property
    def file_trouble(self) -> FileTrouble | None:
        """Why the file takes in no rows of other nodes; None while it does. Any thread may read this."""
        return self._intake.trouble

    def _attempt(self, step: Callable[[], None], turn: Turn) -> bool:
        """Take a step that uses the file; return False if the file refused. The caller sees that the step is repeated.

        The actions of the turn stay: what was committed before the error must be published and acknowledged.
        """
        try:
            with self._replica.store.translated():
                step()
        except FileReplacedError:
            raise
        except DatabaseError:
            self._observe_file(turn)
            self._retry_at = max(self._retry_at, turn.now_ms + max(self._config.busy_ms, self._intake.pause_ms))
            self._drain_at = turn.now_ms
            return False
        return True

    def _observe_file(self, turn: Turn) -> None:
        """Close the intake if the file has refused; open it, and begin the rounds that waited, if the file has not."""
        if self._intake.observe(turn):
            self._attempt(lambda: self._fetcher.on_intake_open(turn), turn)

    def _dispatch_event(self, event: Event, turn: Turn) -> None:
        match event:
            case BatchReceived() | BatchesReceived():
                self._on_live(event, turn)
            case LinkOpened() | LinkClosed() | LinkWritable() | MessageReceived():
                self._on_peer(event, turn)
            case CommitSeen(writing):
                self._on_commit(turn, writing=writing)
            case ScrubRequested():
                self._scrub.request(turn)
            case CompareRequested():
                self._drain(turn)
                self._compare_all(turn, answer=True)
            case CoverageRequested():
                self._drain(turn)
                self.acknowledgements.request_coverage(turn)
            case MembersKnown() | RightsKnown() | TimeKnown():
                self._on_mesh_state(event, turn)
            case TimerFired():
                self._on_timer(turn)
            case _:
                assert_never(event)

    def _finish_turn(self, turn: Turn) -> None:
        """Schedule what follows from the changes of this turn."""
        self._interest_report.look(turn.now_ms)
        if turn.covered_more:
            self._releases.wake(turn.now_ms)
            self._compare_all(turn)
        if turn.changed:
            self._safety_ms = self._config.safety_ms
            if self._drain_at is not None:
                self._drain_at = min(self._drain_at, turn.now_ms + self._safety_ms)
            self._releases.wake(turn.now_ms)
            self._checkpoints.on_commit(turn.now_ms)
            self._settle(turn.now_ms)
            if self._replica.outbox.has_retries:
                self._drain_at = turn.now_ms

    def next_deadline(self) -> int | None:
        """Return the monotonic millisecond at which `TimerFired` is due."""
        times = [link.compare_at for link in self._links.values()]
        parts = (
            self._fetcher, self._tombstone_gc, self._scrub, self._clock_correction, self._intake, self._checkpoints,
            self._purges, self._retention, self._releases, self._server, self._interest_report,
        )  # fmt: skip
        due = (self._drain_at, self._settled_at, *(part.next_deadline() for part in parts))
        times += [at for at in due if at is not None]
        return max(min(times), self._retry_at) if times else None

    def links(self, now_ms: int = 0) -> tuple[LinkStatus, ...]:
        """Return the status of every link, by link number; a pure read that changes no behaviour."""
        shown = self._replica.registry.local_name
        registry = self._replica.registry
        cut = [
            name
            for name, table in registry.tables.items()
            if not registry.has_base(table) and not (table.areas and table.areas.idle)
        ]
        result = []
        for number in sorted(self._links):
            link, mine = self._links[number], self._digests_for(number, remember=False)
            unequal = self._areas.behind(number)
            for name in [name for name in mine if summary_table(name) is not None]:
                table = summary_table(name) or ""
                if mine.pop(name) != link.digests.get(name, UNEQUAL) and table not in map(table_of, unequal):
                    unequal.append(table)
            mine |= dict.fromkeys(unequal, UNEQUAL)
            rows = self._server.rows_sent(number), self._fetcher.rows_received(number)
            progress = self._fetcher.progress(number, now_ms)
            streaming, waiting = self._server.is_streaming(number), self._server.waiting(number, now_ms)
            admitted = partial(self._replica.shares, link.peer)
            result.append(
                link.status(
                    mine, shown, admitted, rows, progress, now_ms, streaming=streaming, waiting=waiting, cut=cut
                )
            )
        return tuple(result)

    def areas(self, members: Collection[bytes], now_ms: int = 0) -> tuple[AreaStatus, ...]:
        """Return the state of every area that this file knows, given the node ids of the other members; a pure read."""
        peers = []
        for number, link in sorted(self._links.items()):
            digests, since = self._areas.known(number, link.digests, link.equal_since)
            equal_ms = {name: now_ms - at for name, at in since.items()}
            peers.append((link.peer, digests, equal_ms, link.compared_at is not None))
        return area_statuses(self._replica, peers, members, self._config.copies)

    def drop_links(self, reason: str) -> list[Action]:
        """Return the actions that close every link, for the exchange that opens the file next."""
        return [DropLink(number, reason) for number in sorted(self._links)]

    def _on_mesh_state(self, event: MembersKnown | RightsKnown | TimeKnown, turn: Turn) -> None:
        """Take the mesh's view of its members: who they are, their rights, and the time."""
        match event:
            case MembersKnown(members):
                self._tombstone_gc.on_members(members, turn)
                self._retention.on_members(len(members))
                self._releases.on_members([node for node, _ in members])
            case RightsKnown(own, grants, certificates, purges):
                self._replica.set_rights(Rights(own, grants))
                self._purges.on_orders(purges, turn)
                for certificate in certificates:
                    self._replica.store.signers.learn(certificate)
            case TimeKnown():
                if self._clock_correction.on_time(event, turn):
                    self._fetcher.retry_refused(turn.now_ms)
                self._retention.on_time(linked=bool(self._links))
            case _:
                assert_never(event)

    def _report_withheld(self, batches: list[bytes], turn: Turn) -> None:
        """Report what this node wrote without a right, whatever made it drain: a commit, a merge, a comparison or a reader."""
        kept = self._replica.rights.forbidden_tables(batches)
        if kept:
            notices.notify_withheld(kept, turn)

    # ---- links

    def _on_peer(self, event: LinkOpened | LinkClosed | LinkWritable | MessageReceived, turn: Turn) -> None:
        match event:
            case MessageReceived(link, payload):
                self._on_message(link, payload, turn)
            case LinkOpened(link, peer, metered):
                self._on_opened(link, peer, turn, metered=metered)
            case LinkClosed(link):
                self._on_closed(link, turn)
            case LinkWritable():
                pass  # acknowledgements pace the streams, so the transport's queue needs no help
            case _:
                assert_never(event)

    def _on_opened(self, number: int, peer: bytes, turn: Turn, *, metered: bool) -> None:
        at = self._jittered(turn.now_ms, self._config.compare_ms)
        window = SendWindow(size=WINDOW_MIN if metered else WINDOW_FIRST)
        self._links[number] = Link(peer, at, window, TokenBucket(REQUESTS_MAX, REQUESTS_PERIOD_MS))
        self._fetcher.on_link_opened(number, peer)
        self._server.on_link_opened(number, window, metered=metered)
        self._repairs.on_link_opened(number, peer, window)
        self.acknowledgements.on_link_opened(number, peer)
        self._releases.on_link_opened(number, peer)
        self._areas.on_link_opened(number, peer)
        self._releases.wake(turn.now_ms)
        self._attempt(lambda: self._interest_repeats.on_link_opened(turn.now_ms), turn)
        self._drain(turn)
        self._compare(number, turn)

    def _on_closed(self, number: int, turn: Turn) -> None:
        self._links.pop(number, None)
        self._fetcher.on_link_closed(number, turn)
        self._server.on_link_closed(number)
        self._repairs.on_link_closed(number)
        self.acknowledgements.on_link_closed(number)
        self._releases.on_link_closed(number)
        self._areas.on_link_closed(number)

    # ---- local writes

    def _on_commit(self, turn: Turn, *, writing: bool) -> None:
        """Drain; after a schema change wait until the programs that made it pause (`schema_debounce`)."""
        self._checkpoints.on_commit(turn.now_ms)
        version = self._replica.outbox.schema_change() if writing else None
        due = None if version is None else self._schema_debounce.defer(version, turn.now_ms)
        if due is None:
            self._drain(turn)
        else:
            self._drain_at = due

    def _drain(self, turn: Turn) -> None:
        """Publish one chunk of local writes; a timer continues with the next chunk, so that links are served in between."""
        self._drain_at = turn.now_ms
        self._attempt(lambda: self._drain_chunk(turn), turn)

    def _drain_chunk(self, turn: Turn) -> None:
        moving = self._replica.outbox.is_moving
        published, more = self._replica.drain(turn.wall_ms)
        if moving and not self._replica.outbox.is_moving:
            self._settle(turn.now_ms)  # a table has areas from here on, which no link has compared
        self._safety_ms = self._config.safety_ms
        self._drain_at = turn.now_ms if more else turn.now_ms + self._safety_ms
        self._schema_debounce.reset()
        turn.publish(published)

    def _settle(self, now_ms: int) -> None:
        """Schedule a comparison after the last change. While changes keep coming, only the periodic comparison happens.

        The more links a node has, the longer it waits between such comparisons (`_on_timer`). Otherwise each write of any
        node in a large mesh would cost every link a comparison.
        """
        self._settled_at = max(now_ms + self._config.settle_ms, self._settle_not_before)

    def _jittered(self, now_ms: int, period_ms: int) -> int:
        return now_ms + period_ms - self._rng.randrange(period_ms // JITTER + 1)

    # ---- live batches

    def _on_live(self, event: BatchReceived | BatchesReceived, turn: Turn) -> None:
        """Apply all batches in one transaction. Each alone would cost a transaction, and a disk sync if local writes wait."""
        batches = event.batches if isinstance(event, BatchesReceived) else (event,)
        arrived: list[Applied] = []

        def apply() -> None:
            arrived.extend(self._replica.apply_all([(batch.payload, batch.origin) for batch in batches], turn.wall_ms))

        self._intake.check_space(turn)
        try:
            if not self._intake.is_open or not self._attempt(apply, turn):
                for batch in batches:
                    self._fetcher.request_soon(batch.link, turn.now_ms)  # a round will bring what was not applied
                return
        except (DecodeError, BatchRefusedError) as error:
            if len(batches) > 1:
                # One bad batch fails the transaction of all. Apply each alone, so that only the bad one is refused.
                for batch in batches:
                    self._on_live(batch, turn)
                return
            origin = batches[0].origin.hex()
            turn.notify("batch.refused", f"refused a batch from {origin[:8]}: {error}", {"node_id": origin}, "warning")
        else:
            for batch, applied in zip(batches, arrived, strict=True):
                self._on_applied(batch, applied, turn)

    def _on_applied(self, batch: BatchReceived, applied: Applied, turn: Turn) -> None:
        turn.publish(applied.published)
        if applied.forbidden:
            notices.notify_forbidden(batch.origin, applied.forbidden, turn)
        turn.changed = turn.changed or applied.merged.changes > 0
        notices.notify_applied(applied, self._replica.site, turn)
        if applied.gaps or applied.unknown or applied.unsigned:
            self._fetcher.request_soon(batch.link, turn.now_ms)

    # ---- messages of peers

    def _on_message(self, number: int, payload: bytes, turn: Turn) -> None:
        if number not in self._links:
            return
        try:
            message = self._links[number].joiner.on_message(wire.decode(payload), len(payload))
            if message is not None and not self._attempt(
                lambda: self._dispatch_message(number, message, len(payload), turn), turn
            ):
                self._fetcher.on_file_error(number, turn)
        except DecodeError as error:
            turn.drop(number, f"protocol error: {error}")
        else:
            self._step_streams(turn)

    def _dispatch_message(self, number: int, message: wire.WholeMessage, size: int, turn: Turn) -> None:
        match message:
            case wire.Digests(tables, answer):
                self._on_digests(number, {name: (vector, entries) for name, vector, entries in tables}, turn)
                if answer and self._links[number].requests.take(turn.now_ms):
                    self._compare(number, turn)
            case wire.Plan() | wire.Chunk() | wire.Done() | wire.AuditReply():
                self._on_round_message(number, message, size, turn)
            case wire.Vectors(vectors):
                peer = self._links[number].peer
                self._on_met(peer, vectors, turn)
                self._replica.inbox.note_shown()
                readable = {name: have for name, have in vectors if self._replica.rights.may_read(peer, name)}
                self._server.on_vectors(number, readable, turn)
            case wire.Ack(acked):
                self._links[number].window.on_ack(acked, turn.now_ms)
            case wire.AuditRequest():
                self._on_audit_request(number, message, turn)
            case wire.AreaDigests():
                self._on_area_digests(number, message, turn)
            case wire.CoverageRequest() | wire.CoverageReply():
                self._on_coverage_message(number, message, turn)
            case wire.TableSketch() | wire.RepairRequest():
                self._repairs.on_repair_request(number, message, turn)
            case wire.RepairRows():
                applied = self._repairs.on_repair_rows(number, message, size, turn)
                if applied is not None:
                    notices.notify_applied(applied, self._replica.site, turn)
            case _:
                assert_never(message)

    def _on_audit_request(self, number: int, request: wire.AuditRequest, turn: Turn) -> None:
        if not self._links[number].requests.take(turn.now_ms):
            turn.drop(number, "requests audits too often")
        elif split_unit(request.table) or self._replica.rights.may_read(self._links[number].peer, request.table):
            tombstone_audit.serve(self._replica, number, request, turn)

    def _on_met(self, peer: bytes, vectors: tuple[tuple[str, Vector], ...], turn: Turn) -> None:
        """Take a new site if a peer covers more of this one than the file itself; note how much that is."""
        if peer == NOBODY:  # it claims to cover what it is not to get yet
            return

        def renew() -> None:
            if self._replica.inbox.renew_site_if_behind(dict(vectors)):
                notices.notify_new_site(self._replica.site, turn)

        self._attempt(renew, turn)  # after an error the next request repeats this
        units = ((self._replica.registry.unit(name), vector) for name, vector in vectors)
        tops = [vector.top(unit.own_site(self._replica.site)) for unit, vector in units if unit is not None]
        self._clock_correction.record_covered(max(tops, default=0))

    def _on_coverage_message(self, number: int, message: wire.CoverageRequest | wire.CoverageReply, turn: Turn) -> None:
        if isinstance(message, wire.CoverageReply):
            self.acknowledgements.on_coverage_reply(number, message)
            self._releases.on_coverage_reply(number, message, turn.now_ms)
        elif self._links[number].requests.take(turn.now_ms):
            self.acknowledgements.on_coverage_request(number, message.site, message.after, turn)

    def _on_round_message(
        self, number: int, message: wire.Plan | wire.Chunk | wire.Done | wire.AuditReply, size: int, turn: Turn
    ) -> None:
        match message:
            case wire.Plan(changes):
                self._fetcher.on_plan(number, changes, turn.now_ms)
            case wire.Chunk(bundle):
                applied = self._fetcher.on_chunk(number, bundle, size, turn)
                if applied is not None:
                    notices.notify_applied(applied, self._replica.site, turn)
            case wire.Done():
                self._fetcher.on_done(number, message, turn)
            case wire.AuditReply():
                if not self._releases.on_audit_reply(number, message, turn):
                    self._fetcher.on_audit_reply(number, message, turn)
            case _:
                assert_never(message)

    def _compare_all(self, turn: Turn, *, answer: bool = False) -> None:
        for number, link in sorted(self._links.items()):
            if answer or self._has_news(number, link):
                self._compare(number, turn, answer=answer)

    def _has_news(self, number: int, link: Link) -> bool:
        """Return False for a link at rest whose peer would hear what it has heard already."""
        return not link.quiet or link.sent != self._digests_for(number)

    def _compare(self, number: int, turn: Turn, *, answer: bool = False) -> None:
        """Send our digests to a peer; with `answer`, request the peer's at once."""
        link, mine = self._links[number], self._digests_for(number)
        if self._replica.registry.policies.areas:
            link.on_compare(mine, partial(self._replica.shares, link.peer))
        link.compare_at = self._jittered(turn.now_ms, link.period_ms(self._config.compare_ms))
        repeats = link.sent == mine and link.compared_at is not None
        link.sent = mine
        link.sent_at = turn.now_ms
        tables = [(name, *digest) for name, digest in mine.items()]
        if len(tables) > PART_TABLES_MAX:  # an older peer compares the first tables alone, and needs the schema
            tables.sort(key=lambda table: table[0] != SCHEMA_TABLE)
        message = wire.Digests(tuple(tables), self._fetcher.take_outdated(number) or answer)
        urgent = link.compared_at is None and self._replica.priority.has_urgent
        turn.send(number, message, urgent=urgent, deferrable=repeats and not message.answer)

    def _digests_for(self, number: int, *, remember: bool = True) -> dict[str, tuple[bytes, bytes]]:
        """Return the digests of the tables that the peer of a link may read, and of areas as far as it keeps them.

        A table to which this node has no right any more is left out: its peers would differ for ever.
        """
        peer, rights = self._links[number].peer, self._replica.rights
        pairs = self._replica.table_pairs(remember=remember)
        read = {name: pair for name, pair in pairs.items() if rights.may_read(peer, name)}
        if rights.is_limited(rights.own):
            read = {name: pair for name, pair in read.items() if self._replica.holds(name)}
        return read | self._areas.outline(number) if self._replica.registry.policies.areas else read

    def _on_digests(self, number: int, theirs: dict[str, tuple[bytes, bytes]], turn: Turn) -> None:
        self._intake.check_space(turn)
        link = self._links[number]
        link.digests = theirs
        link.opening, link.compared_at = link.compared_at is None, turn.now_ms
        mine = self._digests_for(number)
        pinned = self._retention.on_digests(link.peer, mine, theirs)
        equal = [name for name, digest in mine.items() if theirs.get(name) == digest]
        for name in equal:
            unit = self._replica.registry.unit(name)
            if unit is not None:
                self._clock_correction.record_covered(unit.own_top(self._replica.site))
        self._replica.inbox.confirm_equal([name for name in equal if name not in pinned], link.peer)
        link.equal_since = {name: link.equal_since.get(name, turn.now_ms) for name in equal}
        if link.quiet and not link.has_nothing_in_common(partial(self._replica.shares, link.peer)):
            link.quiet = 0
            link.compare_at = min(link.compare_at, self._jittered(turn.now_ms, self._config.compare_ms))
        if self._replica.registry.policies.areas:
            units = self._areas.on_digests(number, theirs, pinned, turn)
            self._compare_units(number, units, lambda name: self._areas.is_settled(number, name), turn)
        else:
            self._compare_units(number, theirs, None, turn)

    def _compare_units(
        self, number: int, theirs: dict[str, tuple[bytes, bytes]], compared: Callable[[str], bool] | None, turn: Turn
    ) -> None:
        """Fetch and repair what differs, given what a peer has of units; only those that were `compared` may be damaged."""
        self._fetcher.on_digests(number, theirs, turn, first=self._links[number].opening)
        if self._repairs.on_digests(number, theirs, compared, turn):
            self._settle(turn.now_ms)

    def _on_area_digests(self, number: int, message: wire.AreaDigests, turn: Turn) -> None:
        link = self._links[number]
        if not link.requests.take(turn.now_ms):
            return  # the next comparison begins another descent
        compared = self._areas.on_message(number, message, turn)
        if compared:
            units = {name: pair for name, pair in link.digests.items() if summary_table(name) is None}
            units |= self._areas.unequal(number)
            pairs = ((name, self._replica.registry.unit(name)) for name in compared)
            mine = {name: (unit.vector_digest, unit.digest) for name, unit in pairs if unit is not None}
            self._retention.on_digests(link.peer, mine, units)
            self._compare_units(number, units, compared.__contains__, turn)

    # ---- time

    def _is_level(self, now_ms: int) -> bool | None:
        """Return True if each linked peer has told its digests, and no round is under way from it; None without links."""
        links = self._links.items()
        if not links:
            return None
        return all(
            link.compared_at is not None and self._fetcher.progress(number, now_ms) is None for number, link in links
        )

    def _step_streams(self, turn: Turn) -> None:
        """Take one bounded step of every stream and repair; a timer continues at once where more can be done."""
        served = self._attempt(lambda: self._server.step(turn), turn)
        repaired = self._attempt(lambda: self._repairs.step(turn), turn)
        if served and repaired and (self._server.ready or self._repairs.ready):
            self._drain_at = turn.now_ms

    def _on_timer(self, turn: Turn) -> None:
        """Take every step that is due; an error of the file in one keeps none of the others waiting."""
        self._intake.check_space(turn)
        steps = (
            self._try_file,
            self._drain_if_due,
            self._fetcher.on_timer,
            self._server.on_timer,
            self._purges.on_timer,
            self._retention.on_timer,
            self._tombstone_gc.on_timer,
            self._releases.on_timer,
            self._interest_report.on_timer,
            self._scrub.on_timer,
            self._checkpoints.on_timer,
            self._clock_correction.check,
            self._compare_if_due,
        )
        for step in steps:
            self._attempt(partial(step, turn), turn)

    def _try_file(self, turn: Turn) -> None:
        if self._intake.on_timer(turn):
            self._fetcher.on_intake_open(turn)

    def _drain_if_due(self, turn: Turn) -> None:
        if self._drain_at is None or turn.now_ms < self._drain_at:
            return
        if self._replica.outbox.stale():
            self._drain(turn)
        else:
            self._safety_ms = min(2 * self._safety_ms, SAFETY_FACTOR * self._config.safety_ms)
            self._drain_at = turn.now_ms + self._safety_ms
        self._step_streams(turn)

    def _compare_if_due(self, turn: Turn) -> None:
        now_ms = turn.now_ms
        if self._settled_at is not None and now_ms >= self._settled_at:
            self._settled_at = None
            links = len(self._links)
            self._settle_not_before = now_ms + self._config.settle_ms * max(links, links * links // 4)
            at = now_ms + self._rng.randrange(self._config.settle_ms)
            for number, link in self._links.items():
                if self._has_news(number, link):
                    link.compare_at = min(link.compare_at, at)
        if any(now_ms >= link.compare_at for link in self._links.values()):
            # Compare over links that are due soon too, so that a radio wakes once for all of them.
            near_ms = now_ms + self._config.compare_ms // JITTER
            for number, link in sorted(self._links.items()):
                if near_ms >= link.compare_at:
                    period_ms = link.period_ms(self._config.compare_ms)
                    if link.is_compared(self._digests_for(number), now_ms, period_ms):
                        link.compare_at = self._jittered(now_ms, period_ms)
                    else:
                        self._compare(number, turn)
