"""Two connections to one member: both ends keep the same one, and a circuit never replaces a direct link."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mycomesh.mesh.address import circuit_address
from mycomesh.mesh.config import of_one_kind
from mycomesh.mesh.events import Address
from mycomesh.mesh.links import link_table
from mycomesh.mesh.links.link_table import LinkTable

LOW, HIGH = b"a" * 16, b"b" * 16
DIRECT = Address("192.0.2.1", 4747)
CIRCUIT = circuit_address("relay", LOW)


class Gate:
    def __init__(self, hello):
        self.hello = hello


@pytest.mark.parametrize("dialled", [True, False])
@pytest.mark.parametrize(("own", "member"), [(LOW, HIGH), (HIGH, LOW)])
def test_a_circuit_replaces_no_direct_link(monkeypatch, own, member, dialled):
    monkeypatch.setattr(link_table, "MemberGate", Gate)
    hello = SimpleNamespace(certificate=SimpleNamespace(node_id=member), boot=b"1")
    table = LinkTable(of_one_kind)
    table.members[member] = SimpleNamespace(address=DIRECT, dialled=dialled, gate=Gate(hello), hello=hello)
    assert not table.accepts(hello, CIRCUIT.host, own_id=own)
    restarted = SimpleNamespace(certificate=hello.certificate, boot=b"2")
    assert table.accepts(restarted, CIRCUIT.host, own_id=own)
    table.members[member].address = CIRCUIT
    assert table.accepts(hello, DIRECT.host, own_id=own)
