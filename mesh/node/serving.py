"""A serving node: connects the network shell, the replica's thread and the file watch on one event loop.

The module knows neither terminal, signals, locks nor control socket, since an embedding program has none: see `daemon`.

Invariants: writes committed before a graceful end are stamped and passed to the links; the event loop never waits for SQL.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, assert_never

from mycomesh.mesh.config import MeshConfig
from mycomesh.mesh.core import MeshCore
from mycomesh.mesh.events import CertificatesFound, Close, MembershipChanged, Notice, PurgeWrites, RevokeMembers
from mycomesh.mesh.node.clock_notes import NOTE_EVERY_S, ClockNotes
from mycomesh.mesh.node.commit_poll import CommitPoll
from mycomesh.mesh.node.core import NodeCore, ToExchange
from mycomesh.mesh.node.disk_space import free_bytes
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.hooks import HookCommands
from mycomesh.mesh.node.idle_trim import IdleTrim
from mycomesh.mesh.node.news import News
from mycomesh.mesh.node.readers import Readers
from mycomesh.mesh.node.replica_thread import ReplicaThread
from mycomesh.mesh.node.shell import MeshShell, clock
from mycomesh.mesh.node.snapshot import (
    Snapshot,
    account_views,
    area_states,
    area_views,
    areas_warning,
    budget_view,
    equal_on,
    keep_warning,
    mailbox_states,
    peer_states,
    peer_views,
    reader_views,
    scrub_view,
    table_views,
    traffic_views,
    trouble_view,
)
from mycomesh.mesh.node.sql_thread import ExchangeActed, ExchangeFailed, Report
from mycomesh.mesh.node.state_writer import StateWriter
from mycomesh.mesh.node.virtual_links import VirtualLinks
from mycomesh.mesh.node.watch import Watch
from mycomesh.mesh.relay.circuits import Circuits
from mycomesh.sync.admin.state_tables import NodeState
from mycomesh.sync.errors import SyncError
from mycomesh.sync.events import CommitSeen, CompareRequested, CoverageRequested, Publish, ScrubRequested
from mycomesh.sync.wire.messages import kind_of
from mycomesh.sync.wire.units import topic_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mycomesh.mesh.events import Address
    from mycomesh.mesh.membership.enrolment import Invitation
    from mycomesh.mesh.membership.identity import Identity
    from mycomesh.mesh.membership.membership import Membership
    from mycomesh.mesh.node.config import NodeConfig
    from mycomesh.mesh.node.status import MailboxView, ReaderView, WritePosition
    from mycomesh.sync.exchange.area_status import AreaStatus
    from mycomesh.sync.exchange.exchange import LinkStatus
    from mycomesh.sync.feed.feed import Feed
    from mycomesh.sync.replica import Replica

__all__ = ["ISOLATED", "Credentials", "NodeCallbacks", "ServingNode"]

T = TypeVar("T")

COUNT_PAUSE_S = 0.02  # a live batch and its acknowledgement take a round trip on a LAN
COUNT_PAUSE_S_MAX = 0.5  # limits the requests to a peer during a long wait
COMPARE_PAUSE_S = 0.02  # an answer takes a round trip, and a person waits for it
ISOLATED = "isolated from all other nodes; local writes continue, 'mycomesh rejoin' reconnects it"


@dataclass(frozen=True, slots=True)
class Credentials:
    """The identity that makes this node a member; on the node with the root key, also what it needs to admit others."""

    identity: Identity
    root_seed: bytes | None
    invitations: tuple[Invitation, ...]
    membership: bytes


@dataclass(frozen=True, slots=True)
class NodeCallbacks:
    """The functions that a `ServingNode` calls on the event loop's thread."""

    on_notice: Callable[[Notice], None]
    on_failure: Callable[[BaseException], None]  # the node cannot continue
    on_membership: Callable[[MembershipChanged], None]  # must store the change before it returns
    on_commit: Callable[[], None] = lambda: None  # some program, or this node, has committed to the file
    mailboxes: Callable[[], tuple[MailboxView, ...]] = tuple  # for people


