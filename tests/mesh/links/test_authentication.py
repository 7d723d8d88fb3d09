"""Only members get a link: others are cut off without an answer, within a bounded time."""

from __future__ import annotations

import random

import pytest

from mycomesh.mesh import wire
from mycomesh.mesh.events import (
    LinkUp,
    Notice,
    Write,
)
from mycomesh.mesh.links.authentication import BOOT_BYTES
from mycomesh.mesh.session.session import Keys, Reply, Session
from tests.mesh.pipes import Pipes, mesh_of


def test_junk_is_closed_without_an_answer():
    pipes = Pipes()
    (node,) = [pipes.member(identity) for identity in mesh_of(1)[0]]
    rng = random.Random(1)
    for index in range(50):
        stranger = pipes.stranger(node, f"10.9.{index}.1")
        stranger.say(rng.randbytes(1 + index * 90))
        stranger.say(rng.randbytes(2_500))
        assert stranger.closed is not None
        assert stranger.heard == b""
    assert node.core.links.conns == {}
    assert len(node.notices()) == 1  # one line for fifty


@pytest.mark.parametrize("said", [b"", b"\x00", b"\x00\x30half a message"])
def test_silent_or_slow_stranger_is_cut_off_in_time(said):
    pipes = Pipes()
    (node,) = [pipes.member(identity) for identity in mesh_of(1)[0]]
    stranger = pipes.stranger(node)
    for byte in said:
        pipes.run(900)
        stranger.say(bytes((byte,)))
        if stranger.closed:
            break
    pipes.run(5_000 - pipes.now_ms + 1_000)
    assert stranger.closed is not None
    assert stranger.heard == b""


def test_members_of_another_mesh_get_no_link():
    pipes = Pipes()
    ours, theirs = pipes.member(mesh_of(2)[0][0]), pipes.member(mesh_of(2, seed=2)[0][1])
    pipes.meet(ours, theirs)
    pipes.run(3_000)
    assert ours.links == theirs.links == {}
    assert theirs.seen(Write) == []
    assert theirs.notices() == ["peer.refused"]


@pytest.mark.parametrize(("days", "linked"), [(29, True), (31, False)])
def test_an_expired_certificate_ends_at_the_handshake(days, linked):
    pipes = Pipes()
    left, right = (pipes.member(identity) for identity in mesh_of(2)[0])
    left.wall_ms += days * 86_400_000
    pipes.meet(right, left)
    pipes.run(2_000)
    assert bool(left.links) is linked
    if not linked:
        refused = next(action for action in left.seen(Notice) if action.event == "peer.refused")
        assert "expired" in refused.text


class _Shows:
    """A gate that shows what it was given, and believes everything."""

    def __init__(self, payload):
        self.payload = payload

    def answer(self, psk):
        return self.payload

    def admit(self, introduction):
        return self.payload


def _hello(certificate, *, boot=bytes(BOOT_BYTES), port=0, oldest=1):
    return wire.encode((1, certificate, boot, port, oldest, 1))


@pytest.mark.parametrize(
    "hello_of",
    [
        lambda own, other: b"",
        lambda own, other: _hello(b""),
        lambda own, other: _hello(own.certificate.raw * 2),
        lambda own, other: _hello(own.certificate.raw) * 2,
        lambda own, other: _hello(own.certificate.raw) + b"\0",
        lambda own, other: _hello(other.certificate.raw),
        lambda own, other: own.certificate.raw,
        lambda own, other: _hello(own.certificate.raw, boot=b""),
        lambda own, other: _hello(own.certificate.raw, port=65_536),
        lambda own, other: _hello(own.certificate.raw, oldest=2),
        lambda own, other: bytes(1_900),
    ],
    ids=[
        "nothing",
        "no certificate",
        "its certificate twice",
        "its hello twice",
        "a byte more",
        "another's certificate",
        "a certificate alone",
        "no boot number",
        "no port",
        "no versions",
        "2 KB of nothing",
    ],
)
def test_the_secret_without_a_hello_opens_no_link(hello_of):
    """A captured secret is no membership. The same steps with a valid hello lead to a link: the check of this test."""
    (ours, own, other), _ = mesh_of(3)
    for payload, linked in ((_hello(own.certificate.raw), True), (hello_of(own, other), False)):
        pipes = Pipes()
        node = pipes.member(ours)
        stranger = pipes.stranger(node)
        keys = Keys(own.mesh_id, (own.secret,), own.static_private)
        session = Session(keys, _Shows(payload), initiator=True, entropy=random.Random(1).randbytes)
        stranger.say(session.start())
        for step in session.receive(stranger.heard, pipes.now_ms):
            if isinstance(step, Reply):
                stranger.say(step.data)
        assert (len(node.links), stranger.closed is None) == ((1, True) if linked else (0, False))
        assert node.notices() == ([] if linked else ["peer.refused"])


@pytest.mark.parametrize("wall_ms", [0, 100 * 86_400_000])
def test_members_whose_clocks_show_1970_still_link(wall_ms):
    pipes = Pipes()
    left, right = (pipes.member(identity) for identity in mesh_of(2)[0])
    left.wall_ms = right.wall_ms = wall_ms
    pipes.meet(right, left)
    pipes.run(2_000)
    assert len(left.links) == len(right.links) == 1


def test_a_replayed_handshake_opens_nothing():
    pipes = Pipes()
    left, right = (pipes.member(identity) for identity in mesh_of(2)[0])
    said = []
    pipes.tap = lambda source, _, data: said.append(data) or data if source is left else data
    pipes.meet(left, right)
    pipes.run(100)
    before = len(right.seen(LinkUp))
    stranger = pipes.stranger(right)
    for data in said:
        stranger.say(data)
    assert stranger.closed is not None
    assert len(right.seen(LinkUp)) == before
    assert len(right.links) == 1
