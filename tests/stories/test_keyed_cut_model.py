"""The rules of a cut with rows hold in the model (`keyed_cut_model`) for random histories, and each is needed."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.stories.keyed_cut_model import KINDS, NODES, ROWS, Rules, first_wrong, random_steps, run
from tests.sync.scale import SCALE, examples

# The first seed of `random_steps` whose history ends wrong without a rule.
FOUND_BY = {
    "tombstones_move": 0,
    "values_move": 1,
    "coverage_moves": 70,
    "old_rounds_are_refused": 99,
    "old_batches_are_refused": 309,
}

steps = st.tuples(
    st.sampled_from(sorted(KINDS)),
    st.integers(0, NODES - 1),
    st.integers(0, NODES - 1),
    st.integers(0, len(ROWS) - 1),
    st.integers(0, 63),
)


@examples(100)
@given(st.lists(steps, max_size=80))
def test_nodes_agree_on_every_area_after_the_cut(history):
    wrong, _ = run(history)
    assert wrong == ""


def test_random_histories_learn_late_collect_and_restore():
    done: dict[str, int] = {}
    for seed in range(round(60 * SCALE)):
        wrong, world = run(random_steps(random.Random(seed)))
        assert wrong == "", f"seed {seed}"
        for what, number in world.counts.items():
            done[what] = done.get(what, 0) + number
    assert min(done["under old form after the cut"], done["collected"], done["restored"], done["learned"]) > 0


@pytest.mark.parametrize("rule", FOUND_BY)
def test_each_rule_of_a_late_cut_is_needed(rule):
    broken = replace(Rules(), **{rule: False})
    seed = FOUND_BY[rule]
    assert first_wrong(broken, range(seed, seed + 1)) == seed
    assert first_wrong(Rules(), range(seed, seed + 1)) is None
