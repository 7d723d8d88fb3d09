"""The shell of one simulated node: drives the real `NodeCore`, `Exchange` and `Replica` in virtual time.

It replaces the daemon's streams, timers, commit hints and SQL thread.

Invariants: the cores get exactly the events that the daemon would give them; a stopped node gets no more events, even those
that were on their way.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, assert_never

import apsw

from mycomesh.mesh import events as mesh_events
from mycomesh.mesh.node.core import NodeCore, ShellAction, ToExchange
from mycomesh.mesh.node.virtual_links import VirtualLinks
from mycomesh.mesh.node.work_queue import Job, WorkQueue
from mycomesh.mesh.relay.circuits import Circuits
from mycomesh.simulations.gateways import SimulatedGateway
from mycomesh.simulations.traitor import Traitor
from mycomesh.simulations.workload import REPORTS, set_clock
from mycomesh.simulations.world import MS, Clock, World
from mycomesh.sync import events as sync_events
from mycomesh.sync.exchange.exchange import Exchange, ExchangeConfig
from mycomesh.sync.replica import Hooks, Replica, ReplicaConfig
from mycomesh.sync.wire.interest import Interest

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping

    from mycomesh.mesh.mailbox.mailbox import Mailbox
    from mycomesh.mesh.versions import Versions
    from mycomesh.simulations.disk import Disk
    from mycomesh.simulations.members import Entropy, Member
    from mycomesh.simulations.network import Network
    from mycomesh.sync.feed.feed import Feed
    from mycomesh.sync.replication.table_settings import TableSetting

__all__ = ["Home", "Observer", "Shell"]

SQL_US = 200  # for one event on the SQL thread: a small apply on a small computer
WAKE_US = (300, 2_000)  # from a commit to the drain: inotify, then the daemon's short wait
WAKE_LOST = 0.01  # share of lost hints; the safety check of data_version once a second replaces them
WAKE_LATE_US = 1_000 * MS


class Observer(Protocol):
    """Receives what nodes do, and changes nothing."""

    def on_commit(self, node: int) -> None:
        """Handle a commit of any program to the node's file."""

    def on_exchange(self, node: int, event: sync_events.Event, actions: list[sync_events.Action]) -> None:
        """Handle an event of the node's `Exchange` and its actions."""

    def on_notice(self, node: int, event: str, text: str, level: str) -> None:
        """Handle a notice of the node."""


@dataclass(frozen=True, slots=True)
class Home:
    """The inputs of one start of a node. `start` counts the starts, so that each has its own randomness."""

    index: int
    path: str
    member: Member
    start: int
    versions: Versions
    disk: Disk
    recalled: Mapping[bytes, int]
    urgent: tuple[str, ...] = ()
    observer: Observer | None = None
    keeps: Interest | None = None  # None where no table is cut
    on_feed: Callable[[], None] | None = (
        None  # called after each commit of the replica, which may have changes for readers
    )
    mailbox: Mailbox | None = None  # of a gateway: its way to the storage, and the name of its base
    base: str = ""
    stored: list[mesh_events.MembershipChanged] = field(default_factory=list)  # the last one of all runs, if any
    paced: tuple[TableSetting, ...] = ()  # tables with budgets


