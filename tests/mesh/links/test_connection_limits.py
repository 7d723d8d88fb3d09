"""Limits on one host and on one member: rates, and queues that no peer can make grow."""

import pytest

from mycomesh.mesh.address import host_group
from mycomesh.mesh.config import MeshConfig
from mycomesh.mesh.events import ConnReceived, LinkDown, Write
from mycomesh.mesh.links.connection_limits import SOURCES_MAX, ConnectionLimits
from mycomesh.mesh.links.link import PONGS_MAX, WAITING_MAX
from mycomesh.mesh.messages import CertificatesHave, Epochs, LinkStates, LinkStatesHave, Ping
from mycomesh.mesh.overlay.overlay import ANSWERS_AT_ONCE
from mycomesh.mesh.overlay.topology import BURST_RECORDS, REFRESH_MS, SPACING_MS, LinkState, Topology
from tests.mesh.pipes import WALL_MS, Pipes, mesh_of

CONFIG = MeshConfig()


def let_in(limits, host, now_ms, times):
    return sum(not limits.refuses([], host, now_ms, known=False) for _ in range(times))


# ---- strangers


def test_one_host_gets_burst_then_twenty_handshakes_a_second():
    limits = ConnectionLimits(CONFIG)
    assert let_in(limits, "10.0.0.1", 0, 100) == CONFIG.handshakes_at_once
    assert sum(let_in(limits, "10.0.0.1", now_ms, 5) for now_ms in range(1_000, 11_000, 10)) == pytest.approx(
        200, abs=8
    )
    assert let_in(limits, "10.0.0.2", 10_000, 1) == 1  # nobody else pays for it


def test_ipv6_host_is_its_network_and_loopback_is_exempt():
    limits = ConnectionLimits(CONFIG)
    assert host_group("fe80::1%eth0") == host_group("fe80::ffff:2%eth0")
    assert sum(let_in(limits, f"2001:db8::{index:x}", 0, 1) for index in range(1, 100)) == CONFIG.handshakes_at_once
    assert let_in(limits, "127.0.0.1", 0, 100) == 100


def test_what_is_remembered_of_hosts_is_bounded():
    limits = ConnectionLimits(CONFIG)
    for index in range(5 * SOURCES_MAX):
        limits.refuses([], f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}", 0, known=False)
    assert len(limits._sources) == SOURCES_MAX


def test_a_hammering_host_is_refused_and_another_gets_in():
    pipes = Pipes()
    left, right = (pipes.member(identity) for identity in mesh_of(2)[0])
    turned = 0
    for _ in range(300):
        stranger = pipes.stranger(left)
        turned += stranger.closed is not None
        stranger.say(b"\x00\x40" + bytes(64))
        pipes.run(3)
    assert 300 - CONFIG.handshakes_at_once - 900 // CONFIG.handshake_every_ms - 1 <= turned < 300
    assert left.seen(Write) == []
    pipes.meet(right, left)
    pipes.run(1_000)
    assert len(left.links) == 1


# ---- members


def linked():
    pipes = Pipes()
    left, right = (pipes.member(identity) for identity in mesh_of(2)[0])
    pipes.meet(left, right)
    pipes.run(2_000)
    return pipes, left, right


def poured(pipes, left, right, message, times):
    """Return the bytes that `right` holds unsent after `left` sent a message so often and read no answer."""
    sender, receiver = left.core.links.conns[left.link_to(right)], right.core.links.conns[right.link_to(left)]
    pipes.tap = lambda source, _target, data: b"" if source is right else data
    for _ in range(times):
        sender.send(message, 0)
        sender.session.outbox.unacknowledged = 0
        data = sender.session.flush()
        pipes.feed(right, ConnReceived(receiver.conn, data))
    return receiver.session.outbox


def test_pings_with_unread_answers_are_no_longer_answered():
    pipes, left, right = linked()
    outbox = poured(pipes, left, right, Ping(1), 4_000)
    assert outbox.queued_messages(0) <= PONGS_MAX
    assert outbox.queued < 16 << 10
    assert right.seen(LinkDown) == []


@pytest.mark.slow
def test_small_unread_answers_end_the_link_early():
    pipes, left, right = linked()
    sender, receiver = left.core.links.conns[left.link_to(right)], right.core.links.conns[right.link_to(left)]
    right_link = right.link_to(left)
    pipes.tap = lambda source, _target, data: b"" if source is right else data
    said = 0
    while right_link in right.links and said < 2 * WAITING_MAX:
        said += 1
        sender.send(Epochs(()), 0)
        sender.session.outbox.unacknowledged = 0
        pipes.feed(right, ConnReceived(receiver.conn, sender.session.flush()))
    assert WAITING_MAX < said < 2 * WAITING_MAX
    assert [action.reason for action in right.seen(LinkDown)] == ["the peer does not read what it is sent"]


@pytest.mark.parametrize("question", [CertificatesHave(()), LinkStatesHave(())])
def test_lists_that_a_member_requests_are_limited_in_rate(question):
    pipes, left, right = linked()
    sent = sum(len(action.data) for action in right.seen(Write))
    receiver = right.core.links.conns[right.link_to(left)]
    before = receiver.sent_bytes
    outbox = poured(pipes, left, right, question, 2_000)
    assert sent > 0
    assert outbox.queued + receiver.sent_bytes - before < ANSWERS_AT_ONCE * 2_000  # two members: 700 bytes an answer


def test_records_of_one_member_are_limited_in_rate():
    first, flooder = mesh_of(2)[0]
    topology = Topology(first)

    def offer(sequence, now_ms):
        body = LinkState(flooder.node_id, sequence, ()).encode()
        raw = flooder.sign(b"link-state", body) + body
        _, news = topology.peek(raw)
        return news is not None and topology.add(news, raw, flooder.certificate.node_key, now_ms)

    assert sum(offer(sequence, 0) for sequence in range(1, 1_000)) == BURST_RECORDS
    taken = sum(offer(1_000 + now_ms, now_ms) for now_ms in range(0, 60_000, 10))
    assert taken == pytest.approx(60_000 / SPACING_MS, abs=BURST_RECORDS)
    assert offer(1 << 40, 60_000 + REFRESH_MS)  # and what it says later is heard


def test_a_flood_of_link_states_is_not_passed_on():
    pipes = Pipes()
    nodes = [pipes.member(identity) for identity in mesh_of(3)[0]]
    pipes.meet_all()
    pipes.run(3_000)
    flooder, relay, far = nodes
    identity = mesh_of(3)[0][0]
    sender, receiver = flooder.core.links.conns[flooder.link_to(relay)], relay.core.links.conns[relay.link_to(flooder)]
    before = pipes.carried[relay.name, far.name]
    for number in range(1_000):
        body = LinkState(identity.node_id, WALL_MS * 2 + number, ()).encode()
        sender.send(LinkStates((identity.sign(b"link-state", body) + body,)), 1)
        sender.session.outbox.unacknowledged = 0
        pipes.feed(relay, ConnReceived(receiver.conn, sender.session.flush()))
        pipes.run(1)
    pipes.run(200)
    assert pipes.carried[relay.name, far.name] - before < 5_000
