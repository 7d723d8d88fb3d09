"""A member that leaves, or says so, in every way: its own link ends, no other one does, and clocks and notices stay sound."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from mycomesh.mesh.config import MeshConfig
from mycomesh.mesh.context import SUPERSEDED
from mycomesh.mesh.core import MeshCore
from mycomesh.mesh.errors import DecodeError
from mycomesh.mesh.events import LinkDown, LinkUp, Notice
from mycomesh.mesh.messages import Pong
from mycomesh.mesh.overlay.topology import NEIGHBOURS_MAX, RTT_MS_MAX, LinkState, Neighbour
from tests.mesh.pipes import WALL_MS, Pipes, mesh_of


def three(**config):
    """Return pipes, and a victim, an honest member and a liar that are linked with each other."""
    pipes = Pipes()
    victim, honest, liar = (pipes.member(identity, config=MeshConfig(**config)) for identity in mesh_of(3)[0])
    pipes.meet_all()
    pipes.run(3_000)
    assert all(len(node.links) == 2 for node in pipes.nodes)
    return pipes, victim, honest, liar


def ended(pipes, node, other, reason):
    """Let a node end its link with another one, with a reason of its choice."""
    link = node.core.links.conns[node.link_to(other)]
    data = link.session.end(reason)
    end = node.ends[link.conn]
    pipes._write(end, data)
    pipes._at(2, pipes._gone, end)
    pipes._at(2, pipes._gone, end.other)


@pytest.mark.parametrize("reason", [SUPERSEDED, "down", "enough links", "\x1b[2J", "x" * 5_000, ""])
def test_leaving_again_and_again_takes_no_other_link(reason):
    pipes, victim, honest, liar = three()
    before = victim.link_to(honest)
    for _ in range(100):
        if liar.core._context.identity.node_id in victim.links.values():
            ended(pipes, liar, victim, reason)
        pipes.run(200)
    downs = [action for action in victim.seen(LinkDown) if action.link == before]
    assert downs == []
    assert len(victim.seen(LinkUp)) > 2, "it came back"
    alarms = [notice for notice in victim.seen(Notice) if notice.event == "identity.cloned"]
    assert len(alarms) <= 3, "one in ten seconds, and it names the member that says so"
    texts = [action.reason for action in victim.seen(LinkDown)] + [notice.text for notice in victim.seen(Notice)]
    assert all(text.isprintable() and len(text) < 500 for text in texts)


@pytest.mark.parametrize("wall_ms", [-(2**63), -1, 0, 2**62, 2**63 - 1])
def test_clocks_at_the_end_of_time_break_nothing(wall_ms, monkeypatch):
    """Both liars answer each ping with that time; the third clock is one against two."""
    pipes, victim, *liars = three()
    said, send = [], MeshCore._send

    def lie(core, link, message, priority):
        if isinstance(message, Pong) and core in [liar.core for liar in liars]:
            message = replace(message, wall_ms=wall_ms)
            said.append(message)
        send(core, link, message, priority)

    monkeypatch.setattr(MeshCore, "_send", lie)
    pipes.run(30_000)
    assert len(victim.links) == 2
    assert all(abs(peer.offset_ms or 0) <= 2**64 for peer in victim.core.peers(pipes.now_ms))
    assert all(notice.text.isprintable() for notice in victim.seen(Notice))
    assert len(said) > 10
    correction = victim.core.mesh_clock.time.offset_ms
    assert correction == (
        0 if wall_ms <= 0 else pytest.approx(wall_ms - WALL_MS, abs=60_000)
    )  # unset clocks say nothing


def test_a_record_of_links_without_end_is_bounded():
    """Neighbours without number, with bytes of any size and no member behind them."""
    rng = random.Random(1)
    ids = sorted(rng.randbytes(16) for _ in range(NEIGHBOURS_MAX + 1))
    record = LinkState(bytes(16), 2**62, tuple(Neighbour(each, RTT_MS_MAX, 2**64 - 1, 2**64 - 1) for each in ids[:-1]))
    assert LinkState.decode(record.encode()) == record
    with pytest.raises(DecodeError, match="link-state"):
        LinkState.decode(LinkState(bytes(16), 1, tuple(Neighbour(each, 1, 1, 1) for each in ids)).encode())
