"""Says how to bring an index up to date that has missed rows: SQL that works for its module.

FTS reads its content table again at the command 'rebuild'. No other module has such a command, so the index is emptied and
filled as its own insert trigger would, for each row of the table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mycomesh.sync.sqlite.create_table import unquoted
from mycomesh.sync.sqlite.identifiers import fold, quoted
from mycomesh.sync.sqlite.tokens import BLANKS, COMMENTS, TOKEN
from mycomesh.sync.sqlite.virtual_tables import VirtualTable

__all__ = ["content_of", "emptying_of", "filling_of", "remedy"]

_FTS = ("fts3", "fts4", "fts5")
_CONTENT = re.compile(
    r"""[(,]\s*content\s*=\s*(?:'([^']*)'|"([^"]*)"|`([^`]*)`|\[([^\]]*)\]|([^\s,)]*))""", re.IGNORECASE
)
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SQL_SHOWN_MAX = 1_000  # characters of SQL in a note


def remedy(index: VirtualTable, table: str, triggers: Sequence[str]) -> str:
    """Return what a person runs to fill an index of a table again; `triggers` is the SQL of those that name the index."""
    name = _short(index.name)
    content = content_of(index)
    if content:
        return f"INSERT INTO {name}({name}) VALUES('rebuild') does it"
    if any("rtreealign" in fold(sql) for sql in triggers):
        return "SELECT RecoverSpatialIndex() does it, in SpatiaLite"
    found = next(filter(None, (filling_of(sql, index.name, table) for sql in triggers)), "")
    if not found or len(found) > SQL_SHOWN_MAX:
        return "fill it with the program that made it"
    return f"{emptying_of(index)}; {found} does it, in a program that has the module and the functions of this SQL"


def emptying_of(index: VirtualTable) -> str:
    """Return the SQL that empties an index which has no content table."""
    name = _short(index.name)
    return f"INSERT INTO {name}({name}) VALUES('delete-all')" if content_of(index) == "" else f"DELETE FROM {name}"


def content_of(index: VirtualTable) -> str | None:
    """Return the table from which an FTS index reads its content, "" if it keeps none, None if it keeps its own."""
    found = _CONTENT.search(index.sql) if index.module in _FTS else None
    return "".join(filter(None, found.groups())) if found else None


def filling_of(trigger: str, index: str, table: str) -> str:
    """Return the INSERT that enters all rows as an insert trigger enters one, "" if the trigger is of another form.

    The form is AFTER INSERT ON table [FOR EACH ROW] [WHEN condition] BEGIN INSERT [OR ...] INTO index[(...)] VALUES(...); END.
    """
    pieces = [piece for piece in TOKEN.findall(trigger) if not piece.startswith(COMMENTS)]
    words = [fold(piece) for piece in pieces]
    begin = next((at for at, word in enumerate(words) if word == "begin"), 0)
    body, head = _Reader(pieces[begin + 1 :]), _Reader(pieces[:begin])
    head.skip_to("insert")
    if not begin or not head.read("insert", "on", None) or (head.read("for") and not head.read("each", "row")):
        return ""
    condition = head.rest() if head.read("when") else ""
    insert = "INSERT"
    if not body.read("insert"):
        return ""
    if body.read("or"):
        insert += f" OR {body.next().upper()}"
    if not body.read("into") or fold(unquoted(body.next())) != fold(index):
        return ""
    columns = body.group()
    if not body.read("values"):
        return ""
    values = body.group()
    if not values or not (body.read("end") or body.read(";", "end") or body.read(";end")):
        return ""
    where = f" WHERE {condition}" if condition else ""
    return f"{insert} INTO {_short(index)}{columns} SELECT {values[1:-1]} FROM {_short(table)} AS new{where}"


class _Reader:
    """Reads tokens of SQL one by one, over the blanks between them."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self._pieces = pieces
        self._at = 0

    def read(self, *words: str | None) -> bool:
        """Skip these words, None for any one, if they are next; return whether they were."""
        before = self._at
        for word in words:
            found = fold(self.next())
            if word not in (None, found):
                self._at = before
                return False
        return True

    def skip_to(self, word: str) -> None:
        """Go to the next token of this kind."""
        while self._at < len(self._pieces) and fold(self._pieces[self._at]) != word:
            self._at += 1

    def next(self) -> str:
        """Return the next token that is no blank, "" at the end."""
        self._skip_blanks()
        self._at += 1
        return self._pieces[self._at - 1] if self._at <= len(self._pieces) else ""

    def group(self) -> str:
        """Return the text from an opening bracket to its closing one, on one line; "" if none is next."""
        self._skip_blanks()
        depth, start = 0, self._at
        for at in range(start, len(self._pieces)):
            depth += (self._pieces[at] == "(") - (self._pieces[at] == ")")
            if not depth:
                self._at = at + (at > start)
                return _line(self._pieces[start : self._at])
        return ""

    def rest(self) -> str:
        """Return the text of all that is left, on one line."""
        return _line(self._pieces[self._at :]).strip()

    def _skip_blanks(self) -> None:
        while self._at < len(self._pieces) and self._pieces[self._at][0] in BLANKS:
            self._at += 1


def _line(pieces: Sequence[str]) -> str:
    return "".join(" " if piece[0] in BLANKS else piece for piece in pieces)


def _short(name: str) -> str:
    """Return a name as SQL, without quotes where it needs none."""
    return name if _PLAIN.fullmatch(name) else quoted(name)
