"""Discovery by mDNS (RFC 6762, RFC 6763) with python-zeroconf: hints of where members may listen.

Owns the announcement of this node and a browser that does not go quiet. python-zeroconf's own browser asks at 0, 1, 5 and
14 s and then only refreshes what it knows, so two groups that started before their cable was plugged would never meet:
here the question is asked again after every change of the network, and every 30 s. What always holds: an address told is a
hint, `Removed` is ignored, and what is remembered of others is bounded. It must not know whether a hint leads anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import chain, repeat

from zeroconf import DNSQuestionType, Error, InterfaceChoice, IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from mycomesh.mesh.events import Address, Notice
from mycomesh.mesh.io.interfaces import InterfaceState, look, multicast_fault, scope_name

__all__ = ["SERVICE_TYPE", "Discovery"]

SERVICE_TYPE = "_mycomesh._tcp.local."
WIRE_VERSION = b"1"
# Waits between questions after a start or a change of the network (so at 1, 3 and 7 s), then for ever. RFC 6762 section 5.2
# asks for growing intervals of at least a second; 30 s bounds how long two groups that are joined by a switch, out of our
# sight, stay strangers.
ASK_AFTER_S = (1.0, 2.0, 4.0)
ASK_EVERY_S = 30.0
# How long others may keep what this node announces. RFC 6762 section 10 proposes 120 s for addresses; names here are drawn
# for one run, so little can go stale, and at 120 s a hundred nodes would ask each other 80 questions a second.
ADDRESS_TTL_S = 600
NAME_TTL_S = 1_200
# A flood of made-up names may cost neither memory nor questions without bound: four times the largest mesh that is drawn.
NAMES_MAX = 1_024
RESOLVING_MAX = 16  # questions about names under way at once
RESOLVE_MS = 3_000
RESOLVE_AGAIN_S = 120.0  # a name that nobody stands up for: its node has crashed, and the record outlives it
ADDRESSES_MAX = 16  # of one name; more would be a way to make this node dial others

# What our own nodes announce: nothing that a terminal or a log could stumble over.
_INSTANCE = re.compile(r"[0-9A-Za-z-]{1,63}")
_ERRORS = (OSError, RuntimeError, Error)  # RuntimeError: an interface that went while zeroconf was looking at it


class Discovery:
    """Announces this node and tells addresses of others. Everything happens on the event loop's thread."""

    def __init__(
        self,
        on_found: Callable[[Address, str], None],
        on_notice: Callable[[Notice], None],
        *,
        loopback: bool,
    ) -> None:
        """`on_found` gets (address, instance name); `loopback` speaks on this machine's own loopback and nowhere else."""
        self._on_found = on_found
        self._on_notice = on_notice
        self._loopback = loopback
        self._service = _Service("", "", None)
        self._names: _Names | None = None
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._announced: tuple[bytes, ...] = ()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._told_fault = False

    async def start(self, instance: str, tag: str, port: int | None) -> None:
        """Announce `instance` at `port` (None: only browse) among nodes with the same `tag`, and begin to ask.

        `instance` is a random name of letters, digits and hyphens, one a run; `tag` is a filter, never a secret.
        """
        assert _INSTANCE.fullmatch(instance), f"{instance!r} is no instance name"
        self._service = _Service(instance, tag, port)
        self._names = _Names(self._service, self._on_found, loopback=self._loopback)
        self._task = asyncio.get_running_loop().create_task(self._live())

    def network_changed(self) -> None:
        """Speak on the interfaces that are there now, and ask again at once."""
        self._changed.set()

    async def close(self) -> None:
        """Say goodbye and stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        if self._browser is not None:
            await self._browser.async_cancel()
            self._browser = None
        if self._names is not None:
            await self._names.close()
        if self._zeroconf is not None:
            await self._zeroconf.async_close()
            self._zeroconf = None

    # ---- the one task: nobody else touches zeroconf while it lives

    async def _live(self) -> None:
        """After a start and each change of the network: speak where we can, then ask, soon and for ever."""
        while True:
            self._changed.clear()
            await self._follow_network()
            for wait_s in chain(ASK_AFTER_S, repeat(ASK_EVERY_S)):
                await self._ask()
                # Not `wait_for`: in Python 3.11 it may swallow the cancellation when a change comes together with the end.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._changed.wait()
                    break
                if self._told_fault:
                    await self._follow_network()

    async def _follow_network(self) -> None:
        place = look(loopback=self._loopback)
        assert self._names is not None
        self._names.network_changed(place)
        speak = list(place.spoken) if place.known else InterfaceChoice.Default
        version = IPVersion.All if place.dual else IPVersion.V4Only
        fault: Exception | None = None
        try:
            if self._zeroconf is None:
                self._zeroconf = AsyncZeroconf(interfaces=speak, ip_version=version)
            # First what is said, then where: zeroconf says it again on each interface that is new.
            await self._announce(tuple(address.packed for address in place.announced))
            await self._zeroconf.async_update_interfaces(speak, version)
            fault = multicast_fault(place)
        except _ERRORS as error:
            fault = error
        self._tell_fault(fault)

    async def _announce(self, addresses: tuple[bytes, ...]) -> None:
        """Announce these addresses; while there are none, what was said before stands, as nobody hears us."""
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
            # Probing (RFC 6762 section 8.1) would cost 1.5 s, and let a spoofed answer keep us silent; the name is random.
            await self._zeroconf.async_register_service(info, cooperating_responders=True)
        self._announced = addresses

    async def _ask(self) -> None:
        """Ask by a fresh browser, whose first question leaves at once and which is told again what is in the cache."""
        if self._zeroconf is None:
            return
        if self._browser is not None:
            await self._browser.async_cancel()
        assert self._names is not None
        # Multicast answers (QM): a unicast one to a port that several nodes of a machine share reaches only one of them.
        self._browser = AsyncServiceBrowser(
            self._zeroconf.zeroconf, SERVICE_TYPE, handlers=[self._names.on_change], question_type=DNSQuestionType.QM
        )

    def _tell_fault(self, fault: Exception | None) -> None:
        """Say once that nobody can be found by multicast, and once that it has come back."""
        if fault is not None and not self._told_fault:
            reason = (fault.strerror if isinstance(fault, OSError) else None) or str(fault) or type(fault).__name__
            text = f"multicast is not available ({reason}): peers are not found by themselves; use --peer HOST:PORT"
            self._on_notice(Notice("discovery.unavailable", text, {}, "warning"))
        elif fault is None and self._told_fault:
            self._on_notice(Notice("discovery.available", "multicast is available: peers are found by themselves"))
        self._told_fault = fault is not None


@dataclass(frozen=True, slots=True)
class _Service:
    """What this node announces, but for its addresses."""

    instance: str
    tag: str
    port: int | None

    def properties(self) -> dict[bytes | str, bytes | str | None]:
        """The TXT record, which nodes of one mesh and one version have in common."""
        return {b"v": WIRE_VERSION, b"m": self.tag.encode()}


class _Names:
    """Turns names of services into addresses, and tells those that may be another node of this mesh."""

    def __init__(self, service: _Service, on_found: Callable[[Address, str], None], *, loopback: bool) -> None:
        self._service = service
        self._on_found = on_found
        self._loopback = loopback
        self._place = InterfaceState()
        self._waiting: OrderedDict[str, None] = OrderedDict()
        self._asked: OrderedDict[str, float] = OrderedDict()  # name -> when the loop's clock let us ask for it
        self._resolving: dict[str, asyncio.Task[None]] = {}

    def network_changed(self, place: InterfaceState) -> None:
        """We are elsewhere: who did not answer before may do so here."""
        self._place = place
        self._asked.clear()

    async def close(self) -> None:
        """Give up what waits and what is under way."""
        self._waiting.clear()
        tasks = list(self._resolving.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def on_change(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        """A record came or changed. A record that went is ignored: one spoofed packet can take it away."""
        instance = name.removesuffix(f".{service_type}")
        if state_change is ServiceStateChange.Removed or not _INSTANCE.fullmatch(instance):
            return
        info = AsyncServiceInfo(service_type, name)
        if info.load_from_cache(zeroconf):
            self._tell(info, instance)
            return
        if instance == self._service.instance:
            return  # nobody else should bear it, and ours we need not ask for
        asked = self._asked.get(name)
        if name in self._resolving or (asked is not None and asked + RESOLVE_AGAIN_S > _now()):
            return
        self._waiting[name] = None
        self._waiting.move_to_end(name)
        if len(self._waiting) > NAMES_MAX:
            self._waiting.popitem(last=False)
        self._resolve_more(zeroconf)

    def _resolve_more(self, zeroconf: Zeroconf) -> None:
        while self._waiting and len(self._resolving) < RESOLVING_MAX:
            # The latest first: who comes after a flood shall not wait until all of it has been asked for.
            name, _ = self._waiting.popitem()
            self._asked[name] = _now()
            self._asked.move_to_end(name)
            if len(self._asked) > NAMES_MAX:
                self._asked.popitem(last=False)
            self._resolving[name] = asyncio.get_running_loop().create_task(self._resolve(zeroconf, name))

    async def _resolve(self, zeroconf: Zeroconf, name: str) -> None:
        try:
            info = AsyncServiceInfo(SERVICE_TYPE, name)
            if await info.async_request(zeroconf, RESOLVE_MS):
                self._tell(info, name.removesuffix(f".{SERVICE_TYPE}"))
        except _ERRORS:
            pass  # the interface it was asked on is gone, which is told by itself
        finally:
            del self._resolving[name]
            self._resolve_more(zeroconf)

    def _tell(self, info: AsyncServiceInfo, instance: str) -> None:
        """Tell every usable address of a node that shows our tag; another mesh or version is no error."""
        ours = self._service.properties()
        if not info.port or any(info.properties.get(key) != ours[key] for key in (b"v", b"m")):
            return
        hosts = info.parsed_scoped_addresses(IPVersion.All)[:ADDRESSES_MAX]
        # Another machine's loopback is not there for us: only who lives at no other address than ours is on this one.
        own = self._place.own
        here = self._loopback and all(ip_address(host).is_loopback or host.split("%")[0] in own for host in hosts)
        # Our own name is ours at our own place alone: elsewhere a twin bears it, a cloned machine that drew what we drew.
        ourselves = own if (instance, info.port) == (self._service.instance, self._service.port) else frozenset()
        for host in hosts:
            if host.partition("%")[0] not in ourselves:
                for usable in self._usable(host, loopback=here):
                    self._on_found(Address(usable, info.port), instance)

    def _usable(self, host: str, *, loopback: bool) -> tuple[str, ...]:
        """Return the host in the forms that can be dialled; nothing for what cannot be another node."""
        bare, _, index = host.partition("%")
        address = ip_address(bare)
        if address.is_multicast or address.is_unspecified or (address.is_loopback and not loopback):
            return ()
        if address.version == 4 or not address.is_link_local:
            return (bare,)
        if index:
            # The interface that the record came in by; by its name, as everywhere else in the mesh.
            return tuple(f"{bare}%{scope}" for scope in [scope_name(int(index))] if scope)
        if bare in self._place.own:
            return ()
        # It came over IPv4, which does not say by which interface. Where two machines on one cable have IPv4 addresses of
        # different networks, this is the only address that works, so each interface is tried.
        return tuple(f"{bare}%{scope}" for scope in self._place.scopes)


def _now() -> float:
    return asyncio.get_running_loop().time()
