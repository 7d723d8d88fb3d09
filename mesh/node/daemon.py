"""The daemon: runs one node from the first check to a graceful end, with locks, pending join, signals and control socket.

Invariants: an error that prevents the start is found before anything changes, and is reported in one line; a signal, `mycomesh
down` and a failure end the node in the same order of steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import importlib
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from mycomesh.mesh.address import is_lasting
from mycomesh.mesh.events import Address, MembershipChanged, Notice
from mycomesh.mesh.membership.identity import Identity
from mycomesh.mesh.membership.membership import expiry_hint
from mycomesh.mesh.node.clock_notes import ClockNotes
from mycomesh.mesh.node.control import compare, decisions, members, wait
from mycomesh.mesh.node.control.feed import FeedRequests
from mycomesh.mesh.node.control.server import ControlServer
from mycomesh.mesh.node.errors import HomeError, KeystoreError, NodeError
from mycomesh.mesh.node.home import FileLock, HomeLock
from mycomesh.mesh.node.home_watch import HomeWatch
from mycomesh.mesh.node.journal import Journal, as_value
from mycomesh.mesh.node.keystore import NO_MESH, Keystore
from mycomesh.mesh.node.metered import MeteredBytes
from mycomesh.mesh.node.pending_join import join_mesh
from mycomesh.mesh.node.run_loop import run_to_end
from mycomesh.mesh.node.serving import ISOLATED, Credentials, NodeCallbacks, ServingNode
from mycomesh.mesh.node.shell import clock
from mycomesh.mesh.node.snapshot import shown_areas
from mycomesh.mesh.node.status import SCHEMA, MailboxView, Status, to_json
from mycomesh.mesh.node.systemd import Watchdog, notify_manager
from mycomesh.mesh.node.version import __version__
from mycomesh.sync.errors import SyncError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from mycomesh.mesh.node.children import Children
    from mycomesh.mesh.node.config import NodeConfig
    from mycomesh.mesh.node.control.metrics_server import MetricsServer
    from mycomesh.mesh.node.home import Home
    from mycomesh.mesh.node.mailbox_host import GatewayHost
    from mycomesh.mesh.node.snapshot import Snapshot

__all__ = ["Daemon", "serve"]

STOP_S_MAX = 10  # a graceful end takes milliseconds; a disk that hangs must not keep the process forever
# The SQL thread releases Python's global lock in each statement, and takes this long to get it back from a busy event loop. With
# Python's default of 5 ms, four switches were 20 ms of one write lock on the file.
SWITCH_S = 0.001
FILE_MODE = 0o644  # as sqlite3 creates a database under the usual umask

T = TypeVar("T")


def serve(home: Home, file: Path, config: NodeConfig) -> None:
    """Serve a file until SIGTERM, SIGINT or `mycomesh down`; raise `NodeError` if it cannot be served."""
    run_to_end(_serving_process(home, file, config))


@dataclass(slots=True)
class _Ending:
    """How the run ends."""

    requested: asyncio.Future[None]  # completed by a signal or a request, failed by an error
    done: asyncio.Future[str]  # the problem with the end, or ""
    remove: bool = False
    problem: str = ""


class Daemon:
    """One run of `mycomesh up`, or of a node that another program embeds.

    `serving` completes when the node serves the file, and never if the run ends before. `log` receives every notice; by default
    the journal does.
    """

    def __init__(self, home: Home, file: Path, config: NodeConfig, log: Callable[[Notice], None] | None = None) -> None:
        self._home = home
        self._store = Keystore(home)
        self._file = file.absolute()
        self._config = config
        self._log = Journal(config.log_level, form=config.log_format).write if log is None else log
        self._control = ControlServer(home.sockets[0], self._on_request)
        self._feed_requests = FeedRequests()
        self._home_watch = HomeWatch(home, self._control, self._notify)
        self._node: ServingNode | None = None
        self._children: Children | None = None
        self._gateway: GatewayHost | None = None
        self._identity: Identity | None = None
        loop = asyncio.get_running_loop()
        self._ending = _Ending(loop.create_future(), loop.create_future())
        self.serving: asyncio.Future[ServingNode] = loop.create_future()
        self._started_ms = clock()[0]
        self._addresses: dict[Address, None] = {}

    async def run(self, *, signals: bool = True) -> None:
        """Run the node until its end; with `signals`, SIGTERM, SIGINT and SIGHUP end it.

        Raises:
            NodeError: the node cannot start.
        """
        self._identity = self._store.identity()
        if self._identity is None and self._store.pending_join() is None:
            raise KeystoreError(NO_MESH)
        _check_path(self._file)
        lock = HomeLock.acquire(self._home)
        try:
            if signals:
                self._handle_signals()
            await self._control.start()
            self._home_watch.start()
            metrics = await self._start_metrics()
            try:
                await self._join_and_serve()
            finally:
                if metrics is not None:
                    await metrics.close()
                self._ending.done.set_result(self._ending.problem)
                self._home_watch.stop()
                await self._control.close()
        finally:
            lock.release()

    async def _start_metrics(self) -> MetricsServer | None:
        """Serve metrics if configured. The module is loaded only then, to save memory."""
        if self._config.metrics is None:
            return None
        server: MetricsServer = importlib.import_module("mycomesh.mesh.node.control.metrics_server").MetricsServer(
            self._config.metrics, self.status
        )
        await server.start()
        self._notify(Notice("metrics.serving", f"metrics at {self._config.metrics.host}:{server.port}/metrics"))
        return server

    async def _join_and_serve(self) -> None:
        if self._identity is None:
            self._identity = await self._until_ending(self._join())
        if self._identity is None:
            return
        created = _create_if_absent(self._file)
        file_lock = FileLock.acquire(self._file)
        try:
            await self._serve(self._identity)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):  # its removal may have ended the run
                if created and self._file.stat().st_size == 0:
                    self._file.unlink()
            raise
        finally:
            file_lock.release()

    async def _join(self) -> Identity:
        join = self._store.pending_join()
        assert join is not None, "checked before the home was locked"
        text = f"waiting for a member of the mesh, to join as {join.candidate.name!r}"
        self._notify(Notice("join.waiting", text))
        notify_manager(f"READY=1\nSTATUS={text}")
        identity = await join_mesh(self._store, join, self._config, self._notify)
        self._store.complete_join(identity)
        self._notify(Notice("join.done", f"joined mesh {identity.mesh_name!r} as {identity.name!r}"))
        return identity

    async def _serve(self, identity: Identity) -> None:
        store = self._store
        known = self._store.addresses()
        self._addresses = dict.fromkeys(known)
        clock_notes = ClockNotes(self._home.state / "clocks")
        credentials = Credentials(identity, store.root_seed(identity), store.invitations(), store.membership())
        callbacks = NodeCallbacks(
            self._on_notice, self._on_failure, self._on_membership, self._on_commit, self._mailboxes
        )
        counts = self._home.state / "metered"
        budget = self._config.link_budget
        metered = MeteredBytes.load(counts) if budget is not None else ()
        node = ServingNode(credentials, clock_notes, self._file, self._config, callbacks, metered)
        metered_bytes = MeteredBytes(counts, node.metered_hours, None if budget is None else budget.bytes_day)
        await node.start(known)
        self._node = node
        watchdog = Watchdog(node.check_alive)
        try:
            snapshot = await node.snapshot()
            text = f"serving {self._file} as {identity.name!r} of mesh {identity.mesh_name!r} on port {snapshot.port}"
            self._notify(Notice("node.serving", text, {"tables": len(snapshot.tables)}))
            notify_manager(f"READY=1\nSTATUS={text}")
            self.serving.set_result(node)
            watchdog.start()
            if self._config.children:
                self._start_children()
            self._start_gateway(node)
            if budget is not None:
                metered_bytes.start(self._home_watch.store)
            await self._ending.requested
        finally:
            watchdog.stop()
            await metered_bytes.close()
            if self._gateway is not None:
                await self._gateway.close()
            if self._children is not None:
                await self._children.close()
            self._node = None
            self._notify(Notice("node.stopping", "stopping"))
            notify_manager("STOPPING=1")
            await self._stop(node)
            self._home_watch.store(lambda: store.store_addresses(tuple(self._addresses)))

    def _start_children(self) -> None:
        """Start the processes that config.toml asks for. The module is loaded only then, to save memory."""
        module = importlib.import_module("mycomesh.mesh.node.children")
        self._children = module.Children(self._config.children, self._home, self._notify)
        self._children.start()

    def _start_gateway(self, node: ServingNode) -> None:
        """Start the gateway to the mailbox of config.toml. The modules are loaded only then, to save memory."""
        base = self._config.base
        if base is not None:
            module = importlib.import_module("mycomesh.mesh.node.mailbox_host")
            self._gateway = module.open_gateway(node, base, self._notify)
            self._gateway.start()

    def _mailboxes(self) -> tuple[MailboxView, ...]:
        return () if self._gateway is None else (self._gateway.view(),)

    def _on_commit(self) -> None:
        if self._gateway is not None:
            self._gateway.on_commit()

    async def _stop(self, node: ServingNode) -> None:
        """Stop the node within `STOP_S_MAX`. Record a problem instead of raising it: it must not hide why the node stops."""
        stopping = asyncio.get_running_loop().create_task(node.stop(remove=self._ending.remove))
        done, _ = await asyncio.wait([stopping], timeout=STOP_S_MAX)
        if not done:  # the SQL thread hangs in the disk; the process ends without it
            stopping.cancel()
            self._ending.problem = (
                f"the node did not stop cleanly within {STOP_S_MAX} s; the next 'mycomesh up' continues from there"
            )
        else:
            try:
                stopping.result()
            except (NodeError, SyncError) as error:
                self._ending.problem = str(error)
        if self._ending.problem:
            self._notify(Notice("node.unclean", self._ending.problem, level="warning"))

    # ---- events

    def _notify(self, notice: Notice) -> None:
        self._log(notice)
        self._control.publish(as_value(notice), keep=notice.level != "debug")

    def _on_notice(self, notice: Notice) -> None:
        match notice.event:
            case "enrolment.granted" if self._node is not None:
                # Before the grant leaves, so that a used code is not valid again after a crash.
                self._home_watch.store(functools.partial(self._store.store_invitations, self._node.invitations()))
            case "link.up" if notice.detail["dialled"] and is_lasting(notice.detail["address"]):
                self._record_address(notice.detail["address"])
            case _:
                pass
        self._notify(notice)

    def _on_membership(self, changed: MembershipChanged) -> None:
        """Store what the mesh has decided, before this node tells any other node."""
        self._home_watch.store(lambda: self._store.store_membership(changed.identity, changed.membership))
        self._identity = Identity.decode(changed.identity)

    def _record_address(self, text: str) -> None:
        """Record the address of a member, the latest last. New addresses are stored at once, the order when the node stops."""
        host, _, port = text.rpartition(":")
        address = Address(host.strip("[]"), int(port))
        new = address not in self._addresses
        self._addresses.pop(address, None)
        self._addresses[address] = None
        if new:
            self._home_watch.store(lambda: self._store.store_addresses(tuple(self._addresses)))

    def _on_failure(self, error: BaseException) -> None:
        if not self._ending.requested.done():
            self._ending.requested.set_exception(error)

    def end(self) -> None:
        """Request the end of the run."""
        if not self._ending.requested.done():
            self._ending.requested.set_result(None)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup(1) ignores SIGHUP, and the node must too
                loop.add_signal_handler(number, self.end)

    async def _until_ending(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Return the result of `work`, or None if the end of the run is requested first."""
        task = asyncio.get_running_loop().create_task(work)
        self._ending.requested.add_done_callback(lambda _: task.cancel())
        await asyncio.wait([task])
        return None if task.cancelled() else task.result()

    def invite(self, **options: Any) -> str:
        """Return a join code; the options are those of the request `invite`.

        Raises:
            NodeError: this node has no root key, or an option is out of its range.
        """
        return str(members.answer(self._store, self._node, {"do": "invite", **options})["code"])

    # ---- the control socket

    async def _on_request(self, request: dict[str, Any]) -> dict[str, Any]:
        match request.get("do"):
            case "status":
                return await self._brief(request) if request.get("brief") is True else to_json(await self.status())
            case "replicas":
                return await wait.answer(self._serving(), request)
            case "invite" | "members" | "ticket" | "revoke" | "remove-members":
                return await members.answer_counted(self._store, self._node, request)
            case "isolate" | "scrub" | "down" as order:
                return await self._on_order(order, request)
            case "verify":
                return await compare.answer(self._serving())
            case (
                "accept-drop"
                | "keep-rows"
                | "counter"
                | "policy"
                | "retain"
                | "area"
                | "migrate"
                | "conflicts"
                | "restore"
                | "retry-parked"
            ):
                return await decisions.answer(self._serving(), request)
            case "changes" | "cursors" | "dead":
                answer = await self._feed_requests.answer(self._serving(), request)
                if self._children is not None and request.get("retry") is not None:
                    self._children.request_retry(answer["done"][0]["reader"])
                return answer
            case "children" | "mailbox" as rare:
                return await (self._on_children(request) if rare == "children" else self._on_mailbox(request))
            case other:
                raise NodeError(
                    f"this node does not know the request {other!r}; use the same version for node and command"
                )

    async def _on_mailbox(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry rows to or from a mailbox. The module is loaded only then, to save memory."""
        module = importlib.import_module("mycomesh.mesh.node.control.mailboxes")
        answer: dict[str, Any] = await module.answer(self._serving(), request)
        return answer

    async def _on_children(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._children is None and request.get("action") is not None:
            self._start_children()  # of none: config.toml may have other sections by now
        return {"children": []} if self._children is None else await self._children.answer(request)

    async def _on_order(self, order: str, request: dict[str, Any]) -> dict[str, Any]:
        if order == "down":
            return await self._down(request)
        if order == "scrub":
            self._serving().scrub()
        else:
            self._isolate(cut=request.get("cut") is True)
        return {}

    async def _down(self, request: dict[str, Any]) -> dict[str, Any]:
        if request.get("remove") is True:
            self._serving()  # raises if the node only joins, since it has no file to clean then
            self._ending.remove = True
        self.end()
        problem = await asyncio.shield(self._ending.done)
        if problem:
            raise NodeError(f"the node stopped, but: {problem}")
        return {"pid": os.getpid(), "file": str(self._file)}

    async def _brief(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return who this node is and whom it reaches, which costs no read of the file.

        With `seen` and `wait_ms`, wait until the number of its news is another one.
        """
        seen, wait_ms = request.get("seen"), request.get("wait_ms")
        if self._node is not None and isinstance(seen, int) and isinstance(wait_ms, int):
            await self._node.news.wait(seen, min(max(wait_ms, 0), wait.WAIT_MS_MAX) / 1000)
        identity = self._identity
        peers = () if self._node is None else self._node.reach()
        return {
            "news": 0 if self._node is None else self._node.news.number,
            "phase": "starting" if self._node is None else "serving",
            "file": str(self._file),
            "urgent": list(self._config.urgent),
            "node": "" if identity is None else identity.name,
            "node_id": "" if identity is None else identity.node_id.hex(),
            "peers": [{"node_id": node_id.hex(), "name": name, "state": state} for node_id, name, state in peers],
        }

    def _isolate(self, *, cut: bool) -> None:
        self._serving().isolate(cut=cut)
        if cut:
            self._notify(Notice("node.isolated", ISOLATED, level="warning"))
        else:
            self._notify(Notice("node.rejoining", "looking for the other nodes again"))

    def _serving(self) -> ServingNode:
        if self._node is None:
            raise NodeError("the node is not serving yet; see 'mycomesh status'")
        return self._node

    async def status(self) -> Status:
        """Return the status of this node, its file and its peers."""
        snapshot = None if self._node is None else await self._node.snapshot()
        areas, more = shown_areas(() if snapshot is None else snapshot.areas)
        identity = self._identity
        joining = self._store.pending_join() if identity is None else None
        membership = None if self._node is None else self._node.membership
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
            hint="waiting for a member; check that one runs on this network and that the code is still valid"
            if identity is None
            else ("" if membership is None else membership.hint)
            or _trouble_hint(snapshot)
            or self._home_watch.fault
            or expiry_hint(identity.certificate, clock()[1] // 1_000)
            or ("" if snapshot is None else snapshot.warning),
            clock_offset_ms=None if snapshot is None else snapshot.clock_offset_ms,
            not_after_s=0 if identity is None else identity.certificate.not_after_s,
            peers=() if snapshot is None else snapshot.peers,
            tables=() if snapshot is None else snapshot.tables,
            scrub=None if snapshot is None else snapshot.scrub,
            lock_held_ms=0.0 if snapshot is None else snapshot.lock_held_ms,
            roles=() if identity is None else identity.certificate.roles,
            trouble=None if snapshot is None else snapshot.trouble,
            free_bytes=None if snapshot is None else snapshot.free_bytes,
            accounts=() if snapshot is None else snapshot.accounts,
            readers=() if snapshot is None else snapshot.readers,
            children=() if self._children is None else self._children.views,
            metered=None if snapshot is None else snapshot.metered,
            areas=areas,
            areas_more=more,
            traffic=() if snapshot is None else snapshot.traffic,
            mailboxes=self._mailboxes(),
            revoked=membership is not None and membership.is_revoked,
        )


def _trouble_hint(snapshot: Snapshot | None) -> str:
    """Return why the file takes in no rows of other nodes and since when, "" while it does."""
    if snapshot is None or snapshot.trouble is None:
        return ""
    return f"{snapshot.trouble.text} (for {snapshot.trouble.since_ms_ago // 1000:,} s)"


def _check_path(file: Path) -> None:
    """Raise `HomeError` if there can be no database at this path."""
    if file.is_dir():
        raise HomeError(f"{file} is a directory; name the database file in it")
    if not file.parent.is_dir():
        raise HomeError(f"there is no directory {file.parent}; create it, or check the path")
    if file.exists() and not file.is_file():
        raise HomeError(f"{file} is not a plain file; give the path of an SQLite database")


def _create_if_absent(file: Path) -> bool:
    """Create an absent file, whose inode names its lock; return whether it was absent. SQLite accepts an empty file.

    This is the only safe time to close a descriptor of the file: before SQLite opens the file in this process.
    """
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))
    except FileExistsError:
        return False
    except OSError as error:
        raise HomeError(f"cannot create {file}: {error.strerror}; check the directory's permissions") from error
    return True


async def _serving_process(home: Home, file: Path, config: NodeConfig) -> None:
    gc.freeze()  # imported modules stay, so no collection needs to walk through them
    sys.setswitchinterval(SWITCH_S)
    await Daemon(home, file, config).run()
