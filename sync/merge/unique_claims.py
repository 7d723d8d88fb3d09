"""Rivals: rows that keep another one out of the user's table through a UNIQUE index, and who of them has claimed first.

The earlier claim wins on every replica, whatever the order of arrival: a claim is the newest stamp among a row's existence
and the columns that the index looks at, which are all of them where it indexes an expression, a generated column, or some
rows only. Owns finding the rivals. What always holds: nothing is changed here. It must not know what becomes of the losers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import apsw

from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.sync.sqlite.indexes import UniqueIndex
from mycomesh.sync.sqlite.raw_text import bind_value, placeholder, raw_select, restore
from mycomesh.sync.sqlite.table_spec import KeyKind, encode_key
from mycomesh.sync.storage.row_view import RowView
from mycomesh.sync.storage.table import Row, Table

__all__ = ["later_claims", "rows_where"]

_SAVEPOINT = "mycomesh_rivals"


def later_claims(table: Table, row: Row, values: Mapping[str, Any]) -> dict[Row, str]:
    """Return the rows that keep a row with these values out, with the index that says so.

    Empty if there are none, or if any of them has claimed its place before this one.
    """
    found: dict[Row, str] = {}
    for index in table.spec.unique:
        names = [table.spec.to_canonical(name) for name, _ in index.columns]
        if not names or any(values.get(name) is None for name in names):
            continue
        mine = _claim(table, row, names)
        for claimant in _rows_with(table, index, [values[name] for name in names]):
            if claimant == row:
                continue
            if _claim(table, claimant, names) < mine:
                return {}
            found[claimant] = index.name
    others = [index.name for index in table.spec.unique if not index.columns]
    if others:
        mine = _claim(table, row, table.known)
        for claimant in _evicted(table, row, values):
            if claimant in found:
                continue
            if _claim(table, claimant, table.known) < mine:
                return {}
            found[claimant] = ", ".join(others)
    return found


def _claim(table: Table, row: Row, names: Sequence[str]) -> tuple[int, bytes]:
    mask = table.mask_of(names) | EXISTENCE
    return max((entry.stamp for entry in RowView.read(table, row).entries if entry.mask & mask), default=(0, b""))


def _rows_with(table: Table, index: UniqueIndex, values: Sequence[Any]) -> list[Row]:
    """Return the rows that hold these values in the columns of a UNIQUE index."""
    match = " AND ".join(
        f"t.{quoted(name)} = {placeholder(value)} COLLATE {quoted(collation)}"
        for (name, collation), value in zip(index.columns, values, strict=True)
    )
    return rows_where(table, match, tuple(map(bind_value, values)))


def _evicted(table: Table, row: Row, values: Mapping[str, Any]) -> list[Row]:
    """Return the rows that SQLite would remove for this one if it were told to REPLACE: it is, and that is undone."""
    db = table.store.db
    wanted = {name: value for name, value in values.items() if name in table.known and name != table.spec.id_column}
    gone: list[int] = []

    def note(change: Any) -> None:
        if change.op == "DELETE":
            gone.append(change.rowid)

    before: set[Row] = set()
    db.execute(f"SAVEPOINT {_SAVEPOINT}")
    try:
        table.delete(row)
        if not table.spec.rowid:  # no hook tells their keys where columns are generated
            before = set(rows_where(table, "1", ()))
        db.preupdate_hook(note, id=_SAVEPOINT)
        try:
            table.insert(wanted, conflict="REPLACE")
        except apsw.ConstraintError:
            return []
        finally:
            db.preupdate_hook(None, id=_SAVEPOINT)
        if not table.spec.rowid:
            return sorted(before.difference(rows_where(table, "1", ())), key=repr)
    finally:
        db.execute(f"ROLLBACK TO {_SAVEPOINT}")
        db.execute(f"RELEASE {_SAVEPOINT}")
    rowid = quoted(table.spec.rowid)
    return [claimant for number in gone for claimant in rows_where(table, f"t.{rowid} = ?", (number,))]


def rows_where(table: Table, condition: str, parameters: tuple[Any, ...] = ()) -> list[Row]:
    """Return what the change log calls the rows of the user's table that meet a condition."""
    spec = table.spec
    keys = spec.key if spec.kind is KeyKind.KEYED else ()
    terms = [raw_select(f"t.{quoted(column.name)}") for column in keys]
    if spec.rowid:
        terms.append(f"t.{quoted(spec.rowid)}")
    listing = f"SELECT {', '.join(terms)} FROM {quoted(spec.name)} t WHERE {condition}"
    found: list[Row] = []
    for record in table.store.db.execute(listing, parameters).fetchall():
        key = tuple(restore(record[: 2 * len(keys)]))
        found.append(encode_key(spec, key) if key and None not in key else record[-1])
    return found
