"""Mesh time is a median, and a node whose clock is wrong reports it once."""

import pytest

from mycomesh.mesh.mesh_clock import CONFIRM_MS, UNSET_MS, WRONG_MS, MeshClock, MeshTime, mesh_offset_ms, mesh_time
from tests.mesh.pipes import Pipes, mesh_of

YEARS_MS = 50 * 365 * 86_400_000
NOW_MS = 1_800_000_000_000


@pytest.mark.parametrize(
    ("offsets", "mesh"),
    [
        ([], None),
        ([700.0], 700.0),
        ([60_000.0, -3.0], 0.0),  # one liar of three clocks moves nothing
        ([60_000.0, 60_004.0], 60_000.0),
        ([60_000.0, 60_004.0, 2.0], 2.0),  # half of the mesh is not enough
        ([-5.0, 2.0, 4.0, 1e15], 2.0),
    ],
)
def test_mesh_time_is_the_median_of_all_clocks(offsets, mesh):
    assert mesh_offset_ms(offsets) == mesh


def test_a_clock_is_called_wrong_once_and_right_once():
    clock = MeshClock()
    agreed = [3.0, -2.0, 5.0]
    assert clock.update(agreed, 0, NOW_MS) == []
    assert clock.offset_ms == pytest.approx(1.5, abs=1.5)
    late = [offset + 90_000 for offset in agreed]
    assert clock.update(late, 1_000, NOW_MS) == []  # perhaps only of the first peers that are met
    (told,) = clock.update(late, 1_000 + CONFIRM_MS, NOW_MS)
    assert (told.event, told.level) == ("clock.wrong", "warning")
    assert "90 s behind the mesh (median of 3 peers)" in told.text
    assert clock.warning == told.text
    assert clock.update(late, 8_000, NOW_MS) == []
    assert clock.update([WRONG_MS * 0.7] * 3, 9_000, NOW_MS) == []  # no flapping at the border
    (told,) = clock.update(agreed, 10_000, NOW_MS)
    assert told.event == "clock.right"
    assert clock.warning == ""


def test_node_in_1970_takes_the_time_of_its_mesh():
    pipes = Pipes()
    nodes = [pipes.member(identity) for identity in mesh_of(4)[0]]
    nodes[3].wall_ms -= YEARS_MS
    pipes.meet_all()
    pipes.run(12_000)
    assert "clock.wrong" in nodes[3].notices()
    assert nodes[3].core.mesh_clock.offset_ms == pytest.approx(YEARS_MS, abs=10)
    for node in nodes[:3]:
        assert "clock.wrong" not in node.notices()
        assert abs(node.core.mesh_clock.offset_ms) < 10
    nodes[3].wall_ms += YEARS_MS  # GPS has a fix
    pipes.run(120_000)
    assert "clock.right" in nodes[3].notices()


@pytest.mark.parametrize(
    ("offsets", "time"),
    [
        ([], MeshTime(0, False)),
        ([400.0], MeshTime(0, True)),
        ([-90_000.0], MeshTime(0, False)),  # of two that differ nobody knows which is wrong
        ([90_000.0, 90_400.0], MeshTime(90_000, True)),
        ([-YEARS_MS, 300.0], MeshTime(0, True)),
        ([-YEARS_MS, -YEARS_MS, 300.0], MeshTime(0, True)),  # clocks that were never set are not asked
        ([-YEARS_MS, -YEARS_MS], MeshTime(0, False)),
        ([30_000.0, 60_000.0], MeshTime(0, False)),
    ],
)
def test_a_clock_is_corrected_where_two_others_agree(offsets, time):
    assert mesh_time(offsets, NOW_MS, NOW_MS) == time


