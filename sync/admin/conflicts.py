"""Conflicts of one file as people see them: the list, a losing side written again, and that undone.

A restored side is written as an application would write it. The next drain stamps and publishes it like any local write, and
every node that has the conflict notes that it is restored (`merge.restored`). A refused request changes nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from mycomesh.sync import codec
from mycomesh.sync.crdt.hlc import time_text
from mycomesh.sync.errors import PolicyError
from mycomesh.sync.merge.conflicts import same
from mycomesh.sync.merge.own_writes import delete_row, insert_row, key_cells, log_row, update_row
from mycomesh.sync.merge.records import DELETE_LOST, KEPT, shortened, value_of
from mycomesh.sync.merge.restored import AS_NEW_ROW, UNDO_PREFIX
from mycomesh.sync.schema.catalog import SCHEMA_TABLE
from mycomesh.sync.schema.names import unknown_table
from mycomesh.sync.schema.registry import Registry
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.sqlite.refusals import REFUSALS
from mycomesh.sync.sqlite.table_spec import KeyKind, Row
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table

__all__ = ["Conflict", "Conflicts", "find_table"]

_COUNTED = " +"  # suffix of a recorded name whose value a site had added to a counter (`records.values_text`)
_UPDATED, _INSERTED, _DELETED = "updated", "inserted", "deleted"
_ID_CHARS = 8  # 40 bits: two of 10,000 conflicts share an id once in 20,000 files


@dataclass(frozen=True, slots=True)
class Conflict:
    """One row of `mycomesh_conflicts`, with long values shortened.

    `id` names the losing write, alike on every node; `number` is this file's own.
    `lost` are the losing values, empty where a delete lost. `won` are the winning values, None where a delete won. Sites are
    hexadecimal. Times are ISO 8601 in UTC; `restored_at` is "" until the losing side was written again, on any node.
    """

    id: str
    number: int
    table: str
    key: str
    lost: dict[str, Any]
    won: dict[str, Any] | None
    lost_site: str
    won_site: str
    lost_at: str
    won_at: str
    seen_at: str
    reason: str
    restored_at: str


@dataclass(frozen=True, slots=True)
class _Restored:
    """A restore, as its undo needs it: the name of the row in the change log, and its values before and after."""

    what: str
    row: Row
    before: dict[str, Any]
    after: dict[str, Any]

    def encode(self) -> bytes:
        """Return the stored form."""
        sides = [list(self.before), list(self.before.values()), list(self.after), list(self.after.values())]
        return codec.encode([self.what, self.row, *sides])

    @classmethod
    def decode(cls, stored: bytes) -> _Restored:
        """Return the stored value."""
        what, row, names, values, names_after, values_after = codec.decode(stored, bytes_max=len(stored))
        return cls(what, row, dict(zip(names, values, strict=True)), dict(zip(names_after, values_after, strict=True)))


class Conflicts:
    """The conflicts of one file."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry

    def latest(self, limit: int) -> list[Conflict]:
        """Return up to `limit` conflicts, the latest first."""
        listing = (
            "SELECT seq, table_name, row_key, lost, won, lost_site, won_site, lost_at, won_at, seen_at, reason,"
            " coalesce(restored_at, ''), row, lost_hlc FROM mycomesh_conflicts ORDER BY seq DESC LIMIT ?"
        )
        found = []
        for number, table, key, lost, won, *rest, row, hlc in self._store.db.execute(listing, (limit,)).fetchall():
            name = self._id(table, row, rest[0], hlc)
            values = None if won is None else json.loads(won)
            found.append(Conflict(name, number, table, key, _shortened(lost), values, *rest))
        return found

    def restore(self, which: str, wall_ms: int, *, as_new_row: bool = False) -> str:
        """Write the losing side of a conflict again: as a write of this moment it wins on every replica.

        Args:
            which: the id of the conflict, or its number in this file.
            wall_ms: wall time of this node.
            as_new_row: write it as another row, whose key SQLite chooses, beside the one that won.

        Return a short description of the write.

        Raises:
            PolicyError: there is no such conflict, or its values cannot be written.
        """
        try:
            with self._store.transaction():
                return "; ".join(
                    [self._restore(number, wall_ms, as_new_row=as_new_row) for number in self._numbers(which)]
                )
        except REFUSALS as error:
            raise PolicyError(f"conflict {which} is not restored: {error}; make room for its values first") from error

    def undo(self, which: str) -> str:
        """Undo a restore of this node: write the values from before it again; return a short description.

        Raises:
            PolicyError: there is no such conflict, it was not restored here, or its row was changed since.
        """
        try:
            with self._store.transaction():
                return "; ".join([self._undo(number, which) for number in self._numbers(which, restored=True)])
        except REFUSALS as error:
            raise PolicyError(f"conflict {which} is not undone: {error}; make room for the values first") from error

    # ---- inside a transaction

    def _id(self, table: str, row: Any, lost_site: str, lost_hlc: int) -> str:
        """Return the id of a losing write: a letter and letters or digits, so that it is no number."""
        name = next((t.spec.folded for t in self._registry.tables.values() if t.spec.name == table), fold(table))
        written = codec.encode([name, row, lost_site, lost_hlc])
        digest = hashlib.blake2b(written, digest_size=5, person=b"mycomesh-loser").digest()
        return "c" + base64.b32encode(digest).decode().lower()[:_ID_CHARS]

    def _numbers(self, which: str, *, restored: bool = False) -> list[int]:
        """Return the numbers of the records of a conflict: those that are restored, or those that are not, if there are any."""
        listing = (
            "SELECT seq, table_name, row, lost_site, lost_hlc, restored_at FROM mycomesh_conflicts"
            f" {'WHERE seq = ?' if which.isdigit() else ''} ORDER BY seq"
        )
        records = self._store.db.execute(listing, (int(which),) if which.isdigit() else ()).fetchall()
        if not which.isdigit():
            records = [record for record in records if self._id(*record[1:5]) == which.lower()]
        if not records:
            raise PolicyError(f"there is no conflict {which}; 'mycomesh conflicts' lists them")
        wanted = [record[0] for record in records if (record[5] is not None) == restored]
        return wanted or [record[0] for record in records]

    def _restore(self, number: int, wall_ms: int, *, as_new_row: bool) -> str:
        name, key, lost, reason = self._store.db.execute(
            "SELECT table_name, row, lost, reason FROM mycomesh_conflicts WHERE seq = ?", (number,)
        ).fetchone()
        if reason.startswith(KEPT):
            raise PolicyError(f"conflict {number} is not restored: nothing was lost, {reason}")
        table = find_table(self._store, self._registry, name)
        row = table.locate(key)
        present = table.rows.read(row)
        values = {column: value_of(plain) for column, plain in json.loads(lost).items()}
        if as_new_row:
            done = self._insert_beside(table, present, values, number)
        elif reason == DELETE_LOST:
            if present is None:
                raise PolicyError(f"conflict {number} is not restored: its row of {name} is already deleted")
            delete_row(table, row)
            done = _Restored(_DELETED, row, present, {})
        elif present is None:
            whole = _whole(table, row, values, number)
            done = _Restored(_INSERTED, insert_row(table, row, whole), {}, whole)
        else:
            changed = _changed(table, present, values, number)
            if not changed:
                raise PolicyError(f"conflict {number} is not restored: its row of {name} has these values already")
            update_row(table, row, changed)
            done = _Restored(_UPDATED, row, {column: present[column] for column in changed}, changed)
        self._store.db.execute(
            "UPDATE mycomesh_conflicts SET restored_at = ? WHERE seq = ?", (time_text(wall_ms), number)
        )
        self._store.meta_set(f"{UNDO_PREFIX}{number}", done.encode())
        self._drop_old_undos()
        return _description(done, name, values)

    def _insert_beside(
        self, table: Table, present: dict[str, Any] | None, values: dict[str, Any], number: int
    ) -> _Restored:
        spec = table.spec
        if spec.kind is not KeyKind.ROWID:
            raise PolicyError(f"conflict {number} is not restored: SQLite chooses no key for a row of {spec.name}")
        if not values:
            raise PolicyError(f"conflict {number} is not restored: a delete lost, which has no values for another row")
        key = spec.key[0].folded
        whole = {name: value for name, value in (present or {}).items() if name != key}
        whole |= _changed(
            table, whole, {name: value for name, value in values.items() if name != key}, number, all_of_it=True
        )
        rowid = table.rows.insert(whole)
        log_row(table, rowid)
        return _Restored(AS_NEW_ROW, rowid, {}, whole)

    def _undo(self, number: int, which: str) -> str:
        stored = self._store.meta(f"{UNDO_PREFIX}{number}")
        name, key, restored_at = self._store.db.execute(
            "SELECT table_name, row, restored_at FROM mycomesh_conflicts WHERE seq = ?", (number,)
        ).fetchone()
        if restored_at is None:
            raise PolicyError(f"conflict {which} is not undone: it is not restored")
        if type(stored) is not bytes:
            raise PolicyError(
                f"conflict {which} is not undone: another node has restored it; run the same command there"
            )
        done = _Restored.decode(stored)
        table = find_table(self._store, self._registry, name)
        row = done.row if done.what == AS_NEW_ROW else table.locate(key)
        present = table.rows.read(row)
        if not _is_as_left(done, present):
            raise PolicyError(
                f"conflict {which} is not undone: its row of {name} was changed since; write the values by hand"
            )
        if done.what == _DELETED:
            insert_row(table, row, done.before)
            text = f"inserted the row of {name} again"
        elif done.what == _UPDATED:
            update_row(table, row, done.before)
            text = f"updated {name}: {', '.join(done.before)}"
        else:
            delete_row(table, row)
            text = f"deleted the row of {name}"
        self._store.db.execute("UPDATE mycomesh_conflicts SET restored_at = NULL WHERE seq = ?", (number,))
        self._store.db.execute("DELETE FROM mycomesh_meta WHERE name = ?", (f"{UNDO_PREFIX}{number}",))
        return text

    def _drop_old_undos(self) -> None:
        """Remove what undoes restores of conflicts that are no longer on record."""
        self._store.db.execute(
            f"DELETE FROM mycomesh_meta WHERE name GLOB '{UNDO_PREFIX}*'"
            f" AND CAST(substr(name, {len(UNDO_PREFIX) + 1}) AS INTEGER) NOT IN (SELECT seq FROM mycomesh_conflicts)"
        )


