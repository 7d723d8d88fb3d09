"""Schedule of repairs: which tables are repaired with which peer, and when (design.md section 6, step 3).

Two tables with equal vectors and different digests are damaged, or a batch is under way between them. A repair starts only
when a second comparison shows the same difference. Each repair that does not help doubles the pause before the next, so a
peer that lies about its digests costs less and less work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from mycomesh.sync.crdt.hlc import SITE_PREFIX
from mycomesh.sync.crdt.sketch import Sketch
from mycomesh.sync.errors import DatabaseError, StatementError
from mycomesh.sync.exchange.config import ExchangeConfig
from mycomesh.sync.exchange.flow_control import SendWindow, TokenBucket
from mycomesh.sync.exchange.intake import Intake
from mycomesh.sync.exchange.repair_session import RepairSession, decode_ids, rows_beyond
from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.replica import Applied, Replica
from mycomesh.sync.sqlite.table_spec import Row
from mycomesh.sync.wire import messages as wire

__all__ = ["Digests", "RepairSchedule"]

# The queue of repairs of one link. Requests beyond it are ignored.
REPAIRS_MAX = 16
# One repair takes a sketch, a few larger ones and a request: this many at once, and as many again each minute.
REQUESTS_MAX = 32
REQUESTS_PERIOD_MS = 2_000
# A table that still differs after repairs means a lying peer or a bug: the pause before the next repair doubles up to this.
PAUSE_MS_MAX = 600_000

# table -> (vector digest, entry digest)
Digests = Mapping[str, tuple[bytes, bytes]]


@dataclass(slots=True)
class _Suspect:
    """A table whose digest differs from a peer's although the vectors are equal."""

    pair: tuple[bytes, bytes]  # (our entry digest, the peer's)
    not_before: int = 0
    pause_ms: int = 0


@dataclass(slots=True)
class _Link:
    peer: bytes
    window: SendWindow
    requests: TokenBucket
    suspects: dict[str, _Suspect] = field(default_factory=dict)
    repairs: list[RepairSession] = field(default_factory=list)


