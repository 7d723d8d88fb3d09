"""Facts: the rows of `mycomesh_schema`, in which a mesh writes down what it knows of tables.

Owns their writing, which is captured like any other row's. What always holds: a fact is one row, the latest wins. It must not
know what facts say of tables.
"""

from __future__ import annotations

import itertools

from mycomesh.sync.codec import require
from mycomesh.sync.sqlite.raw_text import is_raw
from mycomesh.sync.sqlite.table_spec import SQL_MAX
from mycomesh.sync.storage.pending_log import OP_INSERT, pending_name
from mycomesh.sync.storage.store import Store
from mycomesh.sync.wire.bundle import Bundle

__all__ = ["INDEX", "SCHEMA_ID", "SCHEMA_TABLE", "TABLE", "Facts", "check_facts"]

SCHEMA_TABLE = "mycomesh_schema"
SCHEMA_ID = 1
TABLE = "table"
INDEX = "index"
_COLUMNS = frozenset({"kind", "name", "sql"})
_RAW_KEY = b"\x81\x81"  # how the encoded key of one value begins that is an array: text that is not UTF-8


class Facts:
    """The facts of one file."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.written = 0  # ever, by this object

    def all(self, kind: str) -> list[tuple[str, str]]:
        """Return (name, sql) of every fact of a kind that can be one, by name."""
        listing = f"SELECT name, sql FROM {SCHEMA_TABLE} WHERE kind = ? ORDER BY name"
        found = self._store.db.execute(listing, (kind,)).fetchall()
        return [(name, sql) for name, sql in found if type(name) is str and _possible(sql)]

    def of(self, name: str) -> str | None:
        """Return what one fact says, None if there is none that can be one."""
        found = self._store.db.execute(f"SELECT sql FROM {SCHEMA_TABLE} WHERE name = ?", (name,)).fetchone()
        return found[0] if found is not None and _possible(found[0]) else None

    def write(self, name: str, kind: str, sql: str) -> None:
        """Write one fact, to be stamped by the next drain; inside a transaction."""
        self.written += 1
        self._store.db.execute(
            f"INSERT INTO {SCHEMA_TABLE} VALUES(?, ?, ?) ON CONFLICT(name) DO UPDATE SET sql = excluded.sql",
            (name, kind, sql),
        )
        self._store.db.execute(
            f"INSERT INTO {pending_name(SCHEMA_ID)}(what, at, k0) VALUES({OP_INSERT}, NULL, ?)", (name,)
        )


def check_facts(bundle: Bundle) -> None:
    """Refuses changes that the table of facts has no place for; what a fact says is judged where it is read.

    Raises:
        DecodeError: a column that facts do not have, or text that is not UTF-8, in which no name and no SQL is written.
    """
    for group in (group for part in bundle.sections if part.table == SCHEMA_TABLE for group in part.groups):
        require(_COLUMNS.issuperset(group.columns), "a fact has the columns kind, name and sql")
        raw = any(map(is_raw, itertools.chain.from_iterable(group.rows)))
        raw = raw or any(type(key) is bytes and key.startswith(_RAW_KEY) for key in group.keys or ())
        require(not raw, "a fact is not UTF-8")


def _possible(sql: object) -> bool:
    """True for what a fact may say: peers write rows of any type."""
    return type(sql) is str and len(sql) <= SQL_MAX
