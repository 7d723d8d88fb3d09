"""The process that serves one file: locks, the pending join, signals, the control socket, and one line an event.

Owns the life of the process from the first check to the last goodbye. What always holds: whatever keeps a node from
starting is found before anything is changed and said in one line; whatever ends it (a signal, `mycomesh down`, a fault)
ends it in the same order. It must not know how syncing works: `serving` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import os
import random
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from mycomesh.mesh.address import is_circuit
from mycomesh.mesh.config import MeshConfig
from mycomesh.mesh.core import Joiner
from mycomesh.mesh.errors import MeshError
from mycomesh.mesh.events import Address, Close, Enrolled, MembershipChanged, Notice
from mycomesh.mesh.io.transport import TransportError
from mycomesh.mesh.membership.identity import Identity
from mycomesh.mesh.membership.membership import expiry_hint
from mycomesh.mesh.node.clock_notes import ClockNotes
from mycomesh.mesh.node.control import compare, decisions, members, wait
from mycomesh.mesh.node.control.server import ControlServer
from mycomesh.mesh.node.errors import HomeError, JoinRefusedError, KeystoreError, NodeError
from mycomesh.mesh.node.home import FileLock, HomeLock
from mycomesh.mesh.node.journal import Journal, as_value
from mycomesh.mesh.node.keystore import NO_MESH, Keystore, PendingJoin
from mycomesh.mesh.node.serving import CUT_OFF, Credentials, ServingNode
from mycomesh.mesh.node.shell import MeshShell, clock
from mycomesh.mesh.node.status import SCHEMA, Status, to_json
from mycomesh.mesh.node.systemd import Watchdog, notify_manager
from mycomesh.mesh.node.version import __version__
from mycomesh.sync.errors import SyncError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from mycomesh.mesh.node.config import NodeConfig
    from mycomesh.mesh.node.control.metrics_server import MetricsServer
    from mycomesh.mesh.node.home import Home

__all__ = ["Daemon", "complaints", "enrol", "event_loop", "serve"]

STOP_S_MAX = 10  # a graceful end takes milliseconds; a disk that hangs must not keep the process for ever
# The SQL thread gives Python's lock up with each statement, and gets it back from a busy event loop after so long: with the
# usual 5 ms, four times of that were 20 ms of a hold of the file's write lock.
SWITCH_S = 0.001
FILE_MODE = 0o644  # what sqlite3 itself gives a database under the usual umask

T = TypeVar("T")


def serve(home: Home, file: Path, config: NodeConfig) -> None:
    """Serve a file until SIGTERM, SIGINT or `mycomesh down`; raise `NodeError` with one line where it cannot be."""
    _run(_serving_process(home, file, config))


def enrol(home: Home, config: NodeConfig, *, seconds_max: float) -> Identity | None:
    """Try the pending join for some seconds; return the identity it brought, or None. The caller holds the home.

    Raises:
        JoinRefusedError: a member in reach did not accept the code. The code stays, since another member may.
    """
    store = Keystore(home)
    join = store.pending_join()
    assert join is not None, "the caller has just stored it"
    journal = Journal("warning")
    refused: list[Notice] = []

    def on_notice(notice: Notice) -> None:
        journal.write(notice)
        if notice.event == "join.unanswered":
            refused.append(notice)

    identity = _run(_bounded(join_mesh(store, join, config, on_notice), seconds_max))
    if identity is not None:
        store.complete_join(identity)
    elif refused:
        raise JoinRefusedError(
            "a member in reach did not accept the code: it is used up or expired, or another node made it; get a new one"
            " with 'mycomesh invite', or leave it to 'mycomesh up', which goes on trying"
        )
    return identity


async def join_mesh(
    store: Keystore, join: PendingJoin, config: NodeConfig, on_notice: Callable[[Notice], None]
) -> Identity:
    """Look for members until one of them lets this node in; return its identity, not yet stored."""
    enrolled: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def on_action(action: Any) -> None:
        match action:
            case Enrolled(identity):
                if not enrolled.done():
                    enrolled.set_result(identity)
            case Notice():
                on_notice(action)
            case Close(conn, reason):
                on_notice(Notice("conn.closed", f"connection {conn} closed: {reason}", {"conn": conn}, "debug"))
            case _:
                raise AssertionError(f"a joiner answered {type(action).__name__}")

    joiner = Joiner(
        join.code,
        join.candidate,
        entropy=os.urandom,
        rng=random.Random(os.urandom(16)),
        config=MeshConfig(versions=config.protocol),
    )
    shell = MeshShell(joiner, config, join.code.mesh_id, on_action)
    try:
        await shell.start(store.addresses())
        return Identity.decode(await enrolled)
    finally:
        await shell.close()


@dataclass(slots=True)
class _Ending:
    """How the run ends: `told` when somebody asks for it or something broke, `done` with what went wrong, or ""."""

    told: asyncio.Future[None]
    done: asyncio.Future[str]
    remove: bool = False
    complaint: str = ""


class Daemon:
    """One run of `mycomesh up`, or of a node that another program embeds.

    `serving` is done as soon as the file is served; it stays undone where that never comes.
    """

    def __init__(
        self, home: Home, file: Path, config: NodeConfig, tell: Callable[[Notice], None] | None = None
    ) -> None:
        self._home = home
        self._store = Keystore(home)
        self._file = file.absolute()
        self._config = config
        self._tell = Journal(config.log_level, form=config.log_format).write if tell is None else tell
        self._control = ControlServer(home.sockets[0], self._on_request)
        self._node: ServingNode | None = None
        self._identity: Identity | None = None
        loop = asyncio.get_running_loop()
        self._ending = _Ending(loop.create_future(), loop.create_future())
        self.serving: asyncio.Future[ServingNode] = loop.create_future()
        self._started_ms = clock()[0]
        self._addresses: dict[Address, None] = {}

    async def run(self, *, signals: bool = True) -> None:
        """Serve from the first check to the last goodbye; with `signals`, SIGTERM, SIGINT and SIGHUP end it."""
        self._identity = self._store.identity()
        if self._identity is None and self._store.pending_join() is None:
            raise KeystoreError(NO_MESH)
        _check_place(self._file)
        lock = HomeLock.acquire(self._home)
        try:
            if signals:
                self._listen_to_signals()
            await self._control.start()
            metrics = await self._metrics()
            try:
                await self._live()
            finally:
                if metrics is not None:
                    await metrics.close()
                self._ending.done.set_result(self._ending.complaint)
                await self._control.close()
        finally:
            lock.release()

    async def _metrics(self) -> MetricsServer | None:
        """Serve metrics where that is asked for; the module is loaded only then."""
        if self._config.metrics is None:
            return None
        server: MetricsServer = importlib.import_module("mycomesh.mesh.node.control.metrics_server").MetricsServer(
            self._config.metrics, self.status
        )
        await server.start()
        self._say(Notice("metrics.serving", f"metrics at {self._config.metrics.host}:{server.port}/metrics"))
        return server

    async def _live(self) -> None:
        if self._identity is None:
            self._identity = await self._until_ending(self._join())
        if self._identity is None:
            return
        made = _touched(self._file)
        file_lock = FileLock.acquire(self._file)
        try:
            await self._serve(self._identity)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):  # removing it may be what ended the run
                if made and self._file.stat().st_size == 0:
                    self._file.unlink()
            raise
        finally:
            file_lock.release()

    async def _join(self) -> Identity:
        join = self._store.pending_join()
        assert join is not None, "checked before the home was locked"
        text = f"waiting to meet a member of the mesh, to join it as {join.candidate.name!r}"
        self._say(Notice("join.waiting", text))
        notify_manager(f"READY=1\nSTATUS={text}")
        identity = await join_mesh(self._store, join, self._config, self._say)
        self._store.complete_join(identity)
        self._say(Notice("join.done", f"joined mesh {identity.mesh_name!r} as {identity.name!r}"))
        return identity

    async def _serve(self, identity: Identity) -> None:
        store = self._store
        known = self._store.addresses()
        self._addresses = dict.fromkeys(known)
        recall = ClockNotes(self._home.state / "clocks")
        credentials = Credentials(identity, store.root_seed(identity), store.invitations(), store.standing(), recall)
        node = ServingNode(credentials, self._file, self._config, self._on_notice, self._on_broken, self._on_membership)
        await node.start(known)
        self._node = node
        snapshot = await node.snapshot()
        text = f"serving {self._file} as {identity.name!r} of mesh {identity.mesh_name!r} on port {snapshot.port}"
        self._say(Notice("node.serving", text, {"tables": len(snapshot.tables)}))
        notify_manager(f"READY=1\nSTATUS={text}")
        self.serving.set_result(node)
        watchdog = Watchdog(node.check_alive)
        watchdog.start()
        try:
            await self._ending.told
        finally:
            watchdog.stop()
            self._node = None
            self._say(Notice("node.stopping", "stopping"))
            notify_manager("STOPPING=1")
            await self._stop(node)
            self._store.store_addresses(tuple(self._addresses))

    async def _stop(self, node: ServingNode) -> None:
        """End within a bound; what a stopping node still complains of must not hide why it stops."""
        try:
            await asyncio.wait_for(node.stop(remove=self._ending.remove), STOP_S_MAX)
        except TimeoutError:
            self._ending.complaint = (
                f"not everything ended within {STOP_S_MAX} s; the next 'mycomesh up' goes on from there"
            )
        except (NodeError, SyncError) as error:
            self._ending.complaint = str(error)
        if self._ending.complaint:
            self._say(Notice("node.unclean", self._ending.complaint, level="warning"))

    # ---- what happens while it serves

    def _say(self, notice: Notice) -> None:
        self._tell(notice)
        self._control.publish(as_value(notice), keep=notice.level != "debug")

    def _on_notice(self, notice: Notice) -> None:
        match notice.event:
            case "enrolment.granted" if self._node is not None:
                # Before the grant leaves: a code that was used must not be good again after a crash.
                self._store.store_invitations(self._node.invitations())
            case "link.up" if notice.detail["dialled"] and not is_circuit(notice.detail["address"]):
                self._remember(notice.detail["address"])
            case _:
                pass
        self._say(notice)

    def _on_membership(self, changed: MembershipChanged) -> None:
        """What the mesh has decided is on disk before anybody hears of it from here."""
        self._store.store_membership(changed.identity, changed.standing)
        self._identity = Identity.decode(changed.identity)

    def _remember(self, text: str) -> None:
        """Keep where a member was met, the latest last; written when the node stops and when a place is new."""
        host, _, port = text.rpartition(":")
        address = Address(host.strip("[]"), int(port))
        new = address not in self._addresses
        self._addresses.pop(address, None)
        self._addresses[address] = None
        if new:
            self._store.store_addresses(tuple(self._addresses))

    def _on_broken(self, error: BaseException) -> None:
        if not self._ending.told.done():
            self._ending.told.set_exception(error)

    def end(self) -> None:
        """Begin the end of the run."""
        if not self._ending.told.done():
            self._ending.told.set_result(None)

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup(1) has a closed terminal end nothing
                loop.add_signal_handler(number, self.end)

    async def _until_ending(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Return what the work brings, or None when the process is told to end first."""
        task = asyncio.get_running_loop().create_task(work)
        self._ending.told.add_done_callback(lambda _: task.cancel())
        await asyncio.wait([task])
        return None if task.cancelled() else task.result()

    # ---- the control socket

    async def _on_request(self, request: dict[str, Any]) -> dict[str, Any]:
        match request.get("do"):
            case "status":
                return to_json(await self.status())
            case "replicas":
                return await wait.answer(self._serving(), request)
            case "invite" | "members" | "ticket" | "revoke":
                return members.answer(self._store, self._node, request)
            case "isolate":
                self._isolate(cut=request.get("cut") is True)
                return {}
            case "scrub":
                self._serving().scrub()
                return {}
            case "verify":
                return await compare.answer(self._serving())
            case "counter" | "policy" | "migrate" | "conflicts" | "restore":
                return await decisions.answer(self._serving(), request)
            case "down":
                return await self._down(request)
            case other:
                raise NodeError(f"this node does not know the request {other!r}; use one version of node and command")

    async def _down(self, request: dict[str, Any]) -> dict[str, Any]:
        if request.get("remove") is True:
            self._serving()  # a node that only joins has no file to clean
            self._ending.remove = True
        self.end()
        complaint = await asyncio.shield(self._ending.done)
        if complaint:
            raise NodeError(f"the node stopped, but: {complaint}")
        return {"pid": os.getpid(), "file": str(self._file)}

    def _isolate(self, *, cut: bool) -> None:
        self._serving().isolate(cut=cut)
        if cut:
            self._say(Notice("node.isolated", CUT_OFF, level="warning"))
        else:
            self._say(Notice("node.rejoining", "looking for the others again"))

    def _serving(self) -> ServingNode:
        if self._node is None:
            raise NodeError("the node is not serving yet; see 'mycomesh status'")
        return self._node

    async def status(self) -> Status:
        """Return how this node, its file and its peers are."""
        snapshot = None if self._node is None else await self._node.snapshot()
        identity = self._identity
        joining = self._store.pending_join() if identity is None else None
        return Status(
            schema=SCHEMA,
            version=__version__,
            phase="joining" if identity is None else "starting" if snapshot is None else "serving",
            mesh="" if identity is None else identity.mesh_name,
            mesh_id="" if identity is None else identity.mesh_id.hex(),
            node=joining.candidate.name if joining is not None else "" if identity is None else identity.name,
            node_id="" if identity is None else identity.node_id.hex(),
            pid=os.getpid(),
            uptime_ms=clock()[0] - self._started_ms,
            file=str(self._file),
            port=0 if snapshot is None else snapshot.port,
            site="" if snapshot is None else snapshot.site,
            pending=0 if snapshot is None else snapshot.pending,
            hint="waiting for a member: is one up on this network, the code still good?"
            if identity is None
            else expiry_hint(identity.certificate, clock()[1] // 1_000)
            or ("" if snapshot is None else snapshot.complaint),
            clock_offset_ms=None if snapshot is None else snapshot.clock_offset_ms,
            not_after_s=0 if identity is None else identity.certificate.not_after_s,
            peers=() if snapshot is None else snapshot.peers,
            tables=() if snapshot is None else snapshot.tables,
            scrub=None if snapshot is None else snapshot.scrub,
            lock_held_ms=0.0 if snapshot is None else snapshot.lock_held_ms,
            roles=() if identity is None else identity.certificate.roles,
        )


def _check_place(file: Path) -> None:
    """Find out before anything is made whether a database can be there at all."""
    if file.is_dir():
        raise HomeError(f"{file} is a directory; name the database file in it")
    if not file.parent.is_dir():
        raise HomeError(f"there is no directory {file.parent}; make it, or check the path")
    if file.exists() and not file.is_file():
        raise HomeError(f"{file} is not a plain file; name an SQLite database")


def _touched(file: Path) -> bool:
    """Make an absent file, so that it has the inode that its lock is named by; SQLite takes an empty file as its own.

    Descriptors are opened and closed here before SQLite opens the file in this process, which is the only safe time.
    """
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))
    except FileExistsError:
        return False
    except OSError as error:
        raise HomeError(f"cannot make {file}: {error.strerror}; check the directory's permissions") from error
    return True


async def _serving_process(home: Home, file: Path, config: NodeConfig) -> None:
    gc.freeze()  # what is imported stays: no collection need walk through it
    sys.setswitchinterval(SWITCH_S)
    await Daemon(home, file, config).run()


async def _bounded(work: Coroutine[Any, Any, T], seconds_max: float) -> T | None:
    try:
        return await asyncio.wait_for(work, seconds_max)
    except TimeoutError:
        return None


def event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop: uvloop's, or asyncio's own where that is missing."""
    try:
        loop: asyncio.AbstractEventLoop = importlib.import_module("uvloop").new_event_loop()
    except ImportError:
        loop = asyncio.new_event_loop()
    return loop


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run on an event loop of its own; what a person can cause becomes a `NodeError`."""
    with asyncio.Runner(loop_factory=event_loop) as runner, complaints():
        return runner.run(work)


@contextlib.contextmanager
def complaints() -> Iterator[None]:
    """Make every error that the parts of a node raise on purpose a `NodeError`."""
    try:
        yield
    except (MeshError, SyncError, TransportError) as error:
        raise NodeError.of(error) from error
