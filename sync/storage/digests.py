"""Keyed digests of change log entries: equal content has equal digests on every replica, and their sums find differences.

Invariant: the digest of an entry is a function of its table, site, clock, key, owned columns and values alone.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

from mycomesh.sync import codec
from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.storage.column_bits import ColumnBits
from mycomesh.sync.storage.row_codec import Prefix
from mycomesh.sync.storage.store import Store

__all__ = ["Digests"]

# Prepared prefixes, one for each (site, mask) of recent entries; a fleet of sites times a few column sets fits.
PREFIXES_MAX = 1_024
COPIED_BYTES_MAX = 1 << 16  # of a byte string that is encoded together with the others
_NO_KEY = codec.encode(None)


class Digests:
    """The digests of one table's entries: BLAKE2b-64 with the mesh's key, as signed 64-bit integers."""

    def __init__(self, store: Store, table: str, columns: ColumnBits, mesh_key: bytes) -> None:
        """Take the table's canonical name, folded, and the 32-byte key that all members of a mesh share."""
        self._store = store
        self._table = table
        self._columns = columns
        self._mesh_key = mesh_key
        self.prefix = functools.lru_cache(maxsize=PREFIXES_MAX)(self._prefix)
        self._prepared: tuple[tuple[Any, ...], int] | None = None  # of large values, and what it was made of

    def entry(
        self, site_number: int, hlc: int, mask: int, key: Any, values: Sequence[Any], *, dead: bool = False
    ) -> int:
        """Return the digest of one entry; `values` are in the order of `ColumnBits.names_of(mask)`.

        The digest of a tombstone is 0: replicas collect tombstones at different times and must still compare as equal.
        """
        if dead:
            return 0
        if self._prepared is not None:
            made_of, digest = self._prepared
            site, names = self._store.site(site_number), self._columns.names_of(mask)
            if made_of[:5] == (site, hlc, mask & EXISTENCE, key, names) and all(map(operator.is_, made_of[5], values)):
                return digest
        prefix, own_key = self.prefix(site_number, mask)
        return self._hashed(prefix, own_key, hlc, mask, key, values)

    def prepare(
        self, site: bytes, hlc: int, existence: int, key: Any, names: Sequence[str], values: Sequence[Any]
    ) -> None:
        """Compute the digest of an entry that `entry` will be asked for, of these very values; needs no file.

        `existence` is that part of its mask, and `names` are the names of its columns in the order of `ColumnBits.names_of`.
        """
        made_of = (site, hlc, existence, key, tuple(names), tuple(values))
        prefix, own_key = self._prefix_of(site, existence, names)
        self._prepared = made_of, self._hashed(prefix, own_key, hlc, existence, key, values)

    def forget_prepared(self) -> None:
        """Forget what `prepare` has computed, with its values."""
        self._prepared = None

    def _hashed(self, prefix: Prefix, own_key: bytes, hlc: int, existence: int, key: Any, values: Sequence[Any]) -> int:
        stamp = hlc.to_bytes(8, "big")
        if type(key) is not bytes:
            name = codec.encode(key)
        elif existence & EXISTENCE and key == own_key + stamp:
            name = _NO_KEY  # the key is the stamp of this very entry
        else:
            name = codec.bytes_head(len(key)) + key
        state = prefix.new_state()
        state.update(stamp + name)
        for part in _encoded(values):
            state.update(part)
        return int.from_bytes(state.digest(), "big", signed=True)

    def many(
        self, site_number: int, mask: int, hlcs: Sequence[int], keys: Sequence[Any] | None, rows: Sequence[bytes]
    ) -> list[int]:
        """Return the digests of many entries of one site and mask, as `entry` does for one.

        Pass None for `keys` if each row is identified by the stamp of its insert, which is the entry. `rows` are the values,
        one encoded array each.
        """
        return self.prefix(site_number, mask)[0].digests(hlcs, keys, rows)

    def rolled_back(self) -> None:
        """Forget the prefixes: the next transaction may give a site number or a column's bit to another."""
        self.prefix.cache_clear()

    def _prefix(self, site_number: int, mask: int) -> tuple[Prefix, bytes]:
        """Return (what the digests of the entries of one site and mask share, key prefix).

        The key of a row that one of them inserted, in a table whose rows are identified by their insert, starts with the key
        prefix.
        """
        return self._prefix_of(self._store.site(site_number), mask & EXISTENCE, self._columns.names_of(mask))

    def _prefix_of(self, site: bytes, existence: int, names: Sequence[str]) -> tuple[Prefix, bytes]:
        shared = codec.encode([self._table, site, existence, list(names)])
        return Prefix(self._mesh_key, b"mycomesh-change", shared), b"\x00" + site


def _encoded(values: Sequence[Any]) -> Sequence[bytes]:
    """Return the encoding of an array in parts, with large byte strings as they are: a copy takes as long as hashing them."""
    if not any(type(value) is bytes and len(value) > COPIED_BYTES_MAX for value in values):
        return (codec.encode(values),)
    parts = [codec.array_head(len(values))]
    for value in values:
        parts += [codec.bytes_head(len(value)), value] if type(value) is bytes else [codec.encode(value)]
    return parts
