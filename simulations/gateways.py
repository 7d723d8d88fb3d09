"""Runs the real gateway of a node in virtual time: its coroutines, without asyncio.

A coroutine yields what it waits for. It goes on when that happens or its time is over, as a call in the world's order of events.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from mycomesh.mesh import events as mesh_events
from mycomesh.mesh.mailbox.envelope import EnvelopeKeys
from mycomesh.mesh.node.courier import Courier
from mycomesh.mesh.node.gateway.gateway import Gateway, Place
from mycomesh.mesh.relay.circuits import Circuits
from mycomesh.simulations.world import MS

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine, Generator

    from mycomesh.mesh.mailbox.mailbox import Mailbox
    from mycomesh.mesh.node.core import NodeCore
    from mycomesh.mesh.node.surroundings import Signal
    from mycomesh.mesh.node.virtual_links import VirtualLinks
    from mycomesh.simulations.world import World
    from mycomesh.sync.replica import Replica

__all__ = ["SimulatedGateway", "Task", "Wait"]

T = TypeVar("T")

STORAGE_US = (1 * MS, 60 * MS)  # one verb: a directory, or an object store over the internet


@dataclass(frozen=True, slots=True)
class Wait:
    """The wait of a coroutine: for a signal, if any, at most so many microseconds."""

    signal: Signal | None
    us_max: int

    def __await__(self) -> Generator[Wait, None, None]:
        """Hand this to the `Task` that runs the coroutine."""
        yield self


class Task:
    """One coroutine in virtual time."""

    def __init__(self, work: Coroutine[Wait, None, None], world: World) -> None:
        self._work = work
        self._world = world
        self._turn = 0  # wake-ups of earlier waits are void
        self._signal: Signal | None = None
        self.ended = False
        world.after(0, self._go_on, 0)

    def close(self) -> None:
        """End the coroutine where it waits, as the end of its process would."""
        self._turn += 1
        if not self.ended:
            self.ended = True
            if (
                inspect.getcoroutinestate(self._work) != inspect.CORO_RUNNING
            ):  # else it has just killed its own node, and ends with this step
                self._work.close()

    def _go_on(self, turn: int) -> None:
        if turn != self._turn or self.ended:
            return
        self._turn += 1
        signal, self._signal = self._signal, None
        if signal is not None:
            signal.wake = None
            signal.is_set = False
        try:
            wait = self._work.send(None)
        except StopIteration:
            self.ended = True
            return
        if self.ended:
            self._work.close()
            return
        now = self._turn
        self._signal = wait.signal
        if wait.signal is not None:
            if wait.signal.is_set:
                self._world.after(0, self._go_on, now)
                return
            wait.signal.wake = lambda: self._world.after(0, self._go_on, now)
        self._world.after(wait.us_max, self._go_on, now)


class Machine(Protocol):
    """The part of a simulated node's shell that its gateway uses."""

    core: NodeCore
    replica: Replica
    virtual_links: VirtualLinks

    def wall_ms(self) -> int:
        """Return the machine's wall time."""
        ...

    def notify(self, notice: mesh_events.Notice) -> None:
        """Record a notice."""
        ...

    def learn(self, certificate: bytes) -> None:
        """Feed a member's certificate to the core."""
        ...


class SimulatedGateway:
    """The gateway of one running node, and the `Surroundings` that it works in."""

    def __init__(self, shell: Machine, mailbox: Mailbox, base: str, world: World, rng: random.Random) -> None:
        self._shell = shell
        self._world = world
        self._rng = rng
        mesh = shell.core.mesh
        assert isinstance(mesh, Circuits), "a plain mesh has no keys, and therefore no mailbox"
        self._learnt: dict[bytes, None] = {}

        def keys() -> EnvelopeKeys:
            identity = mesh.roster.identity
            return EnvelopeKeys(identity.mesh_id, identity.secret, mesh.membership.secrets(shell.wall_ms()))

        courier = Courier(mailbox, mesh.roster, keys, shell.virtual_links, self)
        self.gateway = Gateway(courier, Place("simulated:", base), self._notify)
        self._tasks = [Task(work(), world) for work in (self.gateway.write_forever, self.gateway.read_forever)]

    def close(self) -> None:
        """End both loops at once."""
        for task in self._tasks:
            task.close()

    def _notify(self, notice: mesh_events.Notice) -> None:
        self._shell.notify(notice)

    # ---- surroundings

    def clock(self) -> tuple[int, int]:
        """Return the monotonic and the wall time in milliseconds."""
        return self._world.now_ms, self._shell.wall_ms()

    async def wait(self, signal: Signal, ms_max: int) -> None:
        """Return once the signal is set, at the latest after `ms_max`."""
        await Wait(signal, max(1, ms_max) * MS)

    async def storage(self, call: Callable[..., T], *args: Any) -> T:
        """Run a verb of the mailbox, which takes a moment."""
        await Wait(None, self._rng.randint(*STORAGE_US))
        return call(*args)

    def storage_ms(self) -> int:
        """Return 0: CPU takes no virtual time."""
        return 0

    async def query(self, request: Callable[[Replica], T]) -> T:
        """Run a request on the replica at once."""
        replica = self._shell.replica
        with replica.store.translated():
            return request(replica)

    def learn(self, certificate: bytes) -> None:
        """Record a member's certificate."""
        if certificate not in self._learnt:
            self._learnt[certificate] = None
            self._shell.learn(certificate)
