"""Installs and removes capture on a user's table: the pending log, its columns, the triggers and the keep index.

The pending log gets a column before a trigger names it: otherwise writes of the application would fail.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from mycomesh.sync.capture.triggers import (
    TIMED,
    are_created,
    create_statements,
    drop_statements,
    pending_log_statement,
    survives_drops,
    trigger_count,
    trigger_names,
)
from mycomesh.sync.merge.keep_both import changed_ids_key
from mycomesh.sync.sqlite.identifiers import fold, quoted
from mycomesh.sync.sqlite.indexes import column_names
from mycomesh.sync.storage.change_log import changes_name
from mycomesh.sync.storage.insert_runs import runs_name
from mycomesh.sync.storage.internal_tables import has_rare
from mycomesh.sync.storage.pending_log import key_names, pending_name, word_names
from mycomesh.sync.storage.seals import seals_name
from mycomesh.sync.storage.table import Table

__all__ = [
    "ensure_pending_log",
    "install_capture",
    "is_captured",
    "is_outdated",
    "keep_both_key",
    "keeps_rowids",
    "remove_capture",
    "remove_internal",
]


_KEPT = "(1) WHERE 0"  # no column: it could not be dropped


def keep_both_key(table_id: int) -> str:
    """Return the key in `mycomesh_meta` that says that the inserts of a keep-both table identify its rows."""
    return f"births/{table_id}"


def ensure_pending_log(table: Table) -> None:
    """Create the pending log, or add the columns that the table's triggers write. Runs inside a transaction."""
    db, name = table.store.db, pending_name(table.table_id)
    existing = _columns(db, table.table_id)
    if existing and not {"at", *key_names(table.spec)} <= existing:
        db.execute(f"DROP TABLE {name}")
    db.execute(pending_log_statement(table.spec, table.table_id, table.columns.bits))
    existing = _columns(db, table.table_id)
    for word in word_names(table.columns.bits):
        if word not in existing:
            db.execute(f"ALTER TABLE {name} ADD COLUMN {word}")


def is_captured(table: Table, catalogue: Sequence[tuple[Any, ...]]) -> bool:
    """Return True if the table's triggers and its keep index are complete and intact.

    `catalogue` has (type, name, SQL) of each entry of SQLite's catalogue that belongs to the table.
    """
    names = trigger_names(table.table_id)
    triggers = [sql for kind, name, sql in catalogue if kind == "trigger" and name in names]
    if len(triggers) != trigger_count(table.spec, table.table_id):
        return False
    if not keeps_rowids(table, catalogue):
        return False
    # If somebody renames the pending log or a column of it, SQLite rewrites the triggers. Then they no longer fit.
    logged = re.compile(rf"INSERT INTO {pending_name(table.table_id)}\(([^)]*)\)")
    columns = {"what", *key_names(table.spec)}
    for sql in triggers:
        match = logged.search(sql)
        wanted = columns | {"at"} if TIMED in sql else columns
        if match is None or not wanted <= set(match[1].split(", ")):
            return False
    return True


def is_outdated(table: Table, catalogue: Sequence[tuple[Any, ...]]) -> bool:
    """Return True if an earlier version installed capture, so that programs cannot drop columns; `catalogue` as above."""
    update, keep = trigger_names(table.table_id)[1], _keep_name(table.table_id)
    texts = {name: sql for _, name, sql in catalogue}
    return not survives_drops(table.spec, texts[update]) or not texts.get(keep, _KEPT).endswith(_KEPT)


def has_log_triggers(table_id: int, catalogue: Sequence[tuple[Any, ...]]) -> bool:
    """Return True if the table has every trigger that logs writes. The others depend on its UNIQUE indexes, which may change."""
    return set(trigger_names(table_id)[:4]) <= {name for kind, name, _ in catalogue if kind == "trigger"}


def keeps_rowids(table: Table, catalogue: Sequence[tuple[Any, ...]]) -> bool:
    """Return True if VACUUM cannot have renumbered the table's rowids; `catalogue` as for `is_captured`."""
    return not table.spec.lacks_primary_key or any(name == _keep_name(table.table_id) for _, name, _ in catalogue)


