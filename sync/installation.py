"""Installation: what stands of ours on a user's table, put on and taken off.

Owns the order in which the pending log, its columns and the triggers are made, and what goes with a table. What always holds:
a trigger names no column that the pending log lacks, so that no write of an application fails. It must not know why.
"""

from __future__ import annotations

import json
from typing import Any

from sync.capture import create_statements, drop_statements, key_names, pending_name, word_names
from sync.changelog import changes_name
from sync.identifiers import fold, quoted
from sync.indexes import column_names
from sync.runs import runs_name
from sync.schema import KeyKind
from sync.table import Table

__all__ = ["births_mark", "clear", "put_on", "take_off"]


def births_mark(table_id: int) -> str:
    """Returns the name of the persisted fact that rows of a keep-both table go by their births."""
    return f"births/{table_id}"


def put_on(table: Table) -> None:
    """Has a table captured as it is; inside a transaction."""
    db, table_id = table.store.db, table.table_id
    captured = {name: table.bits[name] for name in table.known}
    for statement in drop_statements(table_id):
        db.execute(statement)
    log, *triggers = create_statements(table.spec, table_id, captured)
    held = _columns(db, table_id)
    if held and not set(key_names(table.spec)) <= held:
        db.execute(f"DROP TABLE {pending_name(table_id)}")
    db.execute(log)
    held = _columns(db, table_id)
    for word in word_names(captured):
        if word not in held:
            db.execute(f"ALTER TABLE {pending_name(table_id)} ADD COLUMN {word}")
    for statement in triggers:
        db.execute(statement)
    if table.spec.kind is KeyKind.BAG and not table.spec.id_column:
        # VACUUM renumbers the rowids of a table that has no index at all; an index of no rows prevents it.
        column = quoted(table.spec.columns[0].name)
        db.execute(f"CREATE INDEX IF NOT EXISTS {_keep_name(table_id)} ON {quoted(table.spec.name)}({column}) WHERE 0")
    table.bits_captured = captured
    known = table.spec.meshes
    places = [known[fold(name)] for name in column_names(db, table.spec.name) if fold(name) in known]
    db.execute(
        "UPDATE mycomesh_replicated SET bits = ?, known = ? WHERE id = ?",
        (json.dumps(table.bits), json.dumps({name: captured[name] for name in places}), table_id),
    )


def take_off(db: Any, table_id: int) -> None:
    """Takes off a table what refers to its columns; the pending log stays."""
    for statement in drop_statements(table_id):
        db.execute(statement)
    db.execute(f"DROP INDEX IF EXISTS {_keep_name(table_id)}")


def clear(db: Any, table_id: int) -> None:
    """Takes out everything that is ours of a table, but its vector and its registration."""
    take_off(db, table_id)
    for name in (pending_name(table_id), changes_name(table_id), runs_name(table_id)):
        db.execute(f"DROP TABLE IF EXISTS {name}")
    for name in ("collected", "held", "moved", "parked", "sweeps"):
        db.execute(f"DELETE FROM mycomesh_{name} WHERE id = ?", (table_id,))
    marks = (births_mark(table_id), f"shed/{table_id}", f"settled/{table_id}")
    db.execute("DELETE FROM mycomesh_meta WHERE name IN (?, ?, ?)", marks)


def _keep_name(table_id: int) -> str:
    return f"mycomesh_{table_id}_keep"


def _columns(db: Any, table_id: int) -> set[str]:
    listing = "SELECT name FROM pragma_table_info(?)"
    return {name for (name,) in db.execute(listing, (pending_name(table_id),)).fetchall()}
