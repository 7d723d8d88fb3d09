"""mDNS service discovery (RFC 6762, RFC 6763) with python-zeroconf: announces this node and reports addresses of others.

python-zeroconf's own browser queries at 0, 1, 5 and 14 s, and afterwards only refreshes what it knows. Two groups of nodes
that started before their cable was plugged in would never find each other. This module therefore repeats the query after
every change of the network, and every 30 s, or more rarely while the node has the links it wants.

Invariants: a reported address is only a hint, and the handshake decides. `Removed` records are ignored, because one spoofed
packet can send them. The memory for names of others is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import count
from typing import Any

from zeroconf import DNSQuestionType, Error, InterfaceChoice, IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from mycomesh.mesh.events import Address, Notice
from mycomesh.mesh.io.interfaces import InterfaceState, interface_state, multicast_fault, scope_name

__all__ = ["SERVICE_TYPE", "Discovery"]

SERVICE_TYPE = "_mycomesh._tcp.local."
WIRE_VERSION = b"1"
# Waits between queries after a start or a change of the network (so at 1, 3 and 7 s), and afterwards. RFC 6762 section 5.2
# requires growing intervals of at least a second. 30 s limits how long two groups stay apart after a switch has joined them,
# which neither of them can notice.
QUERY_AFTER_S = (1.0, 2.0, 4.0)
QUERY_EVERY_S = 30.0
QUERY_JITTER = 0.2  # share of that wait: nodes that start together must not query together for ever
# How long others may cache the records of this node. RFC 6762 section 10 proposes 120 s for addresses. Names here are drawn
# for one run, so little can go stale, and with 120 s a hundred nodes would send each other 80 queries a second.
ADDRESS_TTL_S = 600
NAME_TTL_S = 1_200
# Limits the memory, the queries and the dials that a flood of invented names can cost: the largest mesh we design for. zeroconf
# itself keeps up to 10,000 records, tells all of them in each query, and reports all of them to each browser.
NAMES_MAX = 256
RESOLVING_MAX = 16  # names that are resolved at once
RESOLVE_MS = 3_000
RESOLVE_AGAIN_S = 120.0  # before a name that did not resolve is tried again: records outlive a crashed node
ADDRESSES_MAX = 16  # of one name; without a limit, a name could make this node dial any number of others

# The form of our own nodes' names: letters, digits and hyphens, which are safe in a terminal and a log.
_INSTANCE = re.compile(r"[0-9A-Za-z-]{1,63}")
_PTR, _SRV, _IN = 12, 33, 1  # types and class of DNS records
_ERRORS = (OSError, RuntimeError, Error)  # RuntimeError: an interface vanished while zeroconf was reading it


class Discovery:
    """Announces this node and reports addresses of others. Everything runs on the event loop's thread."""

    def __init__(
        self,
        on_found: Callable[[Address, str], None],
        on_notice: Callable[[Notice], None],
        *,
        loopback: bool,
        spacing: Callable[[], int] = lambda: 1,
    ) -> None:
        """Create a stopped discovery. `on_found` receives (address, instance name).

        With `loopback`, multicast stays on this machine's loopback interface. `spacing` says how many waits of `QUERY_EVERY_S`
        lie between two queries; it is read after each wait, so a node that loses a link queries within one wait.
        """
        self._on_found = on_found
        self._on_notice = on_notice
        self._loopback = loopback
        self._spacing = spacing
        self._service = _Service("", "", None)
        self._resolver: _Resolver | None = None
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._announced: tuple[bytes, ...] = ()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._fault_reported = False

    async def start(self, instance: str, tag: str, port: int | None) -> None:
        """Announce `instance` at `port` (None: only browse) among nodes with the same `tag`, and begin to query.

        `instance` is a random name of letters, digits and hyphens, drawn for each run. `tag` is a filter and not a secret.
        """
        assert _INSTANCE.fullmatch(instance), f"{instance!r} is not an instance name"
        self._service = _Service(instance, tag, port)
        self._resolver = _Resolver(self._service, self._on_found, loopback=self._loopback)
        self._task = asyncio.get_running_loop().create_task(self._run())

    def network_changed(self) -> None:
        """Use the interfaces that exist at this moment, and query again at once."""
        self._changed.set()

    async def close(self) -> None:
        """Withdraw the announcement and stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        if self._browser is not None:
            await self._browser.async_cancel()
            self._browser = None
        if self._resolver is not None:
            await self._resolver.close()
        if self._zeroconf is not None:
            await self._zeroconf.async_close()
            self._zeroconf = None

    # ---- the one task: while it runs, no other code touches zeroconf

    async def _run(self) -> None:
        """Apply the interfaces after the start and after each change of the network, and query again and again."""
        while True:
            self._changed.clear()
            await self._apply_interfaces()
            waits = 0  # since the last query
            for number in count():
                if number <= len(QUERY_AFTER_S) or waits >= self._spacing():
                    await self._query()
                    waits = 0
                waits += 1
                wait_s = QUERY_AFTER_S[number] if number < len(QUERY_AFTER_S) else _jittered(QUERY_EVERY_S)
                # Not `wait_for`: in Python 3.11 it may lose a cancellation that arrives together with a change.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._changed.wait()
                    break
                if self._fault_reported:
                    await self._apply_interfaces()

    async def _apply_interfaces(self) -> None:
        state = interface_state(loopback=self._loopback)
        assert self._resolver is not None
        self._resolver.network_changed(state)
        multicast = list(state.multicast) if state.known else InterfaceChoice.Default
        version = IPVersion.All if state.dual_stack else IPVersion.V4Only
        fault: Exception | None = None
        try:
            if self._zeroconf is None:
                self._zeroconf = AsyncZeroconf(interfaces=multicast, ip_version=version)
            # Records first, interfaces second: zeroconf announces its records on each interface that is added.
            await self._announce(tuple(address.packed for address in state.announced))
            await self._zeroconf.async_update_interfaces(multicast, version)
            fault = multicast_fault(state)
        except _ERRORS as error:
            fault = error
        self._report_fault(fault)

    async def _announce(self, addresses: tuple[bytes, ...]) -> None:
        """Announce these addresses. If there are none, keep the last announcement: no other node can receive one."""
        instance, port = self._service.instance, self._service.port
        if port is None or not addresses or addresses == self._announced:
            return
        assert self._zeroconf is not None
        info = AsyncServiceInfo(
            SERVICE_TYPE,
            f"{instance}.{SERVICE_TYPE}",
            addresses=addresses,
            port=port,
            server=f"{instance}.local.",
            properties=self._service.properties(),
            host_ttl=ADDRESS_TTL_S,
            other_ttl=NAME_TTL_S,
        )
        if self._announced:
            await self._zeroconf.async_update_service(info)
        else:
            # No probing (RFC 6762 section 8.1): the name is random, probing would cost 1.5 s, and a spoofed answer to a
            # probe could keep this node from announcing itself.
            await self._zeroconf.async_register_service(info, cooperating_responders=True)
        self._announced = addresses

    async def _query(self) -> None:
        """Query with a fresh browser: it sends its first query at once, and reports again everything in the cache."""
        if self._zeroconf is None:
            return
        if self._browser is not None:
            await self._browser.async_cancel()
        _forget_oldest_names(self._zeroconf.zeroconf)
        assert self._resolver is not None
        # QM questions get multicast answers. A unicast answer reaches only one of the nodes that share this machine's port.
        self._browser = AsyncServiceBrowser(
            self._zeroconf.zeroconf, SERVICE_TYPE, handlers=[self._resolver.on_change], question_type=DNSQuestionType.QM
        )

    def _report_fault(self, fault: Exception | None) -> None:
        """Notify once that multicast fails, and once that it works again."""
        if fault is not None and not self._fault_reported:
            reason = (fault.strerror if isinstance(fault, OSError) else None) or str(fault) or type(fault).__name__
            text = f"multicast is not available ({reason}): this node cannot find peers; use --peer HOST:PORT"
            self._on_notice(Notice("discovery.unavailable", text, {}, "warning"))
        elif fault is None and self._fault_reported:
            self._on_notice(
                Notice("discovery.available", "multicast is available: this node finds peers automatically")
            )
        self._fault_reported = fault is not None


@dataclass(frozen=True, slots=True)
class _Service:
    """The announcement of this node, without its addresses."""

    instance: str
    tag: str
    port: int | None

    def properties(self) -> dict[bytes | str, bytes | str | None]:
        """Return the TXT record, which is equal for all nodes of one mesh and one version."""
        return {b"v": WIRE_VERSION, b"m": self.tag.encode()}


class _Resolver:
    """Resolves service names to addresses, and reports those that may be another node of this mesh."""

    def __init__(self, service: _Service, on_found: Callable[[Address, str], None], *, loopback: bool) -> None:
        self._service = service
        self._on_found = on_found
        self._loopback = loopback
        self._interfaces = InterfaceState()
        self._pending: OrderedDict[str, None] = OrderedDict()
        self._queried: OrderedDict[str, float] = OrderedDict()  # name -> loop time of its last query
        self._resolving: dict[str, asyncio.Task[None]] = {}

    def network_changed(self, state: InterfaceState) -> None:
        """Use these interfaces; names that did not resolve before may be tried again at once."""
        self._interfaces = state
        self._queried.clear()

    async def close(self) -> None:
        """Cancel waiting and running queries."""
        self._pending.clear()
        tasks = list(self._resolving.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def on_change(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        """Handle an added or changed record. A removal is ignored: one spoofed packet can cause it."""
        instance = name.removesuffix(f".{service_type}")
        if state_change is ServiceStateChange.Removed or not _INSTANCE.fullmatch(instance):
            return
        info = AsyncServiceInfo(service_type, name)
        if info.load_from_cache(zeroconf):
            self._report(info, instance)
            return
        if instance == self._service.instance:
            return  # our own record: no other node should have this name, so there is no need to query it
        queried = self._queried.get(name)
        if name in self._resolving or (queried is not None and queried + RESOLVE_AGAIN_S > _now()):
            return
        self._pending[name] = None
        self._pending.move_to_end(name)
        if len(self._pending) > NAMES_MAX:
            self._pending.popitem(last=False)
        self._resolve_more(zeroconf)

    def _resolve_more(self, zeroconf: Zeroconf) -> None:
        while self._pending and len(self._resolving) < RESOLVING_MAX:
            # Newest first, so that a node that appears after a flood of names does not wait for all of them.
            name, _ = self._pending.popitem()
            self._queried[name] = _now()
            self._queried.move_to_end(name)
            if len(self._queried) > NAMES_MAX:
                self._queried.popitem(last=False)
            self._resolving[name] = asyncio.get_running_loop().create_task(self._resolve(zeroconf, name))

    async def _resolve(self, zeroconf: Zeroconf, name: str) -> None:
        try:
            info = AsyncServiceInfo(SERVICE_TYPE, name)
            if await info.async_request(zeroconf, RESOLVE_MS):
                self._report(info, name.removesuffix(f".{SERVICE_TYPE}"))
        except _ERRORS:
            pass  # the interface is gone; `network_changed` follows
        finally:
            del self._resolving[name]
            self._resolve_more(zeroconf)

    def _report(self, info: AsyncServiceInfo, instance: str) -> None:
        """Report every usable address of a node with our tag; nodes of another mesh or version are ignored."""
        ours = self._service.properties()
        if not info.port or any(info.properties.get(key) != ours[key] for key in (b"v", b"m")):
            return
        hosts = info.parsed_scoped_addresses(IPVersion.All)[:ADDRESSES_MAX]
        # Another machine's loopback address is useless here. A node is on this machine if all its addresses are ours.
        own = self._interfaces.own
        here = self._loopback and all(ip_address(host).is_loopback or host.split("%")[0] in own for host in hosts)
        # Our name and port at an address of another machine belong to a clone, which drew the same random name: report it.
        ourselves = own if (instance, info.port) == (self._service.instance, self._service.port) else frozenset()
        for host in hosts:
            if host.partition("%")[0] not in ourselves:
                for usable in self._dialable(host, loopback=here):
                    self._on_found(Address(usable, info.port), instance)

    def _dialable(self, host: str, *, loopback: bool) -> tuple[str, ...]:
        """Return the forms of the host that can be dialled; none if it cannot be another node."""
        bare, _, index = host.partition("%")
        address = ip_address(bare)
        if address.is_multicast or address.is_unspecified or (address.is_loopback and not loopback):
            return ()
        if address.version == 4 or not address.is_link_local:
            return (bare,)
        if index:
            # The interface on which the record arrived, by its name as everywhere else in the mesh.
            return tuple(f"{bare}%{scope}" for scope in [scope_name(int(index))] if scope)
        if bare in self._interfaces.own:
            return ()
        # The record arrived over IPv4, which does not say on which interface. If two machines on one cable have IPv4
        # addresses of different networks, this address is the only one that works, so each interface is tried.
        return tuple(f"{bare}%{scope}" for scope in self._interfaces.scopes)


def _forget_oldest_names(zeroconf: Zeroconf) -> None:
    """Remove all but the NAMES_MAX latest nodes from zeroconf's cache.

    A query lists the cached nodes, so that they do not answer it. A forgotten node that exists answers, and is known again.
    """
    cache: Any = zeroconf.cache
    pointers = cache.async_all_by_details(SERVICE_TYPE, _PTR, _IN)
    pointers.sort(key=lambda pointer: pointer.created)
    for pointer in pointers[:-NAMES_MAX]:
        forgotten = [pointer, *cache.async_entries_with_name(pointer.alias)]
        for service in cache.async_all_by_details(pointer.alias, _SRV, _IN):
            forgotten += cache.async_entries_with_name(service.server)
        cache.async_remove_records(forgotten)


def _jittered(wait_s: float) -> float:
    return wait_s * random.uniform(1 - QUERY_JITTER, 1)


def _now() -> float:
    return asyncio.get_running_loop().time()
