"""Link-state: signed, versioned, bounded, and the reachability that follows from it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.mesh.errors import DecodeError
from mycomesh.mesh.overlay.topology import (
    FIRST_MS,
    NEIGHBOURS_MAX,
    NODES_MAX,
    RECORD_EVERY_MS,
    RECORDS_AT_ONCE,
    REFRESH_MS,
    REFRESH_NODE_MS,
    SPACING_MS,
    SPACING_NODE_MS,
    WALK_MS,
    LinkState,
    Neighbour,
    Topology,
)
from tests.mesh.pipes import WALL_MS, mesh_of

IDS, _ = mesh_of(5)


def near(index, rtt_ms=1):
    return Neighbour(IDS[index].node_id, rtt_ms, 10, 20)


def told(index, *neighbours, wall_ms=WALL_MS):
    """The record of one node about its links to others."""
    topology = Topology(IDS[index])
    return topology.make_record([near(each) for each in neighbours], 0, wall_ms)


def learn(topology, raw, author, now_ms=0):
    _, news = topology.peek(raw)
    return news is not None and topology.add(news, raw, IDS[author].certificate.node_key, now_ms)


def claimed(raw):
    """Return the content of a record as a node without other records reads it."""
    return Topology(IDS[4]).peek(raw)[1]


def chain():
    """Return node 0's knowledge of the chain 0-1-2-3."""
    topology = Topology(IDS[0])
    topology.make_record([near(1)], 0, WALL_MS)
    for raw, author in ((told(1, 0, 2), 1), (told(2, 1, 3), 2), (told(3, 2), 3)):
        assert learn(topology, raw, author)
    return topology


def test_reachability_goes_over_links_that_both_ends_name():
    topology = chain()
    assert [topology.hops(each.node_id) for each in IDS] == [0, 1, 2, 3, None]
    assert topology.reachable_count(0) == 4


def test_a_dead_node_drops_out_but_is_not_forgotten():
    topology = chain()
    assert learn(topology, told(1, 0, wall_ms=WALL_MS + 1), 1)
    assert [topology.hops(each.node_id) for each in IDS] == [0, 1, None, None, None]
    assert topology.state(IDS[3].node_id) is not None
    assert not topology.are_linked(IDS[1].node_id, IDS[2].node_id)


def test_an_older_record_never_replaces_a_newer_one():
    topology = chain()
    assert not learn(topology, told(2, 1, wall_ms=WALL_MS - 1), 2)
    assert not learn(topology, told(2, 1, wall_ms=WALL_MS), 2)
    assert topology.hops(IDS[3].node_id) == 3


def test_record_that_its_author_did_not_sign_is_refused():
    topology = chain()
    raw = bytearray(told(2, 1, wall_ms=WALL_MS + 5))
    state = claimed(bytes(raw))
    with pytest.raises(DecodeError, match="not signed"):
        topology.add(state, bytes(raw), IDS[3].certificate.node_key, 0)
    raw[3] ^= 1
    with pytest.raises(DecodeError, match="not signed"):
        topology.add(state, bytes(raw), IDS[2].certificate.node_key, 0)


def test_node_with_a_set_back_clock_supersedes_its_past():
    earlier = told(0, 1, 2, wall_ms=WALL_MS)
    topology = Topology(IDS[0])
    topology.make_record([], 0, 0)
    assert not learn(topology, earlier, 0)
    assert topology.deadline() == SPACING_MS
    assert claimed(topology.make_record([], SPACING_MS, 1_000)).sequence > claimed(earlier).sequence


def test_records_of_one_node_are_spaced_and_repeated():
    topology = Topology(IDS[0])
    assert topology.deadline() > 1 << 60  # a node without links reports none
    topology.on_links_changed(50)
    assert topology.deadline() == 50 + FIRST_MS
    topology.make_record([near(1)], 100, WALL_MS)
    assert topology.deadline() == 100 + REFRESH_MS
    topology.on_links_changed(150)
    assert topology.deadline() == 100 + SPACING_MS


def test_gained_links_are_reported_rarely_and_losses_sooner():
    topology = Topology(IDS[0])
    at_ms = [0]
    topology.on_links_changed(0)
    for _ in range(RECORDS_AT_ONCE + 2):
        at_ms.append(topology.deadline())
        topology.make_record([near(1)], at_ms[-1], WALL_MS)
        topology.on_links_changed(at_ms[-1])
    assert at_ms[2] - at_ms[1] == SPACING_MS
    assert at_ms[-1] - at_ms[-2] == RECORD_EVERY_MS
    topology.on_links_changed(at_ms[-1], fewer=True)
    assert topology.deadline() == at_ms[-1] + SPACING_MS