class RepairSchedule:
    """The repairs of all links."""

    def __init__(
        self, replica: Replica, config: ExchangeConfig, is_fetching: Callable[[str, int], bool], intake: Intake
    ) -> None:
        self._intake = intake
        self._replica = replica
        self._config = config
        self._is_fetching = is_fetching  # a table in a round has more entries than its vector covers
        self._links: dict[int, _Link] = {}

    def on_link_opened(self, number: int, peer: bytes, window: SendWindow) -> None:
        """Register a link, whose `window` limits the bytes under way."""
        self._links[number] = _Link(peer, window, TokenBucket(REQUESTS_MAX, REQUESTS_PERIOD_MS))

    def on_link_closed(self, number: int) -> None:
        """Remove a link and its repairs; comparisons over other links start them again."""
        self._links.pop(number, None)

    @property
    def ready(self) -> bool:
        """True if some repair can take its next step."""
        return any(
            link.repairs and (link.window.has_room or not link.repairs[0].sending) for link in self._links.values()
        )

    # ---- this side

    def on_digests(self, number: int, theirs: Digests, compared: Callable[[str], bool] | None, turn: Turn) -> bool:
        """Start the repair of each damaged table; of those alone that were `compared`, or all.

        The side with the lower site starts it, and of a table that one side may not write, that side: the other does not believe
        its digests. Return True if a difference is new, so that the caller should compare again soon.
        """
        link, rights = self._links[number], self._replica.rights
        is_lower = self._replica.site[:SITE_PREFIX] <= link.peer[:SITE_PREFIX]
        if not is_lower and not rights.is_limited(rights.own):
            return False
        is_new = False
        mine = self._replica.digest_pairs()
        for name, (vector, entries) in mine.items():
            if compared is not None and not ((name in theirs or name in link.suspects) and compared(name)):
                continue
            if not is_lower and rights.may_write(rights.own, name):
                continue
            reported = theirs.get(name) if rights.may_write(link.peer, name) else None
            if (
                reported is None
                or reported[0] != vector
                or reported[1] == entries
                or self._is_fetching(name, turn.now_ms)
            ):
                link.suspects.pop(name, None)
                continue
            pair = (entries, reported[1])
            suspect = link.suspects.get(name)
            if suspect is None:
                # Batches may be under way. Damage shows the same pair of digests in the next comparison.
                link.suspects[name] = _Suspect(pair)
                is_new = True
            elif suspect.pair != pair:
                suspect.pair = pair
                is_new = True
            elif turn.now_ms >= suspect.not_before and len(link.repairs) < REPAIRS_MAX:
                suspect.pause_ms = min(max(self._config.repair_pause_ms, 2 * suspect.pause_ms), PAUSE_MS_MAX)
                suspect.not_before = turn.now_ms + suspect.pause_ms
                link.repairs.append(RepairSession(name, vector))
        return is_new

    def send_rows(self, number: int, name: str, rows: list[Row]) -> None:
        """Send whole rows of a unit on a link; the peer joins them and sends nothing back."""
        link = self._links[number]
        if len(link.repairs) < REPAIRS_MAX:
            link.repairs.append(RepairSession.for_rows(name, rows))

    # ---- the peer's side

    def on_repair_request(self, number: int, message: wire.TableSketch | wire.RepairRequest, turn: Turn) -> None:
        """Queue the repair that a peer requests; drop the link if it requests too many."""
        link = self._links[number]
        if not link.requests.take(turn.now_ms):
            turn.drop(number, "requests repairs too often")
            return
        if not self._replica.rights.may_read(link.peer, message.table) or self._is_fetching(message.table, turn.now_ms):
            return
        match message:
            case wire.TableSketch(table, vector, sketch):
                repair = RepairSession.for_sketch(table, vector, Sketch.decode(sketch))
                mine = {digest.table: digest.vector for digest in self._replica.digests()}
                if mine.get(table) != vector:
                    return  # the table has changed since the peer compared it
            case wire.RepairRequest(table, ids):
                repair = RepairSession.for_request(table, decode_ids(ids))
        if len(link.repairs) < REPAIRS_MAX:
            link.repairs.append(repair)

    def on_repair_rows(self, number: int, message: wire.RepairRows, size: int, turn: Turn) -> Applied | None:
        """Merge whole rows and reply with the entries of those rows that they lack; return None if nothing was merged."""
        link = self._links[number]
        turn.send(number, wire.Ack(size))  # before an error: the next comparison starts the repair again
        self._intake.check_space(turn)
        if not self._intake.is_open:
            return None
        try:
            applied = self._replica.apply(message.bundle, turn.wall_ms, sender=link.peer, repair=True)
        except StatementError as error:
            text = f"refused a repair from {link.peer.hex()[:8]}: {error}"
            turn.notify("round.refused", text, {"node_id": link.peer.hex()}, "warning")
            return None
        turn.publish(applied.published)
        turn.changed = True
        # Count only what the vector covered. Other changes are new: a round has brought them to that peer first.
        repaired = applied.merged.repaired
        if repaired:
            text = f"repaired {repaired} damaged entries with rows of {link.peer.hex()[:8]}"
            turn.notify("repair.done", text, {"changes": repaired, "node_id": link.peer.hex()}, "warning")
        if message.final:
            return applied
        replies: list[bytes] = []
        turn.publish(
            self._replica.outbox.read_drained(
                turn.wall_ms, lambda: replies.extend(rows_beyond(self._replica, message.bundle))
            )
        )
        for reply in replies:
            link.window.record_sent(turn.send(number, wire.RepairRows(reply, final=True)), turn.now_ms)
        return applied

    # ---- both sides

    def step(self, turn: Turn) -> None:
        """Take one bounded step in the first repair of each link.

        Raises:
            DatabaseError: the file refused in the repair of some link; all other repairs took their step.
        """
        refusal: DatabaseError | None = None
        for number, link in sorted(self._links.items()):
            if link.repairs and (link.window.has_room or not link.repairs[0].sending):
                try:
                    self._step_link(number, link, turn)
                except DatabaseError as error:
                    refusal = error
        if refusal is not None:
            raise refusal

    def _step_link(self, number: int, link: _Link, turn: Turn) -> None:
        repair = link.repairs[0]
        messages: list[wire.Message] = []
        turn.publish(self._replica.outbox.read_drained(turn.wall_ms, partial(self._step, repair, messages)))
        for message in messages:
            size = turn.send(number, message)
            if isinstance(message, wire.RepairRows):
                link.window.record_sent(size, turn.now_ms)
        if repair.done:
            link.repairs.pop(0)

    def _step(self, repair: RepairSession, messages: list[wire.Message]) -> None:
        messages += repair.step(self._replica)
