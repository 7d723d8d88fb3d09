"""Split a CREATE TABLE into the text of each column and of each CHECK, without comments.

SQLite's catalogue has no text for a single column, so this module cuts the definition itself. It compares the result with
the columns that SQLite reports and returns nothing if they differ, so a text never belongs to the wrong column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.sqlite.tokens import BLANKS, COMMENTS, TOKEN

__all__ = [
    "checks",
    "checks_of",
    "clauses",
    "columns",
    "definition_of",
    "equivalent",
    "mentions",
    "normalize",
    "unquoted",
    "without_storage",
]

_CONSTRAINTS = ("constraint", "primary", "unique", "check", "foreign")
_QUOTES = {'"': '"', "`": "`", "[": "]", "'": "'"}
_PLAIN = re.compile(r'"[A-Za-z_][A-Za-z0-9_]*"')


def columns(db: Any, table: str) -> dict[str, str]:
    """Return the text of each column of a table, beginning with its name, by folded name; empty if it cannot be split."""
    found: dict[str, str] = {}
    for part in _parts(definition_of(db, table)):
        if not part or fold(part[0]) in _CONSTRAINTS:
            break
        found[fold(unquoted(part[0]))] = "".join(part)
    listing = "SELECT name FROM pragma_table_xinfo(?) ORDER BY cid"
    names = [fold(name) for (name,) in db.execute(listing, (table,)).fetchall()]
    return found if list(found) == names else {}


def clauses(sql: str) -> dict[str, str]:
    """Return the normalized text of each column of a CREATE TABLE by folded name, and of all the rest under ""."""
    found: dict[str, str] = {}
    rest: list[str] = []
    for part in _parts(sql):
        text = normalize("".join(part))
        if rest or not part or fold(part[0]) in _CONSTRAINTS:
            rest.append(text)
        else:
            found[fold(unquoted(part[0]))] = text
    tokens = _tokens(sql)
    at = tokens.index("(")
    options = normalize("".join(tokens[at + len(_group(tokens, at)) :]))
    return {**found, "": ",".join([*sorted(rest), options])}


def checks(db: Any, table: str) -> list[str]:
    """Return the condition of each CHECK of a table and of its columns, in brackets."""
    return [check for part in _parts(definition_of(db, table)) for check in checks_of("".join(part))]


def checks_of(column: str) -> list[str]:
    """Return the condition of each CHECK in the text of a column, in brackets."""
    tokens = _tokens(column)
    found = []
    for at in _outermost(tokens):
        if fold(tokens[at]) == "check":
            group = _group(tokens, at + 1 + (tokens[at + 1 : at + 2] == [" "]))
            found += ["".join(group)] if group else []
    return found


def mentions(sql: str, name: str) -> bool:
    """Return True if SQL contains that folded name as a word: it may refer to the thing of that name, or not."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", fold(sql)) is not None


def definition_of(db: Any, table: str) -> str:
    """Return the CREATE TABLE of a table as SQLite's catalogue has it."""
    found = db.execute("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?", (table,)).fetchone()
    return str(found[0])


def without_storage(column: str) -> str:
    """Return the text of a generated column without GENERATED ALWAYS, STORED and VIRTUAL: its values are the same."""
    tokens = _tokens(column)
    words = [fold(piece) for piece in tokens]
    at = next((number for number in _outermost(tokens) if number and words[number] == "as"), 0)
    if not at:
        return column
    group = _group(tokens, at + 1 + (words[at + 1] == " "))
    head, tail = tokens[:at], tokens[tokens.index("(", at) + len(group) :]
    if words[1:at][-4:] == ["generated", " ", "always", " "]:
        head = head[:-4]
    after = int(tail[:1] == [" "])
    if fold("".join(tail[after : after + 1])) in ("stored", "virtual"):
        tail = tail[after + 1 :]
    return "".join([*head, "AS ", *group, *tail]).strip()


def equivalent(first: str, second: str) -> bool:
    """Return True if two texts differ at most in the case of words and in quotes around plain names, which RENAME adds."""
    return normalize(first) == normalize(second)


def normalize(text: str) -> str:
    """Return a form of a text that is equal for equivalent texts."""
    return "".join(
        piece if piece.startswith("'") else fold(piece[1:-1] if _PLAIN.fullmatch(piece) else piece)
        for piece in _tokens(text)
    )


def _tokens(text: str) -> list[str]:
    """Return the tokens of a text, with one blank for any blanks and comments between two of them, and none beside a bracket."""
    tokens: list[str] = []
    for piece in TOKEN.findall(text):
        if piece == ")" and tokens[-1:] == [" "]:
            tokens.pop()
        if piece[0] not in BLANKS and not piece.startswith(COMMENTS):
            tokens.append(piece)
        elif tokens and tokens[-1] not in (" ", "("):
            tokens.append(" ")
    return tokens


def _parts(sql: str) -> Iterator[Sequence[str]]:
    """Yield the tokens of each comma-separated part between the outermost brackets, without blanks around it."""
    depth = 0
    part: list[str] = []
    for piece in _tokens(sql):
        depth -= piece == ")"
        if (depth == 0 and piece == ")") or (depth == 1 and piece == ","):
            yield part[: len(part) - (part[-1:] == [" "])]
            part = []
            if not depth:
                return
        elif depth and (part or piece != " "):
            part.append(piece)
        depth += piece == "("


def _outermost(tokens: Sequence[str]) -> Iterator[int]:
    """Yield the indexes of the tokens outside all brackets."""
    depth = 0
    for number, piece in enumerate(tokens):
        depth -= piece == ")"
        if not depth:
            yield number
        depth += piece == "("


def _group(tokens: Sequence[str], at: int) -> list[str]:
    """Return the tokens from the opening bracket at an index to its closing one; empty if no bracket is there."""
    depth = 0
    for end in range(at, len(tokens)):
        depth += (tokens[end] == "(") - (tokens[end] == ")")
        if not depth:
            return list(tokens[at : end + 1]) if end > at else []
    return []


def unquoted(name: str) -> str:
    """Return a name without the quotes around it."""
    closing = _QUOTES.get(name[:1])
    if closing is None:
        return name
    return name[1:-1] if closing == "]" else name[1:-1].replace(closing * 2, closing)
