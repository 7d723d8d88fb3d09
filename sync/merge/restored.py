"""Conflicts whose losing side was written again, by a restore or an application, on any node: they count as restored.

No message says so. The row itself does: it shows the losing values although they had lost, so a later write has them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from mycomesh.sync.crdt.hlc import ms_from_hlc, time_text
from mycomesh.sync.merge.conflicts import same
from mycomesh.sync.merge.records import DELETE_LOST, KEPT, key_text, recorded_rows, shortened_value, value_of
from mycomesh.sync.storage.table import Table

__all__ = ["AS_NEW_ROW", "COMPARED_BYTES_MAX", "UNDO_PREFIX", "note_restored", "note_restored_many"]

UNDO_PREFIX = "undo/"  # in mycomesh_meta, before the number of a conflict that this node has restored
AS_NEW_ROW = "new"
# A larger record is not compared, because each write of its row would read it under the write lock: it stays open on the nodes
# that have not restored it themselves.
COMPARED_BYTES_MAX = 1 << 20
_BLOCK = 64  # rows whose records are read at once: each may be large


def note_restored(
    table: Table, key: Any, columns: Collection[str], hlc: int, written: Mapping[str, Any] | None = None
) -> None:
    """Note which conflicts of a row a write has restored, or taken back, after the row was written.

    `columns` are those that the write owns; none for a delete. `hlc` is its clock. `written` are values that the row shows if it
    is in the table, which need not be read again.
    """
    if not table.store.conflict_room.empty:
        _note(table, {key_text(key): key}, columns, {key: hlc}, written)


def note_restored_many(table: Table, hlcs: Mapping[Any, int], columns: Collection[str]) -> None:
    """Note as `note_restored` does for one what writes of the same columns have restored; `hlcs` are their clocks by key."""
    recorded = list(recorded_rows(table, hlcs).items())
    for at in range(0, len(recorded), _BLOCK):
        _note(table, dict(recorded[at : at + _BLOCK]), columns, hlcs)


def _note(
    table: Table,
    keys: Mapping[str, Any],
    columns: Collection[str],
    hlcs: Mapping[Any, int],
    written: Mapping[str, Any] | None = None,
) -> None:
    """Note what writes have restored of the rows with these keys, by their texts in the records."""
    db = table.store.db
    listing = (
        "SELECT c.seq, c.row_key, c.lost_hlc, c.lost, c.won, c.reason, c.restored_at"
        " FROM json_each(?) k CROSS JOIN mycomesh_conflicts c ON c.table_name = ? AND c.row_key = k.value"
        " WHERE octet_length(c.lost) <= ? ORDER BY c.seq"
    )
    found = db.execute(listing, (json.dumps([*keys]), table.spec.name, COMPARED_BYTES_MAX)).fetchall()
    later = [record for record in found if record[2] < hlcs[keys[record[1]]]]
    texts = list(dict.fromkeys(record[1] for record in later))
    rows = table.locate_many([keys[text] for text in texts])
    if written:
        read = {row: table.rows.read(row, unread=written) for row in rows}
        values_of = {row: None if values is None else values | dict(written) for row, values in read.items()}
    else:
        values_of = table.rows.read_many(rows)
    present = {text: values_of[row] for text, row in zip(texts, rows, strict=True)}
    for number, text, _, lost, won, reason, restored_at in later:
        if reason.startswith(KEPT):
            continue
        row, values = present[text], json.loads(lost)
        if _shows(row, values, deleted=reason == DELETE_LOST):
            if restored_at is None:
                time = time_text(ms_from_hlc(hlcs[keys[text]]))
                db.execute("UPDATE mycomesh_conflicts SET restored_at = ? WHERE seq = ?", (time, number))
        elif restored_at is not None and _is_taken_back(row, values, won, columns) and not _has_undo(table, number):
            db.execute("UPDATE mycomesh_conflicts SET restored_at = NULL WHERE seq = ?", (number,))


def _shows(present: dict[str, Any] | None, lost: dict[str, Any], *, deleted: bool) -> bool:
    """Return True if the row is as the losing side had wanted it."""
    if deleted or present is None:
        return deleted and present is None
    return bool(lost) and all(name in present and same(present[name], value_of(plain)) for name, plain in lost.items())


def _is_taken_back(
    present: dict[str, Any] | None, lost: dict[str, Any], won: str | None, columns: Collection[str]
) -> bool:
    """Return True if a write of the columns that had lost has made the row what the winner had made it."""
    if present is None or won is None or not lost:
        return (present is None) == (won is None)
    winner = json.loads(won)
    return any(name in columns for name in lost) and all(
        name in present and shortened_value(present[name]) == plain for name, plain in winner.items()
    )


def _has_undo(table: Table, number: int) -> bool:
    """Return True if this node has restored the conflict itself, so that only its undo takes it back."""
    return table.store.meta(f"{UNDO_PREFIX}{number}") is not None
