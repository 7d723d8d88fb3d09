"""Reads the pending log: for each row that programs wrote, what all its log records say, and its current values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from sys import getsizeof
from typing import Any

from mycomesh.sync.capture.stamps import Times, is_early_record
from mycomesh.sync.merge.work_budget import CHUNK_BYTES_MAX, EDIT_WEIGHT, KEY_WEIGHT, LONG_KEY_BYTES
from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.sync.sqlite.raw_text import raw_select, restore
from mycomesh.sync.sqlite.table_spec import KeyKind, Row, encode_key
from mycomesh.sync.storage.large_rows import CHANGE_BYTES_MAX
from mycomesh.sync.storage.pending_log import (
    OP_DELETE,
    OP_EVICT,
    OP_INSERT,
    WORD_BITS,
    key_names,
    pending_name,
    word_names,
)
from mycomesh.sync.storage.table import Table

_HEADER = 16  # bytes that Python adds to every value; to a text or a blob it adds a little more

__all__ = ["PendingRow", "pending_sql", "read_pending"]


@dataclass(slots=True)
class PendingRow:
    """All log records of one row, coalesced, and the row's current values (None if it is gone)."""

    at_ms: int
    early: bool  # logged by a backfill as a row from before the mesh
    inserted: bool
    deleted: bool
    silent: bool  # some UPDATE seems to have changed no column: see `_changed_columns`
    mask: int
    values: tuple[Any, ...] | None
    heavy: bool = False  # the row may be too large for one change
    top: int = 0  # the greatest clock of the row's entries, of a plain edit
    hlc: int = 0  # the clock that a new row or a plain edit has got


def read_pending(
    table: Table, times: Times, budget: int, *, edit_weight: int = EDIT_WEIGHT, raw: bool = False
) -> tuple[dict[Row, PendingRow], int, bool, int]:
    """Return (rows by name, last log rowid read, whether more follow, weight).

    A record weighs 1 if it is an insert, else `edit_weight`. `raw` reads text that is not UTF-8.
    """
    words = word_names(table.columns.captured)
    single = len(words) == 1
    rows: dict[Row, PendingRow] = {}
    last = size = 0
    keyed = table.spec.kind is KeyKind.KEYED
    keys = len(table.spec.key) if keyed else 0
    first_key = 2 + len(words)
    first_value = first_key + len(key_names(table.spec)) + 1
    more = early = False
    taken = 0
    timed, at_ms = None, 0  # all rows of one statement have one time
    for record in _pending_records(table, words, budget, raw=raw):
        last_read, at, what = record[:3]
        is_early = type(at) is int and is_early_record(at)
        if taken >= budget or size > CHUNK_BYTES_MAX or (taken and is_early is not early):
            more = True
            break
        last, early = last_read, is_early
        if keyed:
            key = record[first_key : first_key + keys]
            row: Row = record[first_key + keys] if None in key else encode_key(table.spec, key)
            if type(row) is bytes and len(row) > LONG_KEY_BYTES:
                size += KEY_WEIGHT * len(row)
        else:
            row = record[first_key]
        taken += 1 if what == OP_INSERT else edit_weight
        if at is None or at != timed:
            timed, at_ms = at, times.of(at, what)
        pending = rows.get(row)
        if pending is None:
            values = record[first_value:] if record[first_value - 1] is not None else None
            if keyed and values is None and isinstance(row, int):
                found = table.rows.read(row)  # the join on key columns does not find a key with a NULL
                values = None if found is None else tuple(found.values())
            pending = rows[row] = PendingRow(at_ms, early, False, False, False, 0, values)
            if values is not None:
                weight = _weight(values) if raw else sum(map(getsizeof, values)) - _HEADER * len(values)
                size += weight
                pending.heavy = 4 * weight > CHANGE_BYTES_MAX  # characters were counted; each may take four bytes
        elif at_ms > pending.at_ms:
            pending.at_ms = at_ms
        if what > 0 and single:
            pending.mask |= what
        else:
            _note(pending, record[2:first_key], early=early)
    return rows, last, more, taken


def _note(pending: PendingRow, words: Sequence[Any], *, early: bool) -> None:
    """Note what one log record says of its row; `words` are the operation or mask, and further mask words."""
    what = words[0]
    if what == OP_INSERT and early:
        pending.silent = True  # if the change log knows the row already, it is compared
    elif what == OP_INSERT:
        pending.inserted = True
    elif what == OP_DELETE:
        pending.deleted = True
    elif what != OP_EVICT:  # an eviction says nothing: the row's current state shows whether it is gone
        mask = what
        for number in range(1, len(words)):
            mask |= (words[number] or 0) << (WORD_BITS * number)  # NULL in records that no trigger wrote
        pending.mask |= mask
        pending.silent |= not mask


def _pending_records(table: Table, words: list[str], budget: int, *, raw: bool) -> Iterator[tuple[Any, ...]]:
    """Return log records: rowid, at, mask words, key columns, 1 if the row is there (else None), the row's columns."""
    found: Iterator[tuple[Any, ...]] = table.store.db.execute(pending_sql(table, words, raw=raw), (budget + 1,))
    if not raw:
        return found
    first = 2 + len(words)
    middle = first + 2 * len(key_names(table.spec))
    return (
        (*record[:first], *restore(record[first:middle]), record[middle], *restore(record[middle + 1 :]))
        for record in found
    )


def pending_sql(table: Table, words: list[str], *, raw: bool) -> str:
    """Return the SELECT of the pending log, with the present row of each record; its parameter is a limit."""
    spec = table.spec
    keys = key_names(spec)
    if spec.kind is KeyKind.KEYED:
        join_on = " AND ".join(f"{column.keyed} = p.k{position}" for position, column in enumerate(spec.key))
        present = f"t.{quoted(spec.key[0].name)}"
    else:
        join_on = f"t.{quoted(spec.rowid)} = p.r"
        present = f"t.{quoted(spec.rowid)}"
    key_list = ", ".join(raw_select(f"p.{name}") if raw else f"p.{name}" for name in keys)
    columns = ", ".join(
        [*(f"p.{name}" for name in ("rowid", "at", *words)), key_list, f"nullif({present} IS NOT NULL, 0)"]
    )
    return (
        f"SELECT {columns}, {table.rows.raw_list if raw else table.rows.select_list} FROM {pending_name(table.table_id)} p"
        f" LEFT JOIN {quoted(spec.name)} t ON {join_on} ORDER BY p.rowid LIMIT ?"
    )


def _weight(values: tuple[Any, ...]) -> int:
    size = 8 * len(values)
    for value in values:
        if type(value) is str or type(value) is bytes:
            size += len(value)
        elif type(value) is list:  # as `is_raw` says, which would cost a call for each cell
            size += len(value[0])
    return size
