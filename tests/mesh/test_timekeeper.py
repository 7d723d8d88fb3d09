"""Mesh time is a median, and a node whose clock is wrong is told so, once."""

import pytest

from mesh.timekeeper import HOLD_MS, WRONG_MS, Timekeeper, mesh_offset_ms
from tests.mesh.pipes import Pipes, mesh_of

YEARS_MS = 50 * 365 * 86_400_000


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
    keeper = Timekeeper()
    agreed = [3.0, -2.0, 5.0]
    assert keeper.judge(agreed, 0) == []
    assert keeper.offset_ms == pytest.approx(1.5, abs=1.5)
    late = [offset + 90_000 for offset in agreed]
    assert keeper.judge(late, 1_000) == []  # perhaps only of the first peers that are met
    (told,) = keeper.judge(late, 1_000 + HOLD_MS)
    assert (told.event, told.level) == ("clock.wrong", "warning")
    assert "90 s behind the mesh (median of 3 peers)" in told.text
    assert keeper.wrong == told.text
    assert keeper.judge(late, 8_000) == []
    assert keeper.judge([WRONG_MS * 0.7] * 3, 9_000) == []  # no flapping at the border
    (told,) = keeper.judge(agreed, 10_000)
    assert told.event == "clock.right"
    assert keeper.wrong == ""


def test_a_node_that_boots_in_1970_is_told_by_its_mesh_and_the_others_are_not():
    pipes = Pipes()
    nodes = [pipes.member(identity) for identity in mesh_of(4)[0]]
    nodes[3].wall_ms -= YEARS_MS
    pipes.meet_all()
    pipes.run(12_000)
    assert "clock.wrong" in nodes[3].notices()
    assert nodes[3].core.timekeeper.offset_ms == pytest.approx(YEARS_MS, abs=10)
    for node in nodes[:3]:
        assert "clock.wrong" not in node.notices()
        assert abs(node.core.timekeeper.offset_ms) < 10
    nodes[3].wall_ms += YEARS_MS  # GPS has a fix
    pipes.run(120_000)
    assert "clock.right" in nodes[3].notices()
