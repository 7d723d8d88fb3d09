"""NodeCore routes every event of one vocabulary to the other, in order, and keeps nothing for itself."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from mycomesh.mesh import events as mesh_events
from mycomesh.mesh.mesh_clock import MeshTime
from mycomesh.mesh.node.core import NodeCore, ToExchange
from mycomesh.sync import events as sync_events

PEER = mesh_events.PeerInfo(b"p" * 16, "bravo", ("member",), mesh_events.Address("10.0.0.2", 7700), dialled=True)


class ScriptedMesh:
    """A MeshCore of a test: answers with the next scripted list and keeps what it was asked."""

    def __init__(self, *answers, deadline=None):
        self.answers = list(answers)
        self.deadline = deadline
        self.seen = []
        self.roster = SimpleNamespace(
            version=0, own_id=b"a" * 16, restricted_rights=lambda: self.limited, take_admitted=tuple, purge_orders=tuple
        )
        self.limited = ()
        self.mesh_clock = SimpleNamespace(time=MeshTime())

    def handle(self, event, now_ms, wall_ms):
        self.seen.append((event, now_ms, wall_ms))
        return self.answers.pop(0) if self.answers else []

    def next_deadline(self):
        return self.deadline

    def peers(self, now_ms):
        return (
            SimpleNamespace(node_id=b"b" * 16, seen_ms_ago=now_ms - 7),
            SimpleNamespace(node_id=b"c" * 16, seen_ms_ago=None),
        )


@pytest.mark.parametrize(
    ("action", "event"),
    [
        (mesh_events.LinkReady(4), sync_events.LinkWritable(4)),
        (mesh_events.DeliverMessage(4, b"m"), sync_events.MessageReceived(4, b"m")),
        (mesh_events.DeliverBatch(4, b"o" * 16, b"b"), sync_events.BatchReceived(4, b"o" * 16, b"b")),
    ],
)
def test_deliveries_of_the_mesh_become_events_of_the_exchange(action, event):
    core = NodeCore(ScriptedMesh([action]))
    assert core.handle(mesh_events.TimerFired(), 1, 2) == [ToExchange(event)]


def test_link_opens_in_exchange_before_person_reads_of_it():
    core = NodeCore(ScriptedMesh([mesh_events.LinkUp(7, PEER)]))
    first, second = core.handle(mesh_events.ConnReceived(7, b"x"), 1, 2)
    assert first == ToExchange(sync_events.LinkOpened(7, PEER.node_id))
    assert isinstance(second, mesh_events.Notice)
    assert second.event == "link.up"
    assert second.text == "link with bravo at 10.0.0.2:7700"


def test_a_closed_link_reaches_the_exchange_with_its_reason():
    core = NodeCore(ScriptedMesh([mesh_events.LinkDown(7, PEER, "silent for 3 s")]))
    first, second = core.handle(mesh_events.ConnClosed(7), 1, 2)
    assert first == ToExchange(sync_events.LinkClosed(7))
    assert isinstance(second, mesh_events.Notice)
    assert second.text == "link with bravo is gone: silent for 3 s"


def test_shell_actions_pass_unchanged_and_in_order():
    actions = [
        mesh_events.Write(1, b"a"),
        mesh_events.Dial(PEER.address),
        mesh_events.Write(1, b"b"),
        mesh_events.Close(1, "bye"),
        mesh_events.Enrolled(b"identity"),
        mesh_events.Notice("x.y", "text"),
    ]
    assert NodeCore(ScriptedMesh(list(actions))).handle(mesh_events.TimerFired(), 0, 0) == actions


def test_messages_of_the_exchange_keep_their_order_and_clocks():
    mesh = ScriptedMesh([mesh_events.Write(1, b"signed")], [mesh_events.Write(2, b"sealed")])
    core = NodeCore(mesh)
    done = core.on_exchange([sync_events.Publish(b"batch", 0), sync_events.Send(2, b"round", 3)], 10, 20)
    assert mesh.seen == [
        (mesh_events.PublishBatch(b"batch", 0), 10, 20),
        (mesh_events.SendMessage(2, b"round", 3), 10, 20),
    ]
    assert done == [mesh_events.Write(1, b"signed"), mesh_events.Write(2, b"sealed")]


def test_link_that_the_exchange_drops_is_closed_at_once():
    mesh = ScriptedMesh([mesh_events.LinkDown(3, PEER, "lost")])
    notice, close, closed, _ = NodeCore(mesh).on_exchange([sync_events.DropLink(3, "bad batch")], 7, 8)
    assert notice == mesh_events.Notice("link.dropped", "bad batch", {"link": 3}, "warning")
    assert close == mesh_events.Close(3, "bad batch")
    assert closed == ToExchange(sync_events.LinkClosed(3))
    assert mesh.seen == [(mesh_events.ConnClosed(3), 7, 8)]


def test_a_notice_of_the_exchange_keeps_every_field():
    notice = sync_events.Notice("drained", "2 rows", {"rows": 2}, "debug")
    done = NodeCore(ScriptedMesh()).on_exchange([notice], 0, 0)
    assert done == [mesh_events.Notice("drained", "2 rows", {"rows": 2}, "debug")]


def test_answer_to_publish_may_itself_go_to_exchange():
    mesh = ScriptedMesh([mesh_events.LinkReady(5)])
    assert NodeCore(mesh).on_exchange([sync_events.Publish(b"b")], 0, 0) == [ToExchange(sync_events.LinkWritable(5))]


def test_the_deadline_is_the_meshs_own():
    assert NodeCore(ScriptedMesh(deadline=1234)).next_deadline() == 1234
    assert NodeCore(ScriptedMesh()).next_deadline() is None


def test_exchange_hears_once_minute_who_members_are():
    core = NodeCore(ScriptedMesh())
    told = {}
    for now_ms in range(0, 200_000, 1_000):
        for action in core.handle(mesh_events.TimerFired(), now_ms, 0):
            told[now_ms] = action
    assert told == {
        at: ToExchange(sync_events.MembersKnown(((b"b" * 16, at - 7), (b"c" * 16, None))))
        for at in (60_000, 120_000, 180_000)
    }


def test_changed_rights_are_reported_before_their_data():
    mesh = ScriptedMesh([mesh_events.LinkReady(4)], [mesh_events.LinkReady(4)])
    core = NodeCore(mesh)
    mesh.limited = ((b"b" * 16, (("*", "r"),)),)
    mesh.roster.version = 1
    assert core.handle(mesh_events.TimerFired(), 1, 2) == [
        ToExchange(sync_events.RightsKnown(b"a" * 16, mesh.limited)),
        ToExchange(sync_events.LinkWritable(4)),
    ]
    assert core.handle(mesh_events.TimerFired(), 1, 2) == [ToExchange(sync_events.LinkWritable(4))]


def test_a_relay_takes_no_part_in_tables_and_comparisons():
    relay = dataclasses.replace(PEER, roles=("relay",))
    core = NodeCore(ScriptedMesh([mesh_events.LinkUp(4, relay)]))
    assert [type(each) for each in core.handle(mesh_events.TimerFired(), 1, 2)] == [mesh_events.Notice]
    mesh = ScriptedMesh([mesh_events.LinkUp(4, PEER), mesh_events.DeliverBatch(4, b"o" * 16, b"b")])
    mesh.limited = ((b"a" * 16, (("*", "-"),)),)
    mesh.roster.version = 1
    done = NodeCore(mesh).handle(mesh_events.TimerFired(), 1, 2)
    assert [type(each.event) for each in done if isinstance(each, ToExchange)] == [sync_events.RightsKnown]


def test_the_exchange_learns_the_time_when_it_changes():
    mesh = ScriptedMesh()
    core = NodeCore(mesh)
    assert core.handle(mesh_events.TimerFired(), 0, 0) == []
    mesh.mesh_clock.time = MeshTime(-90_000, confirmed=True)
    told = sync_events.TimeKnown(-90_000, confirmed=True, apart_ms=0)
    assert core.handle(mesh_events.TimerFired(), 1, 1) == [ToExchange(told)]
    mesh.mesh_clock.time = MeshTime(-90_400, confirmed=True)
    assert core.handle(mesh_events.TimerFired(), 2, 2) == []
    mesh.mesh_clock.time = MeshTime(0, confirmed=True)
    told = sync_events.TimeKnown(0, confirmed=True, apart_ms=0)
    assert core.handle(mesh_events.TimerFired(), 3, 3) == [ToExchange(told)]
    mesh.mesh_clock.time = MeshTime(0, confirmed=True, apart_ms=7_000)
    told = sync_events.TimeKnown(0, confirmed=True, apart_ms=7_000)
    assert core.handle(mesh_events.TimerFired(), 4, 7_004) == [ToExchange(told)], "our clock was set"
