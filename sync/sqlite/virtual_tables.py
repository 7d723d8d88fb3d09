"""Virtual tables of a file, and the ordinary tables in which their modules keep the content.

SQLite marks such shadow tables only where the module is loaded, and only those that the module names: of sqlite-vec's it misses
one. As ordinary tables they would replicate as data, and each node's index would overwrite the others'. So beside a virtual
table of a module that is not SQLite's own, every table whose name begins with its name and `_` counts as one of its shadow
tables. This gives the same answer with and without the module, so nodes agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mycomesh.sync.sqlite.create_table import unquoted
from mycomesh.sync.sqlite.identifiers import INTERNAL_PREFIX, fold
from mycomesh.sync.sqlite.raw_text import lenient_text, raw_select, restore
from mycomesh.sync.sqlite.tokens import BLANKS, COMMENTS, TOKEN

__all__ = ["CACHES", "VirtualTable", "caches", "module_of", "virtual_tables"]

# By folded name: tables in which programs keep what triggers of other tables compute. Each node keeps its own, as it does with an
# index: the numbers of two nodes cannot be merged.
CACHES = {"gpkg_ogr_contents": "GDAL counts the features of each layer in it, and each node keeps its own count"}

# Modules of SQLite itself, which name all of their shadow tables or have none.
_OWN_MODULES = frozenset(
    ("dbstat", "fts3", "fts3tokenize", "fts4", "fts4aux", "fts5", "fts5vocab", "geopoly", "rtree", "rtree_i32")
)
_LISTING = (
    f"SELECT {raw_select('name')}, {raw_select('sql')} FROM sqlite_schema"
    " WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%' ORDER BY name"
)


@dataclass(frozen=True, slots=True)
class VirtualTable:
    """One virtual table: its folded module, and the names of ordinary tables that seem to hold its content."""

    name: str
    module: str
    sql: str
    content: tuple[str, ...] = ()


def virtual_tables(db: Any) -> tuple[VirtualTable, ...]:
    """Return the virtual tables of the main database, by name."""
    found = [tuple(map(lenient_text, restore(cells))) for cells in db.execute(_LISTING).fetchall()]
    if not found:
        return ()
    loaded = {fold(name) for (name,) in db.execute("SELECT name FROM pragma_module_list ORDER BY name").fetchall()}
    tables: list[str] | None = None
    virtual = []
    for name, sql in found:
        module = module_of(sql)
        content: tuple[str, ...] = ()
        if module not in _OWN_MODULES or module not in loaded:
            tables = _ordinary_tables(db) if tables is None else tables
            content = tuple(each for each in tables if fold(each).startswith(f"{fold(name)}_"))
        virtual.append(VirtualTable(name, module, sql, content))
    return tuple(virtual)


def caches(db: Any) -> tuple[VirtualTable, ...]:
    """Return those of `CACHES` that the main database has, in the form of an index."""
    listing = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name = ? COLLATE NOCASE"
    found = [db.execute(listing, (name,)).fetchone() for name in CACHES]
    return tuple(VirtualTable(entry[0], "", "") for entry in found if entry is not None)


def module_of(sql: str) -> str:
    """Return the folded name of the module in a CREATE VIRTUAL TABLE, "" if it names no module."""
    pieces = [piece for piece in TOKEN.findall(sql) if piece[0] not in BLANKS and not piece.startswith(COMMENTS)]
    using = next((at for at, piece in enumerate(pieces) if at > 2 and fold(piece) == "using"), len(pieces))
    return fold(unquoted("".join(pieces[using + 1 : using + 2])))


def _ordinary_tables(db: Any) -> list[str]:
    listing = (
        f"SELECT {raw_select('name')} FROM pragma_table_list WHERE schema = 'main' AND type = 'table' ORDER BY name"
    )
    names = [lenient_text(restore(cells)[0]) for cells in db.execute(listing).fetchall()]
    return [name for name in names if not fold(name).startswith(("sqlite_", INTERNAL_PREFIX))]
