"""The simulated cluster: hosts with their files, nodes and applications, which scenarios start, crash, copy and restore.

Invariants: a file outlives its node; an application runs on when its node dies, and does not notice; the oracle learns about
every lost file.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import apsw

from mycomesh.mesh.versions import SUPPORTED
from mycomesh.simulations.causality import Causality
from mycomesh.simulations.disk import Disk
from mycomesh.simulations.mailbox import SharedMailbox, Way
from mycomesh.simulations.oracle import KEPT, Oracle, kept_tokens
from mycomesh.simulations.readers import FeedReader
from mycomesh.simulations.shell import Home, Shell
from mycomesh.simulations.workload import CUT, RETAINED, Application
from mycomesh.simulations.world import EPOCH_MS, SECOND, Clock, World
from mycomesh.sync.errors import MigrationError
from mycomesh.sync.replication.table_settings import TableSetting
from mycomesh.sync.schema.policy import OWN_IDS
from mycomesh.sync.storage.horizon import RetainRule
from mycomesh.sync.storage.wal import WAL_PAGES_MAX
from mycomesh.sync.wire.interest import Interest

if TYPE_CHECKING:
    from pathlib import Path

    from mycomesh.mesh.events import MembershipChanged
    from mycomesh.mesh.versions import Versions
    from mycomesh.simulations.members import Member
    from mycomesh.simulations.network import Network
    from mycomesh.simulations.scenario import Scenario
    from mycomesh.simulations.shell import Observer

__all__ = ["Cluster", "Host"]

# The longest time from a commit to its drain in a running node: a lost hint, then the safety check.
UNDRAINED_US = 2 * SECOND
# After this time a write of a reachable member is everywhere, even if a link breaks meanwhile.
SPREAD_US = 10 * SECOND
ORDER_AGAIN_US = SECOND // 4
LOGS_PAGES_MAX = 1 << 18  # 1 GiB: of the write-ahead logs of all replicas together, which lie in memory


@dataclass(slots=True)
class Host:
    """The machine of a node: everything that outlives the node's process."""

    index: int
    path: str
    clock: Clock
    application: Application
    shell: Shell | None = None
    starts: int = 0
    versions: Versions = SUPPORTED
    copies: int = 0
    backup: tuple[str, int] | None = None  # path, virtual time of the copy
    disk: Disk = field(default_factory=Disk)
    notices: Counter[str] = field(default_factory=Counter)
    drained_us: int = 0  # commits before this time were drained when the node last started
    recalled: dict[bytes, int] = field(default_factory=dict)  # the clock notes that the node keeps outside its file
    readers: list[FeedReader] = field(default_factory=list)
    keeps: tuple[str, ...] | None = None  # areas; None: all
    membership: list[MembershipChanged] = field(default_factory=list)  # what the node has stored of it beside its file
    pinned_s: int | None = None  # how long rows that go with time are kept here alone; 0: as elsewhere, None: always so

    def wake_readers(self) -> None:
        """Let the readers of the change feed look at it."""
        for reader in self.readers:
            reader.wake()


