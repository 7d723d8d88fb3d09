"""Writes of rows as a program would make them: logged in the pending log, so that the next drain stamps and publishes them.

Triggers do not fire for the node's own connection, so each of these logs its row itself. Runs inside a transaction.
"""

from __future__ import annotations

from typing import Any

from mycomesh.sync import codec
from mycomesh.sync.sqlite.table_spec import KeyKind, Row
from mycomesh.sync.storage.pending_log import LOOK_AGAIN, OP_EVICT, look_statement
from mycomesh.sync.storage.table import Table

__all__ = ["delete_row", "insert_row", "key_cells", "log_row", "update_row"]


def log_row(table: Table, row: Row, operation: int = LOOK_AGAIN) -> None:
    """Log a row of the user's table in the pending log."""
    found = table.rows.condition(row)
    assert found is not None, "the row is in the user's table"
    table.store.db.execute(look_statement(table.spec, table.table_id, operation, found[0]), found[1])


def insert_row(table: Table, row: Row, values: dict[str, Any]) -> Row:
    """Insert a row; return its name in the change log."""
    rowid = table.rows.insert(values)
    by_rowid = table.spec.kind is not KeyKind.KEYED or (isinstance(row, bytes) and row[:1] == b"\x00")
    name = rowid if by_rowid else row
    log_row(table, name)
    return name


def update_row(table: Table, row: Row, values: dict[str, Any]) -> None:
    """Set columns of a row."""
    table.rows.update(row, values)
    log_row(table, row)


def delete_row(table: Table, row: Row) -> None:
    """Delete a row."""
    log_row(table, row, OP_EVICT)
    table.rows.delete(row)


def key_cells(table: Table, row: Row) -> dict[str, Any]:
    """Return the key columns of a row by its name in the change log; empty if another insert of it is another row."""
    if table.spec.kind is KeyKind.KEYLESS or (isinstance(row, bytes) and row[:1] == b"\x00"):
        return {}
    keys = [row] if isinstance(row, int) else codec.decode(row, bytes_max=len(row))
    return dict(zip((column.folded for column in table.spec.key), keys, strict=True))
