"""Bytes and lag over time, one sparkline a line: of all nodes first, then of single ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import set_cell_size
from rich.text import Text

from mycomesh.mesh.node.journal import printable
from mycomesh.tools.render import byte_count
from mycomesh.tools.top.sparkline import sparkline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mycomesh.tools.top.model import Node, Picture

__all__ = ["ROWS_MIN", "lines_of_node", "traffic"]

ROWS_MIN = 3  # the figures of all nodes, and the heading above
LABEL = 12
FIGURE = 14


def traffic(picture: Picture, nodes: Sequence[Node], width: int, height: int, *, unicode: bool) -> list[Text]:
    """Return at most `height` lines: bytes and lag of all, then of the nodes that moved bytes or lag, as far as they fit."""
    if not picture.traffic and not picture.lags:
        return []
    lines = [_rate("all bytes", picture.traffic, width, unicode=unicode)]
    lines.append(_lag("all lag", picture.lags, picture.lag_unit, width, unicode=unicode))
    for node in nodes:
        name = printable(node.name)
        if any(node.traffic):
            lines.append(_rate(name, node.traffic, width, unicode=unicode))
        if any(node.lags):
            lines.append(_lag(f"{name} lag", node.lags, "rows", width, unicode=unicode))
    return lines[:height]


def lines_of_node(node: Node, width: int, *, unicode: bool) -> list[Text]:
    """Return the lines of one node."""
    lines = [_rate("bytes", node.traffic, width, unicode=unicode)] if node.traffic else []
    return lines + ([_lag("lag", node.lags, "rows", width, unicode=unicode)] if node.lags else [])


def _rate(label: str, values: Sequence[int], width: int, *, unicode: bool) -> Text:
    return _line(label, values, f"{byte_count(values[-1] if values else 0)}/s", "cyan", width, unicode=unicode)


def _lag(label: str, values: Sequence[int], unit: str, width: int, *, unicode: bool) -> Text:
    last = values[-1] if values else 0
    style = "yellow" if last else "dim"
    return _line(label, values, f"{last:,} {unit}", style, width, unicode=unicode)


def _line(label: str, values: Sequence[int], figure: str, style: str, width: int, *, unicode: bool) -> Text:
    room = width - LABEL - FIGURE
    line = Text(set_cell_size(label, LABEL - 1) + " ", "dim")
    if room > 0:
        line.append(sparkline(values, room, unicode=unicode), style)
    return line.append(figure.rjust(FIGURE))
