"""The shell of one simulated node: drives the real `NodeCore`, `Exchange` and `Replica` in virtual time.

Owns what the daemon owns in life: streams, timers, the wake-up after a commit, and the queue of the one SQL thread.
What always holds: the cores see exactly the events that the daemon would give them; a stopped node is deaf,
whatever was still on its way to it. Must not know what tables or messages mean, nor what the scenario intends.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, assert_never

import apsw

from mycomesh.mesh import events as mesh_events
from mycomesh.mesh.core import MeshCore
from mycomesh.mesh.node.core import NodeCore, ShellAction, ToExchange
from mycomesh.mesh.node.work_queue import Job, WorkQueue
from mycomesh.simulations.workload import set_clock
from mycomesh.simulations.world import MS, Clock, World
from mycomesh.sync import events as sync_events
from mycomesh.sync.exchange.exchange import Exchange, ExchangeConfig
from mycomesh.sync.replica import Replica, ReplicaConfig

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping

    from mycomesh.mesh.versions import Versions
    from mycomesh.simulations.disk import Disk
    from mycomesh.simulations.members import Entropy, Member
    from mycomesh.simulations.network import Network

__all__ = ["Home", "Shell", "Watch"]

SQL_US = 200  # one event on the SQL thread: what a small apply takes on a small computer
WAKE_US = (300, 2_000)  # from a commit to the drain: inotify, then the daemon's short wait
WAKE_LOST = 0.01  # of the hints; the look at data_version once a second makes up for them
WAKE_LATE_US = 1_000 * MS


class Watch(Protocol):
    """What may look on as nodes run: it changes nothing."""

    def committed(self, node: int) -> None:
        """Some program committed to the node's file."""

    def exchanged(self, node: int, event: sync_events.Event, actions: list[sync_events.Action]) -> None:
        """The node's `Exchange` took an event."""

    def noticed(self, node: int, event: str, text: str, level: str) -> None:
        """The node told people something."""


@dataclass(frozen=True, slots=True)
class Home:
    """What one start of a node begins from; `life` counts its starts, so that each draws its own randomness."""

    index: int
    path: str
    member: Member
    life: int
    versions: Versions
    disk: Disk
    recalled: Mapping[bytes, int]
    urgent: tuple[str, ...] = ()
    watch: Watch | None = None


