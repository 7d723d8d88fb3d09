"""Rebuild mark: detects that a file or a table was rebuilt from SQL, which may renumber its rowids.

After a dump is loaded into another file, or a table is dropped and loaded again, SQLite's catalogue looks as before, with the
triggers and the internal tables in it. But rows without a key may have other rowids. Two properties of the table
`mycomesh_mark` show it:

- Its one row has a rowid that is not the first, and a text that holds a NUL. Rows that are copied by SQL get the first rowid, and
  a dump cuts text at its NULs. So a rebuilt file has another row. VACUUM and copies of the file keep the row, as they keep the
  users' rows.
- Tables that were created after the mark's index are behind it in the catalogue. VACUUM and dumps keep the order of tables
  there. So a table behind the index was created since the mark was renewed.
"""

from __future__ import annotations

from typing import Any

from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.sqlite.raw_text import lenient_text, raw_select, restore

__all__ = ["LATER", "TABLE", "is_intact", "rebuilt_tables", "renew"]

TABLE = "mycomesh_mark"
_INDEX = f"{TABLE}_keep"
_ROW = (2, "made\0once")
LATER = f"type = 'table' AND rowid > (SELECT rowid FROM sqlite_schema WHERE type = 'index' AND name = '{_INDEX}')"


def rebuilt_tables(db: Any) -> frozenset[str]:
    """Return the folded names of the tables created since the mark was renewed: all tables if the file was rebuilt."""
    which = LATER if is_intact(db) else "type = 'table'"
    listing = f"SELECT {raw_select('name')} FROM sqlite_schema WHERE {which}"
    return frozenset(fold(lenient_text(restore(cells)[0])) for cells in db.execute(listing).fetchall())


def is_intact(db: Any) -> bool:
    """Return True if the file was not created again from SQL since the mark was renewed, or has no mark yet."""
    return db.execute(f"SELECT rowid, v FROM {TABLE} ORDER BY rowid LIMIT 1").fetchone() in (None, _ROW)


def renew(db: Any) -> None:
    """Renew the mark, so that every table of the file counts as known. Runs inside a transaction.

    Nothing is written if every table is known already.
    """
    if db.execute(f"SELECT rowid, v FROM {TABLE} ORDER BY rowid").fetchall() != [_ROW]:
        db.execute(f"DELETE FROM {TABLE}")
        db.execute(f"INSERT INTO {TABLE}(rowid, v) VALUES(?, ?)", _ROW)
    indexed = db.execute("SELECT 1 FROM pragma_index_list(?) WHERE name = ?", (TABLE, _INDEX)).fetchone()
    if not indexed or db.execute(f"SELECT 1 FROM sqlite_schema WHERE {LATER} LIMIT 1").fetchone() is not None:
        db.execute(f"DROP INDEX IF EXISTS {_INDEX}")
        db.execute(f"CREATE INDEX {_INDEX} ON {TABLE}(v) WHERE 0")