class Shell:
    """One running node, from its start to its end."""

    def __init__(self, home: Home, world: World, network: Network, clock: Clock) -> None:
        index, start = home.index, home.start
        self.index = index
        self.clock = clock
        self.up = True
        self.started_us = self.ended_us = world.now_us
        self.notices: Counter[str] = Counter()
        self._world = world
        self._network = network
        self._home = home
        self._syncs = 0
        self.traitor: Traitor | None = None
        self._crash_after = -1  # actions left before a planned kill -9; negative: no kill is planned
        rng = world.stream(f"node/{index}/{start}")
        self._wakes = Wakes(world, rng, self._on_wake)
        self._sql = SqlThread(world, self)
        entropy = rng.randbytes
        self.replica = self._open(home, entropy)
        self.replica.feed.on_commit = home.on_feed
        self.exchange = Exchange(self.replica, rng=world.stream(f"exchange/{index}/{start}"), config=ExchangeConfig())
        mesh_rng = world.stream(f"mesh/{index}/{start}")
        stored, partial = next(iter(home.stored), None), bool(home.keeps and home.keeps.areas)
        self.core = NodeCore(home.member.machine(entropy, mesh_rng, home.versions, stored, partial))
        network.attach(index, self)
        self._core_due = self.core.next_deadline()
        self._sql_due = self.exchange.next_deadline()
        self._wakes.arm(self.next_deadline())
        self.virtual_links = VirtualLinks(self._sql.put)
        self.gateway: SimulatedGateway | None = None
        self._written = 0
        if home.mailbox is not None:
            stream = world.stream(f"gateway/{index}/{start}")
            self.gateway = SimulatedGateway(self, home.mailbox, home.base, world, stream)

    def _open(self, home: Home, entropy: Entropy) -> Replica:
        """Open the file. Its connection gets the simulation's clock too, since the catalogue logs facts by SQL."""

        def hook(db: apsw.Connection) -> None:
            set_clock(db, self.wall_ms)

        apsw.connection_hooks.append(hook)
        try:
            return Replica.open(
                home.path,
                node_id=home.member.node_id,
                mesh_key=home.member.digest_key,
                entropy=entropy,
                config=ReplicaConfig(
                    urgent=home.urgent,
                    exclude=REPORTS if home.on_feed else (),
                    interest=home.keeps,
                    tables=home.paced,
                ),
                recalled=home.recalled,
                hooks=Hooks(authority=home.member.authority),
            )
        finally:
            apsw.connection_hooks.remove(hook)

    def wall_ms(self) -> int:
        """Return this machine's wall time."""
        return self.clock.wall_ms(self._world.now_us)

    def next_deadline(self) -> int | None:
        """Return the earlier of the two cores' deadlines, each read after the last call of its core."""
        core, sql = self._core_due, self._sql_due
        if core is None or sql is None:
            return sql if core is None else core
        return min(core, sql)

    # ---- the end

    def kill(self, *, silent: bool) -> None:
        """End the node as kill -9 would, or with `silent` as a power cut would: without a drain or a farewell."""
        if self.up:
            self.up = False
            self.ended_us = self._world.now_us
            if self.gateway is not None:
                self.gateway.close()
            self._network.detach(self.index, silent=silent)
            self.replica.close()

    def keep(self, interest: Interest | None) -> None:
        """Have the replica keep other areas, and let its exchange look what to ask for and what to release."""
        assert interest is not None, "the scenario cuts a table"
        self.replica.set_interest(interest)
        self._sql_due = self._world.now_ms
        self._wakes.arm(self.next_deadline())

    def kill_within(self, actions: int) -> None:
        """Kill the node after so many more actions, perhaps between a commit and the send that follows; negative: never."""
        self._crash_after = actions

    # ---- readers of the change feed

    def run_on_feed(self, request: Callable[[Feed, int], list[bytes] | None]) -> None:
        """Run a request of a reader, with the wall time, and publish the batches that it returns."""
        published = request(self.replica.feed, self.wall_ms())
        if published:
            self._perform(self.core.on_exchange(self.exchange.publish(published), self._world.now_ms, self.wall_ms()))

    # ---- calls by the network (simulations.network.Endpoint)

    def on_opened(self, conn: int, address: mesh_events.Address, *, dialled: bool) -> None:
        """Feed a new stream to the core."""
        self._feed(mesh_events.ConnOpened(conn, address, dialled))

    def on_received(self, conn: int, data: bytes) -> None:
        """Feed received bytes to the core."""
        if self.up:
            self._world.trace.record(self._world.now_us, self.index, "bytes", data)
            self._perform(self.core.handle(mesh_events.ConnReceived(conn, data), self._world.now_ms, self.wall_ms()))

    def on_closed(self, conn: int) -> None:
        """Feed the end of a stream to the core."""
        self._feed(mesh_events.ConnClosed(conn))

    def on_drained(self, conn: int) -> None:
        """Feed to the core that it may send on a stream again."""
        self._feed(mesh_events.ConnDrained(conn))

    def on_dial_failed(self, address: mesh_events.Address) -> None:
        """Feed a failed dial to the core."""
        self._feed(mesh_events.DialFailed(address))

    def on_hint(self, address: mesh_events.Address, instance: str) -> None:
        """Feed a discovered address to the core."""
        self._feed(mesh_events.AddressFound(address, instance=instance))

    def on_network_changed(self) -> None:
        """Feed a change of the network interfaces to the core."""
        self._feed(mesh_events.NetworkChanged())

    def revoke(self, node_id: bytes) -> bool:
        """Revoke a member as the operator would; return False if this node cannot."""
        mesh = self.core.mesh
        if not isinstance(mesh, Circuits) or mesh.membership.revocable(node_id, self.wall_ms()):
            return False
        self._feed(mesh_events.RevokeMembers((node_id,)))
        return True

    def purge(self, node_id: bytes, since_ms: int) -> bool:
        """Have every node drop what a member has written; return False if this node cannot, or has not revoked it."""
        mesh = self.core.mesh
        if not isinstance(mesh, Circuits) or mesh.membership.purgeable() or not self.has_orders([node_id], []):
            return False
        self._feed(mesh_events.PurgeWrites(node_id, since_ms))
        return True

    def received(self) -> dict[str, int]:
        """Return the bytes that this node has received, by kind of message; those of circuits are part of `circuit`."""
        mesh = self.core.mesh
        return mesh.received() if isinstance(mesh, Circuits) else {}

    def has_orders(self, revoked: list[bytes], purged: list[bytes]) -> bool:
        """Return whether this node knows that these members are revoked, and that the writes of those are dropped."""
        mesh = self.core.mesh
        if not isinstance(mesh, Circuits):
            return not revoked
        roster = mesh.membership.roster
        return all(roster.revocations.revocation(node_id) for node_id in revoked) and all(
            roster.purges.of(node_id) for node_id in purged
        )

    def learn(self, certificate: bytes) -> None:
        """Feed a member's certificate that came over a mailbox to the core."""
        self._feed(mesh_events.CertificatesFound((certificate,)))

    def notify(self, notice: mesh_events.Notice) -> None:
        """Record a notice."""
        if self.up:
            self._perform_one(notice)

    def betray(self, lies: tuple[str, ...]) -> None:
        """Falsify what this node says from now on."""
        rng = self._world.stream(f"traitor/{self.index}/{self._home.start}")
        self.traitor = Traitor(lies, rng, self.replica)

    # ---- commits

    def on_commit(self) -> None:
        """Pass the hint of a commit by any program to the SQL thread, after a delay."""
        if self.up and self._home.observer is not None:
            self._home.observer.on_commit(self.index)
        self._wakes.hint_commit(self._on_commit_hint)

    def _on_commit_hint(self) -> None:
        if self.up:
            self._sql.put(sync_events.CommitSeen())

    # ---- the loop

    def _feed(self, event: mesh_events.Event) -> None:
        if self.up:
            self._world.trace.record(self._world.now_us, self.index, repr(event))
            self._perform(self.core.handle(event, self._world.now_ms, self.wall_ms()))

    def _on_wake(self) -> None:
        if not self.up:
            return
        now = self._world.now_ms
        if self._sql_due is not None and self._sql_due <= now:
            self._sql.put(sync_events.TimerFired())
        if self._core_due is not None and self._core_due <= now:
            self._feed(mesh_events.TimerFired())
        else:
            self._wakes.arm(self.next_deadline())

    def run_sql(self, event: sync_events.Event) -> None:
        """Handle one event on the SQL thread, and perform the actions that follow."""
        if self.up:
            self._world.trace.record(self._world.now_us, self.index, type(event).__name__)
            now, wall = self._world.now_ms, self.wall_ms()
            done = self.exchange.handle(event, now, wall)
            self._sql_due = self.exchange.next_deadline()
            if self.traitor is not None:
                self.traitor.hear(event)
                done = self.traitor.falsify(done, wall)
            if self._home.observer is not None:
                self._home.observer.on_exchange(self.index, event, done)
            if self._home.disk.watched and self.replica.store.syncs != self._syncs:
                self._home.disk.record_sync(self._home.path, self._world.now_us)
            self._syncs = self.replica.store.syncs
            self._perform(self.core.on_exchange(self.virtual_links.take(done), now, wall))
            written = self.replica.store.db.total_changes() if self.up else 0
            if self.gateway is not None and written != self._written:  # the daemon's watch reports each commit
                self._written = written
                self.gateway.gateway.on_commit()

    def _perform(self, actions: list[ShellAction]) -> None:
        for action in actions:
            if self._crash_after >= 0:
                self._crash_after -= 1
                if self._crash_after < 0:
                    self.kill(silent=False)
            if not self.up:
                return
            self._perform_one(action)
        self._core_due = self.core.next_deadline()
        self._wakes.arm(self.next_deadline())

    def _perform_one(self, action: ShellAction) -> None:
        match action:
            case mesh_events.Write(conn, data):
                self._network.write(self.index, conn, data)
            case ToExchange(event):
                self._sql.put(event)
            case mesh_events.Dial(address):
                self._network.dial(self.index, address)
            case mesh_events.Close(conn, _):
                self._network.close(self.index, conn)
                # The daemon's transport reports the end of every stream that it reported, even one that the node ended.
                self._world.after(0, self.on_closed, conn)
            case mesh_events.Notice(event, text, _, level):
                self._world.trace.record(self._world.now_us, self.index, event, text.encode())
                self.notices[f"{level}: {event}"] += 1
                if self._home.observer is not None:
                    self._home.observer.on_notice(self.index, event, text, level)
            case mesh_events.MembershipChanged():
                self._home.stored[:] = [action]
            case mesh_events.Enrolled():
                raise AssertionError("every simulated node is a member from the start")
            case _:
                assert_never(action)


