"""Enrolment client: the core that a node with a join code runs until a member has enrolled it.

It asks one member at a time, so that it uses its code once, and accepts no connections. After `Enrolled` every connection is
closed, and the joiner does nothing more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from mycomesh.mesh.errors import EnrolmentError
from mycomesh.mesh.events import (
    AddressFound,
    CertificatesFound,
    Close,
    ConnClosed,
    ConnDrained,
    ConnOpened,
    ConnReceived,
    Dial,
    DialFailed,
    Enrolled,
    NetworkChanged,
    Notice,
    PublishBatch,
    PurgeWrites,
    RevokeMembers,
    SendMessage,
    StateInterests,
    TimerFired,
)
from mycomesh.mesh.links.authentication import JoinGate, RefusalError
from mycomesh.mesh.links.dialer import Dialer
from mycomesh.mesh.links.failure_detector import FailureDetector
from mycomesh.mesh.links.link import Link
from mycomesh.mesh.links.traffic import Traffic
from mycomesh.mesh.membership.enrolment import accept_grant
from mycomesh.mesh.notice_throttle import NoticeThrottle
from mycomesh.mesh.session.session import Closed, Opened, Phase, Received, Reply, Session, Step
from mycomesh.mesh.turn import Turn

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from mycomesh.mesh.config import MeshConfig
    from mycomesh.mesh.events import Action, Event
    from mycomesh.mesh.membership.enrolment import Candidate, JoinCode

__all__ = ["Joiner"]


class Joiner:
    """Runs like a `MeshCore`: pass it events and do the actions that it returns, until one is `Enrolled`."""

    __slots__ = (
        "_asking_conn",
        "_candidate",
        "_code",
        "_config",
        "_conns",
        "_dialer",
        "_done",
        "_entropy",
        "_notice_throttle",
    )

    def __init__(
        self,
        code: JoinCode,
        candidate: Candidate,
        *,
        entropy: Callable[[int], bytes],
        rng: random.Random,
        config: MeshConfig,
    ) -> None:
        self._code = code
        self._candidate = candidate
        self._config = config
        self._entropy = entropy
        self._conns: dict[int, Link] = {}
        self._dialer = Dialer(config, rng)
        self._notice_throttle = NoticeThrottle()
        self._asking_conn: int | None = None  # the connection on which the request was sent
        self._done = False

    def handle(self, event: Event, now_ms: int, wall_ms: int) -> list[Action]:
        """Handle one event; return the actions, in the order in which they must happen."""
        turn = Turn(now_ms, wall_ms, self._notice_throttle)
        match event:
            case ConnOpened() | ConnReceived() | ConnClosed():
                self._on_conn(event, turn)
            case AddressFound() | DialFailed() | NetworkChanged():
                self._dialer.on_event(event, now_ms)
            case TimerFired():
                self._on_timer(turn)
            case (
                ConnDrained()
                | SendMessage()
                | RevokeMembers()
                | PurgeWrites()
                | PublishBatch()
                | StateInterests()
                | CertificatesFound()
            ):
                pass  # a joining node has no queue that could drain, nothing to publish, and knows no mesh yet
            case _:
                assert_never(event)
        if not self._done:
            turn.actions += (Dial(address) for address in self._dialer.start_dials(now_ms))
        return turn.actions

    def next_deadline(self) -> int | None:
        """Return the monotonic millisecond at which `TimerFired` is due, None if no timer runs."""
        if self._done:
            return None
        dues = [self._deadline(link) for link in self._conns.values()]
        dial = self._dialer.deadline()
        return min(dues if dial is None else [*dues, dial], default=None)

    def _on_conn(self, event: ConnOpened | ConnReceived | ConnClosed, turn: Turn) -> None:
        link = self._conns.get(event.conn)
        match event:
            case ConnOpened(conn, _, dialled):
                if dialled and not self._done:
                    self._on_opened(event, turn)
                else:
                    turn.do(Close(conn, "not a member yet"))
            case ConnReceived(_, data) if link is not None:
                self._on_received(link, data, turn)
            case ConnClosed() if link is not None:
                self._notify_unanswered(link, turn)
                self._drop(link, "the connection was lost", turn, gone=True)
            case _:
                pass  # this node has closed the connection; these bytes were in flight

    def _on_timer(self, turn: Turn) -> None:
        for link in [each for each in self._conns.values() if self._deadline(each) <= turn.now_ms]:
            self._notify_unanswered(link, turn)
            self._drop(link, f"no answer within {self._config.handshake_ms} ms", turn)

    def _on_opened(self, event: ConnOpened, turn: Turn) -> None:
        self._dialer.on_conn_opened(event.address)
        gate = JoinGate(self._code, self._candidate, lambda: self._refusal_reason(event.conn))
        session = Session(gate.keys(), gate, initiator=True, entropy=self._entropy)
        detector = FailureDetector(turn.now_ms, heartbeat_ms=self._config.heartbeat_ms)
        link = Link(
            event.conn, event.address, True, session, gate, turn.now_ms, detector, Traffic(self._config.kind_of)
        )
        self._conns[event.conn] = link
        link.write(session.start(), turn)

    def _refusal_reason(self, conn: int) -> str:
        """Return why this node does not ask this member. An empty string means that it does, and no other until then."""
        if self._asking_conn is not None:
            return "another member has been asked already"
        self._asking_conn = conn
        return ""

    def _on_received(self, link: Link, data: bytes, turn: Turn) -> None:
        link.gate.wall_ms = turn.wall_ms
        for step in link.session.receive(data, turn.now_ms):
            self._on_step(link, step, turn)
            if link.conn not in self._conns:
                return
        link.flush(turn)

    def _on_step(self, link: Link, step: Step, turn: Turn) -> None:
        match step:
            case Reply(data):
                link.write(data, turn)
            case Opened():
                pass  # the member sends the grant next
            case Received():
                self._on_grant(link, step.payload, turn)
            case Closed(reason, error):
                if error is not None and not isinstance(error, RefusalError):
                    text = f"{link.address} could not let this node in: {error}"
                    turn.notify(Notice("join.refused", text, level="warning"))
                self._drop(link, reason, turn)
            case _:
                assert_never(step)

    def _on_grant(self, link: Link, payload: bytes, turn: Turn) -> None:
        try:
            identity = accept_grant(payload, candidate=self._candidate, code=self._code, wall_ms=turn.wall_ms)
        except EnrolmentError as error:
            turn.notify(Notice("join.refused", str(error), level="warning"))
            self._drop(link, str(error), turn)
            return
        self._done = True
        turn.do(Enrolled(identity.encode()))
        for each in list(self._conns.values()):
            self._drop(each, "this node is a member", turn)

    def _notify_unanswered(self, link: Link, turn: Turn) -> None:
        """Notify that the member did not reply to the handshake. A wrong code and a node of another mesh both look like that."""
        if link.session.phase is Phase.CALLED:
            text = f"{link.address} does not accept this join code: perhaps another node made the invitation"
            turn.notify(Notice("join.unanswered", text))

    def _drop(self, link: Link, reason: str, turn: Turn, *, gone: bool = False) -> None:
        del self._conns[link.conn]
        if self._asking_conn == link.conn and not self._done:
            self._asking_conn = None
        if not gone:
            link.write(link.session.end(reason), turn)
            turn.do(Close(link.conn, reason))
        self._dialer.on_conn_closed(link.address, turn.now_ms)

    def _deadline(self, link: Link) -> int:
        return link.opened_ms + self._config.handshake_ms
