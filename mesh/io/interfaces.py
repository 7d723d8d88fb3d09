"""The interfaces of this machine as discovery needs them: where to speak multicast, and what to announce.

Owns one look at the machine and one trial of its multicast. What always holds: the loopback is used only where that is asked
for or where there is nothing else, and no more interfaces are used than the kernel lets one socket join. It must not know
what is said on them.
"""

from __future__ import annotations

import ipaddress
import socket
from collections import Counter
from dataclasses import dataclass

import ifaddr

__all__ = ["Interfaces", "look", "multicast_fault"]

# Linux lets one socket join 20 groups (igmp_max_memberships); a drone with more than 16 networks has virtual ones among them.
SPOKEN_MAX = 16
# What fits one mDNS answer of 1,460 bytes beside the rest, AAAA records being 28 bytes.
ANNOUNCED_MAX = 16
_LOOPBACK = "127.0.0.1"
_GROUPS = {socket.AF_INET: "224.0.0.251", socket.AF_INET6: "ff02::fb"}
_PORT = 5353
_EMPTY_QUESTION = bytes(12)  # a DNS header that asks nothing: nobody answers it


@dataclass(frozen=True, slots=True)
class Interfaces:
    """Where to speak: IPv4 by address, IPv6 by link-local address or (where two links share one) by interface index.

    `hosts` are the numeric addresses to announce, IPv4 first.
    """

    spoken: tuple[str | int, ...]
    hosts: tuple[str, ...]
    loopback: bool

    @property
    def dual(self) -> bool:
        """True if IPv6 is spoken as well."""
        return any(isinstance(one, int) or ":" in one for one in self.spoken)


def look(*, loopback: bool) -> Interfaces:
    """Returns the interfaces that are there at this moment; the loopback if asked for, or if there is no other."""
    v4: dict[str, None] = {}
    v6: dict[str, None] = {}
    links: list[tuple[str, int]] = []
    local = False
    for adapter in ifaddr.get_adapters():
        for entry in adapter.ips:
            host = entry.ip if isinstance(entry.ip, str) else entry.ip[0]
            address = ipaddress.ip_address(host.split("%", 1)[0])
            if address.is_loopback:
                local = local or address.version == 4
            elif address.version == 4:
                v4[str(address)] = None
            else:
                v6[str(address)] = None
                if address.is_link_local and adapter.index is not None:
                    links.append((str(address), adapter.index))
    loopback = local and (loopback or not (v4 or v6))
    own = [_LOOPBACK] if loopback else []
    # A link-local address is not in itself an interface: a bridge and its port may share a MAC address, so the address.
    shared = Counter(host for host, _ in links)
    spoken = [*own, *sorted(v4), *(host if shared[host] == 1 else index for host, index in sorted(links))]
    return Interfaces(tuple(spoken[:SPOKEN_MAX]), (*own, *sorted(v4), *sorted(v6))[:ANNOUNCED_MAX], loopback)


def multicast_fault(interfaces: Interfaces) -> OSError | None:
    """Sends an empty question on each interface; returns None if one of them took it, else why the last did not."""
    fault: OSError | None = OSError(0, "this machine has no network interface with an address")
    for one in interfaces.spoken:
        try:
            _try_multicast(one)
        except OSError as error:
            fault = error
        else:
            return None
    return fault


def _try_multicast(one: str | int) -> None:
    if isinstance(one, str) and ":" not in one:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(one))
            sock.sendto(_EMPTY_QUESTION, (_GROUPS[socket.AF_INET], _PORT))
        return
    index = one if isinstance(one, int) else _index_of(one)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        sock.sendto(_EMPTY_QUESTION, (_GROUPS[socket.AF_INET6], _PORT, 0, index))


def _index_of(host: str) -> int:
    for adapter in ifaddr.get_adapters():
        for entry in adapter.ips:
            if not isinstance(entry.ip, str) and entry.ip[0].split("%", 1)[0] == host:
                return adapter.index or 0
    raise OSError(0, f"the interface of {host} has gone")
