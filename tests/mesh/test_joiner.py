"""A node joins by a code: counted before it is used, under a free name, and only where an invitation is open."""

from __future__ import annotations

import random

import pytest

from mycomesh.mesh.config import MeshConfig
from mycomesh.mesh.core import Joiner
from mycomesh.mesh.events import (
    Address,
    AddressFound,
    Close,
    ConnOpened,
    Enrolled,
    Notice,
    Write,
)
from mycomesh.mesh.membership.enrolment import Candidate, invite
from mycomesh.mesh.membership.identity import Identity
from tests.mesh.pipes import WALL_MS, Pipes, mesh_of


def inviting(pipes, *, uses=1, expires_ms=WALL_MS + 3_600_000):
    identities, root_seed = mesh_of(2)
    invitation = invite(entropy=random.Random(9).randbytes, expires_ms=expires_ms, uses=uses)
    node = pipes.member(identities[0], invitations=(invitation,), root_seed=root_seed)
    return node, invitation.code(identities[0].mesh_id)


def joining(pipes, code, name="drone", *, seed=None, place=None):
    """A node that asks to join under that name; one seed makes one node, with the same keys each time."""
    rng = random.Random(seed or name)
    candidate = Candidate.fresh(name, entropy=rng.randbytes)
    return pipes.add(place or name, Joiner(code, candidate, entropy=rng.randbytes, rng=rng, config=MeshConfig()))


def name_given(pipes, joiner, inviter):
    """The name under which the node has joined."""
    pipes.meet(joiner, inviter)
    pipes.run_until(lambda: joiner.seen(Enrolled), limit_ms=100)
    return Identity.decode(joiner.seen(Enrolled)[0].identity).name


def test_a_node_joins_and_is_a_member_everywhere():
    pipes = Pipes()
    inviter, code = inviting(pipes)
    other = pipes.member(mesh_of(2)[0][1])
    pipes.meet(inviter, other)
    joiner = joining(pipes, code)
    pipes.meet(joiner, other)
    pipes.meet(joiner, inviter)
    pipes.run_until(lambda: joiner.seen(Enrolled), limit_ms=100)
    assert inviter.core.invitations()[0].uses_left == 0
    assert inviter.notices() == ["enrolment.granted"]
    assert pipes.run(5_000) is None
    assert joiner.core.next_deadline() is None
    assert len(joiner.seen(Enrolled)) == 1
    drone = pipes.member(Identity.decode(joiner.seen(Enrolled)[0].identity))
    pipes.meet(drone, inviter)
    pipes.run_until(lambda: len(drone.links) == 2, limit_ms=2_000)
    pipes.publish(drone, b"first words")
    pipes.run(10)
    assert inviter.batches() == other.batches() == [b"first words"]


def test_nodes_of_one_image_join_under_their_own_names():
    pipes = Pipes()
    inviter, code = inviting(pipes, uses=3)
    places = ("pi1", "pi2", "pi3")
    joiners = [joining(pipes, code, "raspberrypi", seed=place, place=place) for place in places]
    names = [name_given(pipes, joiner, inviter) for joiner in joiners]
    assert names == ["raspberrypi", "raspberrypi-2", "raspberrypi-3"]
    granted = [notice for notice in inviter.seen(Notice) if notice.event == "enrolment.granted"]
    assert [notice.detail["name"] for notice in granted] == names


def test_a_member_that_joins_again_keeps_its_name():
    pipes = Pipes()
    inviter, code = inviting(pipes, uses=2)
    for life in ("first", "second"):
        assert name_given(pipes, joining(pipes, code, "drone", place=life), inviter) == "drone"


def test_the_use_is_counted_before_the_grant_leaves():
    pipes = Pipes()
    inviter, code = inviting(pipes)
    joiner = joining(pipes, code)
    pipes.meet(joiner, inviter)
    pipes.run(50)
    at = next(index for index, (_, action) in enumerate(inviter.log) if isinstance(action, Notice))
    assert [type(action) for _, action in inviter.log[at:]] == [Notice, Write, Close]


def test_a_code_admits_as_many_nodes_as_it_says():
    pipes = Pipes()
    inviter, code = inviting(pipes, uses=2)
    joiners = [joining(pipes, code, f"d{index}") for index in range(4)]
    for joiner in joiners:
        pipes.meet(joiner, inviter)
    pipes.run(60_000)
    assert sum(len(joiner.seen(Enrolled)) for joiner in joiners) == 2


def test_joining_node_with_several_paths_uses_one_code_once():
    pipes = Pipes()
    inviter, code = inviting(pipes, uses=5)
    joiner = joining(pipes, code)
    pipes.meet(joiner, inviter)
    pipes.nodes.append(inviter)
    twin = type(inviter)("twin", inviter.core, Address("10.5.5.5", 1), ends=inviter.ends, log=inviter.log)
    pipes.nodes.append(twin)
    pipes.feed(joiner, AddressFound(twin.address))
    pipes.run(10_000)
    assert len(joiner.seen(Enrolled)) == 1
    assert inviter.core.invitations()[0].uses_left == 4


@pytest.mark.parametrize("fault", ["wrong code", "expired", "no root key"])
def test_who_has_no_open_invitation_hears_nothing(fault):
    pipes = Pipes()
    inviter, code = inviting(pipes, expires_ms=WALL_MS if fault == "expired" else WALL_MS + 3_600_000)
    if fault == "wrong code":
        code = type(code)(code.mesh_id, bytes(len(code.secret)))
    if fault == "no root key":
        inviter.core._context.root_seed = None
    joiner = joining(pipes, code)
    pipes.meet(joiner, inviter)
    pipes.run(20_000)
    assert joiner.seen(Enrolled) == []
    assert inviter.seen(Write) == []
    assert "join.unanswered" in joiner.notices()


def test_a_joining_node_answers_nobody_who_calls_it():
    pipes = Pipes()
    _, code = inviting(pipes)
    joiner = joining(pipes, code)
    actions = joiner.core.handle(ConnOpened(99, Address("10.0.0.9", 1), dialled=False), 0, WALL_MS)
    assert actions == [Close(99, "not a member yet")]
