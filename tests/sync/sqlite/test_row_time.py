"""The time in a cell, as SQLite judges it, and the fast look that must miss none."""

from __future__ import annotations

import apsw
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mycomesh.sync.sqlite.row_time import maybe_before, time_ms

DB = apsw.Connection(":memory:")
QUERY = f"SELECT {time_ms('?1')}"

dates = st.datetimes().map(lambda at: at.isoformat(sep="T"))
zones = st.sampled_from(["", "Z", "+05:00", "-11:30", "+14:00"])
texts = st.one_of(
    st.tuples(dates, zones).map("".join),
    st.integers(-(10**16), 10**16).map(str),
    st.text(max_size=12),
    st.sampled_from(["now", "12:00", "2460000.5", "2026-11-24", "2026-13-01"]),
)
values = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(), texts, st.none(), st.binary(max_size=4))


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        ("2026-11-24", 1_795_478_400_000),
        ("2026-11-24T10:00:00Z", 1_795_514_400_000),
        ("2026-11-24 10:00:00.999+05:00", 1_795_496_400_000),
        (1_795_514_400, 1_795_514_400_000),
        (1_795_514_400_123, 1_795_514_400_123),
        (1_795_514_400.5, 1_795_514_400_000),
        ("1795514400", 1_795_514_400_000),
        (-5, None),
        (315_532_799, None),
        (315_532_800, 315_532_800_000),
        (315_532_799_999, None),
        (315_532_800_000, 315_532_800_000),
        (20_260_101, None),
        ("20260101", None),
        (2_461_000.5, None),
        (2026, None),
        (10**14, None),
        ("now", None),
        ("12:00", None),
        ("soon", None),
        ("", None),
        (None, None),
        (b"2026-11-24", None),
    ],
)
def test_times_of_cells(value, ms):
    assert DB.execute(QUERY, (value,)).fetchone() == (ms,)


@given(values, st.integers(1, 2**45))
@example("2026-11-24T23:00:00-11:30", 1_795_600_000_000)
@example(-0.5, 1)
def test_fast_look_misses_no_earlier_time(value, bound_ms):
    found = DB.execute(QUERY, (value,)).fetchone()[0]
    if found is not None and found < bound_ms:
        assert maybe_before(value, bound_ms)
