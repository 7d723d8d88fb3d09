"""The layout: the same for the same graph, still while nothing changes, calm when something does, islands apart."""

from __future__ import annotations

import itertools
import math

from mycomesh.tools.top.layout import Layout


def settled(layout, keys, links):
    places = layout.place(keys, links)
    while not layout.settled:
        places = layout.place(keys, links)
    return places


KEYS = [f"n{number}" for number in range(8)]
FULL = list(itertools.combinations(KEYS, 2))


def test_the_same_graph_gets_the_same_places():
    assert settled(Layout(), KEYS, FULL) == settled(Layout(), KEYS, FULL)


def test_nothing_moves_while_nothing_changes():
    layout = Layout()
    assert settled(layout, KEYS, FULL) == layout.place(KEYS, FULL)


def test_every_place_is_in_the_unit_square_and_no_two_are_one():
    places = settled(Layout(), KEYS, FULL)
    assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y in places.values())
    assert all(math.dist(places[a], places[b]) > 0.05 for a, b in FULL)


def test_a_node_more_leaves_the_others_about_where_they_were():
    layout = Layout()
    before = settled(layout, KEYS, FULL)
    after = layout.place([*KEYS, "late"], [*FULL, ("late", "n0")])
    assert max(math.dist(before[key], after[key]) for key in KEYS) < 0.5


def test_islands_stand_apart():
    left, right = KEYS[:4], KEYS[4:]
    links = [*itertools.combinations(left, 2), *itertools.combinations(right, 2)]
    places = settled(Layout(), KEYS, links)
    spans = sorted((min(places[key][0] for key in part), max(places[key][0] for key in part)) for part in (left, right))
    assert spans[1][0] - spans[0][1] > 0.15


def test_islands_fill_the_width_and_who_is_alone_stands_below():
    left, right = KEYS[:5], KEYS[5:7]
    links = [*itertools.combinations(left, 2), *itertools.combinations(right, 2)]
    places = settled(Layout(), KEYS, links)
    spans = sorted((min(places[key][0] for key in part), max(places[key][0] for key in part)) for part in (left, right))
    assert spans[0][0] == 0
    assert abs(spans[1][1] - 1) < 1e-9
    assert spans[1][0] - spans[0][1] > 0.05
    assert places[KEYS[7]][1] == 1
    assert max(places[key][1] for key in [*left, *right]) < 0.9


def test_no_node_and_one_node_are_no_special_case():
    assert Layout().place([], []) == {}
    assert Layout().place(["only"], []) == {"only": (0.5, 0.5)}
