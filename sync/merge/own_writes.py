"""Writes of rows as a program would make them: logged in the pending log, so that the next drain stamps and publishes them.

Triggers do not fire for the node's own connection, so each of these logs its row itself. Runs inside a transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mycomesh.sync import codec
from mycomesh.sync.sqlite.table_spec import KeyKind, Row
from mycomesh.sync.storage.pending_log import LOOK_AGAIN, OP_EVICT, look_statement, mask_words
from mycomesh.sync.storage.table import Table

__all__ = ["delete_row", "insert_row", "key_cells", "log_row", "update_row"]


def log_row(table: Table, row: Row, operation: int = LOOK_AGAIN, written: Iterable[str] = ()) -> None:
    """Log a row of the user's table in the pending log, as an update of the columns `written` if there are any.

    A look at a row does not find a written column that no entry owns, as a purge leaves them: there is no digest to compare.
    """
    found = table.rows.condition(row)
    assert found is not None, "the row is in the user's table"
    words = mask_words(table.columns.bits, written)
    what = words.pop(0, operation)
    table.store.db.execute(look_statement(table.spec, table.table_id, what, found[0], words), found[1])
    table.pending.unread = True


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
    log_row(table, row, written=values)


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
