"""Writing: the statements by which a user's table is written, and which of their errors are no row's own.

A row that a constraint of its table refuses is parked, on every node alike. Beside it this connection may write an index of the
user's (`echoes`), whose errors no row may depend on. Owns the difference. It must not know why a row is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import apsw

from mycomesh.sync.errors import IndexTriggerError

if TYPE_CHECKING:
    from mycomesh.sync.storage.table import Table

__all__ = ["blame", "write", "write_many"]

_BARE = "constraint failed"  # a table's own say which, and of which column
# What says nothing of a trigger: the file, its disk or its other users.
_OF_THE_FILE = (
    apsw.BusyError,
    apsw.LockedError,
    apsw.FullError,
    apsw.IOError,
    apsw.ReadOnlyError,
    apsw.CantOpenError,
    apsw.NoMemError,
)


def write(table: Table, sql: str, values: Sequence[Any]) -> None:
    """Run one statement that writes the user's table; raises `IndexTriggerError` for what a trigger of here did wrong."""
    try:
        table.store.db.execute(sql, values)
    except apsw.Error as error:
        blame(table, error)
        raise


def write_many(table: Table, sql: str, values: Iterable[Sequence[Any]]) -> None:
    """Run one statement for many rows, as `write` does for one."""
    try:
        table.store.db.executemany(sql, values)
    except apsw.Error as error:
        blame(table, error)
        raise


def blame(table: Table, error: apsw.Error) -> None:
    """Raise `IndexTriggerError` for an error that is none of the row's own: FTS and R-tree have constraints too."""
    if isinstance(error, _OF_THE_FILE):
        return
    text = str(error)
    row = isinstance(error, apsw.ConstraintError) and not any(f": {name}." in text for name in table.echoed)
    if text == _BARE or (table.echoed and not row):
        raise IndexTriggerError(f"{table.spec.name}: {text}", table.spec.folded if table.echoed else "") from error
