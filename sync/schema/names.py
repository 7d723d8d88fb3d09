"""Maps the canonical names of tables and columns to the names that this file uses.

A canonical name is the one with which a table or column was created, for good. No other table or column ever gets it, also after
a rename or a drop; a second one gets the next free name (`t~2`). A rename is a fact that says how the thing is called since,
and replicates like any row: the latest wins.

Invariant: two replicas with the same facts use the same names, even where two things were given one name at once.
`mycomesh_names` has the names of this file that are not canonical.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from mycomesh.sync.sqlite.identifiers import INTERNAL_PREFIX, fold
from mycomesh.sync.sqlite.table_spec import TableSpec, UnsupportedTable
from mycomesh.sync.storage.internal_tables import create_rare, has_rare

__all__ = ["Names", "distinct_names", "free_name", "unknown_table"]

_RECORDS = "mycomesh_names"
_TABLE = ""  # in place of a column: the table itself
_OTHER_KINDS = {
    "view": "which is a view: its rows are those of the tables that it reads",
    "trigger": "which is a trigger: its effect is in the rows of the tables that it writes",
    "index": "which is an index",
    "table": "but one that is not replicated: 'mycomesh status' says why",
}


class Names:
    """The names of one file."""

    def __init__(self, db: Any) -> None:
        self._db = db
        # By canonical name of a table: the canonical name of a column, or `_TABLE`, and the name here.
        self._records: dict[str, dict[str, str]] = {}
        if has_rare(db, _RECORDS):
            listing = "SELECT name, mesh, shown FROM mycomesh_names ORDER BY name, mesh"
            for table, column, here in db.execute(listing):
                self._records.setdefault(table, {})[column] = here
        registered = [name for (name,) in db.execute("SELECT name FROM mycomesh_replicated ORDER BY name")]
        self._canonical: dict[str, str] = {fold(self.table(name)): name for name in {*registered, *self._records}}

    def table(self, canonical: str) -> str:
        """Return what this file calls a table."""
        return self._records.get(canonical, {}).get(_TABLE, canonical)

    def any(self) -> bool:
        """Return True if this file calls a table or a column otherwise than the mesh."""
        return any(self._records.values())

    def note_registered(self, canonical: str, here: str) -> None:
        """Note a table that was registered since the names were read."""
        self._canonical[fold(here)] = canonical

    def canonical(self, name: str, dropped: Collection[tuple[str, ...]]) -> str:
        """Return the canonical name of the table that this file calls `name`; a new table gets a free one."""
        known = self._canonical.get(fold(name))
        if known is not None:
            return known
        return free_name(
            fold(name), {subject[0] for subject in dropped if len(subject) == 1} | {*self._canonical.values()}
        )

    def columns(self, canonical: str) -> dict[str, str]:
        """Return the canonical names of columns of a table that are on record, by their folded names here."""
        return {fold(here): column for column, here in self._records.get(canonical, {}).items() if column != _TABLE}

    def key(self, plain: TableSpec, canonical: str) -> frozenset[str]:
        """Return the canonical names of the columns by which a table of this file identifies its rows."""
        known = self.columns(canonical)
        return frozenset(known.get(fold(column.name), fold(column.name)) for column in plain.key)

    def spec(self, plain: TableSpec, canonical: str, dropped: Collection[str]) -> TableSpec:
        """Return a table of this file under canonical names, without dropped columns that this file still has.

        Raises:
            UnsupportedTable: no other column is left, as can happen if two nodes drop the columns of a table at once.
        """
        known = self.columns(canonical)
        names = {here: "" if name in dropped else name for here, name in known.items()}
        taken = {*dropped, *known.values()}
        for column in plain.columns:
            folded = fold(column.name)
            if folded not in names and folded in taken:
                names[folded] = free_name(folded, taken)
        spec = plain.known_as(canonical, names) if names or canonical != fold(plain.name) else plain
        if not spec.columns:
            raise UnsupportedTable("the mesh has dropped all of its columns")
        return spec

    def record(self, canonical: str, table: str, columns: Mapping[str, str]) -> None:
        """Record what this file calls a table and columns of it (by canonical name); inside a transaction.

        Columns that are not named keep their records. A name that is canonical needs none.
        """
        before = self._records.get(canonical, {})
        now = {_TABLE: table, **columns}
        after = {
            name: here for name, here in (before | now).items() if name not in now or fold(here) != (name or canonical)
        }
        if after == before:
            return
        self._records[canonical] = after
        others = {here: name for here, name in self._canonical.items() if name != canonical}
        self._canonical = others | {fold(table): canonical}
        create_rare(self._db, _RECORDS)
        self._db.execute("DELETE FROM mycomesh_names WHERE name = ?", (canonical,))
        self._db.executemany(
            "INSERT INTO mycomesh_names VALUES(?, ?, ?)", [(canonical, name, here) for name, here in after.items()]
        )

    def leave(self, canonical: str, column: str, here: str) -> None:
        """Record the name here of a column that the mesh has dropped and this file still has."""
        self._records.setdefault(canonical, {})[column] = here
        create_rare(self._db, _RECORDS)
        self._db.execute("INSERT OR REPLACE INTO mycomesh_names VALUES(?, ?, ?)", (canonical, column, here))

    def forget(self, canonical: str, columns: Collection[str] | None = None) -> None:
        """Remove the records of columns, or of a whole table."""
        records = self._records.get(canonical, {})
        for column in [name for name in records if columns is None or name in columns]:
            del records[column]
            self._db.execute("DELETE FROM mycomesh_names WHERE name = ? AND mesh = ?", (canonical, column))
        if columns is None:
            self._records.pop(canonical, None)
            self._canonical = {here: name for here, name in self._canonical.items() if name != canonical}


def free_name(name: str, taken: Collection[str]) -> str:
    """Return the name, or the first of `name~2`, `name~3`... that is not taken."""
    return next(
        each for each in itertools.chain([name], (f"{name}~{n}" for n in itertools.count(2))) if each not in taken
    )


def distinct_names(wishes: Mapping[str, str]) -> dict[str, str]:
    """Return a name for each thing, by canonical name: the one that it wishes for, if no other thing has that.

    A thing that wishes for its own canonical name gets it. Of others that wish for one name, the first by canonical name gets
    it, and the next keeps its own.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for canonical in sorted(wishes, key=lambda name: (fold(wishes[name]) != name, name)):
        wish = wishes[canonical]
        names[canonical] = wish if fold(wish) not in taken else free_name(canonical, taken)
        taken.add(fold(names[canonical]))
    return names


def unknown_table(db: Any, path: str, name: str, known: Iterable[str]) -> str:
    """Return a line for people about a name that is no replicated table: what else it is, and the tables that there are."""
    listing = "SELECT type FROM sqlite_schema WHERE name = ? COLLATE NOCASE ORDER BY type <> 'table', type LIMIT 1"
    found = None if fold(name).startswith(INTERNAL_PREFIX) else db.execute(listing, (name,)).fetchone()
    other = f", {_OTHER_KINDS[found[0]]}" if found else ""
    return f"no replicated table {name!r} in {path}{other}; there are: {', '.join(known) or 'none'}"
