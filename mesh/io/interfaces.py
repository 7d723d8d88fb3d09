"""Network interfaces for discovery: where to send multicast, which addresses to announce, which addresses are our own.

Invariants: the loopback interface is used only on request, and then no other. Discovery never uses more interfaces than the
multicast groups that the kernel lets one socket join.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from mycomesh.mesh.io.netlink import Interface, interfaces

__all__ = ["InterfaceState", "interface_state", "interface_with", "multicast_fault", "scope_name"]

# Linux lets one socket join 20 groups (igmp_max_memberships). If a drone has more than 16 networks, some of them are virtual.
MULTICAST_MAX = 16
ANNOUNCED_MAX = 16  # fits into one mDNS answer of 1,460 bytes with its other records; an AAAA record has 28 bytes
SCOPES_MAX = 4  # interfaces on which a link-local address is tried if its record does not name one
_LOOPBACK = IPv4Address("127.0.0.1")
_GROUP_V4, _GROUP_V6, _PORT = "224.0.0.251", "ff02::fb", 5353
_EMPTY_QUESTION = bytes(12)  # a DNS header without a question, which gets no answer


@dataclass(frozen=True, slots=True)
class InterfaceState:
    """The interfaces and addresses of this machine. `known` is false if the kernel does not list the interfaces.

    `multicast` says where to send multicast: for IPv4 the own address, for IPv6 the index of the interface. `announced` are the
    addresses at which others reach this machine, `own` all its addresses, and `scopes` the names of the interfaces that have
    link-local neighbours.
    """

    known: bool = False
    multicast: tuple[str | int, ...] = ()
    announced: tuple[IPv4Address | IPv6Address, ...] = ()
    own: frozenset[str] = frozenset()
    scopes: tuple[str, ...] = ()

    @property
    def dual_stack(self) -> bool:
        """Whether multicast uses IPv6 as well as IPv4."""
        return any(isinstance(one, int) for one in self.multicast)


def interface_state(*, loopback: bool) -> InterfaceState:
    """Return the state of this machine's interfaces: with `loopback` of that one alone, else of all others.

    If the kernel does not list the interfaces (in a sandbox), use the default one.
    """
    try:
        everything = interfaces()
    except OSError:
        if loopback:  # its address is always known
            return InterfaceState(True, (str(_LOOPBACK),), (_LOOPBACK,), frozenset({str(_LOOPBACK)}))
        found = _default_address()
        return InterfaceState(announced=tuple(found), own=frozenset(map(str, found)))
    used = [interface for interface in everything if interface.loopback == loopback]
    scoped = [interface for interface in used if _speaks_ipv6(interface)]
    v4 = [str(address) for interface in used for address in interface.addresses if isinstance(address, IPv4Address)]
    announced = [
        address
        for interface in used
        if interface.running
        for address in interface.addresses
        if address == _LOOPBACK or not address.is_loopback
    ]
    scopes = [name for interface in scoped if interface.running if (name := scope_name(interface.index))]
    multicast: list[str | int] = [*v4, *(interface.index for interface in scoped)]
    return InterfaceState(
        known=True,
        multicast=tuple(multicast[:MULTICAST_MAX]),
        announced=tuple(announced[:ANNOUNCED_MAX]),
        own=frozenset(str(address) for interface in everything for address in interface.addresses),
        scopes=tuple(scopes[:SCOPES_MAX]),
    )


def multicast_fault(state: InterfaceState) -> OSError | None:
    """Send an empty DNS message on each interface; return None if one send succeeds, else the last error."""
    fault = OSError(errno.ENETDOWN, "no network interface has an address yet")
    for one in state.multicast if state.known else ("0.0.0.0",):  # noqa: S104 -- selects the default interface for sending
        try:
            _try_multicast(one)
        except OSError as error:
            fault = error
        else:
            return None
    return fault


def interface_with(host: str) -> str:
    """Return the name of the interface that has this numeric address, "" if none has it or the kernel does not say."""
    try:
        wanted = ip_address(host.partition("%")[0])
        wanted = getattr(wanted, "ipv4_mapped", None) or wanted
        return next((scope_name(each.index) for each in interfaces() if wanted in each.addresses), "")
    except (OSError, ValueError):
        return ""


def scope_name(index: int) -> str:
    """Return the name of an interface, or "" if it does not exist any more."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""


def _speaks_ipv6(interface: Interface) -> bool:
    return not interface.loopback and any(isinstance(address, IPv6Address) for address in interface.addresses)


def _default_address() -> list[IPv4Address]:
    """Return the source address that this machine would use for the mDNS group, if any; nothing is sent."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((_GROUP_V4, _PORT))
        address = IPv4Address(sock.getsockname()[0])
        return [] if address.is_unspecified or address.is_loopback else [address]
    return []


def _try_multicast(one: str | int) -> None:
    if isinstance(one, str):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(one))
            sock.sendto(_EMPTY_QUESTION, (_GROUP_V4, _PORT))
        return
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, one)
        sock.sendto(_EMPTY_QUESTION, (_GROUP_V6, _PORT, 0, one))
