"""The grid: one cell a node, grouped by island, in place of a map that has too little room for its nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["cells", "is_crowded"]

NODES_MIN = 20
CELLS_A_NODE = 40  # of a map on which names and links can still be read
NAME_WIDTHS = (16, 12, 8, 6, 4, 0)

Cell = tuple[int, int, str, int]  # column, row, the key of a node or "" for a heading, characters for the name


def is_crowded(nodes: int, width: int, height: int) -> bool:
    """Return whether a map of this size has too little room for so many nodes."""
    return nodes > NODES_MIN and width * height < CELLS_A_NODE * nodes


def cells(islands: Sequence[Sequence[str]], width: int, height: int) -> tuple[list[Cell], int]:
    """Place each island's keys in rows under a heading; return the cells, and how many keys had no room.

    A heading's cell has the number of the island instead of the characters for a name. Names are as long as all nodes allow.
    """
    for name in NAME_WIDTHS:
        placed, left = _placed(islands, width, height, name)
        if not left:
            return placed, 0
    return placed, left


def _placed(islands: Sequence[Sequence[str]], width: int, height: int, name: int) -> tuple[list[Cell], int]:
    step = name + 3 if name else 2
    across = max(1, (width + 1) // step)
    placed: list[Cell] = []
    row = left = 0
    for number, island in enumerate(islands, 1):
        if row < height:
            placed.append((0, row, "", number))
        row += 1
        for at, key in enumerate(island):
            line = row + at // across
            if line < height:
                placed.append((at % across * step, line, key, name))
            else:
                left += 1
        row += -(-len(island) // across)
    return placed, left
