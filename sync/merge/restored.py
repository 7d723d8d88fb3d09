"""Conflicts whose losing side was written again, by a restore or an application, on any node: they count as restored.

No message says so. The row itself does: it shows the losing values although they had lost, so a later write has them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from mycomesh.sync.crdt.hlc import ms_from_hlc, time_text
from mycomesh.sync.merge.conflicts import same
from mycomesh.sync.merge.records import DELETE_LOST, KEPT, key_text, shortened_value, value_of
from mycomesh.sync.storage.table import Table

__all__ = ["AS_NEW_ROW", "COMPARED_BYTES_MAX", "UNDO_PREFIX", "note_restored", "recorded_keys"]

UNDO_PREFIX = "undo/"  # in mycomesh_meta, before the number of a conflict that this node has restored
AS_NEW_ROW = "new"
# A larger record is not compared, because each write of its row would read it under the write lock: it stays open on the nodes
# that have not restored it themselves.
COMPARED_BYTES_MAX = 1 << 20


def recorded_keys(table: Table, keys: Sequence[Any]) -> list[Any]:
    """Return those of some rows' keys about which there are conflicts."""
    store = table.store
    if store.conflict_room.empty:
        return []
    texts = dict(zip(map(key_text, keys), keys, strict=True))
    listing = (
        "SELECT k.value FROM json_each(?) k WHERE EXISTS"
        " (SELECT 1 FROM mycomesh_conflicts WHERE table_name = ? AND row_key = k.value) ORDER BY k.key"
    )
    return [texts[text] for (text,) in store.db.execute(listing, (json.dumps([*texts]), table.spec.name))]


def note_restored(table: Table, key: Any, columns: Collection[str], hlc: int) -> None:
    """Note which conflicts of a row a write has restored, or taken back, after the row was written.

    `columns` are those that the write owns; none for a delete. `hlc` is its clock.
    """
    store = table.store
    if store.conflict_room.empty:
        return
    listing = (
        "SELECT seq, lost, won, reason, restored_at FROM mycomesh_conflicts"
        " WHERE table_name = ? AND row_key = ? AND lost_hlc < ? AND octet_length(lost) <= ? ORDER BY seq"
    )
    found = store.db.execute(listing, (table.spec.name, key_text(key), hlc, COMPARED_BYTES_MAX)).fetchall()
    if not found:
        return
    present = table.rows.read(table.locate(key))
    for number, lost, won, reason, restored_at in found:
        if reason.startswith(KEPT):
            continue
        values = json.loads(lost)
        if _shows(present, values, deleted=reason == DELETE_LOST):
            if restored_at is None:
                time = time_text(ms_from_hlc(hlc))
                store.db.execute("UPDATE mycomesh_conflicts SET restored_at = ? WHERE seq = ?", (time, number))
        elif restored_at is not None and _is_taken_back(present, values, won, columns) and not _has_undo(table, number):
            store.db.execute("UPDATE mycomesh_conflicts SET restored_at = NULL WHERE seq = ?", (number,))


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
