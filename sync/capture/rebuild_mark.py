"""The mark: a table of ours by which a file, or a table in it, that was made anew from SQL is known.

A dump that is loaded into another file, a table that is dropped and loaded again: all that stands in SQLite's catalogue is as
it was, triggers and our own tables among it, but rows that go by their rowids have got others. Two things tell. The mark has
one row, whose rowid is not the first and whose text holds a NUL: where rows are copied by SQL it gets the first, and a dump cuts
text at its NULs; VACUUM and copies of the file leave both alone, as they leave the rows of the users' tables. And what is made
after the mark's index stands behind it in the catalogue, whose order VACUUM and dumps keep for tables.

Owns `mycomesh_mark`. It must not know what is done about what it tells.
"""

from __future__ import annotations

from typing import Any

from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.sqlite.raw_text import lenient_text, raw_select, restore

__all__ = ["TABLE", "rebuilt_tables", "renew"]

TABLE = "mycomesh_mark"
_INDEX = f"{TABLE}_keep"
_ROW = (2, "made\0once")
_LATER = f"type = 'table' AND rowid > (SELECT rowid FROM sqlite_schema WHERE type = 'index' AND name = '{_INDEX}')"


def rebuilt_tables(db: Any) -> frozenset[str]:
    """Return the folded names of the tables that were made since the mark was renewed, all if the file itself was."""
    row = db.execute(f"SELECT rowid, v FROM {TABLE} ORDER BY rowid LIMIT 1").fetchone()
    which = _LATER if row in (None, _ROW) else "type = 'table'"
    listing = f"SELECT {raw_select('name')} FROM sqlite_schema WHERE {which}"
    return frozenset(fold(lenient_text(restore(cells)[0])) for cells in db.execute(listing).fetchall())


def renew(db: Any) -> None:
    """Has every table of the file count as known; inside a transaction. Nothing is written where they are."""
    if db.execute(f"SELECT rowid, v FROM {TABLE} ORDER BY rowid").fetchall() != [_ROW]:
        db.execute(f"DELETE FROM {TABLE}")
        db.execute(f"INSERT INTO {TABLE}(rowid, v) VALUES(?, ?)", _ROW)
    indexed = db.execute("SELECT 1 FROM sqlite_schema WHERE type = 'index' AND name = ?", (_INDEX,)).fetchone()
    if not indexed or db.execute(f"SELECT 1 FROM sqlite_schema WHERE {_LATER} LIMIT 1").fetchone() is not None:
        db.execute(f"DROP INDEX IF EXISTS {_INDEX}")
        db.execute(f"CREATE INDEX {_INDEX} ON {TABLE}(v) WHERE 0")
