"""Cycles of flows: what a flow writes must not come back to it, by other flows or by the triggers of the tables between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import apsw
import apsw.ext

from mycomesh.sync.sqlite.identifiers import INTERNAL_PREFIX, fold, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Edge", "cycle", "written_by_triggers"]


class Edge(Protocol):
    """A flow as an edge between two tables."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def table(self) -> str:
        """The table whose writes go in."""

    @property
    def into(self) -> str:
        """The table of its results."""


def cycle(
    settings: Edge, others: Iterable[Edge], further: Callable[[str], Iterable[str]] = lambda _: ()
) -> tuple[str, ...]:
    """Return the names of the flows by which the writes of one come back to it, () if they do not.

    `further` says which tables are written beside one that is written.
    """
    edges: dict[str, list[Edge]] = {}
    for each in others:
        edges.setdefault(fold(each.table), []).append(each)
    ways: list[tuple[str, tuple[str, ...]]] = [(settings.into, (settings.name,))]
    seen: set[str] = set()
    while ways:
        table, path = ways.pop()
        if fold(table) == fold(settings.table):
            return path
        if fold(table) not in seen:
            seen.add(fold(table))
            ways += [(each, path) for each in further(table)]
            ways += [(each.into, (*path, each.name)) for each in edges.get(fold(table), ())]
    return ()


def written_by_triggers(db: Any, table: str) -> list[str]:
    """Return the tables that triggers of a program write when a row of a table, or of a view, is inserted or updated."""
    listing = "SELECT name FROM pragma_table_xinfo(?) WHERE hidden = 0 ORDER BY cid"
    columns = [quoted(name) for (name,) in db.execute(listing, (table,))]
    found: dict[str, None] = {}
    for text in (
        f"INSERT INTO main.{quoted(table)}({', '.join(columns)}) VALUES({', '.join('?' * len(columns))})",
        f"UPDATE main.{quoted(table)} SET {', '.join(f'{each} = {each}' for each in columns)}",
    ):
        try:
            actions = apsw.ext.query_info(db, text, actions=True).actions or ()
        except apsw.Error:  # there is no such table, or a view without such a trigger
            continue
        for each in actions:
            name = fold(each.table_name or "")
            if each.trigger_or_view and each.action_name in ("SQLITE_INSERT", "SQLITE_UPDATE"):
                found[name] = None
    return [name for name in found if not name.startswith(INTERNAL_PREFIX)]
