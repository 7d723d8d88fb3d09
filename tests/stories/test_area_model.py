"""The rules of areas hold in the model (`area_model`) for random histories, and each is needed."""

from __future__ import annotations

import random
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.stories.area_model import AREAS, KEYS, KINDS, NODES, Rules, first_wrong, random_steps, run
from tests.sync.scale import SCALE, examples

# The first seed of `random_steps` whose history ends wrong without a rule.
FOUND_BY = {
    "release_covers_nothing": 14,
    "release_keeps_tops": 14,
    "release_asks": 1107,
    "acknowledged_by_keepers": 3,
    "acknowledged_if_covered": 20,
    "forwarded_is_not_covered": 0,
    "area_names_the_row": 3,
    "move_deletes": 7,
    "collection_waits_for_all": 154,
    "rounds_end_by_unit": 0,
    "audits_below_watermarks": 17389,
}

steps = st.tuples(
    st.sampled_from(sorted(KINDS)),
    st.integers(0, NODES - 1),
    st.integers(0, NODES - 1),
    st.sampled_from(AREAS),
    st.sampled_from(KEYS),
    st.integers(0, 63),
)


@examples(150)
@given(st.lists(steps, max_size=80))
def test_nodes_agree_on_every_area_they_share(history):
    wrong, _ = run(history)
    assert wrong == ""


def test_random_histories_release_collect_and_restore():
    done: dict[str, int] = {}
    for seed in range(round(100 * SCALE)):
        wrong, world = run(random_steps(random.Random(seed)))
        assert wrong == "", f"seed {seed}"
        for what, number in world.counts.items():
            done[what] = done.get(what, 0) + number
    assert min(done["released"], done["collected"], done["restored"]) > 0


@pytest.mark.parametrize("rule", [rule.name for rule in fields(Rules)])
def test_each_rule_of_areas_is_needed(rule):
    broken = replace(Rules(), **{rule: False})
    seed = FOUND_BY[rule]
    assert first_wrong(broken, range(seed, seed + 1)) == seed
    assert first_wrong(Rules(), range(seed, seed + 1)) is None
