"""The keys of a link are refreshed every hour, under traffic; a peer that abuses this loses the link."""

from __future__ import annotations

import pytest

from mycomesh.mesh.events import LinkDown
from mycomesh.mesh.notice_throttle import NoticeThrottle
from mycomesh.mesh.session.key_refresh import REFRESH_EVERY_MS_MIN, REFRESH_MS, KeyRefresh
from mycomesh.mesh.session.records import refresh_record
from mycomesh.mesh.turn import Turn
from tests.mesh.pipes import Pipes, mesh_of
from tests.sync.scale import sweep


def linked(**more):
    pipes = Pipes(7, **more)
    nodes = [pipes.member(identity) for identity in mesh_of(2)[0]]
    pipes.meet(*nodes)
    pipes.run_until(lambda: all(len(node.links) == 1 for node in nodes))
    pipes.run(100)
    return pipes, nodes


def session(node):
    (link,) = node.core.links.conns.values()
    return link.session


def keys(node):
    return session(node)._send._state._key, session(node)._receive._state._key


@pytest.mark.slow
@pytest.mark.parametrize("cut_bytes", sweep([1 << 20, 5], 1))
def test_an_hour_later_old_keys_give_no_current_ones(cut_bytes):
    pipes, (left, right) = linked(delay_ms=20, cut_bytes=cut_bytes)
    before = keys(left)
    pipes.run(REFRESH_MS - 5_000)
    assert keys(left) == before
    sent = 0
    while keys(left) == before or keys(right) != keys(left)[::-1]:  # traffic both ways all through the change
        pipes.send(left, right, b"to %d" % sent)
        pipes.send(right, left, b"fro %d" % sent)
        sent += 1
        pipes.run(7)
        assert sent < 5_000
    pipes.run(500)
    assert right.messages() == [b"to %d" % index for index in range(sent)]
    assert left.messages() == [b"fro %d" % index for index in range(sent)]
    assert not {*before} & {*keys(left)}
    assert keys(right) == keys(left)[::-1]
    assert left.seen(LinkDown) == right.seen(LinkDown) == []


def dropped(pipes, speaker, listener, *publics):
    """Send refresh records as a dishonest member would, under its own keys; return why the listener closed the link."""
    (link,) = speaker.core.links.conns.values()
    for public in publics:
        sealed = link.session._send.seal(refresh_record(public))
        turn = Turn(pipes.now_ms, 0, NoticeThrottle())
        link.write(len(sealed).to_bytes(2, "big") + sealed, turn)
        for action in turn.actions:
            pipes._do(speaker, action)
    pipes.run(100)
    return [action.reason for action in listener.seen(LinkDown)]


def test_unagreed_keys_and_low_order_points_end_the_link():
    pipes, (left, right) = linked()
    assert "never agreed" in dropped(pipes, left, right, b"")[0]
    pipes, (left, right) = linked()
    assert "low order" in dropped(pipes, left, right, bytes(32))[0]


def test_a_peer_that_requests_keys_endlessly_loses_its_link():
    pipes, (left, right) = linked()
    assert "too often" in dropped(pipes, left, right, bytes([9]) + bytes(31), bytes([9]) + bytes(31))[0]


def test_one_exchange_minute_is_answered_and_leaves_no_share():
    asking, answering = KeyRefresh(lambda count: b"a" * count), KeyRefresh(lambda count: b"b" * count)
    for now_ms in (0, REFRESH_EVERY_MS_MIN):
        theirs = answering.on_request(asking.request(), now_ms)
        assert asking.on_reply(theirs) == answering.shared
        assert asking.take_shared() == answering.take_shared()
        assert not asking.busy
        assert not answering.busy
