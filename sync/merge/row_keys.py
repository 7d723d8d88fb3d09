"""Row keys in received changes: reads the key of each change, and checks it against the kind of the table.

A group names its rows by keys, or its rows' own values (or the stamps of their inserts) name them. A key that is returned names
exactly one row, in the one form that every replica uses.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

from mycomesh.sync import codec
from mycomesh.sync.errors import DecodeError, KeyMismatchError
from mycomesh.sync.merge.keep_both import LEGACY_KEY_SIZE
from mycomesh.sync.sqlite.raw_text import is_raw, is_valid_raw
from mycomesh.sync.sqlite.table_spec import KeyKind, TableSpec, encode_key, encode_keys
from mycomesh.sync.storage.table import INSERT_KEY_SIZE, Table, insert_key
from mycomesh.sync.storage.user_table import key_values
from mycomesh.sync.wire.bundle import Group, Kind

__all__ = ["keys_of"]

# Types of values that a column of this affinity may change (SQLite, "Type Affinity"). Text changes only if it reads as a number.
_CHANGED: dict[str, set[type]] = {
    "TEXT": {int, float},
    "REAL": {str},
    "INTEGER": {str},
    "NUMERIC": {str},
    "BLOB": set(),
}
_KEY_VALUES = frozenset({int, float, str, bytes})
_NUMBER = re.compile(r"[ \t\n\v\f\r]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t\n\v\f\r]*")


def keys_of(table: Table, group: Group) -> list[Any]:
    """Return the key of each change of a group, in order: an integer for a table keyed by rowid, else bytes.

    Raises:
        KeyMismatchError: some key cannot belong to this table, whose definition differs from the sender's. Nothing was changed.
    """
    try:
        return _keys_of(table, group)
    except DecodeError as error:
        raise KeyMismatchError(*error.args) from error


def _keys_of(table: Table, group: Group) -> list[Any]:
    spec = table.spec
    id_column = spec.key[0].folded if spec.kind is KeyKind.ROWID else spec.id_column
    if id_column in group.columns:
        at = group.columns.index(id_column)
        codec.require(
            {type(row[at]) for row in group.rows} == {int}, f"{spec.name}: an INTEGER PRIMARY KEY is not an integer"
        )
    if group.keys is not None:
        if not _are_canonical(spec, group.keys):
            for key in group.keys:
                _check_key(table, key)
        if spec.kind is KeyKind.ROWID and id_column in group.columns:
            same = all(row[at] == key for row, key in zip(group.rows, group.keys, strict=True))
            codec.require(same, f"{spec.name}: an INTEGER PRIMARY KEY is not its row's key")
        keys: list[Any] = group.keys
        return keys
    if group.kind is not Kind.INSERT:
        raise DecodeError(f"{spec.name}: a change other than an insert has no row key")
    insert_keys = [insert_key(group.site, hlc) for hlc in group.hlcs]
    if spec.kind is KeyKind.KEYLESS:
        return insert_keys
    try:
        positions = [group.columns.index(column.folded) for column in spec.key]
    except ValueError:
        raise DecodeError(f"{spec.name}: an insert lacks key columns") from None
    if spec.kind is KeyKind.ROWID:
        return [row[positions[0]] for row in group.rows]
    values = [tuple(row[position] for position in positions) for row in group.rows]
    if not spec.nullable_key and any(None in key for key in values):
        raise DecodeError(f"{spec.name}: NULL in a key that cannot be NULL")
    _check_kept(spec, values)
    # A NULL is never equal to another: with one in its key, a row is named by the stamp of its insert.
    return [own_key if None in key else encode_key(spec, key) for own_key, key in zip(insert_keys, values, strict=True)]


def _check_kept(spec: TableSpec, keys: Sequence[Sequence[Any]]) -> None:
    """Refuse keys with a value that a column's affinity would change: the sender's column has another affinity."""
    for position, column in enumerate(spec.key):
        changed = {type(key[position]) for key in keys} & _CHANGED[column.affinity]
        if str in changed and not any(type(key[position]) is str and _NUMBER.fullmatch(key[position]) for key in keys):
            changed -= {str}
        codec.require(not changed, f"{spec.name}: column {column.name!r} would change the value of a row key")


def _are_canonical(spec: TableSpec, keys: Sequence[Any]) -> bool:
    """Return True if all keys pass `_check_key`, as those of an honest peer do; False says nothing."""
    kinds = set(map(type, keys))
    if spec.kind is KeyKind.ROWID:
        return kinds == {int} and codec.is_int(min(keys), -(1 << 63)) and codec.is_int(max(keys), -(1 << 63))
    head = codec.array_head(len(spec.key))
    if spec.kind is not KeyKind.KEYED or kinds != {bytes} or not all(key.startswith(head) for key in keys):
        return False
    try:
        values = list(map(tuple, key_values(keys)))
    except DecodeError:
        return False
    if set(map(type, itertools.chain.from_iterable(values))) - _KEY_VALUES or set(map(len, values)) != {len(spec.key)}:
        return False
    _check_kept(spec, values)
    return encode_keys(spec, values) == list(keys)


def _check_key(table: Table, key: Any) -> None:
    spec = table.spec
    if spec.kind is KeyKind.ROWID:
        codec.require(codec.is_int(key, -(1 << 63)), f"{spec.name}: a row key is not an integer")
        return
    codec.require(type(key) is bytes and key, f"{spec.name}: a row key is not bytes")
    if key[:1] == b"\x00":
        codec.require(
            len(key) == INSERT_KEY_SIZE, f"{spec.name}: a row key made of the stamp of an insert has the wrong size"
        )
        return
    if spec.id_column and key[:1] == b"\x01":
        codec.require(len(key) == LEGACY_KEY_SIZE, f"{spec.name}: the key of a deleted row has the wrong size")
        return
    codec.require(spec.kind is KeyKind.KEYED, f"{spec.name}: a row key of another kind of table")
    values = codec.decode(key, bytes_max=len(key))
    codec.require(codec.is_array(values, len(spec.key)), f"{spec.name}: a row key has the wrong width")
    plain = all(is_valid_raw(value) if is_raw(value) else type(value) in codec.PLAIN for value in values)
    codec.require(plain, f"{spec.name}: a row key is not made of SQLite values")
    _check_kept(spec, [values])
    codec.require(
        None not in values and encode_key(spec, tuple(values)) == key,
        f"{spec.name}: a row key is not in its canonical form",
    )
