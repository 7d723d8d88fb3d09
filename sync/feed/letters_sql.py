"""SQL of the table of dead letters, which bridges write too, in the transaction of the rows beside them."""

from __future__ import annotations

__all__ = ["ADD_LETTER", "CREATE_LETTERS", "FLOW", "RECEIVER", "WHY_CHARS_MAX", "why_line"]

RECEIVER = ".in"  # ends the name of a reader that is the way in of a bridge
WHY_CHARS_MAX = 500  # of the reason of a dead letter
FLOW = "flow."  # begins the name of a reader that is a flow

CREATE_LETTERS = (
    "CREATE TABLE IF NOT EXISTS mycomesh_dead_letters("
    'seq INTEGER PRIMARY KEY, reader TEXT, id TEXT, "table" TEXT, row TEXT, body TEXT, why TEXT, tries INTEGER,'
    " first_at TEXT, last_at TEXT, UNIQUE(reader, id))"
)
# With 0 tries, a receiver has to try a letter again. A letter that is there already counts the further tries.
ADD_LETTER = (
    "INSERT INTO mycomesh_dead_letters VALUES(NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(reader, id) DO UPDATE"
    " SET tries = tries + excluded.tries, why = excluded.why, body = excluded.body, last_at = excluded.last_at"
)


def why_line(why: str) -> str:
    """Return a reason as one line that a terminal can show: it may be the text of anyone's exception."""
    line = " ".join(why[: 4 * WHY_CHARS_MAX].split())[:WHY_CHARS_MAX]
    return "".join(char if char.isprintable() else "?" for char in line)