class SqlThread:
    """The SQL thread: events wait in the work queue of a real node, and take time."""

    __slots__ = ("_busy_us", "_shell", "_timer_waits", "_work_queue", "_world")

    def __init__(self, world: World, shell: Shell) -> None:
        self._world = world
        self._shell = shell
        self._work_queue = WorkQueue()
        self._timer_waits = False
        self._busy_us = 0

    def put(self, event: sync_events.Event) -> None:
        """Queue one event."""
        if isinstance(event, sync_events.TimerFired):
            if self._timer_waits:
                return  # one check of the deadlines covers everything before it
            self._timer_waits = True
        if not self._work_queue.put(event):
            raise AssertionError("a simulated node is further behind than its work queue allows")
        self._busy_us = max(self._busy_us, self._world.now_us) + SQL_US
        self._world.at(self._busy_us, self._run)

    def _run(self) -> None:
        if not len(self._work_queue):
            return  # an earlier run took this event in a group
        event = self._work_queue.next(self._world.now_ms)
        assert not isinstance(event, Job), "a simulated node gets no jobs"
        if isinstance(event, sync_events.TimerFired):
            self._timer_waits = False
        self._shell.run_sql(event)


class Wakes:
    """The pending wake-up for a node's next deadline, and the delayed hints of commits."""

    __slots__ = ("_at_ms", "_fired_ms", "_hint_pending", "_on_wake", "_rng", "_world")

    def __init__(self, world: World, rng: random.Random, on_wake: Callable[[], None]) -> None:
        self._world = world
        self._rng = rng
        self._on_wake = on_wake
        self._at_ms = -1  # the millisecond of the earliest wake-up on the heap; -1: none
        self._fired_ms = -1
        self._hint_pending = False

    def arm(self, deadline_ms: int | None) -> None:
        """Plan a wake-up for the deadline, unless an earlier one is planned."""
        if deadline_ms is None:
            return
        now = self._world.now_ms
        # A deadline that stays in the past after its wake-up waits for the next millisecond, so that time passes.
        due = max(deadline_ms, now + 1 if self._fired_ms == now else now)
        if 0 <= self._at_ms <= due:
            return
        self._at_ms = due
        self._world.at(due * MS, self._fire, due)

    def hint_commit(self, call: Callable[[], None]) -> None:
        """Plan the hint of a commit; commits before it share one hint."""
        if not self._hint_pending:
            self._hint_pending = True
            late = self._rng.random() < WAKE_LOST
            self._world.after(WAKE_LATE_US if late else self._rng.randint(*WAKE_US), self._hint, call)

    def _hint(self, call: Callable[[], None]) -> None:
        self._hint_pending = False
        call()

    def _fire(self, due_ms: int) -> None:
        if due_ms != self._at_ms:
            return  # an earlier wake-up replaced this one
        self._at_ms = -1
        self._fired_ms = self._world.now_ms
        self._on_wake()
