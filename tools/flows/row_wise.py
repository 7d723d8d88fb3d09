"""Whether a statement over `new` makes at most one result of each row, whatever the other rows are.

Then it may run once for many rows. The check reads words, not grammar, and says no where it is not sure: one SELECT from one
source, without joins, groups, orders and limits, that names the source nowhere else.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mycomesh.sync.sqlite.identifiers import fold

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["RowWise", "names_table", "row_wise"]

_WORD = re.compile(
    r"""(?P<skip>--[^\n]*|/\*.*?(?:\*/|\Z)|\s+)|(?P<text>[xX]?'(?:[^']|'')*')|(?P<name>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\])"""
    r"""|(?P<word>[\w$]+)|(?P<sign>.)""",
    re.DOTALL,
)
# Outside of subqueries, within brackets too: what looks at several rows, or hides a name. A subquery sees one row of the source.
_NEVER = frozenset({"with", "over", "filter", "window", "union", "intersect", "except", "returning", "values", "limit"})
# Outside of brackets: what makes one row of several, or none.
_NEVER_OUTSIDE = frozenset({"distinct", "group", "having", "order"})


@dataclass(frozen=True, slots=True)
class RowWise:
    """Where such a statement has its list of columns.

    list_end: place in the text behind the last column.
    star: whether a column is `*`.
    """

    list_end: int
    star: bool


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # text, name, word or sign
    text: str  # folded, without quotes
    start: int
    end: int
    depth: int  # of brackets
    inner: bool  # whether it is in a subquery


def row_wise(sql: str, source: str) -> RowWise | None:
    """Return how a statement over a source is row by row, None if it may not be."""
    tokens = list(_tokens(sql))
    words = [token for token in tokens if token.kind == "word"]
    if any(
        (word.text in _NEVER and not word.inner) or (word.text in _NEVER_OUTSIDE and word.depth == 0) for word in words
    ):
        return None
    outside = [number for number, token in enumerate(tokens) if token.depth == 0]
    selects = [number for number in outside if _is_word(tokens[number], "select")]
    if len(selects) != 1 or _mentions(tokens, source) != 1:
        return None
    froms = [number for number in outside if number > selects[0] and _is_word(tokens[number], "from")]
    if len(froms) != 1 or froms[0] == selects[0] + 1:
        return None
    rest = tokens[froms[0] + 1 :]
    if not rest or rest[0].text != fold(source) or rest[0].kind not in ("word", "name"):
        return None
    rest = rest[1:]
    if rest and _is_word(rest[0], "as"):
        rest = rest[1:]
    if rest and not _is_word(rest[0], "where"):  # an alias
        if rest[0].kind not in ("word", "name"):
            return None
        rest = rest[1:]
    if rest and not _is_word(rest[0], "where"):
        return None
    listed = tokens[selects[0] : froms[0]]
    star = any(
        token.text == "*" and token.depth == 0 and (before.text in (",", ".", "select", "all"))
        for before, token in itertools.pairwise(listed)
    )
    return RowWise(tokens[froms[0] - 1].end, star)


def names_table(sql: str, table: str) -> bool:
    """Return whether a statement may name a table, rather than a column of it."""
    return _mentions(list(_tokens(sql)), table) > 0


def _mentions(tokens: list[_Token], table: str) -> int:
    """Count the places at which a name is neither before nor behind a dot."""
    found = 0
    for number, token in enumerate(tokens):
        if token.kind in ("word", "name") and token.text == fold(table):
            before = tokens[number - 1].text if number else ""
            after = tokens[number + 1].text if number + 1 < len(tokens) else ""
            found += before != "." and after != "."
    return found


def _is_word(token: _Token, word: str) -> bool:
    return token.kind == "word" and token.text == word


def _tokens(sql: str) -> Iterator[_Token]:
    brackets: list[bool] = []  # of those that are open: whether a subquery is in them
    opened = False  # by the token before
    for match in _WORD.finditer(sql):
        kind = str(match.lastgroup)
        if kind == "skip":
            continue
        text = match[0]
        if kind == "name":
            text = text[1:-1].replace(text[0] * 2, text[0]) if text[0] in '"`' else text[1:-1]
        if opened:
            brackets[-1] = kind == "word" and fold(text) in ("select", "with", "values")
        opened = text == "(" and kind == "sign"
        if text == ")" and kind == "sign" and brackets:
            brackets.pop()
        yield _Token(kind, fold(text), match.start(), match.end(), len(brackets), any(brackets))
        if opened:
            brackets.append(False)
