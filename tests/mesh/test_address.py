"""Addresses that are no sockets: which can be dialled again, and which link gives way to which."""

from mycomesh.mesh.address import (
    circuit_address,
    directness,
    is_circuit,
    is_lasting,
    is_routable,
    nats_address,
    nats_instance,
)

OVER, CIRCUIT = nats_address(b"instance"), circuit_address("relay", bytes(16))


def test_an_instance_is_in_its_address():
    assert nats_instance(OVER.host) == b"instance"
    for other in ("10.0.0.1", "nats%12", "nats%" + "x" * 16, CIRCUIT.host, "fe80::1%eth0", "nats"):
        assert nats_instance(other) is None


def test_only_network_addresses_last_and_are_shared():
    for address in (OVER, CIRCUIT):
        assert not is_lasting(address.host)
        assert not is_routable(address.host)
    assert is_lasting("10.0.0.1")
    assert is_circuit(CIRCUIT.host)
    assert not is_circuit(OVER.host)


def test_a_direct_link_is_above_a_server_above_circuits():
    assert directness("fe80::1%eth0") > directness(OVER.host) > directness(CIRCUIT.host)
