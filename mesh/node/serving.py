"""One node at work: a file, an identity, and the mesh, joined on an event loop.

Owns the SQL thread, the watch on the file and the network shell, and the order in which they start and end. What
always holds: what was committed before a graceful end is stamped and handed to the links; the loop never waits for SQL.
It must not know the terminal, signals, locks or the control socket: `daemon` does, and an embedding program has none.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, assert_never

from mycomesh.mesh.config import MeshConfig
from mycomesh.mesh.core import MeshCore, PeerStatus
from mycomesh.mesh.events import Close, MembershipChanged, Notice, RevokeMember
from mycomesh.mesh.node.clock_notes import NOTE_EVERY_S, ClockNotes
from mycomesh.mesh.node.commit_poll import CommitPoll
from mycomesh.mesh.node.core import NodeCore, ToExchange
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.idle_trim import IdleTrim, trim_heap
from mycomesh.mesh.node.lock_timer import LockTimer
from mycomesh.mesh.node.shell import MeshShell, clock
from mycomesh.mesh.node.sql_thread import ExchangeActed, ExchangeFailed, Report, SqlThread
from mycomesh.mesh.node.state_writer import StateWriter
from mycomesh.mesh.node.status import LinkView, PeerView, ProgressView, ScrubView, TableView, WritePosition
from mycomesh.mesh.node.watch import Watch, written_ms
from mycomesh.mesh.relay.circuits import Circuits
from mycomesh.sync.admin.state_tables import NodeState, PeerState
from mycomesh.sync.errors import SyncError
from mycomesh.sync.events import CommitSeen, CompareRequested, CoverageRequested, Publish, ScrubRequested
from mycomesh.sync.exchange.acknowledgements import write_position
from mycomesh.sync.exchange.exchange import Exchange, ExchangeConfig, LinkStatus
from mycomesh.sync.exchange.turn import publish_actions
from mycomesh.sync.merge.records import time_text
from mycomesh.sync.replica import Replica, ReplicaConfig, ReplicaStatus
from mycomesh.sync.replication.scrub import Scrubbed
from mycomesh.sync.sqlite.identifiers import fold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from mycomesh.mesh.events import Address
    from mycomesh.mesh.membership.enrolment import Invitation
    from mycomesh.mesh.membership.identity import Identity
    from mycomesh.mesh.membership.membership import Membership
    from mycomesh.mesh.node.config import NodeConfig

__all__ = ["CUT_OFF", "Credentials", "ServingNode", "Snapshot"]

T = TypeVar("T")

REACH_STEP_S = 0.02  # a live batch and its answer take a round trip on a LAN
REACH_STEP_S_MAX = 0.5  # what a peer answers again and again
COMPARED_STEP_S = 0.02  # an answer takes a round trip; a person waits for it
CUT_OFF = "cut off on purpose; local writes go on, 'mycomesh rejoin' ends it"
DRAIN_STEPS_MAX = 10_000  # chunks of the last drain; writes that outlast it are in the log for the next start


@dataclass(frozen=True, slots=True)
class Credentials:
    """What makes this node a member, and, where the root key lies, what lets others in."""

    identity: Identity
    root_seed: bytes | None
    invitations: tuple[Invitation, ...]
    standing: bytes
    recall: ClockNotes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the file and the mesh look like at one moment, for people."""

    site: str
    pending: int
    tables: tuple[TableView, ...]
    peers: tuple[PeerView, ...]
    port: int
    clock_offset_ms: float | None = None
    complaint: str = ""
    scrub: ScrubView | None = None
    lock_held_ms: float = 0.0


