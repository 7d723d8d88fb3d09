"""N nodes with their files and applications: what a scenario starts, crashes, copies and restores.

Owns the files and the lives of nodes. What always holds: a file outlives its node; an application outlives the
daemon beside it (it never learns that the daemon is gone); every lost file is told to the oracle. Must not know
what is right: that is the checkers' business.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import apsw

from mycomesh.mesh.versions import SUPPORTED
from mycomesh.simulations.disk import Disk
from mycomesh.simulations.oracle import Oracle
from mycomesh.simulations.shell import Home, Shell
from mycomesh.simulations.workload import Application
from mycomesh.simulations.world import SECOND, Clock, World
from mycomesh.sync.errors import MigrationError

if TYPE_CHECKING:
    from pathlib import Path

    from mycomesh.mesh.versions import Versions
    from mycomesh.simulations.members import Member
    from mycomesh.simulations.network import Network
    from mycomesh.simulations.scenario import Scenario
    from mycomesh.simulations.shell import Watch

__all__ = ["Cluster", "Host"]

UNDRAINED_US = (
    2 * SECOND
)  # the longest from a commit to its drain in a node that runs: a missed hint, then the safety net


UNTOLD_US = (
    10 * SECOND
)  # what a member in reach has written is everywhere after this long, a lost link in between or not


@dataclass(slots=True)
class Host:
    """Where a node lives: what stays when its process is gone."""

    index: int
    path: str
    clock: Clock
    application: Application
    shell: Shell | None = None
    lives: int = 0
    versions: Versions = SUPPORTED
    copies: int = 0
    backup: tuple[str, int] | None = None  # path, virtual time of the copy
    disk: Disk = field(default_factory=Disk)
    notices: Counter[str] = field(default_factory=Counter)
    drained_us: int = 0  # nothing older waited for its drain when the node was started last
    recalled: dict[bytes, int] = field(default_factory=dict)  # what the node noted outside its file as it stopped


class Cluster:
    """All nodes of one scenario."""

    def __init__(
        self, world: World, network: Network, members: tuple[Member, ...], scenario: Scenario, directory: Path
    ) -> None:
        self.network = network
        self.oracle = Oracle()
        self.revoked: dict[int, int] = {}  # node -> virtual microseconds of the decree
        self.failures: list[str] = []  # local writes that failed (invariant 4), one line each
        self.writing = True
        self.watch: Watch | None = None
        self._world = world
        self._members = members
        self._directory = directory
        self._tables_at = scenario.tables_at
        self._urgent = scenario.urgent
        self._rng = world.stream("disks")
        self.places = tuple(
            Host(
                index,
                str(directory / f"node{index}.db"),
                clock,
                Application(index, scenario.rates, world.stream(f"application/{index}"), self.oracle),
                versions=scenario.versions,
            )
            for index, clock in enumerate(scenario.clocks or (Clock(),) * scenario.nodes)
        )

    @property
    def node_ids(self) -> list[bytes]:
        """The node ids of all members, by index."""
        return [member.node_id for member in self._members]

    def up(self) -> list[Host]:
        """The places whose node runs."""
        return [place for place in self.places if place.shell is not None and place.shell.up]

    def members(self) -> list[Host]:
        """The places of those who are members still."""
        return [place for place in self.places if place.index not in self.revoked]

    def shell(self, index: int) -> Shell:
        """The running node of that index."""
        shell = self.places[index].shell
        assert shell is not None, f"node {index} is down"
        return shell

    # ---- lives

    def start(self, index: int) -> None:
        """Start the node, and its application if that does not run yet; a node that is up stays so, whatever was planned."""
        place = self.places[index]
        if place.shell is not None and place.shell.up:
            place.shell.kill_within(-1)
            return
        first = not place.application.running
        if first:
            made = self._tables_at is None or self._tables_at == index
            place.application.open(place.path, lambda: place.clock.wall_ms(self._world.now_us), schema=made)
        place.lives += 1
        if place.shell is not None:
            place.drained_us = self._undrained_since(place)
            place.notices.update(place.shell.notices)
        home = Home(
            index,
            place.path,
            self._members[index],
            place.lives,
            place.versions,
            place.disk,
            place.recalled,
            self._urgent,
            self.watch,
        )
        place.shell = Shell(home, self._world, self.network, place.clock)
        self._record(f"start {index}")
        if first and place.application.rates.total > 0:
            self._world.after(place.application.pause_us(), self._act, place, place.application.session)

    def crash(self, index: int, *, actions: int = 0, silent: bool = False) -> None:
        """Kill the node as with -9, `actions` more actions later; `silent`: the machine and its application go too."""
        place = self.places[index]
        if place.shell is None or not place.shell.up:
            return
        self.network.faults["crash"] += 1
        self._record(f"crash {index}")
        if silent:
            place.shell.kill(silent=True)
            place.application.close()
        elif actions:
            place.shell.kill_within(actions)
        else:
            place.shell.kill(silent=False)

    def power_cut(self, index: int, unsynced_s: float) -> None:
        """The machine loses power `unsynced_s` from here: of what it syncs no more until then, a tail is lost."""
        place = self.places[index]
        if place.application.running and not place.disk.watched:
            place.disk.watch(place.path, self._world.now_us)
            self._world.after(int(unsynced_s * SECOND), self._cut_power, place, place.path)

    def _cut_power(self, place: Host, path: str) -> None:
        if not self.writing or not place.application.running or path != place.path:
            place.disk.watched = False
            return  # it was stopped in order, or restored, in between
        place.copies += 1
        kept = str(self._directory / f"node{place.index}.cut{place.copies}.db")
        lost = place.disk.cut(place.path, kept, self._rng)
        self.network.faults["power_cut"] += 1
        self._record(f"power cut {place.index}, {lost} bytes of the WAL are lost")
        if lost:
            self.network.faults["power_cut_with_loss"] += 1
            self.oracle.forgive(place.index, place.disk.synced_us)
        if place.shell is not None:
            place.shell.kill(silent=True)
        place.application.close()
        place.path = kept

    def revoke(self, index: int) -> None:
        """Node 0 revokes a member, if it is up; what that one has just written may be refused already."""
        place = self.places[0]
        if place.shell is None or not place.shell.up or not place.shell.revoke(self._members[index].node_id):
            return
        now = self._world.now_us
        self.revoked[index] = now
        self.network.faults["revoke"] += 1
        self.oracle.revoked(index, now - UNTOLD_US, now)
        self._record(f"revoke {index}")

    def stop(self, index: int) -> None:
        """The machine is switched off in order: application, then node."""
        place = self.places[index]
        self._record(f"stop {index}")
        self.network.faults["stop"] += 1
        if place.application.running:
            place.application.close()
        if place.shell is not None:
            if place.shell.up:
                place.recalled.update([place.shell.replica.noted])
            place.shell.kill(silent=False)

    def upgrade(self, index: int, versions: Versions) -> None:
        """Another program takes the place of the node's: the old one ends in order, and applications write on."""
        place = self.places[index]
        place.versions = versions
        self._record(f"upgrade {index}")
        self.network.faults["upgrade"] += 1
        if place.shell is not None and place.shell.up:
            place.recalled.update([place.shell.replica.noted])
            place.shell.kill(silent=False)
            self.start(index)

    def calm(self) -> None:
        """The end of all trouble: no more writes, everybody in reach and up, and clocks that are right."""
        self.writing = False
        self.network.calm()
        self.interfaces_changed()
        for place in self.places:
            self._clock(place.index, Clock())
            self.start(place.index)
            if place.shell is not None:
                place.shell.on_commit()

    # ---- files

    def backup(self, index: int) -> None:
        """Copy the file aside, with SQLite's own backup, as an operator would; nothing while the machine is off."""
        place = self.places[index]
        if not place.application.running:
            return
        place.backup = (self._copy(place), self._world.now_us)
        self._record(f"backup {index}")

    def restore(self, index: int) -> None:
        """The file is lost, the backup takes its place, and everything restarts on it; nothing without a backup."""
        place = self.places[index]
        if place.backup is None:
            return
        self.stop(index)
        self.network.faults["restore"] += 1
        path, since_us = place.backup
        self.oracle.forgive(index, since_us)
        place.path = path
        place.backup = None
        self.start(index)

    def clone(self, source: int, index: int) -> None:
        """A new member starts on a copy of another's file; nothing if it is no new one, or that machine is off."""
        if self.places[index].lives or not self.places[source].application.running:
            return
        self.network.faults["clone"] += 1
        self.places[index].path = self._copy(self.places[source])
        self.start(index)

    def _copy(self, place: Host) -> str:
        place.copies += 1
        path = self._directory / f"node{place.index}.copy{place.copies}.db"
        target = apsw.Connection(str(path))
        with target.backup("main", place.application.db, "main") as copying:
            copying.step()
        target.close()
        self.oracle.copied(place.index, self._undrained_since(place), self._world.now_us)
        return str(path)

    def _undrained_since(self, place: Host) -> int:
        """Virtual microseconds before which everything in the file is drained for certain."""
        shell = place.shell
        assert shell is not None, "an application is started with its node"
        until = self._world.now_us if shell.up else shell.ended_us
        if until - shell.started_us > UNDRAINED_US:
            return until - UNDRAINED_US
        return place.drained_us  # of the lives before

    # ---- clocks and interfaces

    def set_clock(self, index: int, clock: Clock) -> None:
        """The wall clock jumps."""
        self.network.faults["clock"] += 1
        self._clock(index, clock)

    def _clock(self, index: int, clock: Clock) -> None:
        place = self.places[index]
        place.clock = clock
        if place.shell is not None:
            place.shell.clock = clock
        self._record(f"clock {index} {clock}")

    def interface_changed(self, index: int) -> None:
        """The node's own interface came back: the kernel says so."""
        shell = self.places[index].shell
        if shell is not None:
            shell.on_network_changed()

    def interfaces_changed(self) -> None:
        """Every node's interface moved."""
        for place in self.places:
            self.interface_changed(place.index)

    # ---- applications

    def _act(self, place: Host, session: int) -> None:
        application = place.application
        if not self.writing or not application.running or application.session != session:
            return
        if application.rates.count:
            self._declare(place)
        try:
            kind = application.act(self._world.now_us)
        except apsw.Error as error:
            kind = "failed"
            self.failures.append(
                f"node {place.index}: a local write failed at {self._world.now_us / 1e6:.3f} s: {error}"
            )
        if kind == "migrate" and place.shell is not None and place.shell.up:
            with contextlib.suppress(MigrationError):  # the name is taken since the application looked
                place.shell.replica.migrate(application.migration(), place.shell.wall_ms())
        self._world.trace.record(self._world.now_us, place.index, kind)
        if place.shell is not None:
            place.shell.on_commit()
        self._world.after(application.pause_us(), self._act, place, session)

    def _declare(self, place: Host) -> None:
        """The operator of one node declares the counters, once its table is known; who knows of it counts."""
        if place.shell is None or not place.shell.up or place.application.counting:
            return
        table = place.shell.replica.tables.get("stock")
        if table is None:
            return
        if place.index == (self._tables_at or 0) and not table.columns.counters:
            place.shell.replica.decisions.declare_counter("stock", "n")
            place.application.fill()
        place.application.counting = bool(table.columns.counters)

    def close(self) -> None:
        """End every node and application."""
        for place in self.places:
            if place.shell is not None:
                place.notices.update(place.shell.notices)
                place.shell.kill(silent=True)
            if place.application.running:
                place.application.close()

    def _record(self, what: str) -> None:
        self._world.trace.record(self._world.now_us, -1, what)
