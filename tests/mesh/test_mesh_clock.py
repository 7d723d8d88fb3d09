"""Mesh time is a median, and a node whose clock is wrong is told so, once."""

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


def test_a_node_that_boots_in_1970_is_told_by_its_mesh_and_the_others_are_not():
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


def test_clocks_that_were_never_set_go_by_two_that_were_or_by_the_latest_of_them():
    booted = UNSET_MS - YEARS_MS
    assert mesh_time([NOW_MS - booted], booted, booted) == MeshTime(0, False)
    assert mesh_time([NOW_MS - booted, NOW_MS - booted + 7], booted, booted) == MeshTime(NOW_MS - booted, True)
    assert mesh_time([300_000.0, -20_000.0], booted, booted) == MeshTime(300_000, False)
    assert mesh_time([-300_000.0], booted, booted) == MeshTime(0, False)
