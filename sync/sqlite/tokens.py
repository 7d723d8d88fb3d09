"""Tokenizer for the SQL in SQLite's catalogue.

It recognises strings, quoted names, comments, brackets and commas. It knows no keywords and no grammar.
"""

from __future__ import annotations

import re
from typing import Any

from mycomesh.sync.sqlite.raw_text import lenient_text

__all__ = ["BLANKS", "COMMENTS", "TOKEN", "readable_sql", "without_comments"]

# Strings, quoted names, comments, brackets and commas, blanks, words; any other character is a token by itself.
TOKEN = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\]
    | --[^\n]* | /\*.*?(?:\*/|\Z) | [(),] | [ \t\n\f\r]+ | \ufeff
    | (?:[^ \t\n\f\r(),'"`\[/-] | -(?!-) | /(?!\*))+ | .""",
    re.VERBOSE | re.DOTALL,
)
COMMENTS = ("--", "/*")
BLANKS = " \t\n\f\r\ufeff"  # SQLite skips a byte order mark, unless it is inside a name


def without_comments(sql: str) -> str:
    """Return SQL with each comment replaced by a blank."""
    return "".join(" " if piece.startswith(COMMENTS) else piece for piece in TOKEN.findall(sql)).strip()


def readable_sql(sql: Any) -> str | None:
    """Return SQL from the catalogue as a string, without comments if one of them is not UTF-8; None if other parts are not."""
    if type(sql) is str:
        return sql
    text = without_comments(lenient_text(sql))
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    return text
