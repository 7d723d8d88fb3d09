"""Estimates how deep a statement fills the parser's stack, which has 100 places in SQLite of 2023 and before.

In a definition that needs more, such a program finds "malformed database schema (parser stack overflow)", and can read no
table of the file. An open bracket or CASE holds its place, and within it each clause and each class of operators that waits for
its operand. Later versions, 3.47 at the latest, have no such limit.
"""

from __future__ import annotations

from collections.abc import Sequence

from mycomesh.sync.sqlite.identifiers import fold

__all__ = ["STACK_MAX", "stack_depth"]

# Of the estimate: 24 forms of nesting that overflow in 3.40.1 come to 97 and more, rich definitions of applications to 55.
STACK_MAX = 90
_BASE = 8  # CREATE VIEW v AS, or a trigger
_CLAUSES = frozenset(
    (
        *("distinct", "from", "group", "having", "join", "limit", "offset", "on", "order", "select", "union"),
        *("intersect", "except", "using", "values", "when", "then", "else", "where", "with", "set"),
    )
)
_OPERATORS = {
    **dict.fromkeys(("or",), 0),
    **dict.fromkeys(("and",), 1),
    **dict.fromkeys(("=", "==", "<>", "!=", "is", "in", "like", "glob", "match", "regexp", "between", "escape"), 2),
    **dict.fromkeys(("<", ">", "<=", ">="), 3),
    **dict.fromkeys(("&", "|", "<<", ">>"), 4),
    **dict.fromkeys(("+", "-"), 5),
    **dict.fromkeys(("*", "/", "%"), 6),
    **dict.fromkeys(("||", "->", "->>"), 7),
    "collate": 8,
}


class _Level:
    """The clauses and operators that wait in one bracket or CASE."""

    __slots__ = ("clauses", "operators", "unary")

    def __init__(self) -> None:
        self.clauses: set[str] = set()
        self.operators: set[int] = set()
        self.unary = 0

    @property
    def places(self) -> int:
        return 3 + 2 * len(self.clauses) + 2 * len(self.operators) + self.unary


def stack_depth(pieces: Sequence[str]) -> int:
    """Return an estimate of the places that a statement takes, from its pieces without blanks and comments."""
    levels = [_Level()]
    outer = most = 0
    for piece in pieces:
        word, level = fold(piece), levels[-1]
        if word in ("(", "case"):
            outer += level.places
            levels.append(_Level())
        elif word in (")", "end") and len(levels) > 1:
            levels.pop()
            outer -= levels[-1].places
        elif word in _CLAUSES or word in (",", ";"):
            level.clauses |= {word}
            level.operators, level.unary = set(), 0
            if word == ";":
                level.clauses = set()
        elif word in ("not", "~", "-", "+"):
            level.unary += 1
            level.operators |= {5} if word in "+-" else set()
        else:
            # The tokenizer joins signs to the words beside them, as in `a=-b`.
            signs = [
                sign for sign in _OPERATORS if sign[0] not in "aobilgmrec" and sign in piece and piece[0] not in "'\"`["
            ]
            level.operators |= {_OPERATORS[sign] for sign in (*signs, word) if sign in _OPERATORS}
            if word not in _OPERATORS and not signs:
                level.unary = 0
        most = max(most, outer + levels[-1].places)
    return _BASE + most