def install_capture(table: Table) -> None:
    """Install capture for the table's current columns, in place of older triggers. Runs inside a transaction.

    Triggers that fit stay: a change of the schema makes every connection to the file compile its statements again.
    """
    db, table_id = table.store.db, table.table_id
    compared = {name: table.columns.bits[name] for name in table.columns.local}
    ensure_pending_log(table)
    triggers = create_statements(table.spec, table_id, compared)
    if not are_created(db, table_id, triggers):
        for statement in (*drop_statements(table_id), *triggers):
            db.execute(statement)
    if table.spec.lacks_primary_key:
        _add_keep_index(table)
    table.columns.captured = compared
    known = table.spec.canonical_names
    names = [known[fold(name)] for name in column_names(db, table.spec.name) if fold(name) in known]
    record = json.dumps(table.columns.bits), json.dumps({name: compared[name] for name in names})
    db.execute(
        "UPDATE mycomesh_replicated SET bits = ?1, known = ?2 WHERE id = ?3 AND (bits, known) <> (?1, ?2)",
        (*record, table_id),
    )


def _add_keep_index(table: Table) -> None:
    """Add an index of no rows, because VACUUM renumbers the rowids of a table that has no index at all.

    CREATE INDEX would read every row under the write lock (25 to 100 ms a million) to find that none belongs in the index. So
    the index is created on an empty table, then assigned to the user's table in the schema table (PRAGMA writable_schema,
    https://sqlite.org/pragma.html).
    """
    db, name, lent = table.store.db, _keep_name(table.table_id), _keep_name(table.table_id) + "_lent"
    found = db.execute("SELECT sql FROM sqlite_schema WHERE type = 'index' AND name = ?", (name,)).fetchone()
    if found is not None:
        if str(found[0]).endswith(_KEPT):
            return
        db.execute(f"DROP INDEX {name}")
    db.execute(f"CREATE TABLE {lent}(v)")
    db.execute(f"CREATE INDEX {name} ON {lent}{_KEPT}")
    db.execute("PRAGMA writable_schema = ON").fetchall()
    try:
        db.execute(
            "UPDATE sqlite_schema SET tbl_name = ?, sql = ? WHERE type = 'index' AND name = ?",
            (table.spec.name, f"CREATE INDEX {name} ON {quoted(table.spec.name)}{_KEPT}", name),
        )
    finally:
        db.execute("PRAGMA writable_schema = RESET").fetchall()
    db.execute(f"DROP TABLE {lent}")


def remove_capture(db: Any, table_id: int) -> None:
    """Remove the triggers and the keep index, which refer to the table's columns; the pending log stays."""
    for statement in drop_statements(table_id):
        db.execute(statement)
    db.execute(f"DROP INDEX IF EXISTS {_keep_name(table_id)}")


def remove_internal(db: Any, table_id: int) -> None:
    """Remove everything internal of a table except its vector and its registration."""
    remove_capture(db, table_id)
    logs = (pending_name(table_id), changes_name(table_id), runs_name(table_id))
    for name in (*logs, seals_name(table_id)):
        db.execute(f"DROP TABLE IF EXISTS {name}")
    rare = [name for name in ("mycomesh_collected", "mycomesh_moved", "mycomesh_sweeps") if has_rare(db, name)]
    for name in ("mycomesh_held", "mycomesh_parked", *rare):
        db.execute(f"DELETE FROM {name} WHERE id = ?", (table_id,))
    keys = (
        keep_both_key(table_id),
        f"shed/{table_id}",
        f"settled/{table_id}",
        f"definition/{table_id}",
        f"leaving/{table_id}",
        f"missing/{table_id}",
        f"twin/{table_id}",
        f"cut/{table_id}",
    )
    db.execute(f"DELETE FROM mycomesh_meta WHERE name IN ({', '.join('?' * len(keys))})", keys)
    db.execute("DELETE FROM mycomesh_meta WHERE name GLOB ?", (changed_ids_key(table_id) + "*",))


def _keep_name(table_id: int) -> str:
    return f"mycomesh_{table_id}_keep"


def _columns(db: Any, table_id: int) -> set[str]:
    listing = "SELECT name FROM pragma_table_info(?)"
    return {name for (name,) in db.execute(listing, (pending_name(table_id),)).fetchall()}
