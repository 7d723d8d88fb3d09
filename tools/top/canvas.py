"""A character canvas: lines in braille dots (or full stops), text above them, and a style for each cell.

Whatever lies outside the canvas is clipped.
"""

from __future__ import annotations

from itertools import groupby

from rich.text import Text

__all__ = ["Canvas"]

BRAILLE = 0x2800
# The bit of each dot of a braille cell, by column and row (Unicode 15, chapter 21.1).
BITS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


class Canvas:
    """`width` by `height` character cells; points are in cells, with fractions."""

    def __init__(self, width: int, height: int, *, unicode: bool) -> None:
        self.width, self.height = width, height
        self._unicode = unicode
        self._dots = [[0] * width for _ in range(height)]
        self._styles = [[""] * width for _ in range(height)]
        self._signs = [[""] * width for _ in range(height)]

    def line(self, start: tuple[float, float], end: tuple[float, float], style: str, *, every: int = 1) -> None:
        """Draw a straight line, of which every `every`-th dot is set."""
        across, down = (2, 4) if self._unicode else (1, 1)
        x, y = start[0] * across, start[1] * down
        dx, dy = end[0] * across - x, end[1] * down - y
        steps = max(1, round(max(abs(dx), abs(dy))))
        for step in range(0, steps + 1, every):
            column, row = int(x + dx * step / steps), int(y + dy * step / steps)
            if 0 <= column < self.width * across and 0 <= row < self.height * down:
                self._dots[row // down][column // across] |= BITS[column % across][row % down]
                self._styles[row // down][column // across] = style

    def text(self, x: int, y: int, text: str, style: str) -> None:
        """Write one line of single-width characters, clipped at the edge."""
        if 0 <= y < self.height:
            for column, sign in enumerate(text, x):
                if 0 <= column < self.width:
                    self._signs[y][column] = sign
                    self._styles[y][column] = style

    def free(self, x: int, y: int, length: int) -> bool:
        """Return whether these cells are all on the canvas and contain no text."""
        return 0 <= y < self.height and x >= 0 and x + length <= self.width and not any(self._signs[y][x : x + length])

    def lines(self) -> list[Text]:
        """Return the drawing, one `Text` a row."""
        drawn = []
        for row in range(self.height):
            text = Text(no_wrap=True, end="")
            signs = [sign or self._dotted(dots) for sign, dots in zip(self._signs[row], self._dots[row], strict=True)]
            # Cells of one style form one span: a span for each cell would cost more than the rest of a frame.
            for style, cells in groupby(range(self.width), self._styles[row].__getitem__):
                text.append("".join(signs[cell] for cell in cells), style)
            drawn.append(text)
        return drawn

    def _dotted(self, dots: int) -> str:
        if not dots:
            return " "
        return chr(BRAILLE + dots) if self._unicode else "."
