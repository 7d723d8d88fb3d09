"""Sparklines have the width that was asked for, and show every value above zero."""

from __future__ import annotations

import pytest

from mycomesh.tools.top.sparkline import sparkline


@pytest.mark.parametrize(
    ("values", "width", "drawn"),
    [
        ((), 4, "    "),
        ((0, 0), 4, "    "),
        ((0, 1, 1000), 4, "  ▁█"),
        ((1, 2, 4, 8), 4, "▁▂▄█"),
        ((9, 9, 1, 8), 2, "▁█"),
        ((-5, 7), 3, "  █"),
        ((1,), 0, ""),
        ((1,), -3, ""),
    ],
)
def test_the_latest_values_are_scaled_to_their_greatest(values, width, drawn):
    assert sparkline(values, width, unicode=True) == drawn


def test_without_unicode_a_sparkline_is_ascii():
    assert sparkline(range(9), 9, unicode=False) == " .:-=+*#%"