def test_in_a_larger_mesh_each_node_reports_more_rarely():
    topology = chain()
    topology.on_links_changed(0)
    spacing = topology.deadline()
    for index in range(200):
        topology._records[index.to_bytes(16, "big")] = topology._records[IDS[0].node_id]
    assert spacing == SPACING_MS
    assert topology.deadline() == SPACING_NODE_MS * 204
    topology.make_record([], 0, WALL_MS)
    assert topology.deadline() == REFRESH_NODE_MS * 204


def test_reachability_is_recounted_rarely_and_hops_at_once():
    topology = chain()
    assert topology.reachable_count(1_000) == 4
    assert learn(topology, told(1, 0, wall_ms=WALL_MS + 1), 1)
    assert topology.reachable_count(1_001) == 4
    assert topology.reachable_count(1_000 + WALK_MS) == 2
    assert learn(topology, told(1, 0, 2, wall_ms=WALL_MS + 2), 1)
    assert topology.hops(IDS[2].node_id) == 2
    assert topology.reachable_count(1_000 + WALK_MS) == 4


def test_an_older_or_malformed_record_is_refused():
    topology = chain()
    older, newer = told(1, 0, wall_ms=WALL_MS - 5), told(1, 0, wall_ms=WALL_MS + 5)
    assert topology.peek(older) == (IDS[1].node_id, None)
    assert topology.peek(older[:-1]) == (IDS[1].node_id, None)
    with pytest.raises(DecodeError):
        topology.peek(newer[:-1])
    assert topology.peek(newer)[1] is not None
    small = told(3, 2, wall_ms=7)  # its sequence takes fewer bytes
    assert topology.peek(small) == (IDS[3].node_id, None)


def test_two_nodes_complete_each_other_from_their_versions():
    left, right = chain(), Topology(IDS[4])
    right.make_record([], 0, WALL_MS)
    lacking = left.newer_than(right.versions())
    assert len(lacking) == 4
    assert left.newer_than(left.versions()) == []
    for raw in lacking:
        state = right.peek(raw)[1]
        author = next(each for each in IDS if each.node_id == state.node_id)
        assert right.add(state, raw, author.certificate.node_key, 0)
    assert len(right.states()) == 5


def test_node_that_is_no_member_any_more_is_dropped():
    topology = chain()
    topology.forget(IDS[2].node_id)
    assert topology.hops(IDS[3].node_id) is None
    assert topology.state(IDS[2].node_id) is None


def test_records_are_bounded():
    many = [Neighbour(index.to_bytes(16, "big"), -1, 0, 0) for index in range(NEIGHBOURS_MAX + 10)]
    topology = Topology(IDS[0])
    state = claimed(topology.make_record(many, 0, WALL_MS))
    assert len(state.neighbours) == NEIGHBOURS_MAX
    with pytest.raises(DecodeError, match="limits"):
        LinkState.decode(LinkState(bytes(16), 1, tuple(many)).encode())
    for index in range(NODES_MAX + 5):
        topology._records.setdefault(index.to_bytes(16, "big"), topology._records[IDS[0].node_id])
    assert not learn(topology, told(1, 0), 1)


@pytest.mark.parametrize(
    "rows",
    [
        (Neighbour(b"b" * 16, 1, 0, 0), Neighbour(b"a" * 16, 1, 0, 0)),
        (Neighbour(b"a" * 16, 1, 0, 0), Neighbour(b"a" * 16, 1, 0, 0)),
        (Neighbour(b"a" * 15, 1, 0, 0),),
        (Neighbour(b"a" * 16, -2, 0, 0),),
        (Neighbour(b"a" * 16, 1, -1, 0),),
    ],
)
def test_only_the_one_form_of_a_record_is_accepted(rows):
    with pytest.raises(DecodeError):
        LinkState.decode(LinkState(bytes(16), 1, rows).encode())


rows = st.lists(
    st.builds(
        Neighbour, st.binary(min_size=16, max_size=16), st.integers(-1, 600_000), st.integers(0), st.integers(0)
    ).filter(lambda each: each.sent_bytes < 2**64 and each.received_bytes < 2**64),
    max_size=6,
    unique_by=lambda each: each.node_id,
)


@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**63 - 1), rows)
def test_a_record_survives_the_wire(node_id, sequence, neighbours):
    state = LinkState(node_id, sequence, tuple(sorted(neighbours)))
    assert LinkState.decode(state.encode()) == state


@given(st.binary(max_size=300))
def test_junk_is_refused(junk):
    with pytest.raises(DecodeError):
        Topology(IDS[0]).peek(junk)
