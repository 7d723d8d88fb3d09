"""The columns of one table, each numbered by a bit: the masks of the change log and of the triggers are sums of these bits.

A file numbers columns in the order in which it meets them, so the numbers differ between replicas; names travel instead.
Columns go by their canonical names (`Column.folded`).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence

from mycomesh.sync.crdt.lattice import EXISTENCE, bits_of
from mycomesh.sync.sqlite.table_spec import TableSpec
from mycomesh.sync.storage.store import Store

__all__ = ["ColumnBits", "extended"]


def extended(bits: dict[str, int], spec: TableSpec) -> dict[str, int]:
    """Return `bits` with the next bit for each column that has none; a bit never goes to another name."""
    bits = dict(bits)
    last = max(bits.values(), default=0)
    for column in spec.columns:
        if column.folded not in bits:
            last += 1
            bits[column.folded] = last
    return bits


class ColumnBits:
    """The columns of a table and their bits. `local` are the stored columns of this file; `bits` may have more, from peers."""

    def __init__(self, store: Store, table_id: int, spec: TableSpec, bits: dict[str, int]) -> None:
        self._store = store
        self._table_id = table_id
        self.bits = bits
        self.local = tuple(column.folded for column in spec.columns)
        self.local_names = frozenset(self.local)
        self.local_mask = sum(1 << bits[name] for name in self.local)
        # Columns that keep 1 and 1.0 apart; in others one of two equal numbers becomes the other.
        self.loose_mask = sum(1 << bits[column.folded] for column in spec.columns if column.affinity == "BLOB")
        self.captured = {name: bits[name] for name in self.local}  # columns that the installed triggers compare
        self.counters: frozenset[str] = frozenset()  # columns whose cells show the total of several registers
        self.dropped: frozenset[str] = frozenset()  # columns that the mesh has dropped: no entry owns them
        # Columns whose affinity is not that of the canonical definition: they may change a value.
        self.converting: frozenset[str] = frozenset()
        self._learnt: list[str] = []  # names that got their bits in the running transaction
        self.names_of = functools.lru_cache(maxsize=256)(self._names_of)

    @property
    def installed(self) -> bool:
        """True if the triggers compare every column of the table."""
        return self.captured == {name: self.bits[name] for name in self.local}

    @property
    def captured_mask(self) -> int:
        """The columns that the installed triggers compare."""
        return sum(1 << bit for bit in self.captured.values())

    @property
    def lost_mask(self) -> int:
        """The columns that the installed triggers compare and the file has lost: no value of theirs is known."""
        return self.captured_mask & ~self.local_mask

    def _names_of(self, mask: int) -> tuple[str, ...]:
        """Return the names of the columns in a mask, sorted: the order of values on the wire."""
        names = {bit: name for name, bit in self.bits.items()}
        return tuple(sorted(names[bit] for bit in bits_of(mask & ~EXISTENCE)))

    def mask_of(self, names: Sequence[str]) -> int:
        """Return the mask of columns, all of which have bits."""
        mask = 0
        for name in names:
            mask |= 1 << self.bits[name]
        return mask

    def known_mask_of(self, names: Sequence[str]) -> int:
        """Return the mask of those columns that have bits."""
        return self.mask_of([name for name in names if name in self.bits])

    def learn(self, names: Sequence[str]) -> None:
        """Give bits to columns that this file does not have (yet); inside a transaction."""
        fresh = [name for name in names if name not in self.bits]
        if not fresh:
            return
        for name in fresh:
            self.bits[name] = max(self.bits.values(), default=0) + 1
            self._learnt.append(name)
        self._store.db.execute(
            "UPDATE mycomesh_replicated SET bits = ? WHERE id = ?", (json.dumps(self.bits), self._table_id)
        )

    def committed(self) -> None:
        """Keep the bits that the transaction gave out."""
        self._learnt.clear()

    def rolled_back(self) -> None:
        """Take back the bits that the transaction gave out."""
        for name in self._learnt:
            del self.bits[name]
        self._learnt.clear()
        self.names_of.cache_clear()