class Shell:
    """One running node; made at its start and thrown away at its end."""

    def __init__(self, home: Home, world: World, network: Network, clock: Clock) -> None:
        index, life = home.index, home.life
        self.index = index
        self.clock = clock
        self.up = True
        self.started_us = self.ended_us = world.now_us
        self.notices: Counter[str] = Counter()
        self._world = world
        self._network = network
        self._home = home
        self._syncs = 0
        self._crash_after = -1  # actions left before a planned kill -9; negative: none planned
        rng = world.stream(f"node/{index}/{life}")
        self._wakes = Wakes(world, rng, self._on_wake)
        self._sql = SqlThread(world, self)
        entropy = rng.randbytes
        self.replica = self._open(home, entropy)
        self.exchange = Exchange(self.replica, rng=world.stream(f"exchange/{index}/{life}"), config=ExchangeConfig())
        mesh_rng = world.stream(f"mesh/{index}/{life}")
        self.core = NodeCore(home.member.machine(entropy, mesh_rng, home.versions))
        network.attach(index, self)
        self._core_due = self.core.next_deadline()
        self._sql_due = self.exchange.next_deadline()
        self._wakes.arm(self.next_deadline())

    def _open(self, home: Home, entropy: Entropy) -> Replica:
        """Open the file; its connection gets the simulation's clock too, for the catalogue logs facts by SQL."""

        def hook(db: apsw.Connection) -> None:
            set_clock(db, self.wall_ms)

        apsw.connection_hooks.append(hook)
        try:
            return Replica.open(
                home.path,
                node_id=home.member.node_id,
                mesh_key=home.member.digest_key,
                entropy=entropy,
                config=ReplicaConfig(urgent=home.urgent),
                recalled=home.recalled,
            )
        finally:
            apsw.connection_hooks.remove(hook)

    def wall_ms(self) -> int:
        """This machine's idea of the time of day."""
        return self.clock.wall_ms(self._world.now_us)

    def next_deadline(self) -> int | None:
        """The sooner of the two cores' deadlines, each asked for when its core had last been called."""
        core, sql = self._core_due, self._sql_due
        if core is None or sql is None:
            return sql if core is None else core
        return min(core, sql)

    # ---- the end

    def kill(self, *, silent: bool) -> None:
        """End it like kill -9 (or, `silent`, like a power cut): nothing is said, nothing is drained."""
        if self.up:
            self.up = False
            self.ended_us = self._world.now_us
            self._network.detach(self.index, silent=silent)
            self.replica.close()

    def kill_within(self, actions: int) -> None:
        """End it after that many more actions: between a commit and the send that would have followed; negative: not."""
        self._crash_after = actions

    # ---- what the network calls (simulations.network.Host)

    def on_opened(self, conn: int, address: mesh_events.Address, *, dialled: bool) -> None:
        """A stream stands."""
        self._feed(mesh_events.ConnOpened(conn, address, dialled))

    def on_received(self, conn: int, data: bytes) -> None:
        """Bytes arrived."""
        if self.up:
            self._world.trace.record(self._world.now_us, self.index, "bytes", data)
            self._do(self.core.handle(mesh_events.ConnReceived(conn, data), self._world.now_ms, self.wall_ms()))

    def on_closed(self, conn: int) -> None:
        """A stream ended."""
        self._feed(mesh_events.ConnClosed(conn))

    def on_drained(self, conn: int) -> None:
        """A stream has room."""
        self._feed(mesh_events.ConnDrained(conn))

    def on_dial_failed(self, address: mesh_events.Address) -> None:
        """Nobody answered."""
        self._feed(mesh_events.DialFailed(address))

    def on_hint(self, address: mesh_events.Address, instance: str) -> None:
        """A service record was heard."""
        self._feed(mesh_events.AddressFound(address, instance=instance))

    def on_network_changed(self) -> None:
        """An interface came or went."""
        self._feed(mesh_events.NetworkChanged())

    def revoke(self, node_id: bytes) -> bool:
        """Its operator makes that member a stranger; False if this node cannot."""
        mesh = self.core.mesh
        if not isinstance(mesh, MeshCore) or mesh.membership.revocable(node_id, self.wall_ms()):
            return False
        self._feed(mesh_events.RevokeMember(node_id))
        return True

    # ---- what the application's commits cause

    def on_commit(self) -> None:
        """Some program committed to the file: the hint reaches the SQL thread a little later."""
        if self.up and self._home.watch is not None:
            self._home.watch.committed(self.index)
        self._wakes.committed(self._on_commit_hint)

    def _on_commit_hint(self) -> None:
        if self.up:
            self._sql.put(sync_events.CommitSeen())

    # ---- the loop

    def _feed(self, event: mesh_events.Event) -> None:
        if self.up:
            self._world.trace.record(self._world.now_us, self.index, repr(event))
            self._do(self.core.handle(event, self._world.now_ms, self.wall_ms()))

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
        """One event on the SQL thread, and what follows from it."""
        if self.up:
            self._world.trace.record(self._world.now_us, self.index, type(event).__name__)
            now, wall = self._world.now_ms, self.wall_ms()
            done = self.exchange.handle(event, now, wall)
            self._sql_due = self.exchange.next_deadline()
            if self._home.watch is not None:
                self._home.watch.exchanged(self.index, event, done)
            if self._home.disk.watched and self.replica.syncs != self._syncs:
                self._home.disk.synced(self._home.path, self._world.now_us)
            self._syncs = self.replica.syncs
            self._do(self.core.on_exchange(done, now, wall))

    def _do(self, actions: list[ShellAction]) -> None:
        for action in actions:
            if self._crash_after >= 0:
                self._crash_after -= 1
                if self._crash_after < 0:
                    self.kill(silent=False)
            if not self.up:
                return
            self._do_one(action)
        self._core_due = self.core.next_deadline()
        self._wakes.arm(self.next_deadline())

    def _do_one(self, action: ShellAction) -> None:
        match action:
            case mesh_events.Write(conn, data):
                self._network.write(self.index, conn, data)
            case ToExchange(event):
                self._sql.put(event)
            case mesh_events.Dial(address):
                self._network.dial(self.index, address)
            case mesh_events.Close(conn, _):
                self._network.close(self.index, conn)
                # The daemon's transport reports the end of every stream it had reported, whoever ended it.
                self._world.after(0, self.on_closed, conn)
            case mesh_events.Notice(event, text, _, level):
                self._world.trace.record(self._world.now_us, self.index, event, text.encode())
                self.notices[f"{level}: {event}"] += 1
                if self._home.watch is not None:
                    self._home.watch.noticed(self.index, event, text, level)
            case mesh_events.MembershipChanged():
                pass  # simulated nodes are not restarted from disk with what they knew of members
            case mesh_events.Enrolled():
                raise AssertionError("every simulated node is a member from the start")
            case _:
                assert_never(action)


