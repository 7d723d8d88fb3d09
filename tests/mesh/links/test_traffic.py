"""A node counts the bytes of its links by kind of message, and apart those inside of circuits."""

from __future__ import annotations

from mycomesh.mesh.config import MeshConfig
from mycomesh.mesh.links.traffic import REST, UNKNOWN, Traffic
from mycomesh.mesh.messages import CIRCUIT_FRAME, App, Ping
from mycomesh.sync.wire.messages import kind_of
from tests.mesh.meshes import meshed


def test_messages_of_rounds_count_by_their_kind():
    traffic = Traffic(kind_of)
    traffic.record_sent(Ping(1), 6)
    traffic.record_sent(App(b"\x82\x03\x05"), 5)
    traffic.record_received(App(b"\x84\x0d\x00\x80\x00"), 7)
    traffic.record_received(App(CIRCUIT_FRAME + b"sealed"), 9)
    traffic.record_received(App(b"what is this"), 14)
    traffic.record_received(None, 4)
    traffic.record_read(50)
    kinds = {name: (kind.sent_bytes, kind.received_bytes) for name, kind in traffic.kinds()}
    found = {"Ack": (5, 0), "Digests": (0, 7), "Ping": (6, 0), "circuit": (0, 9), "other": (0, 14), UNKNOWN: (0, 4)}
    assert kinds == found | {REST: (0, 16)}


def test_all_bytes_of_a_link_are_counted_once():
    pipes, nodes = meshed(2, config=MeshConfig(kind_of=lambda payload: f"kind {payload[:1]!r}"))
    pipes.publish(nodes[0], bytes(5_000))
    pipes.run(3_000)
    links = nodes[1].core.links
    kinds = dict(links.carried.kinds())
    assert kinds["Batch"].received == 1
    assert kinds["Batch"].received_bytes > 5_000
    assert sum(kind.received_bytes for kind in kinds.values()) >= sum(
        link.received_bytes for link in links.members.values()
    )
    assert [name for name, _ in links.in_circuits.kinds()] == [REST]
