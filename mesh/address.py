"""Addresses: which of them others can dial, which count as one host, and how a circuit is addressed."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv6Address

from mycomesh.mesh.events import Address

__all__ = ["circuit_address", "host_group", "is_circuit", "is_loopback", "is_routable"]

_VIA = "via-"

_SCOPED = "%"


def host_group(host: str) -> str:
    """What counts as one stranger: an IPv4 address, or the /64 that one IPv6 host may draw its addresses from."""
    try:
        return IPv6Address(host.partition(_SCOPED)[0]).exploded[:19]
    except AddressValueError:
        return host


def is_loopback(host: str) -> bool:
    """Whether this is this machine."""
    return host == "::1" or host.startswith(("127.", "::ffff:127."))


def is_routable(host: str) -> bool:
    """Whether an address means the same to another machine: not loopback, not link-local."""
    return not is_loopback(host) and _SCOPED not in host and not host.lower().startswith(("fe80:", "169.254."))


def circuit_address(relay_name: str, peer: bytes) -> Address:
    """How a core knows a connection with this member through that relay: no address that anybody could dial."""
    return Address(f"{_VIA}{relay_name}%{peer[:4].hex()}", 0)


def is_circuit(host: str) -> bool:
    """Whether a host is one of `circuit_address`."""
    return host.startswith(_VIA)