def test_unset_clocks_follow_two_set_ones_or_the_latest():
    booted = UNSET_MS - YEARS_MS
    assert mesh_time([NOW_MS - booted], booted, booted) == MeshTime(0, False)
    assert mesh_time([NOW_MS - booted, NOW_MS - booted + 7], booted, booted) == MeshTime(NOW_MS - booted, True)
    assert mesh_time([300_000.0, -20_000.0], booted, booted) == MeshTime(300_000, False)
    assert mesh_time([-300_000.0], booted, booted) == MeshTime(0, False)


DAY_MS = 86_400_000


def pair(booted=-YEARS_MS, peer=0):
    """A node whose clock was never set, and its only peer."""
    pipes = Pipes()
    nodes = [pipes.member(identity) for identity in mesh_of(2)[0]]
    nodes[0].wall_ms += booted
    nodes[1].wall_ms += peer
    pipes.meet_all()
    pipes.run(CONFIRM_MS + 5_000)
    return pipes, *nodes


def test_clock_that_was_never_set_follows_its_only_peer():
    _, drone, ground = pair()
    assert drone.core.mesh_clock.time.offset_ms == pytest.approx(YEARS_MS, abs=10)
    assert not drone.core.mesh_clock.time.confirmed
    assert drone.core.mesh_clock.warning == (
        "this node's clock was never set; set it, or start its time service; until then it uses the time of its peers"
    )
    assert ground.core.mesh_clock.warning == ""
    assert "clock.wrong" not in ground.notices()


@pytest.mark.parametrize("peer", [31 * DAY_MS, 9 * 365 * DAY_MS, -2 * DAY_MS])
def test_no_clock_follows_a_peer_outside_signed_times(peer):
    _, drone, _ = pair(peer=peer)
    if drone.links:  # else the peer itself knows better: its certificate has expired by its clock
        assert drone.core.mesh_clock.time.offset_ms == 0
        assert "never set" in drone.core.mesh_clock.warning
    else:
        assert peer > 0


def test_a_clock_that_was_set_follows_no_single_peer():
    _, node, _ = pair(booted=-DAY_MS // 2)
    assert node.core.mesh_clock.time.offset_ms == 0
    assert node.core.mesh_clock.warning.endswith("behind its only peer's; set whichever is wrong")


def test_single_peer_is_followed_only_when_nobody_else_came():
    clock, booted = MeshClock(), UNSET_MS - YEARS_MS
    ahead, right = NOW_MS + 3_600_000 - booted, NOW_MS - booted
    clock.update([ahead], 0, booted, [ahead])
    assert clock.time == MeshTime(0, False, booted)
    clock.update([ahead, right, right + 3], 1_000, booted + 1_000, [ahead, right, right + 3])
    assert clock.time == MeshTime(right + 3, True, booted)
    clock.update([ahead], 60_000, booted + 60_000, [ahead])
    assert clock.time == MeshTime(right + 3, True, booted), "the others have left, and were right"
    clock.update([ahead], 70_000, booted + 90_000, [ahead])
    assert clock.time.offset_ms == 0, "somebody has set the clock: what was known of it is obsolete"


def test_most_witnesses_count_even_when_no_two_agree():
    clock, booted = MeshClock(), UNSET_MS - YEARS_MS
    one, two, ahead = (NOW_MS + away - booted for away in (-20_000, 20_000, 3_600_000))
    for now_ms in (0, CONFIRM_MS):
        clock.update([one, two, ahead], now_ms, booted + now_ms, [one, two, ahead])
    assert clock.time == MeshTime(two, False, booted)
    for now_ms in (20_000, 60_000):
        clock.update([ahead], now_ms, booted + now_ms, [ahead])
    assert clock.time == MeshTime(two, False, booted)


def test_a_gps_fix_ends_the_correction():
    pipes, drone, _ = pair()
    drone.wall_ms += YEARS_MS
    pipes.run(120_000)
    assert drone.core.mesh_clock.time.offset_ms == 0
    assert drone.core.mesh_clock.time.confirmed
    assert "clock.right" in drone.notices()
