"""Fast path of the merge: bulk insert of received rows that the change log has never seen.

A catch-up consists mostly of such rows. They need no comparison with entries, so one statement inserts all of them, and the
change log packs them into runs. Changes that need more go back to the caller, which merges them row by row (`merge`).

Invariant: the tables and the change log are the same as if each row had been merged alone
(tests/sync/merge/test_bulk_insert.py). ADR 0006.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import apsw

from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.merge.bulk_park import park_new_rows
from mycomesh.sync.merge.counters import hold_bases
from mycomesh.sync.merge.work_budget import GROUP_WEIGHT, MANY_PARKED_WEIGHT, WorkBudget
from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.sync.sqlite.table_spec import KeyKind, Row
from mycomesh.sync.storage.change_log import pack_mask
from mycomesh.sync.storage.row_codec import encode_rows
from mycomesh.sync.storage.table import Table
from mycomesh.sync.wire.bundle import Group, Kind, filtered

__all__ = ["NewRows", "insert_new_rows", "slice_group"]


@dataclass(slots=True)
class NewRows:
    """Effect of a group: how many changes are merged, how many of their rows are parked, and the changes that are left.

    rest: to be merged row by row.
    later: to be passed to `insert_new_rows` in another transaction, which has room for rows that SQLite refuses.
    """

    changes: int = 0
    parked: int = 0
    rest: Group | None = None
    later: Group | None = None


def insert_new_rows(table: Table, group: Group, site_number: int, keys: Sequence[Any], budget: WorkBudget) -> NewRows:
    """Insert the new rows of a group, or park them.

    `keys` are the keys of the group's rows, in order. Runs inside a transaction. The rows are off the budget
    already; what SQLite refuses is taken off it here.
    """
    if not _is_plain(table, group):
        return NewRows(rest=group)
    mask = table.columns.mask_of(group.columns) | EXISTENCE
    existing = table.log.entries_between(site_number, group.hlcs[0], group.hlcs[-1])
    not_new = existing.keys() | _not_new(table, group, keys)
    if not not_new:
        return _insert(table, group, site_number, keys, budget)
    keyless = table.spec.kind is KeyKind.KEYLESS and group.keys is None
    # A repeated insert brings nothing if the entry of its stamp owns all its columns already. It is left out.
    complete = {
        hlc
        for hlc, key in zip(group.hlcs, keys, strict=True)
        if hlc in existing and mask & ~existing[hlc][1] == 0 and (keyless or existing[hlc][0] == key)
    }
    fresh = [hlc not in not_new for hlc in group.hlcs]
    left = not_new - complete
    found = NewRows()
    if any(fresh):
        new, new_keys = filtered(group, fresh), list(itertools.compress(keys, fresh))
        found = _insert(table, new, site_number, new_keys, budget)
        left |= set(found.rest.hlcs) if found.rest is not None else set()
    rest = [hlc in left for hlc in group.hlcs]
    found.rest = filtered(group, rest) if any(rest) else None
    return found


def slice_group(group: Group, start: int, end: int) -> Group:
    """Return the changes of a group from `start` up to, and without, `end`."""
    if start == 0 and end >= len(group.hlcs):
        return group
    return Group(
        group.site,
        group.kind,
        group.columns,
        group.hlcs[start:end],
        None if group.keys is None else group.keys[start:end],
        group.rows[start:end],
        None if group.priors is None else group.priors[start:end],
    )


def _is_plain(table: Table, group: Group) -> bool:
    """Return True if the group holds inserts whose own values name their rows, in columns that this file has."""
    spec = table.spec
    naming = {column.folded for column in spec.key} | ({spec.id_column} if spec.id_column else set())
    whole = naming <= set(group.columns) <= set(table.columns.local)
    # An insert with priors overwrites something. A converting column may change a value that is written into it.
    if group.kind is not Kind.INSERT or group.priors is not None or not whole or table.columns.converting:
        return False
    # A list is text that is not UTF-8. SQLite takes that only through an expression (`raw_text`).
    return list not in set(map(type, itertools.chain.from_iterable(group.rows)))


def _not_new(table: Table, group: Group, keys: Sequence[Any]) -> set[int]:
    """Return the clocks of those inserts whose rows the change log may know already."""
    log, spec = table.log, table.spec
    if spec.kind is KeyKind.KEYLESS:
        # A keyless row is named by the stamp of its insert. Only an update or a delete that came first can know it.
        if not table.has_orphans():
            return set()
        # A delete from before the table kept both rows ends every earlier insert of its id (ADR 0009).
        if spec.id_column:
            return set(group.hlcs)
    elif spec.kind is KeyKind.ROWID and not log.any_row_between(min(keys), max(keys)):
        return set()
    rows = log.rows_with_entries(keys)
    unnamed = spec.kind is KeyKind.KEYED  # with a NULL in its key, the row is named by its insert: merge it alone
    return {hlc for hlc, key in zip(group.hlcs, keys, strict=True) if key in rows or (unnamed and key[:1] == b"\x00")}


def _insert(table: Table, group: Group, site_number: int, keys: Sequence[Any], budget: WorkBudget) -> NewRows:
    """Insert rows that the change log does not know, and park those that SQLite refuses where that needs no look at each."""
    spec = table.spec
    by_name = {column.folded: quoted(column.name) for column in spec.columns}
    names = [by_name[name] for name in group.columns]
    values: Sequence[Sequence[Any]] = group.rows
    rows: Sequence[Row] = keys
    if spec.id_column:
        at = group.columns.index(spec.id_column)
        rows = [row[at] for row in group.rows]
    elif spec.kind is KeyKind.KEYLESS:
        first = _next_rowid(table)
        if first is None:
            return NewRows(rest=group)
        rows = list(range(first, first + len(keys)))
        names.append(quoted(spec.rowid))
        values = [[*row, rowid] for row, rowid in zip(group.rows, rows, strict=True)]
    tried, errors = table.rows.insert_each(names, values, max(1, budget.room // MANY_PARKED_WEIGHT))
    if not errors:
        _enter(table, group, site_number, keys, rows)
        return NewRows(len(keys))
    budget.spend(GROUP_WEIGHT + MANY_PARKED_WEIGHT * len(errors))
    flags = [number not in errors for number in range(tried)]
    if any(flags):
        kept = itertools.compress
        _enter(
            table,
            filtered(slice_group(group, 0, tried), flags),
            site_number,
            list(kept(keys, flags)),
            list(kept(rows, flags)),
        )
    refused = {number: str(error) for number, error in errors.items() if isinstance(error, apsw.ConstraintError)}
    parked = park_new_rows(table, group, site_number, keys, refused) if table.rows.counts_changes else []
    left = errors.keys() - set(parked)
    rest = [number in left for number in range(len(keys))]
    later = slice_group(group, tried, len(keys)) if tried < len(keys) else None
    return NewRows(tried - len(left), len(parked), filtered(group, rest) if any(rest) else None, later)


def _enter(table: Table, group: Group, site_number: int, keys: Sequence[Any], rows: Sequence[Row]) -> None:
    """Add the entries of inserted rows to the change log; `rows` are the names that they have got."""
    log = table.log
    keyless = table.spec.kind is KeyKind.KEYLESS
    mask = table.columns.mask_of(group.columns) | EXISTENCE
    digests = table.digests.many(site_number, mask, group.hlcs, None if keyless else keys, encode_rows(group.rows))
    log.add_inserts(site_number, group.hlcs, rows, pack_mask(mask), digests, packed=not table.columns.counters)
    if table.columns.counters:
        hold_bases(table, site_number, group.hlcs, group.columns, group.rows)
    on_write, covers = table.store.on_write, table.coverage.vector.covers
    if on_write is not None:  # rows that come again, which no new stamp shows to readers
        for row, hlc in zip(rows, group.hlcs, strict=True):
            if covers(group.site, hlc):
                on_write(table.table_id, row, False)


def _next_rowid(table: Table) -> int | None:
    """Return the first free rowid after the table's last, None if rowids that high are almost used up."""
    rowid = quoted(table.spec.rowid)
    found = table.store.db.execute(f"SELECT max({rowid}) FROM {quoted(table.spec.name)}").fetchone()
    last = int(found[0] or 0)
    return max(last, 0) + 1 if last < 1 << 62 else None
