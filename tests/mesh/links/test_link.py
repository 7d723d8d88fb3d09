"""A congested link holds back batches, lets urgent ones pass, and is given up before its queue grows."""

from __future__ import annotations

from mycomesh.mesh.config import MeshConfig
from mycomesh.mesh.events import (
    LinkDown,
    LinkReady,
    SendMessage,
    Write,
)
from tests.mesh.meshes import meshed


def test_a_blob_on_a_slow_link_delays_no_alert():
    pipes, (left, right) = meshed(2, bytes_ms=250.0)  # two megabits a second
    pipes.send(left, right, bytes(16 << 20), 3)
    pipes.run(10_000)
    pipes.send(left, right, b"alert", 0)
    assert pipes.run_until(lambda: b"alert" in right.messages()) <= 700
    pipes.run_until(lambda: len(right.messages()) == 2, limit_ms=120_000)
    assert left.seen(LinkDown) == []
    assert len(left.seen(LinkReady)) == 1


def test_a_congested_link_gets_batches_once_it_is_ready():
    pipes, (left, right) = meshed(2, bytes_ms=100.0)
    pipes.send(left, right, bytes(3 << 20), 2)
    for index in range(20):
        pipes.publish(left, bytes((index,)) * 100)
    assert pipes.run_until(lambda: left.seen(LinkReady), limit_ms=60_000) > 10_000
    assert right.batches() == []
    pipes.publish(left, b"fresh")
    pipes.run(3_000)
    assert right.batches() == [b"fresh"]


def test_urgent_batch_passes_what_congested_link_holds_back():
    pipes, (left, right) = meshed(2, bytes_ms=100.0)
    pipes.send(left, right, bytes(3 << 20), 2)
    pipes.publish(left, b"bulk")
    pipes.publish(left, b"alert", priority=0)
    assert pipes.run_until(lambda: right.batches() == [b"alert"], limit_ms=5_000) <= 1_500


def test_urgent_batches_wait_when_a_link_cannot_carry_them():
    pipes, (left, right) = meshed(2, bytes_ms=1.0)
    for number in range(64):
        pipes.publish(left, bytes((number,)) * 100_000, priority=0)
    assert left.core.links.conns[left.link_to(right)].session.outbox.queued < 1_400_000
    assert left.seen(LinkDown) == []


def test_a_peer_that_never_reads_loses_its_link_early():
    config = MeshConfig(queue_bytes_max=4 << 20)
    pipes, (left, right) = meshed(2, config=config, bytes_ms=1.0)
    link = left.link_to(right)
    for _ in range(64):
        if left.links:
            pipes.feed(left, SendMessage(link, bytes(100_000), 2))
    assert [action.reason for action in left.seen(LinkDown)] == ["the peer does not read what it is sent"]


def test_deferrable_messages_leave_with_the_next_heartbeat():
    pipes, (left, right) = meshed(2)
    pipes.run(60_000)
    link = left.link_to(right)
    before = len(left.seen(Write))
    pipes.feed(left, SendMessage(link, b"equal", 2, deferrable=True))
    assert len(left.seen(Write)) == before
    pipes.run_until(lambda: right.messages() == [b"equal"], limit_ms=2_200)
    (write,) = left.seen(Write)[before:]
    pings = {len(each.data) for each in left.seen(Write)[before - 10 : before]}
    assert len(write.data) > min(pings) + len(b"equal"), "the heartbeat and the message are one frame"


def test_deferrable_messages_keep_their_place_among_others():
    pipes, (left, right) = meshed(2)
    pipes.run(60_000)
    link = left.link_to(right)
    for deferrable, payload in ((True, b"first"), (False, b"second"), (True, b"third")):
        pipes.feed(left, SendMessage(link, payload, 2, deferrable=deferrable))
    pipes.run(10)
    assert right.messages() == [b"first", b"second"]
    pipes.run(2_200)
    assert right.messages() == [b"first", b"second", b"third"]
