"""UNIQUE conflicts between rows: finds the rows that keep another one out of the user's table, and which of them claimed first.

The earlier claim wins on every replica, whatever the order of arrival. A row's claim is the newest stamp among its existence and
the columns that decide the index: the indexed columns, or all columns if the index is partial or covers an expression or a
generated column. Nothing is changed here: `merge` parks the losers.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.sync.sqlite.indexes import UniqueIndex, column_names
from mycomesh.sync.sqlite.raw_text import bind_value, placeholder, raw_select, restore
from mycomesh.sync.sqlite.refusals import REFUSALS
from mycomesh.sync.sqlite.table_spec import KeyKind, Row, encode_key
from mycomesh.sync.storage.change_log import unpack_mask
from mycomesh.sync.storage.table import Table
from mycomesh.sync.wire.bundle import Group

__all__ = ["giving_way", "later_claims", "rows_where"]

_SAVEPOINT = "mycomesh_rivals"


def later_claims(table: Table, row: Row, values: Mapping[str, Any]) -> dict[Row, str]:
    """Return the rows that keep a row with these values out of the table, each with the name of the index that does.

    Empty if there are none, or if one of them has the earlier claim: then this row has to give way.
    """
    found: dict[Row, str] = {}
    for index in table.spec.unique:
        names = [table.spec.to_canonical(name) for name, _ in index.columns]
        # NULLs are distinct in a UNIQUE index: a row with one claims nothing.
        if not names or any(values.get(name) is None for name in names):
            continue
        claimants = [other for other in _rows_with(table, index, [values[name] for name in names]) if other != row]
        if not claimants:
            continue
        mine = _claim(table, row, names)
        if any(_claim(table, claimant, names) < mine for claimant in claimants):
            return {}
        found |= dict.fromkeys(claimants, index.name)
    # Only SQLite can evaluate the other indexes. So it is asked which rows it would replace.
    others = [index.name for index in table.spec.unique if not index.columns]
    if others:
        mine = _claim(table, row, table.columns.local)
        for claimant in _evicted(table, row, values):
            if claimant in found:
                continue
            if _claim(table, claimant, table.columns.local) < mine:
                return {}
            found[claimant] = ", ".join(others)
    return found


def giving_way(table: Table, group: Group, numbers: Sequence[int]) -> list[int]:
    """Return those of some refused inserts, by their numbers in the group, that give way: for which `later_claims` is empty.

    None if only SQLite can evaluate some index: such rows need a look each.
    """
    if not all(index.columns for index in table.spec.unique):
        return []
    in_the_way: list[tuple[int, int, Row]] = []  # number of the insert, mask of the index, the other row
    for index in table.spec.unique:
        names = [table.spec.to_canonical(name) for name, _ in index.columns]
        if not set(names) <= set(group.columns):
            continue
        mask, places = table.columns.mask_of(names) | EXISTENCE, [group.columns.index(name) for name in names]
        wanted = [(number, *[group.rows[number][place] for place in places]) for number in numbers]
        found = _rows_with_any(table, index, [values for values in wanted if None not in values])
        in_the_way += [(number, mask, other) for number, other in found]
    entries = table.log.entries_of_rows(list(dict.fromkeys(row for _, _, row in in_the_way)))
    site = table.store.site
    earlier: set[int] = set()
    for number, mask, other in in_the_way:
        stamps = [(entry[1], site(entry[0])) for entry in entries[other] if unpack_mask(entry[3])[0] & mask]
        if max(stamps, default=(0, b"")) < (group.hlcs[number], group.site):
            earlier.add(number)
    contested = {number for number, _, _ in in_the_way}
    return [number for number in numbers if number in earlier or number not in contested]


def _rows_with_any(table: Table, index: UniqueIndex, wanted: Sequence[tuple[Any, ...]]) -> list[tuple[int, Row]]:
    """Return (number, row that holds the values after that number in the columns of a UNIQUE index)."""
    match = " AND ".join(f"t.{quoted(name)} = ? COLLATE {quoted(collation)}" for name, collation in index.columns)
    terms, name_of = _row_terms(table)
    listing = f"SELECT ?, {', '.join(terms)} FROM {quoted(table.spec.name)} t WHERE {match}"
    return [(record[0], name_of(record[1:])) for record in table.store.db.executemany(listing, wanted)]


def _claim(table: Table, row: Row, names: Sequence[str]) -> tuple[int, bytes]:
    mask = table.columns.mask_of(names) | EXISTENCE
    entries = map(table.log.entry, table.log.entries_of_row(row))
    return max((entry.stamp for entry in entries if entry.mask & mask), default=(0, b""))


def _rows_with(table: Table, index: UniqueIndex, values: Sequence[Any]) -> list[Row]:
    """Return the rows that hold these values in the columns of a UNIQUE index."""
    match = " AND ".join(
        f"t.{quoted(name)} = {placeholder(value)} COLLATE {quoted(collation)}"
        for (name, collation), value in zip(index.columns, values, strict=True)
    )
    return rows_where(table, match, tuple(map(bind_value, values)))


def _evicted(table: Table, row: Row, values: Mapping[str, Any]) -> list[Row]:
    """Return the rows that INSERT OR REPLACE would remove for this row: execute it in a savepoint and undo it."""
    found = None
    # SQLite reports a deleted row by its rowid, or by its values if none of its columns is generated.
    if table.spec.rowid or not table.spec.generated:
        found = _replace(table, row, values, compare=False)
    return _replace(table, row, values, compare=True) or [] if found is None else found


def _replace(table: Table, row: Row, values: Mapping[str, Any], *, compare: bool) -> list[Row] | None:
    """Execute it in a savepoint and undo it; return the rows that it has removed, None if SQLite does not name one of them.

    With `compare`, all rows before and after are read, which always finds them.
    """
    db, spec = table.store.db, table.spec
    wanted = {
        name: value for name, value in values.items() if name in table.columns.local_names and name != spec.id_column
    }
    names = column_names(db, spec.name)
    positions = [] if spec.rowid else [names.index(column.name) for column in spec.key]
    gone: list[Any] = []

    def note(change: Any) -> None:
        if change.op == "DELETE" and not compare:
            try:
                gone.append(change.rowid if spec.rowid else tuple(change.old[at] for at in positions))
            except UnicodeDecodeError:  # text that is not UTF-8
                gone.append(None)

    before: set[Row] = set()
    db.execute(f"SAVEPOINT {_SAVEPOINT}")
    try:
        table.rows.delete(row)
        if compare:
            before = set(rows_where(table, "1"))
        db.preupdate_hook(note, id=_SAVEPOINT)
        try:
            table.rows.insert(wanted, replacing=True)
        except REFUSALS:
            return []
        finally:
            db.preupdate_hook(None, id=_SAVEPOINT)
        if compare:
            return sorted(before.difference(rows_where(table, "1")), key=repr)
    finally:
        db.execute(f"ROLLBACK TO {_SAVEPOINT}")
        db.execute(f"RELEASE {_SAVEPOINT}")
    if None in gone:
        return None
    if not spec.rowid:
        return [encode_key(spec, key) for key in gone]
    return [found for rowid in gone for found in rows_where(table, f"t.{quoted(spec.rowid)} = ?", (rowid,))]


def rows_where(table: Table, condition: str, parameters: tuple[Any, ...] = ()) -> list[Row]:
    """Return the change log's names of the rows of the user's table that meet an SQL condition on the table `t`."""
    terms, name_of = _row_terms(table)
    listing = f"SELECT {', '.join(terms)} FROM {quoted(table.spec.name)} t WHERE {condition}"
    return [name_of(record) for record in table.store.db.execute(listing, parameters).fetchall()]


def _row_terms(table: Table) -> tuple[list[str], Callable[[Sequence[Any]], Row]]:
    """Return the SQL terms of a row `t` that name it in the change log, and what makes its name of their values."""
    spec = table.spec
    keys = spec.key if spec.kind is KeyKind.KEYED else ()
    if not keys:
        return [f"t.{quoted(spec.rowid)}"], operator.itemgetter(-1)
    terms = [raw_select(f"t.{quoted(column.name)}") for column in keys]
    if spec.rowid:
        terms.append(f"t.{quoted(spec.rowid)}")

    def name_of(record: Sequence[Any]) -> Row:
        key = tuple(restore(record[: 2 * len(keys)]))
        name: Row = encode_key(spec, key) if None not in key else record[-1]
        return name

    return terms, name_of
