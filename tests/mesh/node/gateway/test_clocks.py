"""Which clock is wrong, in one line for a person."""

import pytest

from mycomesh.mesh.mailbox.probe import CLOCK_MS_MAX
from mycomesh.mesh.node.gateway.clocks import NAMES_SHOWN, clock_line

HOUR = 3_600_000
YEARS = 3 * 365 * 24 * HOUR


@pytest.mark.parametrize(
    ("offset_ms", "ahead", "own_ms"),
    [
        (None, (), 0),
        (CLOCK_MS_MAX, (("bravo", CLOCK_MS_MAX),), CLOCK_MS_MAX),
        (-CLOCK_MS_MAX, (("bravo", -YEARS), ("charlie", -5)), -YEARS),
    ],
)
def test_clocks_within_a_minute_are_no_matter(offset_ms, ahead, own_ms):
    assert clock_line(offset_ms, ahead, own_ms) == ""


@pytest.mark.parametrize(
    ("offset_ms", "says"),
    [
        (YEARS, "1,095 days behind the storage's"),
        (-3 * HOUR, "3 hours ahead of the storage's"),
        (61_000, "61 seconds behind"),
    ],
)
def test_the_clock_of_the_storage_decides(offset_ms, says):
    line = clock_line(offset_ms, (("bravo", YEARS),), YEARS)
    assert line.startswith(f"this node's clock is {says}")
    assert "set it, or start its time service" in line


def test_one_member_ahead_is_named():
    line = clock_line(0, (("bravo", 5 * HOUR), ("charlie", -2)), 0)
    assert line.startswith("bravo: stamped up to 5 hours ahead of this node's clock")
    assert clock_line(None, (("bravo", 5 * HOUR),), 0) == line  # the only other one: either may be wrong


def test_all_others_ahead_point_here():
    others = tuple((f"n{number}", 2 * HOUR + number) for number in range(NAMES_SHOWN + 2))
    line = clock_line(None, others, 0)
    assert line.startswith("all others (n0, n1, n2 and 2 others) stamp up to 2 hours ahead of this node's clock")
    assert "seems to be behind" in line


def test_own_envelopes_ahead_are_told():
    assert clock_line(0, (("bravo", 0),), YEARS).startswith("this node's newest envelope is stamped 1,095 days ahead")
