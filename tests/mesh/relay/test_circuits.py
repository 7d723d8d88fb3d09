"""Circuits: members that only relays join link with each other, and nothing else changes."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from mycomesh.mesh.address import circuit_address, is_circuit
from mycomesh.mesh.config import MeshConfig, of_everything
from mycomesh.mesh.core import MeshCore
from mycomesh.mesh.events import (
    ConnClosed,
    ConnReceived,
    DeliverMessage,
    LinkDown,
    LinkUp,
    SendMessage,
    StateInterests,
    Write,
)
from mycomesh.mesh.membership.identity import create_mesh, make_identity
from mycomesh.mesh.relay import circuits
from mycomesh.mesh.relay.circuit_frame import RELAYS_MAX, CircuitFrame, FrameKind
from mycomesh.mesh.relay.circuit_plan import CHILDREN
from mycomesh.mesh.relay.circuits import CIRCUITS_MAX, CONNS_FROM, TURN_MS, Circuits
from tests.mesh.pipes import LIFETIME_S, PORT, WALL_MS, Pipes

ROUTE = (b"a" * 16, b"r" * 16, b"b" * 16)

SETTLE_MS = 20_000


class Line:
    """Nodes in pipes, of which only those in `pairs` see each other; "r" is a relay, "m" a member."""

    def __init__(self, kinds, pairs=None, seed=1, topic_of=of_everything, **pipes):
        self.pipes = Pipes(seed, **pipes)
        self.nodes = []
        rng = random.Random(f"line {seed}")
        first, root_seed = create_mesh("test", "n0", entropy=rng.randbytes, wall_ms=WALL_MS, lifetime_s=LIFETIME_S)
        self.ids = []
        for index, kind in enumerate(kinds):
            identity = first if index == 0 else self._identity(root_seed, first, index, kind, rng)
            core = MeshCore(
                identity, entropy=rng.randbytes, rng=random.Random(index), config=MeshConfig(topic_of=topic_of)
            )
            core.advertise_port(PORT)
            self.ids.append(identity.node_id)
            self.nodes.append(self.pipes.add(identity.name, Circuits(core)))
        pairs = pairs if pairs is not None else [(at, at + 1) for at in range(len(kinds) - 1)]
        self.seen = {frozenset(pair) for pair in pairs}
        for left in range(len(kinds)):
            for right in range(left):
                if frozenset((left, right)) not in self.seen:
                    self.pipes.cut(self.nodes[left], self.nodes[right])
        for left, right in pairs:
            self.pipes.meet(self.nodes[left], self.nodes[right])

    @staticmethod
    def _identity(root_seed, first, index, kind, rng):
        return make_identity(
            root_seed,
            mesh_name="test",
            node_name=f"n{index}",
            secret=first.secret,
            roles=("relay",) if kind == "r" else ("member",),
            entropy=rng.randbytes,
            not_before_s=WALL_MS // 1_000,
            lifetime_s=LIFETIME_S,
        )

    def run(self, ms=SETTLE_MS):
        self.pipes.run(ms)

    def linked(self, at):
        """The places of the nodes that this one is linked with."""
        return sorted(self.ids.index(node_id) for node_id in self.nodes[at].links.values())

    def circuits(self):
        """Pairs of places that a circuit links, each said by both ends."""
        pairs = [
            (at, self.ids.index(node_id))
            for at, node in enumerate(self.nodes)
            for link, node_id in node.links.items()
            if link >= CONNS_FROM
        ]
        assert sorted(pairs) == sorted((right, left) for left, right in pairs), "both ends know it"
        return sorted({tuple(sorted(pair)) for pair in pairs})

    def link(self, at, to):
        return next(link for link, node_id in self.nodes[at].links.items() if node_id == self.ids[to])

    def send(self, at, to, payload, priority=2):
        self.pipes.feed(self.nodes[at], SendMessage(self.link(at, to), payload, priority))

    def heard(self, at):
        return [action.payload for action in self.nodes[at].seen(DeliverMessage)]


def test_members_beside_a_relay_link_and_nobody_else():
    line = Line("mmrmm")
    line.run()
    assert line.circuits() == [(1, 3)]
    assert [line.linked(at) for at in range(5)] == [[1], [0, 2, 3], [1, 3], [1, 2, 4], [3]]


def test_circuits_carry_data_that_no_relay_can_read():
    line = Line("mrm", bytes_ms=20_000)
    line.run()
    carried = []
    line.pipes.tap = lambda _from, _to, data: carried.append(data) or data
    blob = random.Random(1).randbytes(3 << 20)
    line.send(0, 2, blob)
    line.send(2, 0, b"small")
    line.run()
    assert line.heard(2) == [blob]
    assert line.heard(0) == [b"small"]
    assert line.heard(1) == []
    assert not any(blob[:64] in data for data in carried)


def test_a_chain_of_relays_is_one_way():
    line = Line("m" + "r" * RELAYS_MAX + "m")
    line.run()
    assert line.circuits() == [(0, RELAYS_MAX + 1)]
    line = Line("m" + "r" * (RELAYS_MAX + 1) + "m")
    line.run()
    assert line.circuits() == []


def test_a_cut_ends_a_circuit_and_healing_restores_it():
    line = Line("mmrmm")
    line.run()
    line.pipes.cut(line.nodes[2], line.nodes[3])
    line.run()
    assert line.circuits() == []
    line.pipes.heal()
    for left in range(5):
        for right in range(left):
            if frozenset((left, right)) not in line.seen:
                line.pipes.cut(line.nodes[left], line.nodes[right])
    line.run(90_000)
    assert line.circuits() == [(1, 3)]


def test_members_that_see_each_other_replace_their_circuit():
    line = Line("mrm", [(0, 1), (1, 2), (0, 2)])
    line.run()
    assert line.circuits() == []
    line = Line("mrm")
    line.run()
    assert line.circuits() == [(0, 2)]
    line.pipes.heal()
    line.pipes.meet(line.nodes[0], line.nodes[2])
    line.pipes.meet(line.nodes[2], line.nodes[0])
    line.run()
    assert line.circuits() == []
    assert line.linked(0) == [1, 2], "by a link of their own"


def test_circuit_that_members_have_made_needless_is_given_up():
    line = Line("mrmm", [(0, 1), (1, 2), (2, 3)])
    line.run()
    assert line.circuits() == [(0, 2)]
    line.pipes.heal()
    line.pipes.meet(line.nodes[0], line.nodes[3])
    line.pipes.cut(line.nodes[0], line.nodes[2])
    line.pipes.cut(line.nodes[1], line.nodes[3])
    line.run()
    assert line.circuits() == []
    assert line.linked(0) == [1, 3]


@pytest.mark.slow
def test_lonely_members_around_one_relay_are_joined_by_tree():
    count = 12
    line = Line("m" * count + "r", [(at, count) for at in range(count)])
    line.run(60_000)
    assert len(line.circuits()) == count - 1
    assert all(len(line.linked(at)) <= 1 + 2 * (CHILDREN + 1) for at in range(count))


def test_circuits_move_from_a_dead_relay_to_another():
    line = Line("mrrm", [(0, 1), (1, 3), (0, 2), (2, 3)])
    line.run()
    assert line.circuits() == [(0, 3)]
    used = next(action.peer.address.host for action in line.nodes[0].seen(LinkUp) if action.link >= CONNS_FROM)
    dead = 1 if used.startswith("via-n1%") else 2
    line.pipes.kill(line.nodes[dead], silent=True)
    line.run(30_000)
    assert line.circuits() == [(0, 3)]
    assert dead not in line.linked(0)


def test_a_circuit_dropped_at_one_end_is_made_again():
    line = Line("mrm")
    line.run()
    line.pipes.feed(line.nodes[0], ConnClosed(line.link(0, 2)))
    line.run()
    for at in (0, 2):
        gone = [action.link for action in line.nodes[at].seen(LinkDown)]
        assert len(gone) == 1
        assert gone[0] >= CONNS_FROM
    assert line.circuits() == [(0, 2)]


def test_what_waits_at_a_relay_is_bounded_per_circuit(monkeypatch):
    monkeypatch.setattr(circuits, "QUEUED_BYTES_MAX", 5_000)
    line = Line("mrm")
    line.run()
    line.send(2, 1, b"a sign of life", 0)
    line.run(50)
    outbox = line.nodes[1].core._core.links.conns[line.link(1, 2)].session.outbox
    line.pipes.cut(line.nodes[1], line.nodes[2])  # nothing gets on from the relay, and it does not know yet
    flood = CircuitFrame(FrameKind.DATA, 1, tuple(line.ids), 1, bytes(50_000))  # more than an honest end has under way
    for _ in range(40):
        said(line, 0, 1, flood, ms=10)
    assert 5_000 < outbox.queued < 5_000 + (1 << 17)
    assert [action.reason for action in line.nodes[0].seen(LinkDown)] == ["the connection was lost"]
    assert line.linked(1) == [0, 2]


def test_a_circuit_address_is_not_shared_and_not_dialled():
    address = circuit_address("mast", ROUTE[2])
    assert is_circuit(address.host)
    line = Line("mrm")
    line.run(60_000)
    assert not any("via-" in repr(action) for node in line.nodes for action in node.seen(DeliverMessage))
    books = [node.core._core._dialer._book for node in line.nodes]
    assert not any(is_circuit(known.host) for book in books for known in book)


def said(line, at, to, frame, ms=1_000):
    """A member says a frame of its own making to its neighbour."""
    raw = frame if isinstance(frame, bytes) else frame.encode()
    core = line.nodes[at].core._core
    for action in core.handle(SendMessage(line.link(at, to), raw, 1), line.pipes.now_ms, WALL_MS):
        line.pipes._do(line.nodes[at], action)
    line.run(ms)


def test_frames_in_name_of_another_and_junk_lead_nowhere():
    line = Line("mrmm", [(0, 1), (1, 2), (1, 3)])
    line.run()
    standing = line.circuits()
    links = [line.linked(at) for at in range(4)]
    ids = line.ids
    for frame in (
        b"junk",
        CircuitFrame(FrameKind.CLOSE, 1, (ids[3], ids[1], ids[2]), 1),  # n3 did not say that
        CircuitFrame(FrameKind.DATA, 1, (ids[3], ids[1], ids[2]), 1, b"x"),
        CircuitFrame(FrameKind.DATA, 77, (ids[0], ids[1], ids[2]), 1, b"x"),  # no such circuit
        CircuitFrame(FrameKind.DATA, 1, (ids[0], ids[1], b"?" * 16), 1, b"x"),  # no such node
        CircuitFrame(FrameKind.OPEN, 1, (bytes(16), ids[1], ids[2]), 1),
    ):
        said(line, 0, 1, frame)
    assert line.circuits() == standing
    assert [line.linked(at) for at in range(4)] == links
    assert not any(node.seen(LinkDown) for node in line.nodes)


def test_member_forwards_for_nobody_and_relay_is_no_end():
    line = Line("mmrm", [(0, 1), (1, 2), (2, 3)])
    line.run()
    before = line.pipes.carried["n1", "n0"]
    said(
        line,
        2,
        1,
        CircuitFrame(FrameKind.DATA, 9, (line.ids[3], line.ids[2], line.ids[1], line.ids[0]), 2, bytes(50_000)),
    )
    assert line.pipes.carried["n1", "n0"] - before < 5_000
    said(line, 3, 2, CircuitFrame(FrameKind.OPEN, 9, (bytes(16), line.ids[3], line.ids[2]), 2))
    assert not line.nodes[2].core._by_conn


def test_frame_of_a_link_that_just_ended_leads_nowhere():
    line = Line("mrm")
    line.run()
    (one, relay, _), link, now_ms = line.nodes, line.link(0, 1), line.pipes.now_ms
    frame = CircuitFrame(FrameKind.OPEN, 9, tuple(line.ids), 1).encode()
    said = one.core._core.handle(SendMessage(link, frame, 1), now_ms, WALL_MS)
    data = b"".join(action.data for action in said if isinstance(action, Write)) + bytes(64)  # no record of the session
    answer = relay.core.handle(ConnReceived(one.ends[link].other.conn, data), now_ms, WALL_MS)
    assert [action.peer.name for action in answer if isinstance(action, LinkDown)] == ["n0"]
    assert not relay.core._by_conn


def state(line, wishes):
    """Every member learns what all of them want; None has stated nothing."""
    for at, own in enumerate(wishes):
        others = {line.ids[each][:8]: wish for each, wish in enumerate(wishes) if each != at and wish is not None}
        line.pipes.feed(line.nodes[at], StateInterests(own, others if own is not None else {}))


def keeps(*areas):
    return {"t": frozenset(areas)}


def test_members_that_want_a_topic_link_over_others():
    line = Line("mmmm", topic_of=lambda payload: ("t", payload[:1].decode()) if payload[:1].isdigit() else None)
    line.run()
    assert line.circuits() == []
    state(line, [keeps("1"), keeps("2"), keeps("1", "2"), keeps("1")])
    line.run()
    assert line.circuits() == [(0, 2)]
    before = line.pipes.carried["n1", "n0"]
    line.pipes.publish(line.nodes[3], b"1 news")
    line.run(1_000)
    assert [node.batches() for node in line.nodes] == [[b"1 news"], [], [b"1 news"], []]
    line.pipes.publish(line.nodes[0], b"2 news")
    line.pipes.publish(line.nodes[0], b"for all")
    line.run(1_000)
    assert [node.batches()[-1] for node in line.nodes[1:]] == [b"for all"] * 3
    assert b"2 news" in line.nodes[1].batches()
    assert b"2 news" not in line.nodes[3].batches()
    assert line.pipes.carried["n1", "n0"] > before


def test_a_circuit_without_a_common_topic_goes():
    line = Line("mmm")
    line.run()
    state(line, [keeps("1"), keeps("2"), keeps("1")])
    line.run()
    assert line.circuits() == [(0, 2)]
    state(line, [keeps("1"), keeps("2"), keeps("3")])
    line.run(30_000)
    assert line.circuits() == []


def test_the_higher_end_asks_for_a_circuit():
    for writer in (0, 2):
        line = Line("mmm")
        line.run()
        others = {line.ids[at][:8]: keeps(str(at)) for at in range(3)}
        for at in range(3):
            held = (("t", str(2 - writer)),) if at == writer else ()
            line.pipes.feed(line.nodes[at], StateInterests(keeps(str(at)), others, held, 1))
        line.run()
        assert line.circuits() == [(0, 2)]


def test_a_member_with_stated_interests_forwards():
    line = Line("mmm")
    line.run()
    state(line, [keeps("1"), None, keeps("1")])
    before = line.pipes.carried["n1", "n2"]
    said(line, 0, 1, CircuitFrame(FrameKind.DATA, 9, tuple(line.ids), 1, bytes(50_000)))
    assert line.pipes.carried["n1", "n2"] - before < 5_000
    assert line.circuits() == []


def test_what_waits_at_a_member_is_bounded(monkeypatch):
    monkeypatch.setattr(circuits, "MEMBER_QUEUED_BYTES_MAX", 5_000)
    line = Line("mmm")
    line.run()
    state(line, [keeps("1"), keeps("2"), keeps("3")])
    line.send(2, 1, b"a sign of life", 0)
    line.run(50)
    outbox = line.nodes[1].core._core.links.conns[line.link(1, 2)].session.outbox
    line.pipes.cut(line.nodes[1], line.nodes[2])
    for _ in range(40):
        said(line, 0, 1, CircuitFrame(FrameKind.DATA, 1, tuple(line.ids), 1, bytes(50_000)), ms=10)
    assert 5_000 < outbox.queued < 5_000 + (1 << 17)


def test_circuits_that_others_open_are_bounded():
    line = Line("mrm")
    line.run()
    target, relay = line.nodes[2].core, line.ids[1]
    link = line.link(2, 1)
    for number in range(CIRCUITS_MAX * 2):
        opener = number.to_bytes(2, "big") + bytes(14)
        frame = CircuitFrame(FrameKind.OPEN, 1, (opener, relay, line.ids[2]), 2)
        said(line, 1, 2, frame, 5)  # the relay itself is captured: it says what it likes
    assert 8 <= len(target._by_conn) <= CIRCUITS_MAX
    assert link in line.nodes[2].links
    line.run(30_000)
    assert len(target._by_conn) <= 1 + 1, "none of them finished a handshake"


def test_members_join_without_a_base_that_is_full(monkeypatch):
    """One and two are linked with left and right, these with each other and the base."""
    star = Line("mmmmm", [(0, 2), (1, 3), (2, 3), (2, 4), (3, 4)])
    star.run()
    on_frame, base = Circuits._on_frame, star.nodes[4].core

    def refuse(self, link, frame, todo, now_ms):
        if self is not base:
            on_frame(self, link, frame, todo, now_ms)
        elif frame.kind is FrameKind.OPEN:
            todo.append(SendMessage(link, frame.refusal().encode(), 1))

    monkeypatch.setattr(Circuits, "_on_frame", refuse)
    monkeypatch.setattr(
        base.__class__, "_begin", lambda self, *args, begin=Circuits._begin: [] if self is base else begin(self, *args)
    )
    state(star, [keeps("1"), keeps("1"), keeps("2"), keeps("3"), {}])
    star.run(20_000)
    assert (0, 1) in star.circuits()


def test_beyond_the_limit_circuits_take_turns(monkeypatch):
    members = (0, 2, 3, 4)
    star = Line("mrmmm", [(1, at) for at in members])

    def all_to_all(self, todo, now_ms):
        own = self.roster.own_id
        for peer in (star.ids[at] for at in members):
            todo += self._begin((own, star.ids[1], peer), now_ms) if peer != own else []

    monkeypatch.setattr(circuits, "CIRCUITS_MAX", 2)
    monkeypatch.setattr(Circuits, "_plan", all_to_all)
    met = dict.fromkeys(combinations(members, 2), 0)
    for _ in range(40):
        star.run(TURN_MS // 6)
        for pair in star.circuits():
            met[pair] += 1
        assert all(len(node.core._by_conn) <= 2 for node in star.nodes)
    assert all(met.values()), met
    told = [node.notices().count("circuits.full") for node in star.nodes]
    assert max(told) == 1  # within an hour
