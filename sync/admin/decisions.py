"""Decisions of a person about the tables and conflicts of one file: counters, the policy for equal ids, restored values.

A decision writes a schema fact, or a row as an application would write it. The next drain stamps and publishes it like any
local write. A refused decision changes nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mycomesh.sync import codec
from mycomesh.sync.errors import PolicyError
from mycomesh.sync.merge.conflicts import same
from mycomesh.sync.merge.records import DELETE_LOST, KEPT, shortened, time_text, value_of
from mycomesh.sync.schema.catalog import SCHEMA_TABLE, Catalog
from mycomesh.sync.schema.policy import (
    KEEP_BOTH,
    SAME_ROW,
    counter_fact,
    counter_refusal,
    keep_both_fact,
    keep_both_refusal,
)
from mycomesh.sync.sqlite.identifiers import fold, quoted
from mycomesh.sync.sqlite.refusals import REFUSALS
from mycomesh.sync.sqlite.table_spec import KeyKind, Row
from mycomesh.sync.storage.pending_log import LOOK_AGAIN, OP_EVICT, look_statement
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table

__all__ = ["Conflict", "Decisions"]

_COUNTED = " +"  # suffix of a recorded name whose value a site had added to a counter (`records.values_text`)


@dataclass(frozen=True, slots=True)
class Conflict:
    """One row of `mycomesh_conflicts`, with long values shortened.

    `lost` are the losing values, empty where a delete lost. `won` are the winning values, None where a delete won. Sites are
    hexadecimal. Times are ISO 8601 in UTC; `restored_at` is "" until a person restores the conflict.
    """

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


class Decisions:
    """Makes decisions for one file, each in one transaction."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self._store = store
        self._catalog = catalog
        self._registry = catalog.registry

    def declare_counter(self, table: str, column: str) -> None:
        """Declare a column a counter on every replica.

        Raises:
            PolicyError: there is no such column here, or it cannot be a counter.
        """
        spec = self._table(table).spec
        refusal = counter_refusal(spec, column)
        if refusal:
            raise PolicyError(f"not a counter: {refusal}")
        with self._store.transaction():
            self._catalog.decide(counter_fact(spec.folded, spec.to_canonical(column)))

    def policy(self, table: str) -> str:
        """Return the policy for two nodes that insert the same id: `same-row` or `keep-both`."""
        return KEEP_BOTH if self._table(table).spec.id_column else SAME_ROW

    def decide_policy(self, table: str, policy: str) -> None:
        """Set the policy for two nodes that insert the same id, on every replica.

        Raises:
            PolicyError: there is no such policy; the table has no automatic ids, or too many rows; or its policy is
                keep-both, which is final.
        """
        found = self._table(table)
        if policy not in (SAME_ROW, KEEP_BOTH):
            raise PolicyError(f"no policy {policy!r}; there are {SAME_ROW} and {KEEP_BOTH}")
        if policy == self.policy(table):
            return
        if policy == SAME_ROW:
            raise PolicyError(f"{found.spec.name} is {KEEP_BOTH}, which cannot be undone; create another table")
        with self._store.transaction() as db:
            rows = db.execute(f"SELECT count(*) FROM {quoted(found.spec.name)}").fetchone()[0]
            refusal = keep_both_refusal(found.spec, rows)
            if refusal:
                raise PolicyError(f"not {KEEP_BOTH}: {refusal}")
            self._catalog.decide(keep_both_fact(found.spec.folded))

    def conflicts(self, limit: int) -> list[Conflict]:
        """Return up to `limit` conflicts, the latest first."""
        listing = (
            "SELECT seq, table_name, row_key, lost, won, lost_site, won_site, lost_at, won_at, seen_at, reason,"
            " coalesce(restored_at, '') FROM mycomesh_conflicts ORDER BY seq DESC LIMIT ?"
        )
        return [
            Conflict(number, table, key, _shortened(lost), None if won is None else json.loads(won), *rest)
            for number, table, key, lost, won, *rest in self._store.db.execute(listing, (limit,)).fetchall()
        ]

    def restore(self, number: int, wall_ms: int) -> str:
        """Write the losing side of a conflict again: as a write of this moment it wins on every replica.

        Return a short description of the write.

        Raises:
            PolicyError: there is no such conflict, or its values cannot be written.
        """
        try:
            with self._store.transaction():
                done = self._restore(number)
                self._store.db.execute(
                    "UPDATE mycomesh_conflicts SET restored_at = ? WHERE seq = ?", (time_text(wall_ms), number)
                )
        except REFUSALS as error:
            raise PolicyError(f"conflict {number} is not restored: {error}; make room for its values first") from error
        return done

    def _restore(self, number: int) -> str:
        found = self._store.db.execute(
            "SELECT table_name, row, lost, reason FROM mycomesh_conflicts WHERE seq = ?", (number,)
        ).fetchone()
        if found is None:
            raise PolicyError(f"there is no conflict {number}; 'mycomesh conflicts' lists them")
        name, key, lost, reason = found
        if reason.startswith(KEPT):
            raise PolicyError(f"conflict {number} is not restored: nothing was lost, {reason}")
        table = self._table(name)
        row = table.locate(key)
        present = table.rows.read(row)
        if reason == DELETE_LOST:
            if present is None:
                raise PolicyError(f"conflict {number} is not restored: its row of {name} is already deleted")
            _log_row(table, row, OP_EVICT)
            table.rows.delete(row)
            return f"deleted the row of {name}"
        values = {column: value_of(plain) for column, plain in json.loads(lost).items()}
        if present is None:
            _insert(table, row, _whole(table, row, values, number))
            return f"inserted into {name}: {', '.join(values)}"
        changed = _changed(table, present, values, number)
        if not changed:
            raise PolicyError(f"conflict {number} is not restored: its row of {name} has these values already")
        table.rows.update(row, changed)
        _log_row(table, row, LOOK_AGAIN)
        return f"updated {name}: {', '.join(changed)}"

    def _table(self, name: str) -> Table:
        tables = [table for key, table in sorted(self._registry.tables.items()) if key != SCHEMA_TABLE]
        found = next((table for table in tables if fold(table.spec.name) == fold(name)), None)
        if found is None:
            names = [table.spec.name for table in tables]
            raise PolicyError(
                f"{self._store.path} has no replicated table {name!r}; there are {', '.join(names) or 'none'}"
            )
        return found


