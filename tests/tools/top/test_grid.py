"""The grid places every node once, by island, as long as there is room, and says how many it leaves out."""

from __future__ import annotations

import pytest

from mycomesh.tools.top.grid import cells, is_crowded


@pytest.mark.parametrize(
    ("nodes", "width", "height", "crowded"),
    [
        (6, 40, 17, False),
        (20, 40, 17, False),
        (24, 40, 17, True),
        (24, 60, 26, False),
        (60, 60, 26, True),
        (60, 100, 47, False),
    ],
)
def test_a_map_gives_way_where_it_is_small(nodes, width, height, crowded):
    assert is_crowded(nodes, width, height) is crowded


@pytest.mark.parametrize("size", [(40, 17), (20, 5), (200, 60), (3, 30)])
@pytest.mark.parametrize("counts", [(24,), (12, 12), (40, 15, 5), (1_000,)])
def test_every_node_has_its_own_place_or_is_counted(counts, size):
    width, height = size
    islands = [[f"{number}.{at}" for at in range(count)] for number, count in enumerate(counts)]
    placed, left = cells(islands, width, height)
    nodes = [(x, y, key) for x, y, key, _ in placed if key]
    assert len(nodes) + left == sum(counts)
    assert len({(x, y) for x, y, _ in nodes}) == len(nodes)
    assert len({key for _, _, key in nodes}) == len(nodes)
    assert all(0 <= x < width and 0 <= y < height for x, y, _ in nodes)
    for number in range(len(counts)):
        rows = [y for _, y, key in nodes if key.startswith(f"{number}.")]
        others = [y for _, y, key in nodes if not key.startswith(f"{number}.")]
        assert not set(rows) & set(others)


def test_names_are_as_long_as_all_nodes_allow():
    islands = [[str(number) for number in range(60)]]
    assert {name for _, _, key, name in cells(islands, 100, 40)[0] if key} == {16}
    assert {name for _, _, key, name in cells(islands, 40, 13)[0] if key} == {4}
    assert cells(islands, 40, 3)[1] == 20
