"""Keys of results: the same for the same flow, change and number, and different otherwise."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mycomesh.tools.flows.keys import dot_of, integer_key, site_of, text_key

SITE = "0123456789abcdef" * 2


def test_an_unwritten_return_has_the_same_dot():
    assert dot_of(f"a/b/{SITE}/77/update-3") == dot_of(f"a/b/{SITE}/77") == f"a/b/{SITE}/77"
    assert site_of(f"a/b/{SITE}/77/update-3") == site_of(f"a/b/{SITE}/77") == SITE


def test_keys_stay_what_they_are():
    assert text_key("low", f"drones/{SITE}/1", 1) == "43043bb4150e4da650108e498fcac24d"
    assert integer_key("low", f"drones/{SITE}/1", 1) == 1207262586270356329


@given(st.text(max_size=9), st.integers(0, 1 << 60), st.integers(1, 1_000))
def test_integer_keys_are_positive_and_differ(flow, hlc, number):
    dot = f"t/{SITE}/{hlc}"
    assert 0 <= integer_key(flow, dot, number) < 1 << 62
    assert integer_key(flow, dot, number) != integer_key(flow, dot, number + 1)