class ServingNode:
    """Serves one file. Every method belongs on the event loop's thread."""

    def __init__(
        self,
        credentials: Credentials,
        file: Path,
        config: NodeConfig,
        on_notice: Callable[[Notice], None],
        on_broken: Callable[[BaseException], None],
        on_membership: Callable[[MembershipChanged], None],
    ) -> None:
        identity = credentials.identity
        self._file = file
        self._identity = identity
        self._on_notice = on_notice
        self._on_broken = on_broken
        self._on_membership = on_membership
        self._recall = credentials.recall
        self._note_due: asyncio.TimerHandle | None = None
        self._mesh = MeshCore(
            identity,
            entropy=os.urandom,
            rng=random.Random(os.urandom(16)),
            config=MeshConfig(versions=config.protocol),
            invitations=credentials.invitations,
            root_seed=credentials.root_seed,
            standing=credentials.standing,
        )
        self._core = NodeCore(Circuits(self._mesh))
        self._shell = MeshShell(self._core, config, identity.mesh_id, self._on_action)
        self._exchange: Exchange | None = None
        self._watch: Watch | None = None
        self._loop = asyncio.get_running_loop()
        self._sql = SqlThread(lambda: self._opened(file, identity, config), self._report, clock)
        self._lock = LockTimer(time.perf_counter)
        self._looks = CommitPoll(self._loop, self._look_for_commit)
        self._mirror = StateWriter(self._write_state)
        self._rest = IdleTrim(self._on_rest)

    async def start(self, known: tuple[Address, ...]) -> None:
        """Take the port, open the file, then speak and watch; raise with one line when one of them refuses.

        The port comes first, because a busy one must leave the file as it was.
        """
        self._mesh.advertise_port(await self._shell.listen())
        try:
            await asyncio.wrap_future(self._sql.start())
        except BaseException:
            await self._shell.close()
            raise
        await self._shell.start(known)
        self._watch = Watch(self._file, self._on_commit, self._on_replaced)
        self._watch.start()
        self._on_commit()

    async def snapshot(self) -> Snapshot:
        """Ask the file and the mesh how they are; waits for the SQL thread, never blocks the loop."""
        status, links = await asyncio.wrap_future(self._sql.call(self._look))
        now_ms, wall_ms = clock()
        equal_on = _equal_on(links)
        compared = any(link.compared_ms_ago is not None for link in links)
        tables = tuple(
            TableView(
                table.name,
                table.rows,
                table.digest,
                table.conflicts,
                table.parked,
                table.note,
                equal_on[fold(table.name)] if compared and table.digest else None,
            )
            for table in status.tables
        )
        states = {link.peer: link for link in links}
        peers = tuple(_peer_view(peer, states.get(peer.node_id)) for peer in self._mesh.peers(now_ms))
        mesh_clock = self._mesh.mesh_clock
        return Snapshot(
            status.site,
            status.pending,
            tables,
            peers,
            self._shell.port,
            mesh_clock.offset_ms,
            CUT_OFF if self._shell.isolated else mesh_clock.warning,
            _scrub_view(status.scrubbed, wall_ms),
            self._lock.longest_s * 1000,
        )

    async def check_alive(self) -> None:
        """Return when the SQL thread has come to a question: it is alive."""
        await asyncio.wrap_future(self._sql.call(lambda: None))

    def isolate(self, *, cut: bool) -> None:
        """Cut this node off from every other, or end that."""
        self._shell.isolate(cut=cut)

    def scrub(self) -> None:
        """Compare every row with the change log, and capture what bypassed the triggers."""
        self._sql.submit(ScrubRequested())

    async def write_position(self) -> WritePosition:
        """Return what has been written here up to this moment, all of it stamped."""
        return await asyncio.wrap_future(self._sql.call(self._write_position))

    async def count_replicas(self, position: WritePosition, *, want: int = 0, wait_ms: int = 0) -> tuple[int, int]:
        """Return on how many nodes, this one counted, everything up to a mark is; and how many peers are linked.

        Waits until there are `want`, at most `wait_ms` milliseconds; peers are asked ever less often meanwhile.
        """
        started_ms, pause_s = clock()[0], REACH_STEP_S
        while True:
            self._sql.submit(CoverageRequested())
            await asyncio.sleep(pause_s)
            replicas, linked = await asyncio.wrap_future(self._sql.call(lambda: self._count_holders(position)))
            left_s = (started_ms + wait_ms - clock()[0]) / 1000
            if replicas >= want or left_s <= 0:
                return replicas, linked
            pause_s = min(2 * pause_s, REACH_STEP_S_MAX, left_s)

    async def compare(self, seconds_max: float) -> tuple[Snapshot, tuple[LinkStatus, ...]]:
        """Compare with every linked peer; return what each has answered, at the latest after some seconds."""
        started_ms = clock()[0]
        self._sql.submit(CompareRequested())
        while True:
            links = await asyncio.wrap_future(self._sql.call(self._links))
            waited_ms = clock()[0] - started_ms
            ages_ms = [link.compared_ms_ago for link in links]
            if all(age is not None and age <= waited_ms for age in ages_ms) or waited_ms > 1000 * seconds_max:
                break
            await asyncio.sleep(COMPARED_STEP_S)
        # Rows are counted once, and before the comparisons that are told with them.
        snapshot = await self.snapshot()
        return snapshot, await asyncio.wrap_future(self._sql.call(self._links))

    async def run_on_replica(self, ask: Callable[[Replica], T]) -> T:
        """Let a person's request look at or change the replica, spread what it changed, and return its answer."""
        return await asyncio.wrap_future(self._sql.call(lambda: self._consult(ask)))

    def names_by_site(self) -> dict[str, str]:
        """Return the members' names by the first 16 hexadecimal digits of their node ids, which begin their sites."""
        peers = {peer.node_id.hex()[:16]: peer.name for peer in self._mesh.peers(clock()[0])}
        return peers | {self._identity.node_id.hex()[:16]: self._identity.name}

    def add_invitation(self, invitation: Invitation) -> None:
        """Accept this invitation from this moment on."""
        self._mesh.invite(invitation)

    def invitations(self) -> tuple[Invitation, ...]:
        """Return the invitations as they stand, uses counted down; to be stored at each `enrolment.granted` notice."""
        return self._mesh.invitations()

    @property
    def membership(self) -> Membership:
        """Who belongs to the mesh, and what this node may decide."""
        return self._mesh.membership

    def revoke(self, node_id: bytes) -> None:
        """Revoke a member; `Membership.revocable` has nothing against it."""
        self._shell.feed(RevokeMember(node_id))

    async def stop(self, *, remove: bool = False) -> None:
        """Drain what is committed, take leave of the mesh, close the file; with `remove`, leave no trace in it."""
        if self._watch is not None:
            self._watch.close()
        self._looks.cancel()
        self._mirror.cancel()
        self._rest.cancel()
        if self._note_due is not None:
            self._note_due.cancel()
        try:
            await asyncio.wrap_future(self._sql.call(self._drain))
            if not remove:
                with contextlib.suppress(SyncError):  # a busy file is no reason not to close it
                    await self._write_state("stopped")
        finally:
            await self._shell.close()
            await asyncio.wrap_future(self._sql.stop(self._replica.remove if remove else self._close))

    # ---- on the SQL thread

    @property
    def _replica(self) -> Replica:
        assert self._exchange is not None, "asked before the file was open"
        return self._exchange.replica

    def _opened(self, file: Path, identity: Identity, config: NodeConfig) -> Exchange:
        if self._exchange is not None:  # another content was put in the file's place
            self._note()
            self._replica.close()
        last_ms = written_ms(file)
        replica = Replica.open(
            str(file),
            node_id=identity.node_id,
            mesh_key=identity.digest_key,
            entropy=os.urandom,
            config=ReplicaConfig(only=config.only, exclude=config.exclude, urgent=config.urgent),
            recalled=self._recall.clocks(),
            holding=self._lock,
        )
        replica.found(last_ms)
        replica.breathe_by(self._sql.pause_if_due)
        replica.spread_by(lambda batches: self._report(ExchangeActed(publish_actions(batches))))
        self._exchange = Exchange(replica, rng=random.Random(os.urandom(16)), config=ExchangeConfig())
        return self._exchange

    def _report(self, report: Report) -> None:
        self._loop.call_soon_threadsafe(self._on_report, report)

    def _close(self) -> None:
        try:
            self._note()
        finally:
            self._replica.close()

    def _note(self) -> None:
        self._recall.record(*self._replica.noted)

    def _look(self) -> tuple[ReplicaStatus, tuple[LinkStatus, ...]]:
        self._drain_if_stale()  # who asks sees the table that he has just made
        return self._replica.status(), self._links()

    def _links(self) -> tuple[LinkStatus, ...]:
        assert self._exchange is not None
        return self._exchange.links(clock()[0])

    def _drain(self) -> None:
        for _ in range(DRAIN_STEPS_MAX):
            self._sql.handle_now(CommitSeen())
            if not self._replica.stale():
                return

    def _give_back(self) -> None:
        self._replica.shrink()
        trim_heap()

    def _drain_if_stale(self, *, writing: bool = False) -> None:
        if self._replica.stale():
            self._sql.handle_now(CommitSeen(writing=writing))

    def _look_now(self) -> None:
        self._drain_if_stale(writing=True)

    def _consult(self, ask: Callable[[Replica], T]) -> T:
        self._drain()  # what was written before a decision is stamped before it
        answer = ask(self._replica)
        self._sql.handle_now(CommitSeen())
        return answer

    def _write_position(self) -> WritePosition:
        self._drain()
        return WritePosition(self._replica.site, write_position(self._replica))

    def _count_holders(self, position: WritePosition) -> tuple[int, int]:
        assert self._exchange is not None
        holders = self._exchange.acknowledgements.peers_covering(position.site, position.tables)
        return 1 + len(holders), len(self._links())

    # ---- on the loop

    async def _write_state(self, phase: str = "serving") -> None:
        """Have the state tables say what is true; nothing is written if they do."""
        now_ms, wall_ms = clock()
        identity, peers = self._identity, self._mesh.peers(now_ms)
        head = (phase, identity.mesh_name, identity.mesh_id.hex(), identity.name, identity.node_id.hex())
        offset_ms = self._mesh.mesh_clock.offset_ms

        def write() -> bool:
            links = {link.peer: link for link in self._links()}
            seen = tuple(_peer_state(peer, links.get(peer.node_id), wall_ms) for peer in peers)
            equal_on = _equal_on(links.values())
            state = NodeState(*head, os.getpid(), self._shell.port, offset_ms, seen, len(links), equal_on)
            return self._replica.state.refresh(state, wall_ms)

        await asyncio.wrap_future(self._sql.call(write))

    def _on_commit(self) -> None:
        self._mirror.touch()
        self._rest.touch()  # merges write to the file as well; comparisons of equals, which go on at rest, do not
        self._sql.submit(CommitSeen(writing=True))
        self._looks.hint()

    def _look_for_commit(self) -> None:
        self._sql.call_once(self._look_now)

    def _on_replaced(self) -> None:
        self._on_broken(NodeError(f"{self._file} was replaced or removed while it was served; run 'mycomesh up' again"))

    def _on_rest(self) -> None:
        self._sql.call(self._give_back)

    def _note_soon(self) -> None:
        self._note_due = None
        self._sql.call(self._note)

    def _named(self, notice: Notice) -> Notice:
        """What the tables' side knows by the beginning of its id alone, by its name."""
        node_id = str(notice.detail.get("node_id", ""))
        member = self._mesh.roster.get(bytes.fromhex(node_id)) if node_id else None
        return notice if member is None else replace(notice, text=notice.text.replace(node_id[:8], member.name, 1))

    def _on_action(self, action: ToExchange | Notice | MembershipChanged | Close | Any) -> None:
        self._mirror.touch()
        match action:
            case ToExchange(event):
                self._sql.submit(event)
            case Notice():
                self._on_notice(self._named(action))
            case MembershipChanged():
                self._on_membership(action)
            case Close(conn, reason):
                self._on_notice(Notice("conn.closed", f"connection {conn} closed: {reason}", {"conn": conn}, "debug"))
            case _:
                raise AssertionError(f"a member's core answered {type(action).__name__}")

    def _on_report(self, report: Report) -> None:
        match report:
            case ExchangeActed(actions):
                now_ms, wall_ms = clock()
                self._shell.perform(self._core.on_exchange(actions, now_ms, wall_ms))
                if self._note_due is None and any(isinstance(action, Publish) for action in actions):
                    self._note_due = self._loop.call_later(NOTE_EVERY_S, self._note_soon)
            case ExchangeFailed(error):
                self._on_broken(error)
            case _:
                assert_never(report)


