"""The text of an index trigger as a TEMP trigger of the node's connection.

Functions of GIS programs are called by the private names under which this connection has them (`sqlite.geometry`), and the call
with which SpatiaLite writes its R-tree becomes an INSERT.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

from mycomesh.sync.sqlite import geometry
from mycomesh.sync.sqlite.geometry import FUNCTIONS, PREFIX
from mycomesh.sync.sqlite.identifiers import fold, quoted
from mycomesh.sync.sqlite.tokens import TOKEN

__all__ = ["plain_trigger", "temp_trigger"]

_ALIGN = re.compile(
    r"""SELECT\s+RTreeAlign\s*\(\s*'(?P<index>(?:[^']|'')*)'\s*,\s*(?P<row>NEW\.\w+)\s*,"""
    r"""\s*(?P<blob>NEW\.(?:"(?:[^"]|"")*"|\w+))\s*\)""",
    re.IGNORECASE,
)


def plain_trigger(sql: str) -> str:
    """Return the SQL of a trigger with a plain INSERT for SpatiaLite's RTreeAlign, whose write SQLite's authorizer cannot see."""

    def insert(call: re.Match[str]) -> str:
        return f"INSERT INTO {_index_of(call)} VALUES({call['row']}, {_sides_of(call)})"

    return _with_calls_replaced(sql, insert)


def temp_trigger(sql: str, name: str) -> str:
    """Return the CREATE TEMP TRIGGER, with another name, of the copy of a trigger.

    Raises:
        ValueError: the trigger has a RAISE.
    """
    pieces = TOKEN.findall(geometry.with_private_names(_with_calls_replaced(sql, _insert)))
    if "raise" in map(fold, pieces):
        raise ValueError("RAISE in a trigger would decide on rows of other nodes")
    # The first five pieces are CREATE TRIGGER and its name, with the spaces between.
    return f"CREATE TEMP TRIGGER {name} {''.join(pieces[5:])}"


def _with_calls_replaced(sql: str, insert: Callable[[re.Match[str]], str]) -> str:
    """Replace the calls of RTreeAlign; a string or a comment that looks like one stays, since SQLite does not call it."""
    starts = set(itertools.accumulate(map(len, TOKEN.findall(sql)), initial=0))
    return _ALIGN.sub(lambda call: insert(call) if call.start() in starts else call[0], sql)


def _insert(call: re.Match[str]) -> str:
    """Return the INSERT in place of a call of SpatiaLite's RTreeAlign, which leaves out geometries without points."""
    empty = f"{PREFIX}st_isempty({call['blob']})"
    return f"INSERT INTO {_index_of(call)} SELECT {call['row']}, {_sides_of(call)} WHERE NOT {empty}"


def _index_of(call: re.Match[str]) -> str:
    return quoted(call["index"].replace("''", "'"))


def _sides_of(call: re.Match[str]) -> str:
    return ", ".join(f"{PREFIX}{name}({call['blob']})" for name, place in FUNCTIONS.items() if place is not None)
