"""Migrating: a plan carried out on a replica, and told to the mesh as facts.

Owns the order of it: what a dropped column's entries owned is given up while their values are still there, then the script
runs, then names and facts are written. What always holds: it is one transaction, and the file never has columns that the
change log takes for others. It must not know how others follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import apsw

from mycomesh.sync.errors import MigrationError
from mycomesh.sync.merge import records
from mycomesh.sync.schema.facts import INDEX
from mycomesh.sync.schema.migration_plan import Alteration, Plan, run
from mycomesh.sync.schema.policy import dropped_fact, name_fact
from mycomesh.sync.schema.record_facts import define
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.sqlite.indexes import user_indexes
from mycomesh.sync.sqlite.table_spec import UnsupportedTable
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table

if TYPE_CHECKING:
    from mycomesh.sync.schema.catalog import Catalog

__all__ = ["migrate"]


def migrate(store: Store, catalog: Catalog, script: str) -> Plan:
    """Run a script in the caller's transaction, in which every captured write has its stamp.

    Raises:
        MigrationError: a statement that cannot be run, or a replicated table with another key; the caller undoes all.
    """
    plan = Plan.of(store.db, script)
    here = {fold(table.spec.name): table for table in catalog.tables.values()}
    altered = [(here[name], alteration) for name, alteration in plan.tables.items() if name in here]
    for table, alteration in altered:
        if _going(table, alteration):
            catalog.shed(table, _going(table, alteration))
        if _going(table, alteration) or alteration.uncomputed:  # capture may name them
            catalog.uninstall(table.table_id)
    catalog.echoes.take_off()  # they would run beside the triggers that they echo
    store.db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 1)  # the user's own, as with any client, and capture
    try:
        run(store.db, script)
    finally:
        store.db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    for table, alteration in altered:
        _check(store, table, alteration)
    for table, alteration in altered:
        if alteration.name:
            _tell(catalog, table, alteration)
        else:
            catalog.discard(table.spec.folded)
            catalog.facts.write(*dropped_fact((table.spec.folded,)))
    for name in plan.indexes_dropped:
        if catalog.facts.of(f"{INDEX}:{fold(name)}"):
            catalog.facts.write(f"{INDEX}:{fold(name)}", INDEX, "")
    catalog.read_decisions()
    for table, alteration in altered:
        if alteration.name:
            _settle(store, catalog, table, alteration)
    return plan


def _going(table: Table, alteration: Alteration) -> frozenset[str]:
    """Return the columns that are dropped from a table that stays, by the mesh's names."""
    gone = alteration.dropped
    return frozenset(column.folded for column in table.spec.columns if fold(column.name) in gone)


def _check(store: Store, table: Table, alteration: Alteration) -> None:
    """Refuses a table whose rows would go by another key: entries name rows by it on every node."""
    if not alteration.name:
        return
    listing = "SELECT name FROM pragma_table_info(?) WHERE pk ORDER BY pk"
    key = [fold(name) for (name,) in store.db.execute(listing, (alteration.name,)).fetchall()]
    before = table.spec.key or tuple(column for column in table.spec.columns if column.folded == table.spec.id_column)
    if [fold(alteration.columns.get(fold(column.name), "")) for column in before] != key:
        raise MigrationError(
            f"{table.spec.name}: its primary key would be another, by which nobody knows its rows; nothing was changed;"
            " make a table of another name and copy the rows"
        )


def _tell(catalog: Catalog, table: Table, alteration: Alteration) -> None:
    """Write the facts of one table's columns and names, and what this file calls them from now on."""
    mesh = table.spec.folded
    names = {}
    for column in table.spec.columns:
        name = alteration.columns[fold(column.name)]
        if not name:
            catalog.facts.write(*dropped_fact((mesh, column.folded)))
            catalog.names.forget(mesh, [column.folded])
            continue
        names[column.folded] = name
        if fold(name) != fold(column.name):
            catalog.facts.write(*name_fact((mesh, column.folded), name))
    if fold(alteration.name) != fold(table.spec.name):
        catalog.facts.write(*name_fact((mesh,), alteration.name))
        records.rename_table(table, alteration.name)
    catalog.names.record(mesh, alteration.name, names)


def _settle(store: Store, catalog: Catalog, table: Table, alteration: Alteration) -> None:
    """Has the replica's table stand for what it has become, and its definition be told."""
    mesh, going = table.spec.folded, _going(table, alteration)
    try:
        spec = catalog.spec(mesh, alteration.name)
    except UnsupportedTable as reason:
        raise MigrationError(f"{alteration.name}: {reason}; nothing was changed") from reason
    for name, owner, sql in user_indexes(store.db):
        if fold(owner) == fold(alteration.name) and catalog.facts.of(f"{INDEX}:{fold(name)}") != sql:
            catalog.facts.write(f"{INDEX}:{fold(name)}", INDEX, sql)
    if not going and not alteration.uncomputed:
        if alteration.rebuilt:
            define(store.db, catalog, spec)
        return
    captured = {column: bit for column, bit in table.columns.captured.items() if column not in going}
    again = catalog.reload(table.table_id, spec, table.columns.bits, table, captured)
    define(store.db, catalog, spec)
    if not alteration.written:
        catalog.install(again)  # else the refresh that follows finds no triggers, and looks at every row
