"""The surroundings of mailbox work in a daemon: asyncio, and a thread for the storage.

A verb of the storage may block for as long as a network share hangs. So it runs on a thread of its own, which ends with the
process and holds nothing up.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mycomesh.mesh.mailbox.envelope import EnvelopeKeys
from mycomesh.mesh.mailbox.mailbox import STREAMS_MAX, Resting, Watching
from mycomesh.mesh.mailbox.storages import open_mailbox
from mycomesh.mesh.node.courier import Courier
from mycomesh.mesh.node.credentials import mailbox_credentials
from mycomesh.mesh.node.gateway.gateway import Gateway, Place
from mycomesh.mesh.node.shell import clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from mycomesh.mesh.events import Notice
    from mycomesh.mesh.mailbox.mailbox import Mailbox
    from mycomesh.mesh.node.base import Base
    from mycomesh.mesh.node.serving import ServingNode
    from mycomesh.mesh.node.status import MailboxView
    from mycomesh.mesh.node.surroundings import Signal
    from mycomesh.sync.replica import Replica

__all__ = ["GatewayHost", "courier_of", "open_gateway"]

T = TypeVar("T")

IDLE_S = 2.0  # without a verb, before the storage's client gives back what it does not need; a look takes less
STORE_S = 2  # of the last write of the ledger: without it the next start repeats some changes


class NodeSurroundings:
    """`Surroundings` of a serving node."""

    def __init__(self, node: ServingNode, mailbox: Mailbox) -> None:
        self._node = node
        self._rest = mailbox.rest if isinstance(mailbox, Resting) else None
        self._learnt: dict[bytes, None] = {}
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._spent_ns = 0
        threading.Thread(target=self._run, name="mycomesh-mailbox", daemon=True).start()

    def clock(self) -> tuple[int, int]:
        """Return the monotonic and the wall time in milliseconds."""
        return clock()

    async def wait(self, signal: Signal, ms_max: int) -> None:
        """Return once the signal is set, at the latest after `ms_max`; clear it."""
        if not signal.is_set:
            woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            signal.wake = lambda: None if woken.done() else woken.set_result(None)
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ms_max / 1000):
                        await woken
            finally:
                signal.wake = None
        signal.is_set = False

    async def storage(self, call: Callable[..., T], *args: object) -> T:
        """Run a verb of the mailbox on the thread of the storage."""
        outcome: Future[T] = Future()

        def run() -> None:
            if outcome.set_running_or_notify_cancel():
                try:
                    result = call(*args)
                except BaseException as error:  # noqa: BLE001  (the caller gets the error, of whatever kind)
                    outcome.set_exception(error)
                else:
                    outcome.set_result(result)

        self._calls.put(run)
        return await asyncio.wrap_future(outcome)

    def storage_ms(self) -> int:
        """Return how many milliseconds of CPU the thread of the storage has taken so far."""
        return self._spent_ns // 1_000_000

    async def query(self, request: Callable[[Replica], T]) -> T:
        """Run a short request on the SQL thread."""
        return await self._node.query_replica(request)

    def learn(self, certificate: bytes) -> None:
        """Record a member's certificate."""
        if certificate not in self._learnt:
            self._learnt[certificate] = None
            while len(self._learnt) > STREAMS_MAX:
                del self._learnt[next(iter(self._learnt))]
            self._node.learn(certificate)

    def close(self) -> None:
        """End the thread after the verb that runs."""
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._next_call()) is not None:
            call()
            self._spent_ns = time.thread_time_ns()

    def _next_call(self) -> Callable[[], None] | None:
        """Wait for the next verb; let the storage's client rest meanwhile."""
        if self._rest is not None:
            with contextlib.suppress(queue.Empty):
                return self._calls.get(timeout=IDLE_S)
            self._rest()
        return self._calls.get()


def courier_of(node: ServingNode, mailbox: Mailbox) -> tuple[Courier, NodeSurroundings]:
    """Return a courier between a serving node and a mailbox; close its surroundings at the end."""
    surroundings = NodeSurroundings(node, mailbox)

    def keys() -> EnvelopeKeys:
        identity = node.membership.roster.identity
        return EnvelopeKeys(identity.mesh_id, identity.secret, node.membership.secrets(clock()[1]))

    return Courier(mailbox, node.membership.roster, keys, node.virtual_links, surroundings), surroundings


def open_gateway(node: ServingNode, base: Base, notify: Callable[[Notice], None]) -> GatewayHost:
    """Return the gateway of a serving node; raise `MailboxError` for a URL that no storage has."""
    credentials = mailbox_credentials(Path(base.credentials) if base.credentials else None)
    return GatewayHost(node, open_mailbox(base.mailbox, credentials), Place(base.mailbox, base.name), notify)


class GatewayHost:
    """Runs one gateway on the event loop of its node."""

    def __init__(self, node: ServingNode, mailbox: Mailbox, place: Place, notify: Callable[[Notice], None]) -> None:
        self._mailbox = mailbox
        courier, self._surroundings = courier_of(node, mailbox)
        self._gateway = Gateway(courier, place, notify)
        self._mesh = courier.keys().mesh
        self._tasks: list[asyncio.Task[None]] = []
        self._stop_watching: Callable[[], None] = lambda: None
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Begin to write and to read."""
        gateway = self._gateway
        self._tasks = [self._loop.create_task(work()) for work in (gateway.write_forever, gateway.read_forever)]
        if isinstance(self._mailbox, Watching):
            self._stop_watching = self._mailbox.watch(self._mesh, self._on_change)

    def _on_change(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has just ended
            self._loop.call_soon_threadsafe(self._gateway.on_news)

    def on_commit(self) -> None:
        """Append soon: the file has changed."""
        self._gateway.on_commit()

    def view(self) -> MailboxView:
        """Return the state for people."""
        return self._gateway.view()

    def check(self) -> None:
        """Raise the error that has ended a loop, which none should."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def close(self) -> None:
        """End both loops, and store the ledger."""
        self._stop_watching()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(Exception):  # an older ledger loses nothing
            async with asyncio.timeout(STORE_S):
                await self._gateway.store()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(STORE_S):
                await self._surroundings.storage(self._mailbox.close)
        self._surroundings.close()
