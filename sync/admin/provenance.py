"""Provenance of one row: which site wrote each cell and when, which writes lost, and whether a write waits.

Everything comes from the file alone, in one read transaction, while a node may be serving it. Sites are hexadecimal; the first
8 bytes of a site are those of its node's id.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mycomesh.sync.codec import decode
from mycomesh.sync.crdt.hlc import ms_from_hlc
from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.errors import PolicyError
from mycomesh.sync.merge.records import key_text, shortened, time_text, values_text
from mycomesh.sync.schema.facts import SCHEMA_TABLE
from mycomesh.sync.schema.names import Names, unknown_table
from mycomesh.sync.schema.policy import Policies
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.sqlite.table_spec import Column, KeyKind, Row, encode_key, read_table, user_tables
from mycomesh.sync.storage.change_log import StoredEntry
from mycomesh.sync.storage.pending_log import key_names, pending_name
from mycomesh.sync.storage.row_view import RowView
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table, insert_key

__all__ = ["Loss", "Provenance", "Written", "read_provenance", "rows_named"]

SHOWN = "shown"
DELETED = "deleted"
HIDDEN = "not shown"  # parked, or an update came before the insert


@dataclass(frozen=True, slots=True)
class Written:
    """One write that still has effect: of a cell, or the insert or delete of the row."""

    column: str  # "" for an insert or delete
    value: Any
    at: str  # ISO 8601, UTC
    site: str
    hlc: int


@dataclass(frozen=True, slots=True)
class Loss:
    """One losing write of the row, from `mycomesh_conflicts`; `number` is the argument of `mycomesh restore`."""

    number: int
    lost: dict[str, Any]
    lost_at: str
    lost_site: str
    won_at: str
    won_site: str
    reason: str
    restored_at: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """One row.

    `existence` is its insert or delete, None if the file knows only updates of it. `state` is "shown", "deleted" or "not
    shown". `parked` is the constraint that keeps the row out of the table, else "". `pending` is true if a program has
    written to the row and the node has not stamped that write yet: no node runs, or the write has just happened.
    """

    table: str
    key: str
    state: str
    existence: Written | None
    cells: tuple[Written, ...]
    losses: tuple[Loss, ...]
    parked: str
    pending: bool


def read_provenance(path: Path, table: str, key: str) -> Provenance:
    """Return the provenance of one row.

    Args:
        path: a database that a node serves or has served.
        table: name of a table in that file.
        key: as `mycomesh conflicts` prints it: a value, a JSON array of several values, or for a table without a primary
            key the rowid or SITE@CLOCK, the stamp of the insert.

    Raises:
        DatabaseError: there is no such file, or it cannot be read.
        ForeignFileError: no node has ever served it.
        PolicyError: the file has no such replicated table, or knows no such row.
    """
    with contextlib.closing(Store(str(path), read_only=True)) as store, store.reading():
        found = _table(store, table)
        for row in rows_named(found, key):
            stored_entries = found.log.entries_of_row(row)
            pending = _pending(found, row)
            if stored_entries or pending:
                return _provenance(found, row, stored_entries, pending=pending)
    raise PolicyError(
        f"{found.spec.name} has no row {key!r}, and none is known to be deleted: check the key (a JSON array if it has several"
        " columns); a delete is forgotten once every member has seen it"
    )


def _table(store: Store, name: str) -> Table:
    names = Names(store.db)
    listing = "SELECT id, name, bits FROM mycomesh_replicated WHERE name <> ? ORDER BY name"
    known = {names.table(row[1]): row for row in store.db.execute(listing, (SCHEMA_TABLE,)).fetchall()}
    found = next((row for here, row in known.items() if fold(here) == fold(name)), None)
    if found is None:
        raise PolicyError(unknown_table(store.db, store.path, name, known))
    table_id, canonical, bits = found
    here = next((each for each in user_tables(store.db)[0] if fold(each) == fold(name)), None)
    if here is None:
        raise PolicyError(f"{store.path} no longer has a table {name!r}: a program dropped or renamed it")
    plain = read_table(store.db, here)
    policies = Policies.read(store.db, SCHEMA_TABLE).keeping_keys(lambda _: names.key(plain, canonical))
    spec = policies.applied(names.spec(plain, canonical, policies.dropped_of(canonical)))
    table = Table(store, table_id, spec, json.loads(bits), b"")
    table.columns.counters = policies.counters_of(spec)
    return table


# ---- from a key as text to a row


def rows_named(table: Table, key: str) -> Iterator[Row]:
    """Yield the rows that a key may refer to, the most likely first."""
    site, at, hlc = key.partition("@")
    if at and len(site) == 32 and hlc.isdecimal() and set(site) <= set("0123456789abcdef"):
        yield table.locate(insert_key(bytes.fromhex(site), int(hlc)))
    if table.spec.kind is not KeyKind.KEYED:
        if key.removeprefix("-").isdecimal():
            yield int(key)
        return
    for values in _readings(key, len(table.spec.key)):
        yield encode_key(table.spec, tuple(map(_stored, values, table.spec.key)))


def _readings(key: str, columns: int) -> Iterator[list[Any]]:
    """Yield the possible values of a key: those of JSON if the text is valid JSON, and for one column the text itself."""
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(key)
        values = value if isinstance(value, list) else [value]
        if len(values) == columns and all(type(each) in (int, float, str) for each in values):
            yield values
    if columns == 1:
        yield [key]


def _stored(value: Any, column: Column) -> Any:
    """Return a value as the affinity of its column stores it.

    SQLite documentation, "Type Affinity".
    """
    if column.affinity == "TEXT":
        return value if isinstance(value, str) else str(value)
    if column.affinity != "BLOB" and isinstance(value, str):
        for number in (int, float):
            with contextlib.suppress(ValueError):
                return number(value)
    return value


def _pending(table: Table, row: Row) -> bool:
    """Return True if a program has written to the row since the last drain."""
    names = key_names(table.spec)
    if isinstance(row, int):
        if "r" not in names:
            return False
        where, values = "r = ?", [row]
    elif table.spec.kind is KeyKind.KEYED and row[:1] != b"\x00":
        values = decode(row, bytes_max=len(row))
        where = " AND ".join(f"k{number} = ?" for number in range(len(values)))
    else:
        return False
    listing = f"SELECT 1 FROM {pending_name(table.table_id)} WHERE {where} LIMIT 1"
    return table.store.db.execute(listing, values).fetchone() is not None


# ---- from a row to its provenance


def _provenance(table: Table, row: Row, stored_entries: list[StoredEntry], *, pending: bool) -> Provenance:
    view = RowView(table, row, table.rows.read(row), stored_entries)
    existence: Written | None = None
    cells: list[Written] = []
    dead = False
    for stored, entry in zip(view.stored, view.entries, strict=True):
        if entry.mask & EXISTENCE:
            existence, dead = _written(table, stored, "", None), entry.dead
        values = json.loads(values_text(view.values(stored, entry.mask & ~EXISTENCE)))
        cells += [_written(table, stored, name, shortened(value)) for name, value in values.items()]
    key = key_text(table.key(row, stored_entries) if stored_entries else row)
    if stored_entries and not pending:
        state = DELETED if dead else SHOWN if view.present is not None and view.visible else HIDDEN
    else:  # the write has no stamp yet, so only the user's table shows its effect
        state = DELETED if view.present is None else SHOWN
    parked = table.store.db.execute(
        "SELECT reason FROM mycomesh_parked WHERE id = ? AND row = ?", (table.table_id, row)
    ).fetchone()
    name = table.spec.name
    losses = _losses(table, key)
    ordered = tuple(sorted(cells, key=lambda cell: (cell.column, cell.hlc)))
    return Provenance(name, key, state, existence, ordered, losses, parked[0] if parked else "", pending)


def _written(table: Table, stored: StoredEntry, column: str, value: Any) -> Written:
    site_number, hlc = stored[:2]
    return Written(column, value, time_text(ms_from_hlc(hlc)), table.store.site(site_number).hex(), hlc)


def _losses(table: Table, key: str) -> tuple[Loss, ...]:
    """Return the losing writes of the row, the latest first."""
    listing = (
        "SELECT seq, lost, lost_at, lost_site, won_at, won_site, reason, coalesce(restored_at, '')"
        " FROM mycomesh_conflicts WHERE table_name = ? AND row_key = ? ORDER BY seq DESC"
    )
    return tuple(
        Loss(number, {name: shortened(value) for name, value in json.loads(lost).items()}, *rest)
        for number, lost, *rest in table.store.db.execute(listing, (table.spec.name, key)).fetchall()
    )
