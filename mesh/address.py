"""Classifies network addresses: loopback, link-local, one host, a node at a NATS server, or a circuit through a relay."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv6Address

from mycomesh.mesh.events import Address

__all__ = [
    "circuit_address",
    "directness",
    "host_group",
    "is_circuit",
    "is_lasting",
    "is_loopback",
    "is_routable",
    "nats_address",
    "nats_instance",
]

_VIA = "via-"
_NATS = "nats%"

_SCOPED = "%"


def host_group(host: str) -> str:
    """Return the key under which per-host limits count an address: an IPv4 address, or the /64 network of an IPv6 one.

    One IPv6 host may take any address of its /64, so a limit on single addresses would not limit it.
    """
    try:
        return IPv6Address(host.partition(_SCOPED)[0]).exploded[:19]
    except AddressValueError:
        return host


def is_loopback(host: str) -> bool:
    """Return True if this address is of the machine itself."""
    return host == "::1" or host.startswith(("127.", "::ffff:127."))


def is_routable(host: str) -> bool:
    """Return True if other machines can use this address: it is neither loopback nor link-local."""
    return not is_loopback(host) and _SCOPED not in host and not host.lower().startswith(("fe80:", "169.254."))


def circuit_address(relay_name: str, peer: bytes) -> Address:
    """Return the label of a circuit to `peer` (16-byte node id) through a relay. Nobody can dial it."""
    return Address(f"{_VIA}{relay_name}%{peer[:4].hex()}", 0)


def is_circuit(host: str) -> bool:
    """Return True if `circuit_address` made this host."""
    return host.startswith(_VIA)


def nats_address(instance: bytes) -> Address:
    """Return the address of a node's run (8 random bytes) at the NATS server that this node uses too."""
    return Address(f"{_NATS}{instance.hex()}", 0)


def nats_instance(host: str) -> bytes | None:
    """Return the instance in a host that `nats_address` has made, None for any other host."""
    try:
        return (
            bytes.fromhex(host.removeprefix(_NATS)) if host.startswith(_NATS) and len(host) == len(_NATS) + 16 else None
        )
    except ValueError:
        return None


def is_lasting(host: str) -> bool:
    """Return True if an address can be dialled in a later run too: not one of a circuit or of a run at a NATS server."""
    return not host.startswith((_VIA, _NATS))


def directness(host: str) -> int:
    """Return 2 for a network address, 1 for one over a NATS server, 0 for a circuit: a link gives way to a more direct one."""
    return 0 if host.startswith(_VIA) else 1 if host.startswith(_NATS) else 2