class SqlThread:
    """The one SQL thread: events wait their turn, in the work queue of a real node, and take time."""

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
                return  # one look at the deadlines covers everything before it
            self._timer_waits = True
        if not self._work_queue.put(event):
            raise AssertionError("a simulated node has fallen behind by more than a node would take")
        self._busy_us = max(self._busy_us, self._world.now_us) + SQL_US
        self._world.at(self._busy_us, self._run)

    def _run(self) -> None:
        if not len(self._work_queue):
            return  # what was due by now was taken with what came before it
        event = self._work_queue.next(self._world.now_ms)
        assert not isinstance(event, Job), "nobody asks a simulated node"
        if isinstance(event, sync_events.TimerFired):
            self._timer_waits = False
        self._shell.run_sql(event)


class Wakes:
    """One pending wake-up for a node's next deadline, and the hints of its application's commits."""

    __slots__ = ("_at_ms", "_fired_ms", "_hinted", "_on_wake", "_rng", "_world")

    def __init__(self, world: World, rng: random.Random, on_wake: Callable[[], None]) -> None:
        self._world = world
        self._rng = rng
        self._on_wake = on_wake
        self._at_ms = -1  # the millisecond of the earliest wake-up on the heap; -1: none
        self._fired_ms = -1
        self._hinted = False

    def arm(self, deadline_ms: int | None) -> None:
        """Wake at the deadline, unless a wake-up stands before it."""
        if deadline_ms is None:
            return
        now = self._world.now_ms
        # A deadline that stays in the past after its wake-up waits for the next millisecond: time must go on.
        due = max(deadline_ms, now + 1 if self._fired_ms == now else now)
        if 0 <= self._at_ms <= due:
            return
        self._at_ms = due
        self._world.at(due * MS, self._fire, due)

    def committed(self, call: Callable[[], None]) -> None:
        """Pass the hint of a commit on, once for those that come together."""
        if not self._hinted:
            self._hinted = True
            late = self._rng.random() < WAKE_LOST
            self._world.after(WAKE_LATE_US if late else self._rng.randint(*WAKE_US), self._hint, call)

    def _hint(self, call: Callable[[], None]) -> None:
        self._hinted = False
        call()

    def _fire(self, due_ms: int) -> None:
        if due_ms != self._at_ms:
            return  # an earlier wake-up took its place
        self._at_ms = -1
        self._fired_ms = self._world.now_ms
        self._on_wake()