def _shortened(record: str) -> dict[str, Any]:
    return {name: shortened(plain) for name, plain in json.loads(record).items()}


def _log_row(table: Table, row: Row, operation: int) -> None:
    """Log a row in the pending log, because triggers do not fire for the node's own writes."""
    found = table.rows.condition(row)
    assert found is not None, "the row is in the user's table"
    table.store.db.execute(look_statement(table.spec, table.table_id, operation, found[0]), found[1])


def _changed(table: Table, present: dict[str, Any], values: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the columns of a present row that restoring changes, with their values."""
    changed: dict[str, Any] = {}
    for name, value in values.items():
        if name in present:
            changed[name] = value
        elif name.endswith(_COUNTED) and type(present.get(name.removesuffix(_COUNTED))) is int:
            counter = name.removesuffix(_COUNTED)
            changed[counter] = changed.get(counter, present[counter]) + value
        else:
            raise PolicyError(f"conflict {number} is not restored: {table.spec.name} has no column {name!r} here")
    return {name: value for name, value in changed.items() if not same(value, present[name])}


def _whole(table: Table, row: Row, values: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the columns of a row to insert again: the key columns from its row key, the others from the lost values."""
    unknown = [name for name in values if name not in table.columns.local_names]
    if unknown:
        raise PolicyError(
            f"conflict {number} is not restored: its row of {table.spec.name} is deleted, and {unknown[0]!r} can only be"
            " restored in a row; insert the row first"
        )
    if table.spec.kind is KeyKind.KEYLESS or (isinstance(row, bytes) and row[:1] == b"\x00"):
        return values
    keys = [row] if isinstance(row, int) else codec.decode(row, bytes_max=len(row))
    return dict(zip((column.folded for column in table.spec.key), keys, strict=True)) | values


def _insert(table: Table, row: Row, values: dict[str, Any]) -> None:
    rowid = table.rows.insert(values)
    by_rowid = table.spec.kind is not KeyKind.KEYED or (isinstance(row, bytes) and row[:1] == b"\x00")
    _log_row(table, rowid if by_rowid else row, LOOK_AGAIN)
