"""Netlink monitor: the machine's network interfaces from rtnetlink(7), and a callback when they change.

Changes are, for example, a cable that is plugged in, a new address, or a radio that is back in range. Access points and
routers make the kernel repeat unchanged facts every few seconds, so the monitor compares interfaces instead of counting
messages.

Invariant: a burst of messages causes one callback, after it has settled, and only if an interface, carrier or address differs.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

__all__ = ["Interface", "Netlink", "interfaces"]

# Plugging in a cable causes several messages (carrier, link-local address, DHCP) within a few hundred milliseconds.
SETTLE_S = 0.25
# The kernel answers a dump within the call; the limit is for a sandbox that drops the request.
DUMP_S_MAX = 1.0
_READ_BYTES = 65_536  # twice the size of the largest piece of a dump that the kernel sends

_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_RTM_NEWLINK, _RTM_GETLINK, _RTM_NEWADDR, _RTM_GETADDR = 16, 18, 20, 22
_IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING = 0x1, 0x8, 0x40
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_DADFAILED, _IFA_F_TENTATIVE = 0x08, 0x40
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface that is up. `running` is true if it has a carrier; `addresses` are those that can be bound."""

    index: int
    running: bool
    loopback: bool
    addresses: tuple[IPv4Address | IPv6Address, ...]


def interfaces() -> tuple[Interface, ...]:
    """Return the interfaces that are up, ordered by index; OSError if the kernel does not list them (in a sandbox)."""
    if not hasattr(socket, "AF_NETLINK"):
        raise OSError("this system has no rtnetlink")
    addresses: dict[int, list[IPv4Address | IPv6Address]] = {}
    for body in _dump(_RTM_GETADDR, _RTM_NEWADDR):
        _, _, flags, _, index = _ADDRESS.unpack_from(body)
        # An IPv6 address cannot be bound while the kernel checks for duplicates (RFC 4862). Another message follows then.
        if flags & (_IFA_F_TENTATIVE | _IFA_F_DADFAILED):
            continue
        attributes = dict(_attributes(body[_ADDRESS.size :]))
        # On a point-to-point link ADDRESS belongs to the other end; LOCAL, if present, is our own.
        packed = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS, b"")
        if len(packed) in (4, 16):
            addresses.setdefault(index, []).append(IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed))
    found = []
    for body in _dump(_RTM_GETLINK, _RTM_NEWLINK):
        _, _, index, flags, _ = _LINK.unpack_from(body)
        if flags & _IFF_UP:
            own = sorted(addresses.get(index, ()), key=lambda address: (address.version, int(address)))
            found.append(Interface(index, bool(flags & _IFF_RUNNING), bool(flags & _IFF_LOOPBACK), tuple(own)))
    return tuple(sorted(found, key=lambda interface: interface.index))


class Netlink:
    """Calls `on_changed` when the interfaces, carriers or addresses of this machine have changed."""

    def __init__(self, on_changed: Callable[[], None]) -> None:
        self._on_changed = on_changed
        self._sock: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._known: tuple[Interface, ...] = ()

    def start(self) -> None:
        """Begin to listen. Without rtnetlink (another kernel, a sandbox) discovery's periodic queries find changes later."""
        with contextlib.suppress(OSError):
            self._known = interfaces()
            sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
            try:
                sock.setblocking(False)
                sock.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
            except OSError:
                sock.close()
                raise
            self._sock = sock
            asyncio.get_running_loop().add_reader(sock, self._on_readable)

    def close(self) -> None:
        """Stop listening."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock)
            self._sock.close()
            self._sock = None

    def _on_readable(self) -> None:
        assert self._sock is not None
        with contextlib.suppress(OSError):  # nothing left, or ENOBUFS: messages were lost, so something has changed
            while self._sock.recv(_READ_BYTES):
                pass
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SETTLE_S, self._on_settled)

    def _on_settled(self) -> None:
        self._timer = None
        try:
            found = interfaces()
        except OSError:
            found = ()  # the kernel listed them before, so something has changed
        if found != self._known or not found:
            self._known = found
            self._on_changed()


def _dump(request: int, reply: int) -> Iterator[bytes]:
    """Request all objects of one kind from the kernel; yield the body of each reply."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(DUMP_S_MAX)
        body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        sock.send(_HEADER.pack(_HEADER.size + len(body), request, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0) + body)
        while True:
            data = sock.recv(_READ_BYTES)
            at = 0
            while at + _HEADER.size <= len(data):
                length, kind, _, _, _ = _HEADER.unpack_from(data, at)
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR or length < _HEADER.size:
                    raise OSError("rtnetlink refused to list the interfaces")
                if kind == reply:
                    yield data[at + _HEADER.size : at + length]
                at += _aligned(length)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind, data[at + _ATTRIBUTE.size : at + length]
        at += _aligned(length)


def _aligned(length: int) -> int:
    return (length + 3) & ~3
