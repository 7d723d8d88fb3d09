"""Plots as SVG text: lines over time, distributions, bars, and a ring of nodes with their links.

Colours are classes of the page's style sheet (`c0`..`c7`), so one drawing serves light and dark mode.

Invariants: a plot needs no network, script or font of its own; every text is escaped.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from math import ceil, cos, floor, log10, pi, sin
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["COLOURS", "Band", "Line", "bars", "lines", "ring", "ticks"]

COLOURS = 8  # classes c0..c7 of the page's style sheet
WIDTH, HEIGHT = 760, 270
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 44
BAR_HEIGHT, BAR_LABEL = 26, 190
RING = 230
# On a narrow page a plot scrolls in a frame of its own: scaled down, its numbers would be too small to read.
_WIDE, _CLOSE = '<div class="plot" tabindex="0">', "</svg></div>"


@dataclass(frozen=True, slots=True)
class Line:
    """One series: (x, y) ascending in x. `steps` keeps each value until the next; `fill` shades the area below."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    steps: bool = False
    fill: bool = False


@dataclass(frozen=True, slots=True)
class Band:
    """A shaded span of the x axis with a name."""

    name: str
    start: float
    end: float


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Return round values from `low` to `high`, 1, 2 or 5 times a power of ten apart; one value if the span is empty."""
    if high <= low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, floor(high / step + 1e-9) + 1)]


def lines(
    series: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    y_max: float | None = None,
    log_x: bool = False,
    bands: Sequence[Band] = (),
) -> str:
    """Return a plot of one or more series. The x axis begins at the least x, the y axis at zero.

    Args:
        series: the series, later ones on top; empty ones are left out.
        title: the title for screen readers.
        x_label: the label of the x axis, with its unit.
        y_label: the label of the y axis, with its unit.
        y_max: the upper end of the y axis, None for the greatest value.
        log_x: make the x axis logarithmic; every x must be above zero.
        bands: shaded spans behind the lines.
    """
    drawn = [line for line in series if line.points]
    if not drawn:
        return '<p class="none">nothing was measured</p>'
    x_low = min(line.points[0][0] for line in drawn)
    x_high = max(line.points[-1][0] for line in drawn)
    top = max(y_max or 0.0, *(y for line in drawn for _, y in line.points)) or 1.0
    steps = ticks(0, top, 4)
    if steps[-1] < top * (1 - 1e-9):
        top = steps[-1] + steps[1]
    axes = _Axes(x_low, x_high if x_high > x_low else x_low + 1, top, log_x)
    parts = [_WIDE, _open(WIDTH, HEIGHT, title)]
    for band in bands:
        left, right = axes.x(max(band.start, x_low)), axes.x(min(band.end, axes.x_high))
        if right > left:
            parts.append(
                f'<rect class="band" x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" '
                f'height="{HEIGHT - TOP - BOTTOM}"/>'
                f'<text class="bandname" x="{right - 4:.1f}" y="{TOP + 13}">{escape(band.name)}</text>'
            )
    parts += axes.grid(x_label, y_label)
    for line in drawn:
        path = _path(line, axes)
        if line.fill:
            base = axes.y(0)
            area = f"{path} L{axes.x(line.points[-1][0]):.1f},{base:.1f} L{axes.x(line.points[0][0]):.1f},{base:.1f}Z"
            parts.append(f'<path class="area c{line.colour}" d="{area}"/>')
        parts.append(f'<path class="line c{line.colour}" d="{path}"/>')
    return "".join([*parts, _CLOSE, _legend([(line.name, line.colour) for line in drawn])])


def bars(rows: Sequence[tuple[str, float, str]], *, title: str) -> str:
    """Return horizontal bars: (name, length, text at the end), in the given order."""
    if not rows:
        return '<p class="none">nothing was measured</p>'
    longest = max(length for _, length, _ in rows) or 1.0
    room = WIDTH - BAR_LABEL - 150
    parts = [_WIDE, _open(WIDTH, BAR_HEIGHT * len(rows) + 6, title)]
    for number, (name, length, text) in enumerate(rows):
        y = number * BAR_HEIGHT + 4
        width = max(1.0, room * length / longest)
        parts.append(
            f'<text class="barname" x="{BAR_LABEL - 8}" y="{y + 14}">{escape(name)}</text>'
            f'<rect class="bar c{number % COLOURS}" x="{BAR_LABEL}" y="{y + 2}" width="{width:.1f}" height="16" rx="2"/>'
            f'<text class="value" x="{BAR_LABEL + width + 6:.1f}" y="{y + 14}">{escape(text)}</text>'
        )
    return "".join([*parts, _CLOSE])


def ring(nodes: Sequence[tuple[str, int | None]], links: Sequence[tuple[int, int]], *, title: str) -> str:
    """Return nodes on a circle, each (name, colour or None if the node is down), and the links between them."""
    middle, radius = RING / 2, RING / 2 - 26
    dot = max(2.5, min(8.0, 300 / max(1, len(nodes))))
    positions = [
        (
            middle + radius * sin(2 * pi * number / len(nodes)),
            middle - radius * cos(2 * pi * number / len(nodes)),
        )
        for number in range(len(nodes))
    ]
    parts = [_open(RING, RING, title)]
    for one, other in links:
        (x1, y1), (x2, y2) = positions[one], positions[other]
        parts.append(f'<line class="link" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')
    for number, (name, colour) in enumerate(nodes):
        x, y = positions[number]
        kind = "down" if colour is None else f"dot c{colour % COLOURS}"
        state = "down" if colour is None else "up"
        parts.append(
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{dot:.1f}">'
            f"<title>{escape(name)}: {state}</title></circle>"
        )
        if len(nodes) <= 24:
            out = radius + 15
            x, y = (
                middle + out * sin(2 * pi * number / len(nodes)),
                middle - out * cos(2 * pi * number / len(nodes)) + 4,
            )
            parts.append(f'<text class="nodename" x="{x:.1f}" y="{y:.1f}">{number}</text>')
    return "".join([*parts, "</svg>"])


@dataclass(frozen=True, slots=True)
class _Axes:
    """The scales of a plot: from values to coordinates."""

    x_low: float
    x_high: float
    y_high: float
    log_x: bool

    def x(self, value: float) -> float:
        low, high = self.x_low, self.x_high
        if self.log_x:
            low, high, value = log10(low), log10(high), log10(value)
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def x_ticks(self) -> list[float]:
        """Return the values at which the x axis has numbers."""
        if not self.log_x:
            return ticks(self.x_low, self.x_high, 8)
        powers = range(floor(log10(self.x_low)), ceil(log10(self.x_high)) + 1)
        values = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
        return [value for value in values if self.x_low <= value <= self.x_high]

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - value / self.y_high * (HEIGHT - TOP - BOTTOM)

    def grid(self, x_label: str, y_label: str) -> list[str]:
        """Return the axes with ticks, numbers and labels."""
        parts = []
        for value in ticks(0, self.y_high, 4):
            y = self.y(value)
            parts.append(
                f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>'
                f'<text class="ytick" x="{LEFT - 6}" y="{y + 4:.1f}">{_number(value)}</text>'
            )
        for value in self.x_ticks():
            x = self.x(value)
            parts.append(
                f'<line class="axis" x1="{x:.1f}" y1="{HEIGHT - BOTTOM}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM + 4}"/>'
                f'<text class="xtick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}">{_number(value)}</text>'
            )
        middle = (TOP + HEIGHT - BOTTOM) / 2
        parts += [
            f'<line class="axis" x1="{LEFT}" y1="{HEIGHT - BOTTOM}" x2="{WIDTH - RIGHT}" y2="{HEIGHT - BOTTOM}"/>',
            f'<text class="xlabel" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}">{escape(x_label)}</text>',
            f'<text class="ylabel" transform="translate(14,{middle}) rotate(-90)">{escape(y_label)}</text>',
        ]
        return parts


def _open(width: int, height: int, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>'
    )


def _path(line: Line, axes: _Axes) -> str:
    parts = []
    for number, (x, y) in enumerate(line.points):
        point = f"{axes.x(x):.1f},{axes.y(y):.1f}"
        if number and line.steps:
            parts.append(f"H{axes.x(x):.1f}")
        parts.append(f"{'L' if number else 'M'}{point}")
    return "".join(parts)


def _legend(entries: Sequence[tuple[str, int]]) -> str:
    keys = "".join(f'<span><i class="key c{colour}"></i>{escape(name)}</span>' for name, colour in entries)
    return f'<p class="legend">{keys}</p>'


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"
