"""Benchmarks of the terminal map: the CPU time to lay out and to draw 200 nodes after each change of a link.

The mesh and its changes are the same in every run.
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
LINKS = 3  # links that each node opens
CHANGES = 30
WIDTH, HEIGHT = 200, 60


def screens(quick: bool) -> dict[str, Figure]:
    """Return the median CPU time of layout and of drawing after one link has changed; the first layout does not count."""
    rng = random.Random(7)
    keys = [f"node-{number}" for number in range(NODES)]
    pairs = [sorted((key, rng.choice(keys))) for key in keys for _ in range(LINKS)]
    links = sorted({(first, second) for first, second in pairs if first != second})
    nodes = tuple(Node(key, key, "linked") for key in keys)
    layout = Layout()
    layout.update(keys, links)
    laying_out, drawing = [], []
    for _ in range(CHANGES // 10 if quick else CHANGES):
        links.pop(rng.randrange(len(links)))
        started = time.process_time()
        positions = layout.update(keys, links)
        laid_out = time.process_time()
        picture = Picture("bench", nodes, tuple(Edge(*ends) for ends in links))
        frame(draw(picture, View(), positions, WIDTH, HEIGHT), WIDTH)
        laying_out.append(laid_out - started)
        drawing.append(time.process_time() - laid_out)
    return measured(layout_ms=statistics.median(laying_out) * 1000, redraw_ms=statistics.median(drawing) * 1000)
