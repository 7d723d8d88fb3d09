"""Births: what of a received group is plain new rows enters the table and the change log many rows at a time.

Owns the choice of those rows. What always holds: a row is inserted here only if nothing at all is known of it, so that its birth
alone says what it is; births that are held already are left out; whatever else there is to a change is left to the general
case. The caller owns the transaction.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import apsw

from mycomesh.sync import codec
from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.merge.counters import hold_births
from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.sync.sqlite.table_spec import KeyKind
from mycomesh.sync.storage.change_log import pack_mask
from mycomesh.sync.storage.statements import write_many
from mycomesh.sync.storage.table import Row, Table
from mycomesh.sync.wire.bundle import Group, Kind

__all__ = ["insert_births", "part_of"]

_SAVEPOINT = "mycomesh_births"
# Where the table refuses some row, halves are tried down to so many; what is left of them is looked at row by row.
_TOGETHER_MIN = 16


def insert_births(table: Table, group: Group, place: int, keys: Sequence[Any]) -> tuple[int, Group | None]:
    """Insert the new rows of a group; returns how many, and the changes that need a closer look."""
    if not _plain(table, group):
        return 0, group
    mask = table.mask_of(group.columns) | EXISTENCE
    held = table.log.entries_between(place, group.hlcs[0], group.hlcs[-1])
    known = held.keys() | _known(table, group, keys)
    if not known:
        return _insert(table, group, place, keys)
    by_stamp = table.spec.kind is KeyKind.KEYLESS and group.keys is None
    owned = {  # whose entries own all that they could bring
        hlc
        for hlc, key in zip(group.hlcs, keys, strict=True)
        if hlc in held and mask & ~held[hlc][1] == 0 and (by_stamp or held[hlc][0] == key)
    }
    fresh = [hlc not in known for hlc in group.hlcs]
    left = known - owned
    done = 0
    if any(fresh):
        done, refused = _insert(table, part_of(group, fresh), place, list(itertools.compress(keys, fresh)))
        left |= set(refused.hlcs) if refused is not None else set()
    rest = [hlc in left for hlc in group.hlcs]
    return done, part_of(group, rest) if any(rest) else None


def part_of(group: Group, flags: Sequence[bool]) -> Group:
    """Return the flagged changes of a group."""
    if all(flags):
        return group
    kept = itertools.compress
    return Group(
        group.site,
        group.kind,
        group.columns,
        list(kept(group.hlcs, flags)),
        None if group.keys is None else list(kept(group.keys, flags)),
        list(kept(group.rows, flags)),
        None if group.priors is None else list(kept(group.priors, flags)),
    )


def _plain(table: Table, group: Group) -> bool:
    """Return True if the births of a group say everything of their rows, in values that SQLite takes as they are."""
    spec = table.spec
    naming = {column.folded for column in spec.key} | ({spec.id_column} if spec.id_column else set())
    whole = naming <= set(group.columns) <= set(table.known)
    if group.kind is not Kind.INSERT or group.priors is not None or not whole or table.converting:
        return False
    return list not in set(map(type, itertools.chain.from_iterable(group.rows)))


def _known(table: Table, group: Group, keys: Sequence[Any]) -> set[int]:
    """Return the clocks of births of which it is not sure that they are the first that is heard of their rows."""
    log, spec = table.log, table.spec
    if spec.kind is KeyKind.KEYLESS:
        if not table.has_orphans():
            return set()
        if spec.id_column:  # what ended an id ends its births (ADR 0009)
            return set(group.hlcs)
    elif spec.kind is KeyKind.ROWID and not log.any_row_between(min(keys), max(keys)):
        return set()
    rows = log.described(keys)
    unnamed = spec.kind is KeyKind.KEYED  # a key of NULLs names no row by itself
    return {hlc for hlc, key in zip(group.hlcs, keys, strict=True) if key in rows or (unnamed and key[:1] == b"\x00")}


def _insert(table: Table, group: Group, place: int, keys: Sequence[Any]) -> tuple[int, Group | None]:
    """Insert births, all or by halves; returns how many, and those that some constraint refuses among their neighbours."""
    if _inserted(table, group, place, keys):
        return len(keys), None
    if len(keys) <= _TOGETHER_MIN:
        return 0, group
    done, left = 0, [False] * len(keys)
    middle = len(keys) // 2
    for start, end in ((0, middle), (middle, len(keys))):
        half = part_of(group, [start <= at < end for at in range(len(keys))])
        count, refused = _insert(table, half, place, keys[start:end])
        done += count
        if refused is not None:
            hlcs = set(refused.hlcs)
            left[start:end] = [hlc in hlcs for hlc in group.hlcs[start:end]]
    return done, part_of(group, left) if any(left) else None


def _inserted(table: Table, group: Group, place: int, keys: Sequence[Any]) -> bool:
    """Insert births at once; False, with nothing done, if a constraint refuses one of them."""
    spec, log = table.spec, table.log
    by_birth = spec.kind is KeyKind.KEYLESS
    mask = table.mask_of(group.columns) | EXISTENCE
    by_name = {column.folded: quoted(column.name) for column in spec.columns}
    names = [by_name[name] for name in group.columns]
    values: Sequence[Sequence[Any]] = group.rows
    rows: Sequence[Row] = keys
    if spec.id_column:
        at = group.columns.index(spec.id_column)
        rows = [row[at] for row in group.rows]
    elif by_birth:
        first = _next_rowid(table)
        if first is None:
            return False
        rows = list(range(first, first + len(keys)))
        names.append(quoted(spec.rowid))
        values = [[*row, rowid] for row, rowid in zip(group.rows, rows, strict=True)]
    insert = f"INSERT OR ABORT INTO {quoted(spec.name)}({', '.join(names)}) VALUES({', '.join('?' * len(names))})"
    db = table.store.db
    db.execute(f"SAVEPOINT {_SAVEPOINT}")
    try:
        write_many(table, insert, values)
    except apsw.ConstraintError:
        db.execute(f"ROLLBACK TO {_SAVEPOINT}")
        db.execute(f"RELEASE {_SAVEPOINT}")
        return False
    db.execute(f"RELEASE {_SAVEPOINT}")
    digests = table.digests(place, mask, group.hlcs, None if by_birth else keys, list(map(codec.encode, group.rows)))
    log.add_births(place, group.hlcs, rows, pack_mask(mask), digests, packed=not table.counters)
    if table.counters:
        hold_births(table, place, group.hlcs, group.columns, group.rows)
    return True


def _next_rowid(table: Table) -> int | None:
    """Return the first of a run of free rowids at the end of the table, None if there is no room."""
    rowid = quoted(table.spec.rowid)
    found = table.store.db.execute(f"SELECT max({rowid}) FROM {quoted(table.spec.name)}").fetchone()
    last = int(found[0] or 0)
    return max(last, 0) + 1 if last < 1 << 62 else None
