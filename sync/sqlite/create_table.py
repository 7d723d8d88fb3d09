"""The parts of a CREATE TABLE as texts: each column's, each CHECK's.

Owns where in a definition one part ends and the next begins. What always holds: no text is told of a definition that SQLite
reads otherwise, for its columns are counted and named by SQLite as well; texts are without comments. It must not know whose
definition it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.sqlite.tokens import BLANKS, COMMENTS, TOKEN

__all__ = ["checks", "checks_of", "columns", "definition_of", "equivalent", "mentions", "normalize", "without_storage"]

_CONSTRAINTS = ("constraint", "primary", "unique", "check", "foreign")
_QUOTES = {'"': '"', "`": "`", "[": "]", "'": "'"}
_PLAIN = re.compile(r'"[A-Za-z_][A-Za-z0-9_]*"')


def columns(db: Any, table: str) -> dict[str, str]:
    """Return the text of each column of a table, its name first, by folded name; empty if it cannot be told."""
    found: dict[str, str] = {}
    for part in _parts(definition_of(db, table)):
        if not part or fold(part[0]) in _CONSTRAINTS:
            break
        found[fold(_unquoted(part[0]))] = "".join(part)
    listing = "SELECT name FROM pragma_table_xinfo(?) ORDER BY cid"
    names = [fold(name) for (name,) in db.execute(listing, (table,)).fetchall()]
    return found if list(found) == names else {}


def checks(db: Any, table: str) -> list[str]:
    """Return what each CHECK of a table asks for, in its brackets, those of its columns too."""
    return [check for part in _parts(definition_of(db, table)) for check in checks_of("".join(part))]


def checks_of(column: str) -> list[str]:
    """Return what each CHECK in the text of a column asks for, in its brackets."""
    tokens = _tokens(column)
    found = []
    for at in _outermost(tokens):
        if fold(tokens[at]) == "check":
            group = _group(tokens, at + 1 + (tokens[at + 1 : at + 2] == [" "]))
            found += ["".join(group)] if group else []
    return found


def mentions(sql: str, name: str) -> bool:
    """Return True if SQL may name what is called so, folded."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", fold(sql)) is not None


def definition_of(db: Any, table: str) -> str:
    """Return the CREATE TABLE of a table as it stands in SQLite's catalogue."""
    found = db.execute("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?", (table,)).fetchone()
    return str(found[0])


def without_storage(column: str) -> str:
    """Return the text of a generated column without the words that say whether it is stored: it shows the same."""
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
    """Return True if two texts are the same but for the case of words and quotes around plain names: RENAME adds such."""
    return normalize(first) == normalize(second)


def normalize(text: str) -> str:
    """Return what is equal for texts that are alike."""
    return "".join(
        piece if piece.startswith("'") else fold(piece[1:-1] if _PLAIN.fullmatch(piece) else piece)
        for piece in _tokens(text)
    )


def _tokens(text: str) -> list[str]:
    """Return a text's tokens, with one blank for all that stands between two of them and none inside of a bracket."""
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
    """Yield the tokens of each part between the outermost brackets, without blanks around it."""
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
    """Yield the places of the tokens that no bracket encloses."""
    depth = 0
    for number, piece in enumerate(tokens):
        depth -= piece == ")"
        if not depth:
            yield number
        depth += piece == "("


def _group(tokens: Sequence[str], at: int) -> list[str]:
    """Return the tokens from a bracket to the one that closes it; none if there is no bracket."""
    depth = 0
    for end in range(at, len(tokens)):
        depth += (tokens[end] == "(") - (tokens[end] == ")")
        if not depth:
            return list(tokens[at : end + 1]) if end > at else []
    return []


def _unquoted(name: str) -> str:
    closing = _QUOTES.get(name[:1])
    if closing is None:
        return name
    return name[1:-1] if closing == "]" else name[1:-1].replace(closing * 2, closing)
