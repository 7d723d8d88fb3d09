"""The text of SQL in SQLite's catalogue: its tokens, and what of it can be told to others.

Owns the one pattern that cuts SQL into pieces. What always holds: nothing is understood here beyond strings, names and comments.
"""

from __future__ import annotations

import re
from typing import Any

from mycomesh.sync.sqlite.raw_text import lenient_text

__all__ = ["BLANKS", "COMMENTS", "TOKEN", "readable_sql", "without_comments"]

# Strings, quoted names, comments; what is left are words, brackets and commas.
TOKEN = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\]
    | --[^\n]* | /\*.*?(?:\*/|\Z) | [(),] | [ \t\n\f\r]+ | \ufeff
    | (?:[^ \t\n\f\r(),'"`\[/-] | -(?!-) | /(?!\*))+ | .""",
    re.VERBOSE | re.DOTALL,
)
COMMENTS = ("--", "/*")
BLANKS = " \t\n\f\r\ufeff"  # a byte order mark is one where no name goes on, as in SQLite


def without_comments(sql: str) -> str:
    """Return SQL in which each comment is a blank."""
    return "".join(" " if piece.startswith(COMMENTS) else piece for piece in TOKEN.findall(sql)).strip()


def readable_sql(sql: Any) -> str | None:
    """Return SQL as it was read with `rawtext`, without its comments if these are not UTF-8; None if more of it is not."""
    if type(sql) is str:
        return sql
    text = without_comments(lenient_text(sql))
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    return text
