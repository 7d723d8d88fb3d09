"""Where nodes stand on the map: an incremental force layout (Fruchterman and Reingold 1991).

Owns positions in the unit square. What always holds: the same keys and links in the same order give the same places;
nothing moves while nothing changes, and a change moves things little. It must not know names, colours or the screen.
"""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Layout"]

PAIRS_FIRST = 800_000  # of nodes, looked at for the first picture: some hundred ms at 200 nodes
PAIRS_STEP = 45_000  # at each later one: about 30 ms
HEAT_FIRST = 0.2
HEAT_CHANGE = 0.06  # how far one step may move a node after a change; it cools from there
HEAT_MIN = 0.004
COOLING = 0.88
GRAVITY = 0.35  # towards the middle, so that islands stay in sight


class Layout:
    """The places of nodes, kept from picture to picture."""

    def __init__(self) -> None:
        self._places: dict[str, list[float]] = {}
        self._links: tuple[tuple[str, str], ...] = ()
        self._heat = 0.0

    @property
    def settled(self) -> bool:
        """Whether another `place` of the same graph would change nothing."""
        return self._heat < HEAT_MIN

    def place(self, keys: Sequence[str], links: Sequence[tuple[str, str]]) -> dict[str, tuple[float, float]]:
        """Return (x, y) in 0..1 for each key; a link's ends are keys."""
        first = not self._places
        if list(self._places) != list(keys) or self._links != tuple(links):
            self._places = {key: self._places.get(key) or self._start(key, links) for key in keys}
            self._links = tuple(links)
            self._heat = HEAT_FIRST if first else max(self._heat, HEAT_CHANGE)
        pairs = max(1, len(keys) * (len(keys) - 1) // 2)
        steps = (PAIRS_FIRST if first else PAIRS_STEP) // pairs
        for _ in range(min(60 if first else 6, max(1, steps))):
            if self.settled:
                break
            self._step()
            self._heat *= COOLING
        return self._fitted()

    def _start(self, key: str, links: Sequence[tuple[str, str]]) -> list[float]:
        """Return a place that only the key and its placed neighbours decide."""
        draw = blake2b(key.encode(), digest_size=8).digest()
        x, y = (int.from_bytes(half, "big") / 2**32 for half in (draw[:4], draw[4:]))
        near = [self._places[other] for ends in links if key in ends for other in ends if other in self._places]
        if near:
            return [near[0][0] + (x - 0.5) / 10, near[0][1] + (y - 0.5) / 10]
        return [x, y]

    def _step(self) -> None:
        places = list(self._places.values())
        number = {key: at for at, key in enumerate(self._places)}
        ideal = 0.75 / math.sqrt(max(1, len(places)))
        square = ideal * ideal
        push_x, push_y = [0.0] * len(places), [0.0] * len(places)
        for at, (x, y) in enumerate(places):
            sum_x = sum_y = 0.0
            for other in range(at):
                there = places[other]
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
            dx, dy = places[a][0] - places[b][0], places[a][1] - places[b][1]
            pull = math.hypot(dx, dy) / ideal
            push_x[a] -= dx * pull
            push_y[a] -= dy * pull
            push_x[b] += dx * pull
            push_y[b] += dy * pull
        for place, dx, dy in zip(places, push_x, push_y, strict=True):
            share = self._heat / max(self._heat, math.hypot(dx, dy))
            place[0] += dx * share
            place[1] += dy * share

    def _fitted(self) -> dict[str, tuple[float, float]]:
        if not self._places:
            return {}
        xs, ys = zip(*self._places.values(), strict=True)
        return {
            key: (_scaled(x, min(xs), max(xs)), _scaled(y, min(ys), max(ys))) for key, (x, y) in self._places.items()
        }


def _scaled(value: float, low: float, high: float) -> float:
    return 0.5 if high - low < 1e-6 else (value - low) / (high - low)
