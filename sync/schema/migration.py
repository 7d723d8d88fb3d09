"""Runs a migration on this replica, and publishes it to the mesh as facts.

The order matters: entries give up a dropped column while its values are still there, then the script runs, then names and
facts are written. All of it is one transaction, so the change log never takes one column for another.
"""

from __future__ import annotations

from collections.abc import Collection

import apsw

from mycomesh.sync.errors import MigrationError
from mycomesh.sync.merge import records
from mycomesh.sync.schema.facts import INDEX
from mycomesh.sync.schema.migration_plan import Alteration, Plan, run
from mycomesh.sync.schema.policy import dropped_fact, name_fact
from mycomesh.sync.schema.record_facts import record_definition
from mycomesh.sync.schema.registry import Registry
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.sqlite.indexes import user_indexes
from mycomesh.sync.sqlite.table_spec import UnsupportedTable
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table

__all__ = ["ended_rules", "migrate"]


def migrate(store: Store, registry: Registry, script: str) -> Plan:
    """Run a script in the caller's transaction, in which every captured write has its stamp.

    Raises:
        MigrationError: a statement that cannot be run, or a replicated table with another key; the caller rolls back.
    """
    plan = Plan.of(store.db, script)
    plan.consequences += ended_rules(registry, plan)
    here = {fold(table.spec.name): table for table in registry.tables.values()}
    altered = [(here[name], alteration) for name, alteration in plan.tables.items() if name in here]
    for table, alteration in altered:
        dropped = _dropped_columns(table, alteration)
        if dropped:
            registry.drop_columns(table, dropped)
        _check_columns(table, dropped)
        if dropped or alteration.uncomputed:  # the triggers may name such a column, and SQLite would refuse to drop it
            registry.uninstall(table.table_id)
    # The user's own triggers run, as in any other program, and so do those of capture.
    store.db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 1)
    try:
        run(store.db, script)
    finally:
        store.db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    for table, alteration in altered:
        _check_key(store, table, alteration)
    for table, alteration in altered:
        if alteration.name:
            _record_changes(registry, table, alteration)
        else:
            registry.discard(table.spec.folded)
            registry.facts.write(*dropped_fact((table.spec.folded,)))
    for name in plan.indexes_dropped:
        if registry.facts.of(f"{INDEX}:{fold(name)}"):
            registry.facts.write(f"{INDEX}:{fold(name)}", INDEX, "")
    registry.read_decisions()
    for table, alteration in altered:
        if alteration.name:
            _reload(store, registry, table, alteration)
    return plan


def ended_rules(registry: Registry, plan: Plan) -> list[str]:
    """Return a line for each table whose rows go by the time in a column that the plan drops; before the script runs."""
    lines = []
    for table in registry.tables.values():
        alteration = plan.tables.get(fold(table.spec.name))
        rule = registry.policies.retain.get(table.spec.folded)
        if alteration is not None and alteration.name and rule and rule.by in _dropped_columns(table, alteration):
            here = next(column.name for column in table.spec.columns if column.folded == rule.by)
            lines.append(
                f"ends that rows of {alteration.name} go with time: they went by {here}; 'mycomesh retain {alteration.name}"
                " 7d BY COLUMN' names another column, 'off' ends the rule"
            )
    return lines


def _check_columns(table: Table, dropped: Collection[str]) -> None:
    """Refuse to drop columns of a signed table, whose values its writers have signed, and one that cuts a table into areas."""
    if table.areas is not None and table.areas.column in dropped:
        raise MigrationError(
            f"{table.spec.name} is cut into areas by {table.areas_by}, which has to stay; nothing was changed; make a table"
            " without that, and copy the rows"
        )
    if dropped and table.seals is not None:
        raise MigrationError(
            f"{table.spec.name} is signed, and its writers have signed the values of {', '.join(sorted(dropped))}; nothing was"
            " changed; make a table without that, and copy the rows"
        )


def _dropped_columns(table: Table, alteration: Alteration) -> frozenset[str]:
    """Return the canonical names of the columns that the migration drops from a table that stays."""
    gone = alteration.dropped
    return frozenset(column.folded for column in table.spec.columns if fold(column.name) in gone)


def _check_key(store: Store, table: Table, alteration: Alteration) -> None:
    """Refuse a table that gets another key, by which the entries of every node name its rows."""
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


def _record_changes(registry: Registry, table: Table, alteration: Alteration) -> None:
    """Write the facts of one table's columns and names, and record what this file calls them."""
    canonical = table.spec.folded
    names = {}
    for column in table.spec.columns:
        name = alteration.columns[fold(column.name)]
        if not name:
            registry.facts.write(*dropped_fact((canonical, column.folded)))
            registry.names.forget(canonical, [column.folded])
            continue
        names[column.folded] = name
        if fold(name) != fold(column.name):
            registry.facts.write(*name_fact((canonical, column.folded), name))
    if fold(alteration.name) != fold(table.spec.name):
        registry.facts.write(*name_fact((canonical,), alteration.name))
        records.rename_table(table, alteration.name)
    registry.names.record(canonical, alteration.name, names)


def _reload(store: Store, registry: Registry, table: Table, alteration: Alteration) -> None:
    """Load the table as it is after the script, and write its definition as a fact."""
    canonical, dropped = table.spec.folded, _dropped_columns(table, alteration)
    try:
        spec = registry.spec(canonical, alteration.name)
    except UnsupportedTable as reason:
        raise MigrationError(f"{alteration.name}: {reason}; nothing was changed") from reason
    for name, owner, sql in user_indexes(store.db):
        if fold(owner) == fold(alteration.name) and registry.facts.of(f"{INDEX}:{fold(name)}") != sql:
            registry.facts.write(f"{INDEX}:{fold(name)}", INDEX, sql)
    if not dropped and not alteration.uncomputed:
        if alteration.rebuilt:
            record_definition(store.db, registry, spec)
        return
    captured = {column: bit for column, bit in table.columns.captured.items() if column not in dropped}
    reloaded = registry.reload_stamped(table, spec, captured)
    record_definition(store.db, registry, spec)
    if not alteration.written:
        # Else the pass that follows would find no triggers, and scan every row.
        registry.install(reloaded)
