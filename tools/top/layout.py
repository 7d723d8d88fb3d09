"""Where nodes stand on the map: an incremental force layout (Fruchterman and Reingold 1991).

Owns positions in the unit square. What always holds: the same keys and links in the same order give the same places;
nothing moves while nothing changes, and a change moves things little. It must not know names, colours or the screen.
"""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Layout"]

PAIRS_FIRST = 800_000  # of nodes, looked at for the first picture: some hundred ms at 200 nodes
PAIRS_STEP = 45_000  # at each later one: about 30 ms
HEAT_FIRST = 0.2
HEAT_CHANGE = 0.06  # how far one step may move a node after a change; it cools from there
HEAT_MIN = 0.004
COOLING = 0.88
GAP = 0.25  # between islands, of the width
ISLANDS_BOTTOM = 0.85  # below it, in a row, who has no link at all
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
        """Return the places, stretched over the unit square; each of several islands over a strip of its own."""
        islands = [island for island in self._islands() if len(island) > 1]
        if len(islands) < 2:
            return _stretched(self._places, (0.0, 1.0), (0.0, 1.0))
        alone = [key for key in self._places if not any(key in island for island in islands)]
        bottom = ISLANDS_BOTTOM if alone else 1.0
        # The larger an island the wider its strip; the forces decide who is left of whom.
        shares = [math.sqrt(len(island)) for island in islands]
        whole = sum(shares) + GAP * (len(islands) - 1) * sum(shares)
        fitted: dict[str, tuple[float, float]] = {}
        left = 0.0
        for island, share in sorted(zip(islands, shares, strict=True), key=lambda pair: self._middle(pair[0])):
            fitted |= _stretched(
                {key: self._places[key] for key in island}, (left, left + share / whole), (0.0, bottom)
            )
            left += (share + GAP * sum(shares)) / whole
        for at, key in enumerate(alone):
            fitted[key] = ((at + 0.5) / len(alone), 1.0)
        return {key: fitted[key] for key in self._places}

    def _islands(self) -> list[dict[str, None]]:
        """Return the keys of each part of the graph that no link connects with another."""
        beside: dict[str, list[str]] = {key: [] for key in self._places}
        for one, two in self._links:
            beside[one].append(two)
            beside[two].append(one)
        found: list[dict[str, None]] = []
        seen: dict[str, None] = {}
        for key in self._places:
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
        return sum(self._places[key][0] for key in keys) / len(keys)


def _stretched(
    places: Mapping[str, Sequence[float]], across: tuple[float, float], down: tuple[float, float]
) -> dict[str, tuple[float, float]]:
    """Return places that fill a rectangle."""
    if not places:
        return {}
    xs, ys = zip(*places.values(), strict=True)
    return {
        key: (
            across[0] + (across[1] - across[0]) * _scaled(x, min(xs), max(xs)),
            down[0] + (down[1] - down[0]) * _scaled(y, min(ys), max(ys)),
        )
        for key, (x, y) in places.items()
    }


def _scaled(value: float, low: float, high: float) -> float:
    return 0.5 if high - low < 1e-6 else (value - low) / (high - low)
