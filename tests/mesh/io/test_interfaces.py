"""Where discovery speaks: on the loopback alone where that is asked for, so that nothing leaves the machine."""

from __future__ import annotations

from ipaddress import ip_address

from mycomesh.mesh.io import interfaces
from mycomesh.mesh.io.interfaces import interface_state, interface_with


def only_loopback(state):
    return state.known and state.multicast == ("127.0.0.1",) and [str(one) for one in state.announced] == ["127.0.0.1"]


def test_asked_for_the_loopback_it_speaks_nowhere_else():
    assert only_loopback(interface_state(loopback=True))


def test_it_does_too_where_the_kernel_lists_no_interfaces(monkeypatch):
    def refused():
        raise PermissionError

    monkeypatch.setattr(interfaces, "interfaces", refused)
    assert only_loopback(interface_state(loopback=True))


def test_on_a_network_it_leaves_the_loopback_out():
    state = interface_state(loopback=False)
    assert "127.0.0.1" not in state.multicast
    assert not any(ip_address(str(one)).is_loopback for one in state.announced)


def test_an_interface_is_named_by_its_address(monkeypatch):
    assert interface_with("127.0.0.1") == "lo"
    assert interface_with("::ffff:127.0.0.1") == "lo"
    assert interface_with("192.0.2.77") == ""
    assert interface_with("no address") == ""

    def refused():
        raise PermissionError

    monkeypatch.setattr(interfaces, "interfaces", refused)
    assert interface_with("127.0.0.1") == ""
