"""Discovery by mDNS (RFC 6762, RFC 6763) with python-zeroconf: hints of where members may listen.

Owns the announcement of this node and a browser that does not go quiet. python-zeroconf's own browser asks at 0, 1, 5 and
14 s and then only refreshes what it knows, so two groups that started before their cable was plugged would never meet:
here the question is asked again after every change of the network, and every 30 s. What always holds: an address told is a
hint, `Removed` is ignored, and what is remembered of others is bounded. It must not know whether a hint leads anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

import ifaddr
from zeroconf import (
    BadTypeInNameException,
    DNSQuestionType,
    IPVersion,
    NonUniqueNameException,
    ServiceStateChange,
    Zeroconf,
)
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from mesh.events import Address, Notice

__all__ = ["SERVICE_TYPE", "Discovery"]

SERVICE_TYPE = "_mycomesh._tcp.local."
WIRE_VERSION = b"1"
# Questions after a start or a change of the network, then for ever: RFC 6762 section 5.2 asks for growing intervals of at
# least a second; 30 s bounds how long two groups that are joined by a switch, out of our sight, stay strangers.
ASK_AFTER_S = (0.0, 1.0, 3.0, 7.0)
ASK_EVERY_S = 30.0
# A flood of made-up names may cost neither memory nor dials without bound: four times the largest mesh that is drawn.
NAMES_MAX = 1_024
RESOLVING_MAX = 16
RESOLVE_MS = 3_000


class Discovery:
    """Announces this node and tells addresses of others. Everything happens on the event loop's thread."""

    def __init__(
        self,
        on_found: Callable[[Address, str], None],
        on_notice: Callable[[Notice], None],
        *,
        loopback: bool,
    ) -> None:
        """`on_found` gets (address, instance name); `loopback` also speaks on, and tells, this machine's own loopback."""
        self._on_found = on_found
        self._on_notice = on_notice
        self._loopback = loopback
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._info: AsyncServiceInfo | None = None
        self._instance = ""
        self._tag = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._asking: asyncio.Task[None] | None = None
        self._names: OrderedDict[str, None] = OrderedDict()
        self._resolving: dict[str, None] = {}

    async def start(self, instance: str, tag: str, port: int | None) -> None:
        """Announces `instance` at `port` (None: only browse) among nodes with the same `tag`, and begins to ask."""
        self._instance, self._tag = instance, tag
        try:
            self._zeroconf = AsyncZeroconf(interfaces=self._interfaces(), ip_version=IPVersion.V4Only)
        except OSError as error:
            self._zeroconf = None
            self._tell_no_multicast(error)
            return
        if port is not None:
            self._info = self._announcement(port)
            with contextlib.suppress(NonUniqueNameException, BadTypeInNameException):
                await self._zeroconf.async_register_service(self._info)
        self._browse()
        self._ask_again()

    def network_changed(self) -> None:
        """Speaks on the interfaces that are there now, and asks again at once."""
        self._spawn(self._follow_network())

    async def close(self) -> None:
        """Says goodbye and stops."""
        tasks = [*self._tasks, *([self._asking] if self._asking is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._browser is not None:
            await self._browser.async_cancel()
        if self._zeroconf is not None:
            if self._info is not None:
                await (await self._zeroconf.async_unregister_service(self._info))
            await self._zeroconf.async_close()
            self._zeroconf = None

    # ---- this node

    def _interfaces(self) -> list[str]:
        """Returns the IPv4 addresses to speak on; the loopback where it is asked for."""
        addresses = [address for address in _own_addresses() if self._loopback or not address.is_loopback]
        return [str(address) for address in addresses] or ["127.0.0.1"]

    def _announcement(self, port: int) -> AsyncServiceInfo:
        addresses = [address.packed for address in _own_addresses() if self._loopback or not address.is_loopback]
        return AsyncServiceInfo(
            SERVICE_TYPE,
            f"{self._instance}.{SERVICE_TYPE}",
            addresses=addresses or [ipaddress.IPv4Address("127.0.0.1").packed],
            port=port,
            server=f"{self._instance}.local.",
            properties={b"v": WIRE_VERSION, b"m": self._tag.encode()},
        )

    async def _follow_network(self) -> None:
        if self._zeroconf is None:
            return
        try:
            await self._zeroconf.async_update_interfaces(self._interfaces())
            if self._info is not None:
                fresh = self._announcement(self._info.port or 0)
                if fresh.addresses != self._info.addresses:
                    self._info = fresh
                    await self._zeroconf.async_update_service(fresh)
        except OSError as error:
            self._tell_no_multicast(error)
        self._ask_again()

    # ---- others

    def _browse(self) -> None:
        assert self._zeroconf is not None
        self._browser = AsyncServiceBrowser(
            self._zeroconf.zeroconf, SERVICE_TYPE, handlers=[self._on_change], question_type=DNSQuestionType.QM
        )

    def _ask_again(self) -> None:
        """Starts the asking over: soon, a few times, then for ever."""
        if self._asking is not None:
            self._asking.cancel()
        self._asking = asyncio.get_running_loop().create_task(self._ask())

    async def _ask(self) -> None:
        """Asks by a fresh browser, whose first question leaves at once and whose records are told again."""
        waited = 0.0
        for after in ASK_AFTER_S[1:]:
            await asyncio.sleep(after - waited)
            waited = after
            await self._renew_browser()
        while True:
            await asyncio.sleep(ASK_EVERY_S)
            await self._renew_browser()

    async def _renew_browser(self) -> None:
        if self._zeroconf is None:
            return
        if self._browser is not None:
            await self._browser.async_cancel()
        self._browse()

    def _on_change(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        """A record came or changed. A record that went is ignored: one spoofed packet can take it away."""
        del zeroconf
        if state_change is ServiceStateChange.Removed or name.startswith(f"{self._instance}."):
            return
        if name in self._resolving or len(self._resolving) >= RESOLVING_MAX:
            return
        self._names[name] = None
        self._names.move_to_end(name)
        if len(self._names) > NAMES_MAX:
            self._names.popitem(last=False)
        self._resolving[name] = None
        self._spawn(self._resolve(service_type, name))

    async def _resolve(self, service_type: str, name: str) -> None:
        try:
            if self._zeroconf is None:
                return
            info = AsyncServiceInfo(service_type, name)
            if not await info.async_request(self._zeroconf.zeroconf, RESOLVE_MS):
                return
            if info.properties.get(b"m") != self._tag.encode() or not info.port:
                return
            for host in info.parsed_scoped_addresses(IPVersion.All):
                if self._usable(host):
                    self._on_found(Address(host, info.port), name.split(".", 1)[0])
        finally:
            self._resolving.pop(name, None)

    def _usable(self, host: str) -> bool:
        """False for addresses that cannot be another node's: multicast, unspecified, the loopback unless asked for."""
        try:
            address = ipaddress.ip_address(host.split("%", 1)[0])
        except ValueError:
            return False
        if address.is_loopback:
            return self._loopback
        return not (address.is_multicast or address.is_unspecified)

    def _tell_no_multicast(self, error: OSError) -> None:
        text = f"multicast is not available ({error.strerror or error}): peers are not found by themselves; use --peer HOST:PORT"
        self._on_notice(Notice("discovery.unavailable", text, {}, "warning"))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _own_addresses() -> list[ipaddress.IPv4Address]:
    """Returns this machine's IPv4 addresses, ascending."""
    found = {
        ipaddress.IPv4Address(entry.ip)
        for adapter in ifaddr.get_adapters()
        for entry in adapter.ips
        if isinstance(entry.ip, str)
    }
    return sorted(found)
