"""Facts: the rows of `mycomesh_schema`, in which a mesh writes down what it knows of tables.

Owns their writing, which is captured like any other row's. What always holds: a fact is one row, the latest wins. It must not
know what facts say of tables.
"""

from __future__ import annotations

from sync.capture import OP_INSERT, pending_name
from sync.schema import SQL_MAX
from sync.store import Store

__all__ = ["INDEX", "SCHEMA_ID", "SCHEMA_TABLE", "TABLE", "Facts"]

SCHEMA_TABLE = "mycomesh_schema"
SCHEMA_ID = 1
TABLE = "table"
INDEX = "index"


class Facts:
    """The facts of one file."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def all(self, kind: str) -> list[tuple[str, str]]:
        """Returns (name, sql) of every fact of a kind that can be one, by name."""
        listing = f"SELECT name, sql FROM {SCHEMA_TABLE} WHERE kind = ? ORDER BY name"
        found = self._store.db.execute(listing, (kind,)).fetchall()
        return [(name, sql) for name, sql in found if type(name) is str and _possible(sql)]

    def of(self, name: str) -> str | None:
        """Returns what one fact says, None if there is none that can be one."""
        found = self._store.db.execute(f"SELECT sql FROM {SCHEMA_TABLE} WHERE name = ?", (name,)).fetchone()
        return found[0] if found is not None and _possible(found[0]) else None

    def write(self, name: str, kind: str, sql: str) -> None:
        """Writes one fact, to be stamped by the next drain; inside a transaction."""
        self._store.db.execute(
            f"INSERT INTO {SCHEMA_TABLE} VALUES(?, ?, ?) ON CONFLICT(name) DO UPDATE SET sql = excluded.sql",
            (name, kind, sql),
        )
        self._store.db.execute(
            f"INSERT INTO {pending_name(SCHEMA_ID)}(what, at, k0) VALUES({OP_INSERT}, NULL, ?)", (name,)
        )


def _possible(sql: object) -> bool:
    """True for what a fact may say: peers write rows of any type."""
    return type(sql) is str and len(sql) <= SQL_MAX
