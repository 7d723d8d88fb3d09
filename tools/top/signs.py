"""The sign, the colour and the words for each appearance of a node: its state, or in a trace its content."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mycomesh.tools.top.model import Node

__all__ = ["COLOURS", "appearance", "content_letter", "legend", "signs"]

# In a large mesh a node has no link with most members, so `reachable` has no warning colour. This node itself has no colour,
# because white is invisible on a white terminal. Yellow is the colour of slow links.
COLOURS = {"here": "bold", "linked": "green", "differs": "magenta", "reachable": "cyan", "down": "red"}
CONTENTS = ("green", "magenta", "blue", "cyan", "bright_magenta", "bright_blue")  # the last for all others
COLOURS |= {f"content {number}": colour for number, colour in enumerate(CONTENTS)}
_SIGNS = {"here": "◉", "linked": "●", "differs": "◆", "reachable": "◐", "down": "○"}
_SIGNS |= {f"content {number}": sign for number, sign in enumerate("●◆■▲▼✚")}
_PLAIN_SIGNS = {"here": "@", "linked": "o", "differs": "#", "reachable": "+", "down": "x"}
_PLAIN_SIGNS |= {f"content {number}": sign for number, sign in enumerate("o#%&$*")}
_WORDS = {"here": "this node", "linked": "linked", "differs": "differs", "reachable": "reachable", "down": "down"}


def signs(*, unicode: bool) -> dict[str, str]:
    """Return the sign of each appearance."""
    return _SIGNS if unicode else _PLAIN_SIGNS


def appearance(node: Node) -> str:
    """Return the key of a node's sign and colour."""
    if node.group is not None:
        return f"content {min(node.group, len(CONTENTS) - 1)}"
    return "differs" if node.state == "linked" and node.equal is False else node.state


def content_letter(group: int) -> str:
    """Return the letter of a content, A for the most frequent."""
    return chr(ord("A") + group) if group < 26 else f"{group + 1}"


def legend(nodes: Iterable[Node]) -> list[tuple[str, str]]:
    """Return (appearance, words) of the signs of these nodes."""
    found = {appearance(node): node.group for node in nodes}
    listed = [(key, words) for key, words in _WORDS.items() if key in found]
    contents = sorted(number for number in found.values() if number is not None)
    if contents == [0]:
        return [("content 0", "equal"), *listed]
    last = len(CONTENTS) - 1
    more = [(f"content {n}", f"content {content_letter(n)}" if n < last else "others") for n in contents]
    return more + listed
