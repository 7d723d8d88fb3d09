"""The loop of `top`: get a picture, lay it out, draw what changed, wait for a key. At most two frames a second without keys."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console

from mycomesh.mesh.node.progress_bar import shows_unicode
from mycomesh.tools.top.layout import Layout
from mycomesh.tools.top.screens import View, draw, on_key, visible_nodes
from mycomesh.tools.top.terminal import open_terminal

if TYPE_CHECKING:
    from rich.text import Text

    from mycomesh.tools.top.model import Picture
    from mycomesh.tools.top.sources import Source

__all__ = ["frame", "once", "run"]

POLL_S = 0.5


def run(source: Source) -> None:
    """Show the source's pictures until the user quits."""
    layout, view, last = Layout(), View(unicode=_unicode()), (0, "")
    with open_terminal() as terminal:
        picture, polled_s, stepped = source.picture(paused=False), time.monotonic(), 0
        positions = _positions_of(layout, picture)
        while not view.quit:
            generation, size = terminal.generation, shutil.get_terminal_size()
            drawn = frame(draw(picture, view, positions, size.columns, size.lines), size.columns)
            if (generation, drawn) != last:
                terminal.show(("\x1b[2J" if generation != last[0] else "") + drawn)
                last = generation, drawn
            for key in terminal.keys(max(0.0, polled_s + POLL_S - time.monotonic())):
                view = on_key(view, key, len(visible_nodes(picture, view)))
            if view.steps != stepped or time.monotonic() - polled_s >= POLL_S:
                picture, polled_s = source.picture(paused=view.paused, steps=view.steps - stepped), time.monotonic()
                stepped = view.steps
                positions = _positions_of(layout, picture)


def once(source: Source) -> None:
    """Print one picture as text, for a pipe."""
    picture, layout = source.picture(paused=False), Layout()
    positions = _positions_of(layout, picture)
    while not layout.settled:
        positions = _positions_of(layout, picture)
    size = shutil.get_terminal_size()
    for line in draw(picture, View(unicode=_unicode()), positions, size.columns, size.lines)[:-1]:
        print(line.plain.rstrip())


def frame(lines: list[Text], width: int) -> str:
    """Return the lines as bytes for a terminal, as text; NO_COLOR and TERM decide about colours (no-color.org)."""
    console = Console(width=width, highlight=False, force_terminal=True, legacy_windows=False)
    with console.capture() as captured:
        for number, line in enumerate(lines):
            console.print(line, end="\x1b[K" if number == len(lines) - 1 else "\x1b[K\r\n", no_wrap=True, crop=False)
    return captured.get()


def _positions_of(layout: Layout, picture: Picture) -> dict[str, tuple[float, float]]:
    return layout.update([node.key for node in picture.nodes], [(edge.first, edge.second) for edge in picture.edges])


def _unicode() -> bool:
    return shows_unicode(sys.stdout.encoding, os.environ) and os.environ.get("TERM") != "linux"
