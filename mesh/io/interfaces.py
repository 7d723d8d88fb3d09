"""Where this machine is, as discovery needs it: what to speak multicast on, what to announce, which addresses are its own.

Owns one look at the interfaces and one trial of their multicast. What always holds: the loopback is used where that is asked
for, and then nothing else; no more interfaces are used than the kernel lets one socket join. It must not know what is said.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from mycomesh.mesh.io.netlink import Interface, interfaces

__all__ = ["InterfaceState", "look", "multicast_fault", "scope_name"]

# Linux lets one socket join 20 groups (igmp_max_memberships); a drone with more than 16 networks has virtual ones among them.
SPOKEN_MAX = 16
ANNOUNCED_MAX = 16  # what fits one mDNS answer of 1,460 bytes beside the rest, AAAA records being 28 bytes
SCOPES_MAX = 4  # interfaces by which a link-local address is tried when its record does not say which
_LOOPBACK = IPv4Address("127.0.0.1")
_GROUP_V4, _GROUP_V6, _PORT = "224.0.0.251", "ff02::fb", 5353
_EMPTY_QUESTION = bytes(12)  # a DNS header that asks nothing: nobody answers it


@dataclass(frozen=True, slots=True)
class InterfaceState:
    """Where to speak: IPv4 by own address, IPv6 by index of the interface; `known` is false where nobody tells us.

    `announced` are the addresses where others reach this machine, `own` all that are its own, `scopes` the names of the
    interfaces that have link-local neighbours.
    """

    known: bool = False
    spoken: tuple[str | int, ...] = ()
    announced: tuple[IPv4Address | IPv6Address, ...] = ()
    own: frozenset[str] = frozenset()
    scopes: tuple[str, ...] = ()

    @property
    def dual(self) -> bool:
        """True if IPv6 is spoken as well."""
        return any(isinstance(one, int) for one in self.spoken)


def look(*, loopback: bool) -> InterfaceState:
    """Look at the machine: at its loopback alone if that is asked for, so that nothing leaves it, else at all the rest.

    Where the kernel does not list the interfaces (a sandbox), make do with the default one.
    """
    try:
        everything = interfaces()
    except OSError:
        if loopback:  # known without being told
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
    spoken: list[str | int] = [*v4, *(interface.index for interface in scoped)]
    return InterfaceState(
        known=True,
        spoken=tuple(spoken[:SPOKEN_MAX]),
        announced=tuple(announced[:ANNOUNCED_MAX]),
        own=frozenset(str(address) for interface in everything for address in interface.addresses),
        scopes=tuple(scopes[:SCOPES_MAX]),
    )


def multicast_fault(place: InterfaceState) -> OSError | None:
    """Send an empty question on each interface; return None if one of them took it, else why the last did not."""
    fault = OSError(errno.ENETDOWN, "no network interface has an address yet")
    for one in place.spoken if place.known else ("0.0.0.0",):  # noqa: S104 -- the default interface, to send by
        try:
            _try_multicast(one)
        except OSError as error:
            fault = error
        else:
            return None
    return fault


def scope_name(index: int) -> str:
    """Return the name of an interface, "" if it has gone."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""


def _speaks_ipv6(interface: Interface) -> bool:
    return not interface.loopback and any(isinstance(address, IPv6Address) for address in interface.addresses)


def _default_address() -> list[IPv4Address]:
    """Return the address from which this machine would speak to the mDNS group, if any; nothing is sent."""
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
