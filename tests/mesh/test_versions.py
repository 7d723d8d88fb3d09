"""Versions of the protocol: the version that two ranges agree on, the reports when they do not, and no downgrade by a relay."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.mesh import wire
from mycomesh.mesh.config import MeshConfig
from mycomesh.mesh.events import Dial, LinkDown, LinkUp, NetworkChanged, Notice
from mycomesh.mesh.links.authentication import MemberHello
from mycomesh.mesh.membership.identity import Identity
from mycomesh.mesh.versions import VERSION_MAX, Versions
from tests.mesh.pipes import Pipes, mesh_of

GOLDEN = json.loads((Path(__file__).parents[1] / "vectors" / "mesh-golden.json").read_text())
RANGES = st.tuples(st.integers(1, VERSION_MAX), st.integers(1, VERSION_MAX)).map(lambda pair: Versions(*sorted(pair)))


def speaking(*ranges, seed=1):
    pipes = Pipes(seed)
    identities = mesh_of(len(ranges))[0]
    nodes = [
        pipes.member(identity, config=MeshConfig(versions=Versions(*each)))
        for identity, each in zip(identities, ranges, strict=True)
    ]
    return pipes, nodes


def told(node):
    return [action.text for action in node.seen(Notice) if action.event == "peer.version"]


def agreed(pipes, node):
    return {peer.name: peer.protocol for peer in node.core.peers(pipes.now_ms) if peer.state == "linked"}


# ---- the rule


@given(RANGES, RANGES)
def test_both_ends_come_to_highest_version_that_both_speak(ours, theirs):
    both = [version for version in range(1, VERSION_MAX + 1) if version in ours and version in theirs]
    assert ours.common(theirs) == theirs.common(ours) == max(both, default=0)


@pytest.mark.parametrize("bounds", [(0, 1), (2, 1), (1, 256), (-1, 1)])
def test_what_is_no_range_is_refused(bounds):
    with pytest.raises(ValueError, match="oldest <= newest"):
        Versions(*bounds)


# ---- two nodes


@pytest.mark.parametrize(
    ("left_range", "right_range", "version"),
    [((1, 1), (1, 2), "1"), ((1, 2), (1, 2), "2"), ((1, 2), (2, 3), "2"), ((1, 9), (3, 7), "7")],
)
def test_two_nodes_use_the_highest_version_that_both_speak(left_range, right_range, version):
    pipes, (left, right) = speaking(left_range, right_range)
    pipes.meet(left, right)
    pipes.run(3_000)
    assert agreed(pipes, left) == {"n1": version}
    assert agreed(pipes, right) == {"n0": version}
    pipes.publish(left, b"there")
    pipes.publish(right, b"back")
    pipes.send(left, right, b"a word")
    pipes.run(100)
    assert (right.batches(), left.batches(), right.messages()) == ([b"there"], [b"back"], [b"a word"])
    assert told(left) == told(right) == []


def test_both_sides_report_a_missing_common_version_once():
    pipes, (old, new) = speaking((1, 1), (2, 3))
    pipes.meet(old, new)
    pipes.run(100)
    assert told(old) == [f"n1 at {new.address} speaks protocol 2 to 3, this node 1: upgrade mycomesh on this node"]
    (said,) = told(new)
    assert said.startswith("n0 at ")
    assert said.endswith("speaks protocol 1, this node 2 to 3: upgrade mycomesh on n0")
    assert old.seen(LinkUp) == new.seen(LinkUp) == []
    (peer,) = old.core.peers(pipes.now_ms)
    assert (peer.state, peer.protocol) == ("down", "2 to 3")
    pipes.run(600_000)
    assert len(told(old)) == len(told(new)) == 1


def test_a_node_without_a_common_version_is_dialled_rarely():
    pipes, (old, new) = speaking((1, 1), (2, 2))
    for _ in range(600):
        pipes.meet(old, new)
        pipes.meet(new, old)
        pipes.feed(old, NetworkChanged())
        pipes.run(1_000)
    for node in (old, new):
        assert 8 <= len(node.seen(Dial)) <= 11


def test_an_upgraded_node_is_linked_at_once():
    pipes, (old, new) = speaking((1, 1), (2, 2))
    pipes.meet(new, old)
    pipes.run(2_000)
    pipes.kill(old, silent=False)
    back = pipes.member(mesh_of(2)[0][0], config=MeshConfig(versions=Versions(1, 2)))
    back.name = "n0 upgraded"
    pipes.meet(back, new)
    assert pipes.run_until(lambda: bool(new.links)) < 50
    assert agreed(pipes, new) == {"n0": "2"}
    (peer,) = new.core.peers(pipes.now_ms)
    assert peer.protocol == "2", "what it spoke before is forgotten"


# ---- many nodes


def test_three_generations_are_one_mesh_without_its_extremes_linked():
    pipes, (old, both, new) = speaking((1, 1), (1, 2), (2, 2))
    pipes.meet_all()
    pipes.run(5_000)
    assert agreed(pipes, both) == {"n0": "1", "n2": "2"}
    assert agreed(pipes, old) == {"n1": "1"}
    assert agreed(pipes, new) == {"n1": "2"}
    pipes.publish(old, b"from the old one")
    pipes.publish(new, b"from the new one")
    pipes.run(2_000)
    assert new.batches() == [b"from the old one"], "relayed from a link of version 1 to one of version 2"
    assert old.batches() == [b"from the new one"]
    assert {peer.name: peer.state for peer in old.core.peers(pipes.now_ms)} == {"n1": "linked", "n2": "reachable"}
    settled = [len(node.log) for node in (old, both, new)]
    pipes.run(60_000)
    for node, before in zip((old, both, new), settled, strict=True):
        assert not [action for _, action in node.log[before:] if isinstance(action, LinkDown | Notice)]


# ---- on the wire


@pytest.mark.parametrize("at", [2, 34, 66, 120, -17, -16, -1])
@pytest.mark.parametrize("frame", [0, 1, 2])
def test_changed_handshake_byte_gives_no_link_and_no_downgrade(frame, at):
    pipes, (left, right) = speaking((1, 2), (1, 2))
    seen = 0

    def change(_source, _target, data):
        nonlocal seen
        seen += 1
        if seen != frame + 1:
            return data
        changed = bytearray(data)
        place = at if at < len(changed) else len(changed) - 1
        changed[place] ^= 1
        return bytes(changed)

    pipes.tap = change
    pipes.meet(left, right)
    pipes.run(900)
    assert seen > frame
    assert right.seen(LinkUp) == left.seen(LinkUp) == []
    assert told(left) == told(right) == []


def test_the_ranges_travel_encrypted():
    pipes, (left, right) = speaking((7, 201), (9, 203))
    carried = bytearray()

    def keep(_source, _target, data):
        carried.extend(data)
        return data

    pipes.tap = keep
    pipes.meet(left, right)
    pipes.run(900)
    assert agreed(pipes, left) == {"n1": "201"}
    assert wire.encode((7, 201))[1:] not in carried
    assert wire.encode((9, 203))[1:] not in carried


@pytest.mark.parametrize(("oldest", "newest"), [(0, 1), (2, 1), (1, 256), (-1, 1), (True, 1)])
def test_an_invalid_range_is_refused_like_a_damaged_introduction(oldest, newest):
    pipes, (left, right) = speaking((1, 2), (1, 2))
    honest = left.core._context.hello

    class Forged:
        """A hello with a range that `Versions` would not take."""

        certificate = honest().certificate

        def encode(self):
            hello = honest()
            return wire.encode((1, hello.certificate.raw, hello.boot, hello.port, oldest, newest))

    left.core._context = _With(left.core._context, Forged)
    pipes.meet(left, right)
    pipes.run(900)
    assert right.seen(LinkUp) == []
    assert right.notices() == ["peer.refused"]


class _With:
    """A context that shows another hello."""

    def __init__(self, context, hello):
        self._context = context
        self.hello = hello

    def __getattr__(self, name):
        return getattr(self._context, name)


def test_an_introduction_is_pinned_by_golden_bytes():
    certificate = Identity.decode(bytes.fromhex(GOLDEN["identity"])).certificate
    assert MemberHello(certificate, bytes(range(8)), 7447, Versions(1, 2)).encode().hex() == GOLDEN["introduction"]
