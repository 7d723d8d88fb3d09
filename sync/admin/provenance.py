"""Where a row comes from: who wrote each of its cells and when, what it lost and what waits, read from the file alone.

Owns the reading of one row's entries and records for people. What always holds: nothing is changed, and the file may be
served meanwhile; everything told is of one moment. It must not know members' names: sites are hexadecimal, and begin with
the first 8 bytes of their node's id.
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
from mycomesh.sync.schema.catalog import SCHEMA_TABLE
from mycomesh.sync.schema.names import Names
from mycomesh.sync.schema.policy import Policies
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.sqlite.table_spec import Column, KeyKind, Row, encode_key, read_table, user_tables
from mycomesh.sync.storage.change_log import Leaf
from mycomesh.sync.storage.pending_log import key_names, pending_name
from mycomesh.sync.storage.row_view import RowView
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table, birth_key

__all__ = ["Loss", "Provenance", "Written", "read_provenance"]

SHOWN = "shown"
DELETED = "deleted"
HIDDEN = "not shown"  # parked, or told of before its birth


@dataclass(frozen=True, slots=True)
class Written:
    """One write that stands: the column ("" for the row's birth or its delete), value, ISO 8601 time in UTC, site, clock."""

    column: str
    value: Any
    at: str
    site: str
    hlc: int


@dataclass(frozen=True, slots=True)
class Loss:
    """One losing write of the row as `mycomesh_conflicts` has it; `number` is what `mycomesh restore` takes."""

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
    """One row. `existence` is its birth or its delete, None where the row is known by single cells alone.

    `state` is shown, deleted or "not shown"; `parked` says why a constraint keeps it out; `pending`: a program has written
    to it and the node has not stamped that yet (no node runs, or it has just happened).
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
    """Return where a row comes from.

    Args:
        path: a database that a node serves or has served.
        table: its name.
        key: as `mycomesh conflicts` shows it: a value, a JSON array of several, the rowid of a table without a key, or
            SITE@CLOCK, the birth of such a row.

    Raises:
        DatabaseError: there is no such file, or it cannot be read.
        ForeignFileError: no node has ever served it.
        PolicyError: it has no such replicated table, or nothing is known of such a row.
    """
    with contextlib.closing(Store(str(path), read_only=True)) as store, store.reading():
        found = _table(store, table)
        for row in _candidates(found, key):
            leaves = found.log.leaves(row)
            pending = _pending(found, row)
            if leaves or pending:
                return _told(found, row, leaves, pending=pending)
    raise PolicyError(
        f"nothing is known of a row {key!r} of {found.spec.name}: check the key (several columns: a JSON array);"
        " a delete is forgotten once every member has seen it"
    )


def _table(store: Store, name: str) -> Table:
    names = Names(store.db)
    listing = "SELECT id, name, bits FROM mycomesh_replicated WHERE name <> ? ORDER BY name"
    known = {names.table(row[1]): row for row in store.db.execute(listing, (SCHEMA_TABLE,)).fetchall()}
    found = next((row for here, row in known.items() if fold(here) == fold(name)), None)
    if found is None:
        raise PolicyError(f"{store.path} has no replicated table {name!r}; there are {', '.join(known) or 'none'}")
    table_id, mesh, bits = found
    here = next((each for each in user_tables(store.db)[0] if fold(each) == fold(name)), None)
    if here is None:
        raise PolicyError(f"{store.path} has no table {name!r} any more: it was dropped or renamed by hand")
    policies = Policies.read(store.db, SCHEMA_TABLE)
    spec = policies.applied(names.spec(read_table(store.db, here), mesh, policies.dropped_of(mesh)))
    table = Table(store, table_id, spec, json.loads(bits), b"")
    table.columns.counters = policies.counters_of(spec)
    return table


# ---- the row that a person means


def _candidates(table: Table, key: str) -> Iterator[Row]:
    """Yield the rows that a key may mean, the likeliest first."""
    site, at, hlc = key.partition("@")
    if at and len(site) == 32 and hlc.isdecimal() and set(site) <= set("0123456789abcdef"):
        yield table.locate(birth_key(bytes.fromhex(site), int(hlc)))
    if table.spec.kind is not KeyKind.KEYED:
        if key.removeprefix("-").isdecimal():
            yield int(key)
        return
    for values in _readings(key, len(table.spec.key)):
        yield encode_key(table.spec, tuple(map(_stored, values, table.spec.key)))


def _readings(key: str, columns: int) -> Iterator[list[Any]]:
    """Yield the values of a key as they may be meant: JSON where it is some, the text itself where it is one column."""
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(key)
        values = value if isinstance(value, list) else [value]
        if len(values) == columns and all(type(each) in (int, float, str) for each in values):
            yield values
    if columns == 1:
        yield [key]


def _stored(value: Any, column: Column) -> Any:
    """Return a value as a column of its affinity stores it (SQLite, "Type Affinity")."""
    if column.affinity == "TEXT":
        return value if isinstance(value, str) else str(value)
    if column.affinity != "BLOB" and isinstance(value, str):
        for number in (int, float):
            with contextlib.suppress(ValueError):
                return number(value)
    return value


def _pending(table: Table, row: Row) -> bool:
    """Whether a program has written to the row since the last drain."""
    names = key_names(table.spec)
    if isinstance(row, int):
        if "r" not in names:
            return False
        where, values = "r = ?", [row]
    elif table.spec.kind is KeyKind.KEYED and row[:1] != b"\x00":
        values = decode(row, bytes_max=len(row))
        where = " AND ".join(f"k{place} = ?" for place in range(len(values)))
    else:
        return False
    listing = f"SELECT 1 FROM {pending_name(table.table_id)} WHERE {where} LIMIT 1"
    return table.store.db.execute(listing, values).fetchone() is not None


# ---- what is told of it


def _told(table: Table, row: Row, leaves: list[Leaf], *, pending: bool) -> Provenance:
    view = RowView(table, row, table.rows.read(row), leaves)
    existence: Written | None = None
    cells: list[Written] = []
    dead = False
    for leaf, entry in zip(view.leaves, view.entries, strict=True):
        if entry.mask & EXISTENCE:
            existence, dead = _written(table, leaf, "", None), entry.dead
        values = json.loads(values_text(view.values(leaf, entry.mask & ~EXISTENCE)))
        cells += [_written(table, leaf, name, shortened(value)) for name, value in values.items()]
    key = key_text(table.key(row, leaves) if leaves else row)
    if leaves and not pending:
        state = DELETED if dead else SHOWN if view.present is not None and view.visible else HIDDEN
    else:  # a program has written what has no stamp yet: the user's table tells
        state = DELETED if view.present is None else SHOWN
    parked = table.store.db.execute(
        "SELECT reason FROM mycomesh_parked WHERE id = ? AND row = ?", (table.table_id, row)
    ).fetchone()
    name = table.spec.name
    losses = _losses(table, key)
    ordered = tuple(sorted(cells, key=lambda cell: (cell.column, cell.hlc)))
    return Provenance(name, key, state, existence, ordered, losses, parked[0] if parked else "", pending)


def _written(table: Table, leaf: Leaf, column: str, value: Any) -> Written:
    place, hlc = leaf[:2]
    return Written(column, value, time_text(ms_from_hlc(hlc)), table.store.site(place).hex(), hlc)


def _losses(table: Table, key: str) -> tuple[Loss, ...]:
    """The row's losing writes, the latest first."""
    listing = (
        "SELECT seq, lost, lost_at, lost_site, won_at, won_site, reason, coalesce(restored_at, '')"
        " FROM mycomesh_conflicts WHERE table_name = ? AND row_key = ? ORDER BY seq DESC"
    )
    return tuple(
        Loss(number, {name: shortened(value) for name, value in json.loads(lost).items()}, *rest)
        for number, lost, *rest in table.store.db.execute(listing, (table.spec.name, key)).fetchall()
    )
