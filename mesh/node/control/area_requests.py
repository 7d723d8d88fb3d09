"""Requests about the areas of tables, from the control socket or for a file without a node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.errors import NodeError
from mycomesh.sync.admin.conflicts import find_table
from mycomesh.sync.exchange.area_status import WRITERS_MAX
from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.sync.wire.units import NO_AREA, area_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from mycomesh.sync.replica import Replica
    from mycomesh.sync.storage.table import Table

__all__ = ["LISTED_MAX", "prepare"]

LISTED_MAX = 10_000  # areas of one table in an answer, the first by name


def prepare(request: dict[str, Any]) -> Callable[[Replica], dict[str, Any]]:
    """Check a request and return a function that carries it out on a replica.

    The fields are `table`, to list its areas, and to decide `column`. Without a table, all that are cut are listed.

    Raises:
        NodeError: the request has a wrong field.
    """
    table, column = request.get("table"), request.get("column")
    if any(value is not None and type(value) is not str for value in (table, column)):
        raise NodeError("a request needs text for 'table' and 'column'; use the same version for node and command")
    if table is None:
        return _list_all
    if column is None:
        return lambda replica: _answer([_shown(replica, find_table(replica.store, replica.registry, table))])
    return lambda replica: _cut(replica, table, column)


def _list_all(replica: Replica) -> dict[str, Any]:
    return _answer([_shown(replica, table) for _, table in sorted(replica.tables.items()) if table.areas is not None])


def _answer(tables: list[dict[str, Any]], decided: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return an answer; `decided` says what becomes of the rows of a table that this request has cut."""
    return {"tables": tables, "decided": decided}


def _cut(replica: Replica, name: str, column: str) -> dict[str, Any]:
    replica.check_decides("not cut")
    table = find_table(replica.store, replica.registry, name)
    canonical = table.spec.folded
    before = replica.registry.policies.areas.get(canonical)
    replica.decisions.decide_area(name, column)
    by = table.spec.to_canonical(column)
    named = next((each.name for each in table.spec.columns if each.folded == by), column)
    decided = None
    if before is None:
        listing = f"SELECT count(*), count(DISTINCT {quoted(named)}) FROM {quoted(table.spec.name)}"
        rows, areas = replica.store.db.execute(listing).fetchone()
        keyed = not table.spec.lacks_primary_key
        decided = {"rows": rows, "areas": areas, "rows_get_areas": keyed}
    return _answer([_shown(replica, table) | {"by": named}], decided)  # a drain follows, and does it


def _shown(replica: Replica, table: Table) -> dict[str, Any]:
    """Return by which column a table is cut, "" if it is not, and its areas, with the rows that this file has of each."""
    areas, column = table.areas, table.areas_by
    blank = {"table": table.spec.name, "by": column, "areas": [], "more": 0, "no_area": 0}
    if areas is None or not column:
        return blank
    # 7, '7' and 7.0 may be one group otherwise, and they are of two areas.
    name = quoted(column)
    listing = f"SELECT {name}, count(*) FROM {quoted(table.spec.name)} GROUP BY typeof({name}), {name} COLLATE BINARY"
    rows: dict[str | None, int] = {}
    for value, count in replica.store.db.execute(listing):
        area = area_of(value)
        rows[area] = rows.get(area, 0) + count
    kept = replica.registry.kept
    names = sorted({*areas.known(), *(name for name in rows if name is not None)} - {NO_AREA})
    shown = [
        {
            "area": name,
            "rows": rows.get(name, 0),
            "kept": kept is not None and kept.keeps(table.spec.folded, name),
            "writers": [{"node_id": node, "changes": count} for node, count in areas.writers(name)[:WRITERS_MAX]],
        }
        for name in names[:LISTED_MAX]
    ]
    return blank | {"areas": shown, "more": len(names) - len(shown), "no_area": rows.get(None, 0)}
