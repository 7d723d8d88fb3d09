"""Sums over areas: kept as areas change, and unequal exactly below what differs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mycomesh.sync.storage.area_tree import BRANCHES, NODES_MAX, ROOT, AreaTree, branch_of, is_twig, parent_of, twig_of
from tests.sync.scale import examples

pairs = st.tuples(st.binary(min_size=8, max_size=8), st.binary(min_size=16, max_size=16))
names = st.text(min_size=1, max_size=4)


@examples(200)
@given(st.lists(st.tuples(names, st.none() | pairs), max_size=40))
def test_sums_are_those_of_a_tree_made_at_once(steps):
    tree = AreaTree()
    for area, pair in steps:
        tree.put(area, pair)
    made = AreaTree({area: pair for area, pair in dict(steps).items() if pair is not None})
    assert tree.pairs == made.pairs
    for node in range(NODES_MAX):
        assert tree.sum(node) == made.sum(node)
    assert list(tree.areas(twig_of("a"))) == list(made.areas(twig_of("a")))


@examples(200)
@given(st.dictionaries(names, pairs, max_size=30), names, pairs)
def test_one_area_changes_its_way_up_alone(areas, area, pair):
    before, after = AreaTree(areas), AreaTree(areas)
    after.put(area, pair)
    way = {ROOT, branch_of(area), twig_of(area)}
    changed = {node for node in range(NODES_MAX) if before.sum(node) != after.sum(node)}
    assert changed == (set() if areas.get(area) == pair else way)


def test_nodes_are_numbered_by_level():
    for area in map(str, range(500)):
        assert parent_of(twig_of(area)) == branch_of(area)
        assert parent_of(branch_of(area)) == ROOT == parent_of(ROOT)
        assert is_twig(twig_of(area))
        assert 1 <= branch_of(area) <= BRANCHES < twig_of(area) < NODES_MAX
    tree = AreaTree({str(number): (b"v" * 8, b"e" * 16) for number in range(500)})
    assert sum(tree.count(node) for node in tree.below(ROOT)) == 500
    assert sorted(area for node in tree.below(ROOT) for area in tree.areas(node)) == sorted(tree.pairs)
    for node in tree.below(ROOT):
        assert sorted(area for twig in tree.below(node) for area in tree.areas(twig)) == sorted(tree.areas(node))