def _peer_state(peer: PeerStatus, link: LinkStatus | None, wall_ms: int) -> PeerState:
    return PeerState(
        peer.node_id.hex(),
        peer.name,
        ",".join(peer.roles),
        peer.state,
        None if link is None or link.compared_ms_ago is None else link.equal,
        "" if peer.address is None else str(peer.address),
        peer.rtt_ms,
        peer.offset_ms,
        peer.sent_bytes,
        peer.received_bytes,
        "" if peer.seen_ms_ago is None else time_text(wall_ms - peer.seen_ms_ago),
    )


def _equal_on(links: Iterable[LinkStatus]) -> Counter[str]:
    """On how many linked peers each table is equal, by its folded name."""
    return Counter(name for link in links for name, _ in link.equal_ms)


def _scrub_view(scrubbed: Scrubbed | None, wall_ms: int) -> ScrubView | None:
    if scrubbed is None:
        return None
    return ScrubView(max(wall_ms - scrubbed.ended_ms, 0), scrubbed.found, scrubbed.tables)


def _peer_view(peer: PeerStatus, link: LinkStatus | None) -> PeerView:
    progress = None if link is None else link.progress
    return PeerView(
        node_id=peer.node_id.hex(),
        name=peer.name,
        roles=peer.roles,
        state=peer.state,
        address="" if peer.address is None else str(peer.address),
        rtt_ms=peer.rtt_ms,
        offset_ms=peer.offset_ms,
        equal=None if link is None or link.compared_ms_ago is None else link.equal,
        seen_ms_ago=peer.seen_ms_ago,
        sent_bytes=peer.sent_bytes,
        received_bytes=peer.received_bytes,
        protocol=peer.protocol,
        catching_up=None
        if progress is None
        else ProgressView(progress.rows, progress.expected, progress.received_bytes, progress.left_ms),
        links=tuple(
            LinkView(
                each.node_id.hex(), None if each.rtt_ms < 0 else each.rtt_ms, each.sent_bytes + each.received_bytes
            )
            for each in peer.neighbours
        ),
    )