class Cluster:
    """All nodes of one scenario."""

    def __init__(
        self,
        world: World,
        network: Network,
        members: tuple[Member, ...],
        scenario: Scenario,
        directory: Path,
        observer: Observer | None = None,
    ) -> None:
        self.network = network
        self.oracle = Oracle()
        self.causality = Causality()
        self.revoked: dict[int, int] = {}  # node -> virtual microseconds of its revocation
        self.purged: dict[int, int] = {}  # node -> virtual microseconds since which its writes are dropped
        self.mailbox = SharedMailbox(world)
        self.ways = tuple(Way(self.mailbox) for _ in scenario.bases)
        self.bases = {node: number for number, base in enumerate(scenario.bases) for node in base}
        self._gateways = scenario.gateways
        if scenario.bases:
            network.separate(scenario.bases)
        self.traitors: dict[int, tuple[str, ...]] = {}  # node -> what it lies in
        self.failures: list[str] = []  # failed local writes (invariant 4), one line each
        self.writing = True
        self._world = world
        self._members = members
        self._directory = directory
        self._observer = observer
        self._tables_at = scenario.tables_at
        self._urgent = scenario.urgent
        self._signed = scenario.signed
        self._paced = tuple(TableSetting(name, bytes_s=max(1, scenario.budget // 5)) for name in scenario.paced)
        self.retain_ms = 1_000 * scenario.retain_s
        self.areas = (scenario.areas or scenario.nodes) if scenario.keeps else 0  # 0 where no table is cut
        self.keyed = scenario.keyed
        self.writes = scenario.writes
        self._lasting_range = scenario.lasting_range
        self._rng = world.stream("disks")
        self.hosts = tuple(
            Host(
                index,
                str(directory / f"node{index}.db"),
                clock,
                self._application(index, scenario),
                versions=scenario.versions,
                keeps=scenario.keeps[index] if scenario.keeps else None,
            )
            for index, clock in enumerate(scenario.clocks or (Clock(),) * scenario.nodes)
        )
        places = world.stream("readers")
        for number in range(scenario.readers):
            host = self.hosts[places.randrange(scenario.nodes)]
            running = functools.partial(getattr, host, "shell")
            host.readers.append(FeedReader(number, host.application, running, world, inside=number % 2 == 1))

    def _application(self, index: int, scenario: Scenario) -> Application:
        rng, homes = self._world.stream(f"application/{index}"), scenario.homes
        return Application(
            index,
            scenario.rates,
            rng,
            self.oracle,
            0 if homes else self.areas,
            index % homes if homes else None,
            keyed=self.keyed,
            writes=scenario.writes[index] if scenario.writes else None,
        )

    @property
    def node_ids(self) -> list[bytes]:
        """The node ids of all members, by index."""
        return [member.node_id for member in self._members]

    @property
    def now_us(self) -> int:
        """The virtual time in microseconds."""
        return self._world.now_us

    def up(self) -> list[Host]:
        """Return the hosts whose node runs."""
        return [host for host in self.hosts if host.shell is not None and host.shell.up]

    def received(self) -> dict[str, int]:
        """Return the bytes that the running nodes have received, by kind of message."""
        found: Counter[str] = Counter()
        for host in self.up():
            found.update({} if host.shell is None else host.shell.received())
        return dict(sorted(found.items()))

    def members(self) -> list[Host]:
        """Return the hosts whose node is honest and has not been revoked."""
        return [host for host in self.hosts if host.index not in self.revoked and host.index not in self.traitors]

    def shell(self, index: int) -> Shell:
        """Return the running node with this index."""
        shell = self.hosts[index].shell
        assert shell is not None, f"node {index} is down"
        return shell

    # ---- starts and ends

    def start(self, index: int) -> None:
        """Start the node, and its application unless it runs. A running node continues, and a planned crash is cancelled."""
        host = self.hosts[index]
        if host.shell is not None and host.shell.up:
            host.shell.kill_within(-1)
            return
        first = not host.application.running
        creates = False
        if first:
            creates = self._tables_at is None or self._tables_at == index
            host.application.open(host.path, lambda: host.clock.wall_ms(self._world.now_us), schema=creates)
        host.starts += 1
        if host.shell is not None:
            host.drained_us = self._undrained_since(host)
            host.notices.update(host.shell.notices)
        home = Home(
            index,
            host.path,
            self._members[index],
            host.starts,
            host.versions,
            host.disk,
            host.recalled,
            self._urgent,
            self._observer,
            self._interest(host),
            host.wake_readers if host.readers else None,
            self.ways[self.bases[index]] if index in self._gateways else None,
            f"base{self.bases.get(index, 0)}",
            host.membership,
            self._paced,
        )
        host.shell = Shell(home, self._world, self.network, host.clock)
        host.shell.replica.store.wal.pages_max = min(WAL_PAGES_MAX, LOGS_PAGES_MAX // len(self.hosts))
        for table in self._signed if first and creates else ():
            host.shell.replica.decisions.decide_policy(table, "signed")
        if self.retain_ms and first and creates:
            replica = host.shell.replica
            replica.retention.decide(replica.tables[RETAINED], RetainRule(self.retain_ms), host.shell.wall_ms())
        if self.areas and first and creates and not self.keyed:
            host.shell.replica.decisions.decide_area(CUT, "drone_id")
        self._follow_pin(host)
        if index in self.traitors:
            host.shell.betray(self.traitors[index])
        elif self.traitors and host.starts > 1:
            # Until some peer has a table equal, a lie can pass for news of a restored backup.
            self.oracle.record_copy(index, host.drained_us, self._world.now_us)
            self.oracle.doubling[index] = None
        if index == 0:
            self._repeat_orders(host.shell)
        self._record(f"start {index}")
        host.wake_readers()
        if first and host.application.rates.total > 0:
            self._world.after(host.application.pause_us(), self._act, host, host.application.session)

    def crash(self, index: int, *, actions: int = 0, silent: bool = False) -> None:
        """Kill the node as with kill -9, after `actions` more actions; with `silent`, the machine and its application too."""
        host = self.hosts[index]
        if host.shell is None or not host.shell.up:
            return
        self.network.faults["crash"] += 1
        self._record(f"crash {index}")
        if silent:
            host.shell.kill(silent=True)
            host.application.close()
        elif actions:
            host.shell.kill_within(actions)
        else:
            host.shell.kill(silent=False)

    def power_cut(self, index: int, unsynced_s: float) -> None:
        """Cut the machine's power in `unsynced_s`; it loses a random suffix of the commits that it has not synced by then."""
        host = self.hosts[index]
        if host.application.running and not host.disk.watched:
            host.disk.watch(host.path, self._world.now_us)
            self._world.after(int(unsynced_s * SECOND), self._cut_power, host, host.path)

    def _cut_power(self, host: Host, path: str) -> None:
        if not self.writing or not host.application.running or path != host.path:
            host.disk.watched = False
            return  # a clean stop or a restore came first
        host.copies += 1
        kept = str(self._directory / f"node{host.index}.cut{host.copies}.db")
        lost = host.disk.cut_power(host.path, kept, self._rng)
        self.network.faults["power_cut"] += 1
        self._record(f"power cut {host.index}, {lost} bytes of the WAL are lost")
        if host.shell is not None:
            host.shell.kill(silent=True)
        host.application.close()
        if lost:
            self.network.faults["power_cut_with_loss"] += 1
            self._excuse_lost(host, kept, host.disk.synced_us)
        host.path = kept

    def revoke(self, index: int) -> None:
        """Let node 0 revoke a member, if node 0 runs. Other members may refuse what the revoked one wrote just before."""
        host = self.hosts[0]
        if host.shell is None or not host.shell.up or not host.shell.revoke(self._members[index].node_id):
            return
        now = self._world.now_us
        self.revoked[index] = now
        self.network.faults["revoke"] += 1
        self.oracle.record_revocation(index, now - SPREAD_US, now)
        self._record(f"revoke {index}")

    def purge(self, index: int, since_s: float) -> None:
        """Let node 0 revoke a member, and have all nodes drop what that has written since a virtual time."""
        self.revoke(index)
        shell = self.hosts[0].shell
        since_us = round(since_s * 1e6)
        since_ms = EPOCH_MS + since_us // 1_000
        if index not in self.revoked or shell is None or not shell.purge(self._members[index].node_id, since_ms):
            return
        self.purged[index] = since_us
        self.oracle.purged[index] = None
        self.network.faults["purge"] += 1
        self._record(f"purge {index}")

    def _repeat_orders(self, shell: Shell) -> None:
        """Give the root's orders again until its node has them: it may have died before it stored one.

        A node that has just started may know no certificate of the member yet, and refuses the order until then.
        """
        if not shell.up or not self.ordering():
            return
        for node in self.revoked:
            shell.revoke(self._members[node].node_id)
        for node, since_us in self.purged.items():
            shell.purge(self._members[node].node_id, EPOCH_MS + since_us // 1_000)
        self._world.after(ORDER_AGAIN_US, self._repeat_orders, shell)

    def ordering(self) -> bool:
        """Return whether the node with the root key lacks an order that its operator has given."""
        shell = self.hosts[0].shell
        return shell is not None and not shell.has_orders(
            [self._members[node].node_id for node in self.revoked],
            [self._members[node].node_id for node in self.purged],
        )

    def betray(self, index: int, lies: tuple[str, ...]) -> None:
        """Let a member lie from now on; nothing that it wrote or writes has to be anywhere."""
        self.traitors[index] = lies
        self.network.faults["betray"] += 1
        self.oracle.record_traitor(index, self._world.now_us)
        self._record(f"betray {index}")
        shell = self.hosts[index].shell
        if shell is not None:
            shell.betray(lies)

    def stop(self, index: int) -> None:
        """Shut the machine down cleanly: the application, then the node."""
        host = self.hosts[index]
        self._record(f"stop {index}")
        self.network.faults["stop"] += 1
        if host.application.running:
            host.application.close()
        if host.shell is not None:
            if host.shell.up:
                host.recalled.update([host.shell.replica.noted])
            host.shell.kill(silent=False)

    def upgrade(self, index: int, versions: Versions) -> None:
        """Replace the node by another program. The old one ends cleanly, and applications keep writing."""
        host = self.hosts[index]
        host.versions = versions
        self._record(f"upgrade {index}")
        self.network.faults["upgrade"] += 1
        if host.shell is not None and host.shell.up:
            host.recalled.update([host.shell.replica.noted])
            host.shell.kill(silent=False)
            self.start(index)

    def calm(self) -> None:
        """End all writes and faults: start all nodes, connect them, and set their clocks right."""
        self.writing = False
        self.network.calm(lasting_range=self._lasting_range)
        self.mailbox.calm()
        for way in self.ways:
            way.is_open = True
        self.interfaces_changed()
        for host in self.hosts:
            self._clock(host.index, Clock())
            self.start(host.index)
            for reader in host.readers:
                reader.calm = True
            if host.shell is not None:
                host.shell.on_commit()
        if self.keyed:
            self.divide(0)  # if no node that decided was up, or its disk has lost the decision

    # ---- files

    def backup(self, index: int) -> None:
        """Back the file up with SQLite's backup API, as an operator would; do nothing while the machine is off."""
        host = self.hosts[index]
        if not host.application.running:
            return
        host.backup = (self._copy(host), self._world.now_us)
        self._record(f"backup {index}")

    def keep(self, index: int, areas: tuple[str, ...]) -> None:
        """Have a node keep these areas from here on."""
        host = self.hosts[index]
        host.keeps = areas
        if host.shell is not None and host.shell.up:
            host.shell.keep(self._interest(host))

    def divide(self, index: int) -> None:
        """Have a node decide that the table is cut, if it knows of no such decision; do nothing while it does not run."""
        host = self.hosts[index]
        if host.shell is None or not host.shell.up or CUT not in host.shell.replica.tables:
            return
        if CUT not in host.shell.replica.registry.policies.areas:
            self._record(f"divide {index}")
            host.shell.replica.decisions.decide_area(CUT, "drone_id")
            host.shell.on_commit()

    def pin(self, index: int, age_s: int) -> None:
        """Have a node keep the rows that go with time for this long only, once it knows of a rule; 0 ends that."""
        self.network.faults["pin"] += 1
        self.hosts[index].pinned_s = age_s
        self._follow_pin(self.hosts[index])

    def _follow_pin(self, host: Host) -> None:
        if host.pinned_s is None or host.shell is None or not host.shell.up:
            return
        retention, table = host.shell.replica.retention, host.shell.replica.tables.get(RETAINED)
        horizon = None if table is None else table.coverage.horizon
        if table is not None and horizon is not None and horizon.pin.age_ms != 1_000 * host.pinned_s:
            retention.pin(table, 1_000 * host.pinned_s)

    def _interest(self, host: Host) -> Interest | None:
        if not self.areas:
            return None
        return Interest({} if host.keeps is None else {CUT: frozenset(host.keeps)})

    def restore(self, index: int) -> None:
        """Replace the file by its backup and restart everything; do nothing without a backup."""
        host = self.hosts[index]
        if host.backup is None:
            return
        self.stop(index)
        self.network.faults["restore"] += 1
        path, since_us = host.backup
        self._excuse_lost(host, path, since_us)
        host.path = path
        host.backup = None
        self.start(index)

    def _excuse_lost(self, host: Host, kept: str, since_us: int) -> None:
        """Excuse what is in the file of a host alone, which is about to be replaced by `kept`."""
        self.oracle.record_rollback(host.index, since_us)
        lost, there = (_kept_in(path) for path in (host.path, kept))
        self.oracle.excuse_records(token for token in lost if token not in there)

    def clone(self, source: int, index: int) -> None:
        """Start a new member on a copy of another's file; do nothing if it has run before, or that machine is off."""
        if self.hosts[index].starts or not self.hosts[source].application.running:
            return
        self.network.faults["clone"] += 1
        self.hosts[index].path = self._copy(self.hosts[source])
        self.start(index)

    def _copy(self, host: Host) -> str:
        host.copies += 1
        path = self._directory / f"node{host.index}.copy{host.copies}.db"
        target = apsw.Connection(str(path))
        with target.backup("main", host.application.db, "main") as copying:
            copying.step()
        target.close()
        self.oracle.record_copy(host.index, self._undrained_since(host), self._world.now_us)
        return str(path)

    def _undrained_since(self, host: Host) -> int:
        """Return the virtual time before which all commits in the file have certainly been drained."""
        shell = host.shell
        assert shell is not None, "an application starts with its node"
        until = self._world.now_us if shell.up else shell.ended_us
        if until - shell.started_us > UNDRAINED_US:
            return until - UNDRAINED_US
        return host.drained_us  # from earlier starts

    # ---- the mailbox between bases

    def set_mailbox(self, wrongs: tuple[str, ...]) -> None:
        """Let the storage do wrong from now on, or nothing wrong."""
        self.mailbox.wrongs = wrongs
        self.network.faults["mailbox"] += 1

    def set_window(self, base: int, *, opens: bool) -> None:
        """Open or close the way of a base to the mailbox."""
        self.ways[base].is_open = opens
        self.network.faults["window"] += 1

    # ---- clocks and interfaces

    def set_clock(self, index: int, clock: Clock) -> None:
        """Let the wall clock jump."""
        self.network.faults["clock"] += 1
        self._clock(index, clock)

    def _clock(self, index: int, clock: Clock) -> None:
        host = self.hosts[index]
        host.clock = clock
        if host.shell is not None:
            host.shell.clock = clock
        self._record(f"clock {index} {clock}")

    def interface_changed(self, index: int) -> None:
        """Notify the node, as its kernel does, that its interface changed."""
        shell = self.hosts[index].shell
        if shell is not None:
            shell.on_network_changed()

    def interfaces_changed(self) -> None:
        """Notify every node that its interface changed."""
        for host in self.hosts:
            self.interface_changed(host.index)

    # ---- applications

    def _act(self, host: Host, session: int) -> None:
        application = host.application
        if not self.writing or not application.running or application.session != session:
            return
        if application.rates.count:
            self._declare_counters(host)
        if application.rates.number:
            self._decide_own_ids(host)
        try:
            kind = application.act(self._world.now_us)
        except apsw.Error as error:
            kind = "failed"
            self.failures.append(
                f"node {host.index}: a local write failed at {self._world.now_us / 1e6:.3f} s: {error}"
            )
        if kind == "migrate" and host.shell is not None and host.shell.up:
            with contextlib.suppress(MigrationError):  # the name has been taken since the application read the schema
                host.shell.replica.migrate(application.migration(), host.shell.wall_ms())
        self._world.trace.record(self._world.now_us, host.index, kind)
        if host.shell is not None:
            host.shell.on_commit()
        self._world.after(application.pause_us(), self._act, host, session)

    def _declare_counters(self, host: Host) -> None:
        """Declare the counters at one node, once it has the table. Applications of nodes that know about it start counting."""
        if host.shell is None or not host.shell.up or host.application.counting:
            return
        table = host.shell.replica.tables.get("stock")
        if table is None:
            return
        if host.index == (self._tables_at or 0) and not table.columns.counters:
            host.shell.replica.decisions.declare_counter("stock", "n")
            host.application.fill()
        host.application.counting = bool(table.columns.counters)

    def _decide_own_ids(self, host: Host) -> None:
        """Decide the policy at one node, once it has the table. Applications of nodes that know about it start numbering."""
        if host.shell is None or not host.shell.up or host.application.numbering:
            return
        if "tickets" not in host.shell.replica.tables:
            return
        decisions = host.shell.replica.decisions
        if host.index == (self._tables_at or 0) and decisions.ids("tickets") != OWN_IDS:
            decisions.decide_policy("tickets", OWN_IDS)
        host.application.numbering = decisions.room("tickets") is not None

    def close(self) -> None:
        """End all nodes and applications."""
        for host in self.hosts:
            if host.shell is not None:
                host.notices.update(host.shell.notices)
                host.shell.kill(silent=True)
            if host.application.running:
                host.application.close()

    def _record(self, text: str) -> None:
        self._world.trace.record(self._world.now_us, -1, text)


def _kept_in(path: str) -> dict[int, None]:
    """Return the values that the conflicts of a file record."""
    db = apsw.Connection(path)
    try:
        return dict.fromkeys(kept_tokens(db, KEPT[:1]))
    finally:
        db.close()
