"""Names: what this file calls a replicated table and its columns, and what the mesh calls them.

The mesh knows a table and a column by the name that it was made with, for good: a name that has been given up by a rename or
a drop is never given to another thing, which gets the next free one (`t~2`). How a thing is shown is a fact that replicates
like any row, the latest wins.

Owns `mycomesh_names`, the names of this file that are not the mesh's own. What always holds: two replicas with the same facts
come to the same names, even where two things were given one name at once. It must not know how a table is renamed.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import Any

from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.sqlite.table_spec import TableSpec, UnsupportedTable

__all__ = ["Names", "free_name", "shown_names"]

_TABLE = ""  # in place of a column: the table itself


class Names:
    """The names of one file, as they are when this is made."""

    def __init__(self, db: Any) -> None:
        self._db = db
        self._records: dict[str, dict[str, str]] = {}  # by the mesh's name of a table: the mesh's of a column -> here
        listing = "SELECT name, mesh, shown FROM mycomesh_names ORDER BY name, mesh"
        for table, mesh, shown in db.execute(listing):
            self._records.setdefault(table, {})[mesh] = shown
        registered = [name for (name,) in db.execute("SELECT name FROM mycomesh_replicated ORDER BY name")]
        self._meshes: dict[str, str] = {fold(self.table(mesh)): mesh for mesh in {*registered, *self._records}}

    def table(self, mesh: str) -> str:
        """Return what this file calls a table."""
        return self._records.get(mesh, {}).get(_TABLE, mesh)

    def mesh(self, name: str, dropped: Collection[tuple[str, ...]]) -> str:
        """Return what the mesh calls the table of that name here; for a new one, what it will."""
        known = self._meshes.get(fold(name))
        if known is not None:
            return known
        return free_name(
            fold(name), {subject[0] for subject in dropped if len(subject) == 1} | {*self._meshes.values()}
        )

    def columns(self, mesh: str) -> dict[str, str]:
        """Return what the mesh calls columns of a table, by folded names of this file, where that is on record."""
        return {fold(shown): column for column, shown in self._records.get(mesh, {}).items() if column != _TABLE}

    def spec(self, plain: TableSpec, mesh: str, dropped: Collection[str]) -> TableSpec:
        """Return a table of this file as the mesh knows it, without dropped columns that this file still has.

        Raises:
            UnsupportedTable: no other column is left, which is what becomes of a table whose columns two nodes drop at once.
        """
        known = self.columns(mesh)
        names = {here: "" if name in dropped else name for here, name in known.items()}
        taken = {*dropped, *known.values()}
        for column in plain.columns:
            folded = fold(column.name)
            if folded not in names and folded in taken:
                names[folded] = free_name(folded, taken)
        spec = plain.known_as(mesh, names) if names or mesh != fold(plain.name) else plain
        if not spec.columns:
            raise UnsupportedTable("the mesh has dropped all of its columns")
        return spec

    def record(self, mesh: str, table: str, columns: Mapping[str, str]) -> None:
        """Write down what this file calls a table and columns of it (by the mesh's names); inside a transaction.

        What is not named keeps its record; a record goes where the two names are one.
        """
        before = self._records.get(mesh, {})
        now = {_TABLE: table, **columns}
        after = {
            name: shown for name, shown in (before | now).items() if name not in now or fold(shown) != (name or mesh)
        }
        if after == before:
            return
        self._records[mesh] = after
        self._meshes = {here: name for here, name in self._meshes.items() if name != mesh} | {fold(table): mesh}
        self._db.execute("DELETE FROM mycomesh_names WHERE name = ?", (mesh,))
        self._db.executemany(
            "INSERT INTO mycomesh_names VALUES(?, ?, ?)", [(mesh, name, shown) for name, shown in after.items()]
        )

    def leave(self, mesh: str, column: str, here: str) -> None:
        """Write down that a column is still here which the mesh has dropped, under a name that nothing else has."""
        self._records.setdefault(mesh, {})[column] = here
        self._db.execute("INSERT OR REPLACE INTO mycomesh_names VALUES(?, ?, ?)", (mesh, column, here))

    def forget(self, mesh: str, columns: Collection[str] | None = None) -> None:
        """Drop the records of columns, or of a whole table."""
        records = self._records.get(mesh, {})
        for column in list(records) if columns is None else columns:
            records.pop(column, None)
            self._db.execute("DELETE FROM mycomesh_names WHERE name = ? AND mesh = ?", (mesh, column))
        if columns is None:
            self._records.pop(mesh, None)
            self._meshes = {here: name for here, name in self._meshes.items() if name != mesh}


def free_name(name: str, taken: Collection[str]) -> str:
    """Return the name, or the first of `name~2`, `name~3`... that is not taken."""
    return next(
        each for each in itertools.chain([name], (f"{name}~{n}" for n in itertools.count(2))) if each not in taken
    )


def shown_names(wishes: Mapping[str, str]) -> dict[str, str]:
    """Return how things are shown, by the mesh's names: each as wished, where no other has that name.

    Who goes by its own name has it; of two others the one with the lesser name, and the second keeps its own.
    """
    shown: dict[str, str] = {}
    taken: set[str] = set()
    for mesh in sorted(wishes, key=lambda name: (fold(wishes[name]) != name, name)):
        name = wishes[mesh] if fold(wishes[mesh]) not in taken else free_name(mesh, taken)
        shown[mesh] = name
        taken.add(fold(name))
    return shown
