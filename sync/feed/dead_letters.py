"""Dead letters: changes that a reader could not deal with, set aside so that the ones behind them go on.

They are local to the file, in `mycomesh_dead_letters`, and bounded by number and bytes; the oldest go first. A retry lets every
reader of the table see the row again, as it is by then.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import apsw

from mycomesh.sync.crdt.hlc import time_text
from mycomesh.sync.errors import FeedError
from mycomesh.sync.feed.change import Change
from mycomesh.sync.feed.letters_sql import ADD_LETTER, CREATE_LETTERS, why_line
from mycomesh.sync.storage.store import Store

__all__ = ["LETTERS_BYTES_MAX", "LETTERS_MAX", "DeadLetter", "DeadLetters"]

_TEXTS = ("reader", "id", '"table"', "row", "body", "why")
_WHOLE = " AND ".join(
    [f"typeof({name}) = 'text'" for name in (*_TEXTS, "first_at", "last_at")] + ["typeof(tries) = 'integer'"]
)
LETTERS_MAX = 10_000
LETTERS_BYTES_MAX = 64 << 20


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One change that a reader set aside.

    number: its number in this file.
    reader: the reader's cursor.
    id: of the change.
    table, row: the table's name in this file, and the row's key as text.
    body: the change as a line of JSON.
    why: what the reader said last.
    tries: how often it was tried.
    first_at, last_at: when, ISO 8601 in UTC.
    """

    number: int
    reader: str
    id: str
    table: str
    row: str
    body: str
    why: str
    tries: int
    first_at: str
    last_at: str


class DeadLetters:
    """The dead letters of one file."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, reader: str, change: Change, why: str, tries: int, wall_ms: int) -> None:
        """Set a change aside; inside a transaction. A change that is there already counts the further tries."""
        db, at = self._store.db, time_text(wall_ms)
        db.execute(CREATE_LETTERS)
        db.execute(
            ADD_LETTER,
            (reader, change.id, change.table, change.row, change.to_json(), why_line(why), tries, at, at),
        )
        total = "SELECT count(*), coalesce(sum(length(body)), 0) FROM mycomesh_dead_letters"
        count, size = db.execute(total).fetchone()
        while count > 1 and (count > LETTERS_MAX or size > LETTERS_BYTES_MAX):
            db.execute("DELETE FROM mycomesh_dead_letters WHERE seq = (SELECT min(seq) FROM mycomesh_dead_letters)")
            count, size = db.execute(total).fetchone()

    def all(self) -> list[DeadLetter]:
        """Return every dead letter, the oldest first; a row that a program has written with other types is left out."""
        listing = f"SELECT seq, {', '.join(_TEXTS)}, tries, first_at, last_at FROM mycomesh_dead_letters"
        found = []
        try:
            for (number,) in self._store.db.execute(
                f"SELECT seq FROM mycomesh_dead_letters WHERE {_WHOLE} ORDER BY seq"
            ).fetchall():
                with contextlib.suppress(UnicodeDecodeError):
                    found += self._store.db.execute(f"{listing} WHERE seq = ?", (number,)).fetchall()
        except apsw.SQLError:  # there is no such table
            return []
        return [DeadLetter(*record) for record in found]

    def get(self, number: int) -> DeadLetter:
        """Return one dead letter.

        Raises:
            FeedError: there is no letter with this number.
        """
        found = next((letter for letter in self.all() if letter.number == number), None)
        if found is None:
            raise FeedError(f"no dead letter {number}; 'mycomesh dead' lists them")
        return found

    def request(self, number: int) -> None:
        """Mark a letter to be tried again by its receiver; inside a transaction."""
        self._store.db.execute("UPDATE mycomesh_dead_letters SET tries = 0 WHERE seq = ?", (number,))

    def remove(self, number: int) -> None:
        """Forget a dead letter; inside a transaction."""
        self._store.db.execute("DELETE FROM mycomesh_dead_letters WHERE seq = ?", (number,))
