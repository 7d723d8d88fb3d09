"""The machine's interfaces and news of them: what the kernel says, told once when it has settled, and only real differences."""

from __future__ import annotations

import asyncio
import errno
import socket
from ipaddress import IPv4Address, IPv6Address

import pytest

from mycomesh.mesh.io import interfaces as interfaces_module
from mycomesh.mesh.io import netlink
from mycomesh.mesh.io.interfaces import (
    ANNOUNCED_MAX,
    MULTICAST_MAX,
    SCOPES_MAX,
    InterfaceState,
    interface_state,
    multicast_fault,
    scope_name,
)
from mycomesh.mesh.io.netlink import Interface, Netlink, interfaces

WAIT_S = 10  # only what is broken takes this long

LO = Interface(1, running=True, loopback=True, addresses=(IPv4Address("127.0.0.1"), IPv6Address("::1")))
LAN = Interface(2, running=True, loopback=False, addresses=(IPv4Address("10.99.0.1"), IPv6Address("fe80::1")))
BARE = Interface(3, running=True, loopback=False, addresses=(IPv6Address("fe80::2"),))
UNPLUGGED = Interface(4, running=False, loopback=False, addresses=(IPv4Address("10.99.1.1"), IPv6Address("fe80::3")))


def sees(monkeypatch, *found):
    """The machine has these interfaces, with names like if2."""
    monkeypatch.setattr(interfaces_module, "interfaces", lambda: found)
    monkeypatch.setattr(interfaces_module, "scope_name", lambda index: f"if{index}")


def is_blind(monkeypatch):
    """The kernel lists no interfaces, as in a sandbox without AF_NETLINK."""

    def refuse():
        raise OSError(errno.EAFNOSUPPORT, "no rtnetlink")

    monkeypatch.setattr(interfaces_module, "interfaces", refuse)


def refusing_socket(*_, **__):
    raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")


# ---- what the kernel says


def test_the_loopback_of_this_machine_is_found():
    found = [interface for interface in interfaces() if interface.loopback]
    assert len(found) == 1
    assert IPv4Address("127.0.0.1") in found[0].addresses
    assert scope_name(found[0].index) == "lo"


def test_interfaces_are_as_the_kernel_lists_them_elsewhere():
    known = {index for index, _ in socket.if_nameindex()}
    found = interfaces()
    assert [interface.index for interface in found] == sorted(interface.index for interface in found)
    assert {interface.index for interface in found} <= known


def test_every_address_told_can_be_bound():
    for interface in interfaces():
        for address in interface.addresses:
            family = socket.AF_INET if address.version == 4 else socket.AF_INET6
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.bind((str(address), 0) if address.version == 4 else (str(address), 0, 0, interface.index))


def test_an_interface_that_is_not_there_has_no_name():
    assert scope_name(1 << 30) == ""


# ---- news


class Listening:
    """A `Netlink` whose machine and kernel messages are made up; `say` is one burst of messages."""

    def __init__(self, monkeypatch):
        self.machine = (LO, LAN)
        self.changes = 0
        self.told = asyncio.Event()
        monkeypatch.setattr(netlink, "interfaces", lambda: self.machine)
        monkeypatch.setattr(netlink, "SETTLE_S", 0.01)
        self.netlink = Netlink(self.on_changed)
        self.netlink.start()

    def on_changed(self):
        self.changes += 1
        self.told.set()

    def say(self, *machine):
        self.machine = machine
        self.netlink._on_readable()

    async def settled(self):
        async with asyncio.timeout(WAIT_S):
            while self.netlink._timer is not None:  # noqa: ASYNC110 -- silence is what is waited for
                await asyncio.sleep(0.01)


def test_a_burst_is_told_once_when_it_has_settled(monkeypatch):
    async def scene():
        listening = Listening(monkeypatch)
        for _ in range(10):
            listening.say(LO, LAN, BARE)
        assert listening.changes == 0
        await listening.settled()
        assert listening.changes == 1
        listening.netlink.close()

    asyncio.run(scene())


def test_a_kernel_that_repeats_itself_is_not_passed_on(monkeypatch):
    """A router's advertisement every few seconds must not set off a search each time."""

    async def scene():
        listening = Listening(monkeypatch)
        for _ in range(3):
            listening.say(LO, LAN)
            await listening.settled()
        assert listening.changes == 0
        listening.netlink.close()

    asyncio.run(scene())


