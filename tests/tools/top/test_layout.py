"""The layout: the same for the same graph, still while nothing changes, calm when something does, islands apart."""

from __future__ import annotations

import itertools
import math

from mycomesh.tools.top.layout import Layout


def settled(layout, keys, links):
    positions = layout.update(keys, links)
    while not layout.settled:
        positions = layout.update(keys, links)
    return positions


KEYS = [f"n{number}" for number in range(8)]
FULL = list(itertools.combinations(KEYS, 2))


def test_the_same_graph_gets_the_same_places():
    assert settled(Layout(), KEYS, FULL) == settled(Layout(), KEYS, FULL)


def test_nothing_moves_while_nothing_changes():
    layout = Layout()
    assert settled(layout, KEYS, FULL) == layout.update(KEYS, FULL)


def test_all_positions_are_in_the_unit_square_and_distinct():
    positions = settled(Layout(), KEYS, FULL)
    assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y in positions.values())
    assert all(math.dist(positions[a], positions[b]) > 0.05 for a, b in FULL)


def test_node_more_leaves_others_about_where_they_were():
    layout = Layout()
    before = settled(layout, KEYS, FULL)
    after = layout.update([*KEYS, "late"], [*FULL, ("late", "n0")])
    assert max(math.dist(before[key], after[key]) for key in KEYS) < 0.5


def test_islands_stand_apart():
    left, right = KEYS[:4], KEYS[4:]
    links = [*itertools.combinations(left, 2), *itertools.combinations(right, 2)]
    positions = settled(Layout(), KEYS, links)
    spans = sorted(
        (min(positions[key][0] for key in part), max(positions[key][0] for key in part)) for part in (left, right)
    )
    assert spans[1][0] - spans[0][1] > 0.15


def test_islands_fill_the_width_with_single_nodes_below():
    left, right = KEYS[:5], KEYS[5:7]
    links = [*itertools.combinations(left, 2), *itertools.combinations(right, 2)]
    positions = settled(Layout(), KEYS, links)
    spans = sorted(
        (min(positions[key][0] for key in part), max(positions[key][0] for key in part)) for part in (left, right)
    )
    assert spans[0][0] == 0
    assert abs(spans[1][1] - 1) < 1e-9
    assert spans[1][0] - spans[0][1] > 0.05
    assert positions[KEYS[7]][1] == 1
    assert max(positions[key][1] for key in [*left, *right]) < 0.9


def test_no_node_and_one_node_are_no_special_case():
    assert Layout().update([], []) == {}
    assert Layout().update(["only"], []) == {"only": (0.5, 0.5)}