def find_table(store: Store, registry: Registry, name: str) -> Table:
    """Return the replicated table with this name in the file; raise `PolicyError` if it does not exist."""
    tables = [table for key, table in sorted(registry.tables.items()) if key != SCHEMA_TABLE]
    found = next((table for table in tables if fold(table.spec.name) == fold(name)), None)
    if found is None:
        names = [table.spec.name for table in tables]
        raise PolicyError(unknown_table(store.db, store.path, name, names))
    return found


def _description(done: _Restored, table: str, values: dict[str, Any]) -> str:
    match done.what:
        case "deleted":
            return f"deleted the row of {table}"
        case "inserted":
            return f"inserted into {table}: {', '.join(values)}"
        case "updated":
            return f"updated {table}: {', '.join(done.after)}"
        case _:
            return f"inserted into {table} as row {done.row!r}"


def _is_as_left(done: _Restored, present: dict[str, Any] | None) -> bool:
    """Return True if nothing has changed what a restore wrote."""
    if done.what == _DELETED:
        return present is None
    return present is not None and all(
        name in present and same(present[name], value) for name, value in done.after.items()
    )


def _shortened(record: str) -> dict[str, Any]:
    return {name: shortened(plain) for name, plain in json.loads(record).items()}


def _changed(
    table: Table, present: dict[str, Any], values: dict[str, Any], number: int, *, all_of_it: bool = False
) -> dict[str, Any]:
    """Return the columns of a present row that restoring changes, or with `all_of_it` all that were lost, with their values."""
    changed: dict[str, Any] = {}
    for name, value in values.items():
        if name in present:
            changed[name] = value
        elif name.endswith(_COUNTED) and type(present.get(name.removesuffix(_COUNTED))) is int:
            counter = name.removesuffix(_COUNTED)
            changed[counter] = changed.get(counter, present[counter]) + value
        else:
            raise PolicyError(f"conflict {number} is not restored: {table.spec.name} has no column {name!r} here")
    return {name: value for name, value in changed.items() if all_of_it or not same(value, present[name])}


def _whole(table: Table, row: Row, values: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the columns of a row to insert again: the key columns from its row key, the others from the lost values."""
    unknown = [name for name in values if name not in table.columns.local_names]
    if unknown:
        raise PolicyError(
            f"conflict {number} is not restored: its row of {table.spec.name} is deleted, and {unknown[0]!r} can only be"
            " restored in a row; insert the row first"
        )
    return key_cells(table, row) | values
