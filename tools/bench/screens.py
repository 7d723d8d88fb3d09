"""Measurements of the terminal map: what it costs to place and to draw a mesh of 200 nodes after each change.

Owns the mesh that is drawn. What always holds: it is the same in each run, and each figure follows a change of its links. It
must not know a terminal.
"""

from __future__ import annotations

import random
import statistics
import time

from mycomesh.tools.bench.figure import Figure, measured
from mycomesh.tools.top.layout import Layout
from mycomesh.tools.top.loop import frame
from mycomesh.tools.top.model import Edge, Node, Picture
from mycomesh.tools.top.screens import View, draw

__all__ = ["screens"]

NODES = 200
LINKS = 3  # that each node begins
CHANGES = 30
WIDTH, HEIGHT = 200, 60


def screens(quick: bool) -> dict[str, Figure]:
    """Return the CPU of placing and of drawing after one link has changed, medians; the first placing is not counted."""
    rng = random.Random(7)
    keys = [f"node-{number}" for number in range(NODES)]
    pairs = [sorted((key, rng.choice(keys))) for key in keys for _ in range(LINKS)]
    links = sorted({(first, second) for first, second in pairs if first != second})
    nodes = tuple(Node(key, key, "linked") for key in keys)
    layout = Layout()
    layout.update(keys, links)
    placing, drawing = [], []
    for _ in range(CHANGES // 10 if quick else CHANGES):
        links.pop(rng.randrange(len(links)))
        started = time.process_time()
        positions = layout.update(keys, links)
        placed = time.process_time()
        picture = Picture("bench", nodes, tuple(Edge(*ends) for ends in links))
        frame(draw(picture, View(), positions, WIDTH, HEIGHT), WIDTH)
        placing.append(placed - started)
        drawing.append(time.process_time() - placed)
    return measured(layout_ms=statistics.median(placing) * 1000, redraw_ms=statistics.median(drawing) * 1000)
