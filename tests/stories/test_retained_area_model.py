"""The rules of retention in tables with areas hold in the model (`retained_area_model`), and each is needed."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.stories.retained_area_model import KINDS, NODES, UNITS, Rules, run, run_seed
from tests.sync.scale import SCALE, examples

# The first seed whose random history ends wrong without a rule.
FOUND_BY = {
    "horizon_in_digest": 8,
    "joined_row_decides": 1,
    "refused_is_covered": 211,
    "cut_is_no_delete": 34,
    "updates_count_from_their_stamp": 2,
    "parts_count_by_their_time": 574,
    "release_joins_parts": 34,
    "pin_needs_a_witness": 8,
    "pin_refuses_what_others_have": 37,
}
HIDES = {"pin_refuses_what_others_have", "witness_keeps"}  # without these rules nothing is lost, and rows are not shown
# Nodes 0 and 1 keep area 1, and node 0 has a row of node 1 that is older than a pin and younger than the horizon.
BEGIN = [
    *(("keep", number, 0, 1, 2 if number < 2 else 0) for number in range(NODES)),
    ("insert", 1, 0, 1, 33),
    ("round", 1, 0, 1, 0),
    ("pin", 0, 0, 1, 0),
]
RELEASED = [("keep", 1, 0, 1, 0), ("release", 1, 0, 1, 0)]
HISTORIES = {
    "pin_vouches_for_less": [("compare", 0, 1, 1, 0), ("cut", 0, 0, 1, 0), ("unpin", 0, 0, 1, 0), *RELEASED],
    "pinned_answer_for_nothing": [("compare", 0, 1, 1, 0), *RELEASED, ("cut", 0, 0, 1, 0)],
    "witness_keeps": [("keep", 1, 0, 1, 0), ("compare", 0, 1, 1, 0), ("cut", 0, 0, 1, 0)],
    "witness_has_no_pin": [
        ("pin", 1, 0, 1, 0),
        ("compare", 0, 1, 1, 0),
        ("cut", 0, 0, 1, 0),
        ("cut", 1, 0, 1, 0),
    ],
}

steps = st.tuples(
    st.sampled_from(sorted(KINDS)),
    st.integers(0, NODES - 1),
    st.integers(0, NODES - 1),
    st.sampled_from(UNITS),
    st.integers(0, 63),
)


@examples(100)
@given(st.lists(steps, max_size=80), st.booleans())
def test_nodes_agree_on_rows_above_the_horizon(history, by):
    wrong, _ = run(history, by=by)
    assert wrong == ""


def test_random_histories_cut_release_and_pin():
    done: dict[str, int] = {}
    for seed in range(round(60 * SCALE)):
        wrong, world = run_seed(seed)
        assert wrong == "", f"seed {seed}"
        for what, number in world.counts.items():
            done[what] = done.get(what, 0) + number
    assert min(done["cut"], done["released"], done["lacked"]) > 0


@pytest.mark.parametrize("rule", [rule.name for rule in fields(Rules)])
def test_each_rule_is_needed(rule):
    broken, strict = replace(Rules(), **{rule: False}), rule in HIDES
    if rule in HISTORIES:
        steps = [*BEGIN, *HISTORIES[rule]]
        assert (run(steps, strict=strict)[0] == "", run(steps, broken, strict=strict)[0] == "") == (True, False)
    else:
        seed = FOUND_BY[rule]
        assert (run_seed(seed, strict=strict)[0] == "", run_seed(seed, broken, strict=strict)[0] == "") == (True, False)
