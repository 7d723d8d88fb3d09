"""The sets of members that want the same topics, and what it costs to find them."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from mycomesh.mesh.overlay import interests
from mycomesh.mesh.overlay.interests import keeper_sets, wishes_for

GROUPS, TOPICS = ("g", "h", "i"), ("1", "2", "3", "4")


def stated_by_some(rng, count):
    return {
        bytes([number]): {
            group: frozenset(rng.sample(TOPICS, rng.randrange(4))) for group in rng.sample(GROUPS, rng.randrange(3))
        }
        for number in range(count)
    }


@pytest.mark.parametrize("seed", range(40))
def test_keepers_are_those_that_want_a_topic(seed):
    rng = random.Random(seed)
    wishes = stated_by_some(rng, 7)
    own = wishes[b"\x00"]
    named = {(group, topic) for each in wishes.values() for group, topics in each.items() for topic in topics}
    groups = {group for each in wishes.values() for group in each}
    topics = [*named, *((group, "of nobody") for group in groups)]  # what only members with all of a group want
    sets = {
        frozenset(node for node, each in wishes.items() if wishes_for(each, topic))
        for topic in topics
        if wishes_for(own, topic)
    }
    assert set(keeper_sets(own, wishes)) == {each for each in sets if len(each) > 1}


def test_topics_without_number_make_few_sets(monkeypatch):
    """A member may name thousands of topics and of groups, and state them again each second."""
    made = []

    class Counted(frozenset):
        def __new__(cls, *values):
            made.append(values)
            return frozenset(*values)

    monkeypatch.setattr(interests, "frozenset", Counted, raising=False)
    honest = {bytes([number]): {"telemetry": frozenset([str(number)])} for number in range(50)}
    topics = {"x": frozenset(map(str, range(3_000)))}
    groups = {f"group {number}": frozenset(["1"]) for number in range(1_000)}
    for lies in (topics, groups, topics | groups):
        made.clear()
        found = keeper_sets(honest[b"\x00"], honest | {b"liar": lies})
        assert len(made) < 10
        assert all(one != two for one, two in combinations(found, 2))
