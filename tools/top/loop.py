"""The loop of `top`: look, lay out, draw if it differs, wait for a key. At most two frames a second without keys."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console

from mycomesh.mesh.node.progress_bar import shows_unicode
from mycomesh.tools.top.layout import Layout
from mycomesh.tools.top.screens import View, draw, pressed, shown
from mycomesh.tools.top.terminal import opened

if TYPE_CHECKING:
    from rich.text import Text

    from mycomesh.tools.top.model import Picture
    from mycomesh.tools.top.sources import Source

__all__ = ["frame", "once", "run"]

LOOK_S = 0.5


def run(source: Source) -> None:
    """Show what the source gives until the person has seen enough."""
    layout, view, last = Layout(), View(unicode=_unicode()), (0, "")
    with opened() as terminal:
        picture, looked_s = source.look(paused=False), time.monotonic()
        places = _placed(layout, picture)
        while not view.quit:
            turn, size = terminal.turn, shutil.get_terminal_size()
            drawn = frame(draw(picture, view, places, size.columns, size.lines), size.columns)
            if (turn, drawn) != last:
                terminal.show(("\x1b[2J" if turn != last[0] else "") + drawn)
                last = turn, drawn
            for key in terminal.keys(max(0.0, looked_s + LOOK_S - time.monotonic())):
                view = pressed(view, key, len(shown(picture, view)))
            if time.monotonic() - looked_s >= LOOK_S:
                picture, looked_s = source.look(paused=view.paused), time.monotonic()
                places = _placed(layout, picture)


def once(source: Source) -> None:
    """Print one picture as text, for pipes."""
    picture, layout = source.look(paused=False), Layout()
    places = _placed(layout, picture)
    while not layout.settled:
        places = _placed(layout, picture)
    size = shutil.get_terminal_size()
    for line in draw(picture, View(unicode=_unicode()), places, size.columns, size.lines)[:-1]:
        print(line.plain.rstrip())


def frame(lines: list[Text], width: int) -> str:
    """Return the lines as what a terminal takes; NO_COLOR and TERM decide about colours (no-color.org)."""
    console = Console(width=width, highlight=False, force_terminal=True, legacy_windows=False)
    with console.capture() as captured:
        for number, line in enumerate(lines):
            console.print(line, end="\x1b[K" if number == len(lines) - 1 else "\x1b[K\r\n", no_wrap=True, crop=False)
    return captured.get()


def _placed(layout: Layout, picture: Picture) -> dict[str, tuple[float, float]]:
    return layout.place([node.key for node in picture.nodes], [(edge.first, edge.second) for edge in picture.edges])


def _unicode() -> bool:
    return shows_unicode(sys.stdout.encoding, os.environ) and os.environ.get("TERM") != "linux"
