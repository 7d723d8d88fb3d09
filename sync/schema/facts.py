"""Schema facts: the rows of `mycomesh_schema`, the replicated table in which nodes tell each other about tables.

A fact is one row and replicates like any other: the latest write wins. Its kind says how to read its name and its SQL.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mycomesh.sync.codec import require
from mycomesh.sync.sqlite.create_table import definition_of
from mycomesh.sync.sqlite.definitions import index_owner, read_definition
from mycomesh.sync.sqlite.generated_columns import compose
from mycomesh.sync.sqlite.raw_text import is_raw
from mycomesh.sync.sqlite.table_spec import SQL_MAX, TableSpec
from mycomesh.sync.sqlite.trial import refusal_of
from mycomesh.sync.storage.pending_log import AT_EARLY, OP_INSERT, pending_name
from mycomesh.sync.storage.store import Store
from mycomesh.sync.wire.bundle import Bundle
from mycomesh.sync.wire.interest import INTEREST, member_of

__all__ = [
    "INDEX",
    "KINDS",
    "SCHEMA_ID",
    "SCHEMA_TABLE",
    "TABLE",
    "TRIGGER",
    "VIEW",
    "VIRTUAL",
    "Facts",
    "check_facts",
    "read_ahead",
]

SCHEMA_TABLE = "mycomesh_schema"
SCHEMA_ID = 1
TABLE = "table"
INDEX = "index"
VIEW = "view"
TRIGGER = "trigger"
VIRTUAL = "virtual"  # an R-tree or FTS index with its triggers (`virtual_facts`)
# The words before a colon in the names of facts; those of tables have none.
KINDS = frozenset(
    (
        *(
            INDEX,
            VIEW,
            TRIGGER,
            VIRTUAL,
            "counter",
            "policy",
            "own-ids",
            "slot",
            "signed",
            "area",
            "generated",
            "header",
            "floor",
            "retain",
            "adopted",
            "interest",
        ),
        *("name", "dropped"),
    )
)
_COLUMNS = frozenset({"kind", "name", "sql"})
_RAW_KEY = b"\x81\x81"  # the first bytes of an encoded key that is one array: text that is not UTF-8


class Facts:
    """The facts of one file."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.written = 0  # facts that this object has ever written
        self.without_effect: frozenset[str] = frozenset()  # names of definitions beyond the limits (`fact_limits`)
        # By canonical name: the fact of a table, those of its generated columns, and the spec that they define.
        self._defined: dict[str, tuple[str, Mapping[str, str], TableSpec | None]] = {}
        # SQL of facts as a write transaction has read them, and the moment: a pass over the schema asks several times for each.
        self._known: dict[str, str | None] = {}
        self._known_at = 0, 0
        self._steady = False  # inside `steady`
        self._few = False  # whether the block asks for few facts
        self._tables: list[tuple[str, str]] | None = None  # those that define tables, as the block has read them

    @contextlib.contextmanager
    def steady(self, *, few: bool = False) -> Iterator[None]:
        """Read each fact once for all questions of the block, in which only `write` changes facts; inside a transaction.

        All facts of tables are read at the first question, unless the block asks for a `few` alone.
        """
        outer, self._steady = self._steady, True
        if not outer:
            self._few = few
            self._forget()
        try:
            yield
        finally:
            self._steady = outer
            if not outer:
                self._forget()

    def _forget(self) -> None:
        self._known.clear()
        self._known_at = 0, 0
        self._tables = None

    def all(self, kind: str) -> list[tuple[str, str]]:
        """Return (name, sql) of every well-formed fact of a kind, by name."""
        known = self._tables if kind == TABLE and self._steady else None
        if known is None:
            listing = f"SELECT name, sql FROM {SCHEMA_TABLE} WHERE kind = ? ORDER BY name"
            found = self._store.db.execute(listing, (kind,)).fetchall()
            known = [(name, sql) for name, sql in found if type(name) is str and _well_formed(sql)]
            if kind == TABLE and self._steady:
                self._tables = known
                self._known.update(known)
        return [(name, sql) for name, sql in known if name not in self.without_effect]

    def of(self, name: str) -> str | None:
        """Return the SQL of one fact, None if there is no well-formed one that has effect."""
        if name in self.without_effect:
            return None
        if not self._store.is_writing:
            return self._read(name)
        if not self._steady:
            moment = self._store.begun, self._store.db.total_changes()
            if moment != self._known_at:
                self._known.clear()
                self._known_at = moment
        elif self._tables is None and not self._few:
            self.all(TABLE)
        if name not in self._known:
            self._known[name] = self._read(name)
        return self._known[name]

    def _read(self, name: str) -> str | None:
        found = self._store.db.execute(f"SELECT sql FROM {SCHEMA_TABLE} WHERE name = ?", (name,)).fetchone()
        return found[0] if found is not None and _well_formed(found[0]) else None

    def kind(self, name: str) -> str | None:
        """Return the kind of one fact, None if there is no fact of that name."""
        found = self._store.db.execute(f"SELECT kind FROM {SCHEMA_TABLE} WHERE name = ?", (name,)).fetchone()
        return None if found is None else found[0]

    def listed(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield (name, kind, sql) of every fact as it is, well-formed or not."""
        yield from self._store.db.execute(f"SELECT name, kind, sql FROM {SCHEMA_TABLE} ORDER BY name")

    def some(self, kind: str, names: Iterable[str]) -> list[tuple[str, str]]:
        """Return the same as `all` of the facts of these names, by name."""
        found = ((name, self.of(name)) for name in sorted(names) if self.kind(name) == kind)
        return [(name, sql) for name, sql in found if sql is not None]

    def interested(self) -> list[bytes]:
        """Return the members about whose interest there is a fact, by the first 8 bytes of their node ids."""
        listing = f"SELECT name FROM {SCHEMA_TABLE} WHERE kind = ? ORDER BY name"
        found = (member_of(name) for (name,) in self._store.db.execute(listing, (INTEREST,)))
        return [member for member in found if member is not None]

    def defined(self, name: str, generated: Mapping[str, str]) -> TableSpec | None:
        """Return the spec that the fact of a table defines, with these texts of generated columns; None if it defines none."""
        fact = self.of(name)
        if fact is None:
            return None
        known = self._defined.get(name)
        if known is None or known[:2] != (fact, generated):
            sql = compose(fact, generated) if generated else fact
            known = self._defined[name] = fact, generated, read_definition(sql)
        return known[2]

    def write(self, name: str, kind: str, sql: str, *, early: bool = False) -> None:
        """Write one fact, which the next drain stamps; inside a transaction.

        An `early` fact is about a table from before the mesh, so it loses to what the mesh has decided since. One that has no
        effect is left as it is: replicas would write it again in turn, for ever.
        """
        if name in self.without_effect:
            return
        self.written += 1
        self._forget()
        self._store.db.execute(
            f"INSERT INTO {SCHEMA_TABLE} VALUES(?, ?, ?) ON CONFLICT(name) DO UPDATE SET"
            " kind = excluded.kind, sql = excluded.sql",
            (name, kind, sql),
        )
        self._store.db.execute(
            f"INSERT INTO {pending_name(SCHEMA_ID)}(what, at, k0) VALUES({OP_INSERT}, ?, ?)",
            (AT_EARLY if early else None, name),
        )


def check_facts(bundle: Bundle) -> None:
    """Refuse changes of the schema table that are not of its form; the content of a fact is judged where it is read.

    Raises:
        DecodeError: a column that facts do not have, or text that is not UTF-8, as no name and no SQL is.
    """
    for group in (group for part in bundle.sections if part.table == SCHEMA_TABLE for group in part.groups):
        require(_COLUMNS.issuperset(group.columns), "a fact has the columns kind, name and sql")
        raw = any(map(is_raw, itertools.chain.from_iterable(group.rows)))
        raw = raw or any(type(key) is bytes and key.startswith(_RAW_KEY) for key in group.keys or ())
        require(not raw, "a fact is not UTF-8")


def read_ahead(db: Any, bundle: Bundle) -> None:
    """Read and try the definitions of a bundle before its transaction begins: what it needs of them is remembered then.

    A text made to be slow costs some 0.2 s, in which no program has to wait for the file.
    """
    for group in (group for part in bundle.sections if part.table == SCHEMA_TABLE for group in part.groups):
        for row in group.rows:
            fact = dict(zip(group.columns, row, strict=True))
            kind, sql = fact.get("kind"), fact.get("sql")
            if not isinstance(sql, str) or not _well_formed(sql):
                continue
            if kind == TABLE:
                spec = read_definition(sql)
                if spec is not None:
                    refusal_of(spec.sql)
            elif kind == INDEX:
                owner = index_owner(db, sql)
                if owner:
                    refusal_of(definition_of(db, owner), sql)


def _well_formed(sql: object) -> bool:
    """Return True for text of a bounded length that SQLite reads to its end: peers can write rows of any type."""
    return type(sql) is str and len(sql) <= SQL_MAX and "\0" not in sql