@pytest.mark.parametrize(
    "after",
    [
        (LO,),
        (LO, LAN, BARE),
        (LO, Interface(2, running=False, loopback=False, addresses=LAN.addresses)),
        (LO, Interface(2, running=True, loopback=False, addresses=(IPv4Address("10.99.0.7"),))),
    ],
    ids=["it went", "one more", "its carrier went", "another address"],
)
def test_what_differs_is_told_and_so_is_its_return(monkeypatch, after):
    async def scene():
        listening = Listening(monkeypatch)
        listening.say(*after)
        await listening.settled()
        assert listening.changes == 1
        listening.say(LO, LAN)
        await listening.settled()
        assert listening.changes == 2
        listening.netlink.close()

    asyncio.run(scene())


def test_nothing_is_told_after_the_end(monkeypatch):
    async def scene():
        listening = Listening(monkeypatch)
        listening.say(LO)
        listening.netlink.close()
        listening.netlink.close()
        await listening.settled()
        assert listening.changes == 0

    asyncio.run(scene())


def test_without_permission_nothing_is_reported_and_nothing_fails(monkeypatch):
    async def scene():
        monkeypatch.setattr(netlink.socket, "socket", refusing_socket)
        with pytest.raises(OSError, match="not supported"):
            interfaces()
        quiet = Netlink(pytest.fail)
        quiet.start()
        quiet.close()

    asyncio.run(scene())


# ---- where to speak, and what to announce


def test_ipv4_is_spoken_by_address_and_ipv6_by_interface(monkeypatch):
    sees(monkeypatch, LO, LAN, BARE)
    state = interface_state(loopback=False)
    assert state.multicast == ("10.99.0.1", 2, 3)
    assert list(map(str, state.announced)) == ["10.99.0.1", "fe80::1", "fe80::2"]
    assert state.scopes == ("if2", "if3")
    assert state.dual_stack


def test_loopback_is_used_only_where_it_is_asked_for(monkeypatch):
    sees(monkeypatch, LO)
    assert interface_state(loopback=False).multicast == ()
    assert interface_state(loopback=False).announced == ()
    state = interface_state(loopback=True)
    assert state.multicast == ("127.0.0.1",)
    assert list(map(str, state.announced)) == ["127.0.0.1"]  # ::1 is the same machine once more
    assert not state.dual_stack


def test_an_interface_without_carrier_announces_no_addresses(monkeypatch):
    """The bridge of a container runtime has the same address on every machine."""
    sees(monkeypatch, LAN, UNPLUGGED)
    state = interface_state(loopback=False)
    assert state.multicast == ("10.99.0.1", "10.99.1.1", 2, 4)
    assert list(map(str, state.announced)) == ["10.99.0.1", "fe80::1"]
    assert state.scopes == ("if2",)
    assert {"10.99.1.1", "fe80::3"} <= state.own


def test_machine_of_very_many_networks_stays_within_limits(monkeypatch):
    many = [
        Interface(number, running=True, loopback=False, addresses=(IPv4Address(number), IPv6Address(number)))
        for number in range(100, 200)
    ]
    sees(monkeypatch, *many)
    state = interface_state(loopback=False)
    assert (len(state.multicast), len(state.announced), len(state.scopes)) == (MULTICAST_MAX, ANNOUNCED_MAX, SCOPES_MAX)


def test_a_sandbox_without_interface_list_uses_the_default_one(monkeypatch):
    is_blind(monkeypatch)
    state = interface_state(loopback=False)
    assert (state.known, state.multicast, state.dual_stack) == (False, (), False)
    assert IPv4Address("127.0.0.1") not in state.announced
    assert {str(address) for address in state.announced} == state.own


# ---- whether multicast works


def test_multicast_on_the_loopback_works():
    assert multicast_fault(InterfaceState(known=True, multicast=("127.0.0.1",))) is None


def test_without_an_interface_the_reason_is_said():
    fault = multicast_fault(InterfaceState(known=True))
    assert fault is not None
    assert "no network interface" in str(fault)


def test_one_interface_that_works_is_enough():
    # 192.0.2.0/24 is for documentation (RFC 5737), index 2**30 is nobody's.
    bad = InterfaceState(known=True, multicast=("192.0.2.77", 1 << 30))
    assert multicast_fault(bad) is not None
    assert multicast_fault(InterfaceState(known=True, multicast=(*bad.multicast, "127.0.0.1"))) is None
