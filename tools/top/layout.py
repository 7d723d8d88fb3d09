"""An incremental force-directed layout of the map, in the unit square (Fruchterman and Reingold 1991).

Invariants (tests/tools/top/test_layout.py): the same keys and links in the same order give the same positions; no node moves
while nothing changes; a change moves nodes only a little.
"""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Layout"]

PAIRS_FIRST = 800_000  # pairs of nodes to compute for the first picture: some hundred ms at 200 nodes
PAIRS_STEP = 45_000  # for each later picture: about 30 ms
HEAT_FIRST = 0.2
HEAT_CHANGE = 0.06  # the farthest that the first step after a change may move a node; each step cools it
HEAT_MIN = 0.004
COOLING = 0.88
GAP = 0.25  # between islands, as a share of their width
ISLANDS_BOTTOM = 0.85  # nodes without any link are in a row below this
GRAVITY = 0.35  # towards the middle, so that islands do not drift away


class Layout:
    """The positions of nodes, kept from picture to picture."""

    def __init__(self) -> None:
        self._positions: dict[str, list[float]] = {}
        self._links: tuple[tuple[str, str], ...] = ()
        self._heat = 0.0

    @property
    def settled(self) -> bool:
        """Whether another `update` with the same graph would change nothing."""
        return self._heat < HEAT_MIN

    def update(self, keys: Sequence[str], links: Sequence[tuple[str, str]]) -> dict[str, tuple[float, float]]:
        """Return (x, y) in 0..1 for each key; a link's ends are keys."""
        first = not self._positions
        if list(self._positions) != list(keys) or self._links != tuple(links):
            self._positions = {key: self._positions.get(key) or self._start(key, links) for key in keys}
            self._links = tuple(links)
            self._heat = HEAT_FIRST if first else max(self._heat, HEAT_CHANGE)
        pairs = max(1, len(keys) * (len(keys) - 1) // 2)
        steps = (PAIRS_FIRST if first else PAIRS_STEP) // pairs
        for _ in range(min(60 if first else 6, max(1, steps))):
            if self.settled:
                break
            self._step()
            self._heat *= COOLING
        return self._fit()

    def _start(self, key: str, links: Sequence[tuple[str, str]]) -> list[float]:
        """Return a first position, which depends only on the key and on neighbours that have positions."""
        draw = blake2b(key.encode(), digest_size=8).digest()
        x, y = (int.from_bytes(half, "big") / 2**32 for half in (draw[:4], draw[4:]))
        near = [self._positions[other] for ends in links if key in ends for other in ends if other in self._positions]
        if near:
            return [near[0][0] + (x - 0.5) / 10, near[0][1] + (y - 0.5) / 10]
        return [x, y]

    def _step(self) -> None:
        positions = list(self._positions.values())
        number = {key: at for at, key in enumerate(self._positions)}
        ideal = 0.75 / math.sqrt(max(1, len(positions)))
        square = ideal * ideal
        push_x, push_y = [0.0] * len(positions), [0.0] * len(positions)
        for at, (x, y) in enumerate(positions):
            sum_x = sum_y = 0.0
            for other in range(at):
                there = positions[other]
                dx, dy = x - there[0], y - there[1]
                force = square / (dx * dx + dy * dy + 1e-6)
                dx *= force
                dy *= force
                sum_x += dx
                sum_y += dy
                push_x[other] -= dx
                push_y[other] -= dy
            push_x[at] += sum_x + (0.5 - x) * GRAVITY
            push_y[at] += sum_y + (0.5 - y) * GRAVITY
        for one, two in self._links:
            a, b = number[one], number[two]
            dx, dy = positions[a][0] - positions[b][0], positions[a][1] - positions[b][1]
            pull = math.hypot(dx, dy) / ideal
            push_x[a] -= dx * pull
            push_y[a] -= dy * pull
            push_x[b] += dx * pull
            push_y[b] += dy * pull
        for position, dx, dy in zip(positions, push_x, push_y, strict=True):
            share = self._heat / max(self._heat, math.hypot(dx, dy))
            position[0] += dx * share
            position[1] += dy * share

    def _fit(self) -> dict[str, tuple[float, float]]:
        """Return the positions stretched over the unit square; each of several islands gets a strip of its own."""
        islands = [island for island in self._islands() if len(island) > 1]
        if len(islands) < 2:
            return _stretch(self._positions, (0.0, 1.0), (0.0, 1.0))
        alone = [key for key in self._positions if not any(key in island for island in islands)]
        bottom = ISLANDS_BOTTOM if alone else 1.0
        # A larger island gets a wider strip. The forces decide the order of the islands.
        shares = [math.sqrt(len(island)) for island in islands]
        whole = sum(shares) + GAP * (len(islands) - 1) * sum(shares)
        fitted: dict[str, tuple[float, float]] = {}
        left = 0.0
        for island, share in sorted(zip(islands, shares, strict=True), key=lambda pair: self._middle(pair[0])):
            fitted |= _stretch(
                {key: self._positions[key] for key in island}, (left, left + share / whole), (0.0, bottom)
            )
            left += (share + GAP * sum(shares)) / whole
        for at, key in enumerate(alone):
            fitted[key] = ((at + 0.5) / len(alone), 1.0)
        return {key: fitted[key] for key in self._positions}

    def _islands(self) -> list[dict[str, None]]:
        """Return the keys of each connected component."""
        beside: dict[str, list[str]] = {key: [] for key in self._positions}
        for one, two in self._links:
            beside[one].append(two)
            beside[two].append(one)
        found: list[dict[str, None]] = []
        seen: dict[str, None] = {}
        for key in self._positions:
            if key in seen:
                continue
            island, todo = {key: None}, [key]
            while todo:
                for other in beside[todo.pop()]:
                    if other not in island:
                        island[other] = None
                        todo.append(other)
            seen |= island
            found.append(island)
        return found

    def _middle(self, keys: dict[str, None]) -> float:
        return sum(self._positions[key][0] for key in keys) / len(keys)


def _stretch(
    positions: Mapping[str, Sequence[float]], across: tuple[float, float], down: tuple[float, float]
) -> dict[str, tuple[float, float]]:
    """Return the positions scaled to fill a rectangle."""
    if not positions:
        return {}
    xs, ys = zip(*positions.values(), strict=True)
    return {
        key: (
            across[0] + (across[1] - across[0]) * _scale(x, min(xs), max(xs)),
            down[0] + (down[1] - down[0]) * _scale(y, min(ys), max(ys)),
        )
        for key, (x, y) in positions.items()
    }


def _scale(value: float, low: float, high: float) -> float:
    return 0.5 if high - low < 1e-6 else (value - low) / (high - low)