class ServingNode:
    """Serves one file. All methods run on the event loop's thread."""

    def __init__(
        self,
        credentials: Credentials,
        clock_notes: ClockNotes,
        file: Path,
        config: NodeConfig,
        callbacks: NodeCallbacks,
        metered: tuple[tuple[int, int], ...] = (),
    ) -> None:
        identity = credentials.identity
        self._file = file
        self._identity = identity
        self._callbacks = callbacks
        self._mesh = MeshCore(
            identity,
            entropy=os.urandom,
            rng=random.Random(os.urandom(16)),
            config=MeshConfig(
                versions=config.protocol,
                budget=config.link_budget,
                metered=metered,
                topic_of=topic_of,
                partial=bool(config.keep.tables),
                kind_of=kind_of,
            ),
            invitations=credentials.invitations,
            root_seed=credentials.root_seed,
            membership=credentials.membership,
        )
        self._core = NodeCore(Circuits(self._mesh))
        self.news = News(clock()[1], self._mesh.in_reach)
        self._shell = MeshShell(
            self._core,
            config,
            identity.mesh_id,
            self._on_action,
            search_spacing=self._mesh.search_spacing,
            on_handled=self.news.on_event,
        )
        loop = asyncio.get_running_loop()

        def report(done: Report) -> None:
            loop.call_soon_threadsafe(self._on_report, done)

        self._replica = ReplicaThread(file, identity, config, clock_notes, report)
        self._kept = tuple(config.keep.tables)
        self.virtual_links = VirtualLinks(self._replica.submit)
        self.readers = Readers(self._replica, self.names_by_site)
        self.hooks = HookCommands(config.hooks, self.readers, callbacks.on_notice)
        self._watch: Watch | None = None
        self._commit_poll = CommitPoll(loop, self._replica.check_for_commit)
        self._state_writer = StateWriter(self._write_state)
        self._idle_trim = IdleTrim(self._replica.trim_memory)
        self._clock_note_timer: asyncio.TimerHandle | None = None

    async def start(self, known: tuple[Address, ...]) -> None:
        """Listen, open the file, then dial, announce and watch; raise the one-line error of the step that fails.

        The port comes first, so that a port in use leaves the file unchanged.
        """
        self._mesh.advertise_port(await self._shell.listen())
        try:
            await self._replica.start()
        except BaseException:
            await self._shell.close()
            raise
        try:
            await self._shell.start(known)
            self._watch = Watch(self._file, self._on_commit, self._on_replaced)
            self._watch.start()
        except BaseException:
            await self.stop()
            raise
        self.hooks.start()
        self._on_commit()

    async def stop(self, *, remove: bool = False) -> None:
        """Drain all commits, end the links, close the file; with `remove`, remove what replication added to the file."""
        self.readers.end()
        self.news.wake()
        await self.hooks.close()
        if self._watch is not None:
            self._watch.close()
        self._commit_poll.cancel()
        self._state_writer.cancel()
        self._idle_trim.cancel()
        if self._clock_note_timer is not None:
            self._clock_note_timer.cancel()
        try:
            await self._replica.drain()
            if not remove:
                with contextlib.suppress(SyncError):  # if the file is busy, close it without the last state
                    await self._write_state("stopped")
        finally:
            await self._shell.close()
            await self._replica.close(remove=remove)

    # ---- requests

    async def snapshot(self) -> Snapshot:
        """Return the state of the file and the mesh."""
        status, links, known_areas = await self._replica.status(self._others())
        areas = area_views(known_areas)
        now_ms, wall_ms = clock()
        mesh_clock = self._mesh.mesh_clock
        peers = peer_views(self._mesh.peers(now_ms), links)
        tables = table_views(status, links)
        warning = mesh_clock.warning or status.warning or areas_warning(areas) or keep_warning(self._kept, tables)
        return Snapshot(
            status.site,
            status.pending,
            tables,
            peers,
            self._shell.port,
            mesh_clock.offset_ms,
            ISOLATED if self._shell.isolated else warning,
            scrub_view(status.scrubbed, wall_ms),
            self._replica.lock_held_ms,
            trouble_view(self._replica.trouble, wall_ms),
            free_bytes(self._file),
            account_views(status, peers),
            await self.cursors(),
            budget_view(self._mesh.links, links, wall_ms),
            areas,
            traffic_views(self._mesh.links),
        )

    def metered_hours(self) -> tuple[tuple[int, int], ...]:
        """Return the bytes that metered links have carried: (hour of Unix time, bytes)."""
        return self._mesh.links.day.hours()

    async def check_alive(self) -> None:
        """Return once the SQL thread has responded."""
        await self._replica.check_alive()

    def isolate(self, *, cut: bool) -> None:
        """Cut this node off from all others, or reconnect it."""
        self._shell.isolate(cut=cut)

    def scrub(self) -> None:
        """Start a scrub: compare every row with the change log, and capture rows that the triggers missed."""
        self._replica.submit(ScrubRequested())

    def request_comparison(self) -> None:
        """Compare with all linked peers soon."""
        self._replica.submit(CompareRequested())

    async def write_position(self) -> WritePosition:
        """Return the position of everything written here so far, all of it stamped."""
        return await self._replica.write_position()

    async def count_replicas(self, position: WritePosition, *, want: int = 0, wait_ms: int = 0) -> tuple[int, int, str]:
        """Return how many nodes, including this one, have each write up to a position, and how many peers are linked.

        The third is the area that is on fewer nodes than all tables, "" if none is.

        Wait until there are `want` nodes, at most `wait_ms` milliseconds; the requests to peers become rarer meanwhile.
        """
        started_ms, pause_s = clock()[0], COUNT_PAUSE_S
        while True:
            self._replica.submit(CoverageRequested())
            await asyncio.sleep(pause_s)
            replicas, linked, least = await self._replica.count_replicas(position)
            left_s = (started_ms + wait_ms - clock()[0]) / 1000
            if replicas >= want or left_s <= 0:
                return replicas, linked, least
            pause_s = min(2 * pause_s, COUNT_PAUSE_S_MAX, left_s)

    async def compare(self, seconds_max: float) -> tuple[Snapshot, tuple[LinkStatus, ...], tuple[AreaStatus, ...]]:
        """Compare with all linked peers; return after all answers, at the latest after `seconds_max` or a little more."""
        started_ms = clock()[0]
        self._replica.submit(CompareRequested())
        while True:
            links = await self._replica.links()
            waited_ms = clock()[0] - started_ms
            ages_ms = [link.compared_ms_ago for link in links]
            if all(age is not None and age <= waited_ms for age in ages_ms) or waited_ms > 1000 * seconds_max:
                break
            await asyncio.sleep(COMPARE_PAUSE_S)
        # The row counts of the snapshot come before the comparisons that are returned with them.
        snapshot = await self.snapshot()
        return snapshot, await self._replica.links(), await self._replica.areas(self._others())

    def _others(self) -> list[bytes]:
        return [peer.node_id for peer in self._mesh.peers(clock()[0])]

    async def cursors(self) -> tuple[ReaderView, ...]:
        """Return the cursors of the change feed."""
        return reader_views(await self._replica.cursors(), clock()[1])

    async def run_on_feed(self, request: Callable[[Feed, int], T]) -> T:
        """Run a request on the change feed, with the wall time; return its result."""
        return await self._replica.run_feed(request)

    async def run_on_replica(self, request: Callable[[Replica], T]) -> T:
        """Run a request on the replica and publish what it changed; return its result."""
        return await self._replica.run(request)

    async def query_replica(self, request: Callable[[Replica], T]) -> T:
        """Run a short request on the replica that publishes nothing; return its result."""
        return await self._replica.query(request)

    def learn(self, certificate: bytes) -> None:
        """Record a certificate that came over no link, before anything of its member."""
        self._shell.feed(CertificatesFound((certificate,)))

    def names_by_site(self) -> dict[str, str]:
        """Return the members' names by the first 16 hexadecimal digits of their node ids, with which their sites begin."""
        peers = {peer.node_id.hex()[:16]: peer.name for peer in self._mesh.peers(clock()[0])}
        return peers | {self._identity.node_id.hex()[:16]: self._identity.name}

    def add_invitation(self, invitation: Invitation) -> None:
        """Accept this invitation from now on."""
        self._mesh.invite(invitation)

    def invitations(self) -> tuple[Invitation, ...]:
        """Return the invitations with their remaining uses. Store them at each `enrolment.granted` notice."""
        return self._mesh.invitations()

    @property
    def membership(self) -> Membership:
        """The members of the mesh, and what this node may decide."""
        return self._mesh.membership

    def revoke(self, node_ids: tuple[bytes, ...]) -> None:
        """Revoke members. Call `Membership.revocable` for each first."""
        self._shell.feed(RevokeMembers(node_ids))

    def purge(self, node_id: bytes, since_ms: int) -> None:
        """Drop on every node what a revoked node has written since a time. Call `Membership.purgeable` first."""
        self._shell.feed(PurgeWrites(node_id, since_ms))

    def reach(self) -> tuple[tuple[bytes, str, str], ...]:
        """Return every other member: its node id, its name, and whether it is linked, reachable or down."""
        return tuple((peer.node_id, peer.name, peer.state) for peer in self._mesh.peers(clock()[0]))

    def is_reachable(self, node_id: bytes) -> bool:
        """Return whether a member is linked with this node, directly or through others."""
        return any(peer.node_id == node_id and peer.state != "down" for peer in self._mesh.peers(clock()[0]))

    # ---- events

    def _on_commit(self) -> None:
        self._state_writer.touch()
        self._idle_trim.touch()  # merges write to the file too, while the comparisons of an idle node do not
        self._replica.submit(CommitSeen(writing=True))
        self._commit_poll.hint()
        self.news.on_commit()
        self._callbacks.on_commit()

    def _on_replaced(self) -> None:
        text = f"{self._file} was replaced or removed while it was served; run 'mycomesh up' again"
        self._callbacks.on_failure(NodeError(text))

    def _on_action(self, action: ToExchange | Notice | MembershipChanged | Close | Any) -> None:
        self._state_writer.touch()
        match action:
            case ToExchange(event):
                self._replica.submit(event)
            case Notice():
                self._callbacks.on_notice(self._with_member_name(action))
            case MembershipChanged():
                self._callbacks.on_membership(action)
            case Close(conn, reason):
                notice = Notice("conn.closed", f"connection {conn} closed: {reason}", {"conn": conn}, "debug")
                self._callbacks.on_notice(notice)
            case _:
                raise AssertionError(f"a member's core returned {type(action).__name__}")

    def _on_report(self, report: Report) -> None:
        match report:
            case ExchangeActed(actions):
                now_ms, wall_ms = clock()
                self._shell.perform(self._core.on_exchange(self.virtual_links.take(actions), now_ms, wall_ms))
                if self._clock_note_timer is None and any(isinstance(action, Publish) for action in actions):
                    loop = asyncio.get_running_loop()
                    self._clock_note_timer = loop.call_later(NOTE_EVERY_S, self._on_clock_note_timer)
            case ExchangeFailed(error):
                self._callbacks.on_failure(error)
            case _:
                assert_never(report)

    def _on_clock_note_timer(self) -> None:
        self._clock_note_timer = None
        self._replica.note_clock()

    async def _write_state(self, phase: str = "serving") -> None:
        """Update the state tables in the file; write only what differs."""
        now_ms, wall_ms = clock()
        identity, peers = self._identity, self._mesh.peers(now_ms)
        head = (phase, identity.mesh_name, identity.mesh_id.hex(), identity.name, identity.node_id.hex())
        mailboxes = mailbox_states(self._callbacks.mailboxes())
        port, offset_ms = self._shell.port, self._mesh.mesh_clock.offset_ms

        def state_of(links: tuple[LinkStatus, ...], areas: tuple[AreaStatus, ...]) -> NodeState:
            states = peer_states(peers, links, wall_ms)
            trouble = self._replica.trouble
            known = (states, len(links), equal_on(links), trouble)
            return NodeState(*head, os.getpid(), port, offset_ms, *known, mailboxes=mailboxes, areas=area_states(areas))

        await self._replica.write_state(state_of, [peer.node_id for peer in peers], wall_ms)

    def _with_member_name(self, notice: Notice) -> Notice:
        """Replace the beginning of a node id, all that the exchange knows of a member, by the member's name."""
        node_id = str(notice.detail.get("node_id", ""))
        member = self._mesh.roster.get(bytes.fromhex(node_id)) if node_id else None
        return notice if member is None else replace(notice, text=notice.text.replace(node_id[:8], member.name, 1))
