"""The change log of one table: a self-compacting log of dots, Merkle leaf store and replication log at once.

Owns the table `mycomesh_changes_N`: one row per stamp that still owns something, keyed by (site place, hlc), indexed by the
row it describes, each with a digest. What always holds: `count` and `sums` equal a scan of the table after every commit.
It must not know user tables: rows are named by `row`, an integer (rowid) or bytes (an encoded key).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import apsw

from sync.errors import DecodeError
from sync.lattice import EXISTENCE, Entry
from sync.store import Store

__all__ = ["ChangeLog", "Leaf", "changes_name", "pack_mask", "unpack_mask"]

Row = int | bytes
# (place, hlc, row, mask, digest, prior): exactly a row of the table; a plain tuple because it is made once a row
Leaf = tuple[int, int, Any, Any, int, bytes | None]
_LOW = 0xFFFF_FFFF
_SUM = (1 << 64) - 1


def changes_name(table_id: int) -> str:
    """Returns the name of the table's change log."""
    return f"mycomesh_changes_{table_id}"


def pack_mask(mask: int, *, dead: bool = False) -> int | bytes:
    """Returns the stored form of a mask: 0 for a tombstone, an integer while it fits, else little-endian bytes."""
    if dead:
        return 0
    return mask if mask < 1 << 63 else mask.to_bytes((mask.bit_length() + 7) // 8, "little")


def unpack_mask(stored: int | bytes) -> tuple[int, bool]:
    """Returns (mask, dead) of a stored mask."""
    if stored == 0:
        return EXISTENCE, True
    return (stored, False) if isinstance(stored, int) else (int.from_bytes(stored, "little"), False)


class ChangeLog:
    """The entries of one table."""

    __slots__ = ("_adds", "_delta", "_removes", "_replaces", "_store", "count", "name", "sums", "table_id")

    def __init__(self, store: Store, table_id: int) -> None:
        self._store = store
        self.table_id = table_id
        self.name = changes_name(table_id)
        self.count = 0
        self.sums = (0, 0)
        self._delta = [0, 0, 0]  # count, low lane, high lane of the running transaction
        # Writes of the running transaction that are not in the file yet; every read flushes them first.
        self._adds: list[Leaf] = []
        self._replaces: list[tuple[Any, ...]] = []
        self._removes: list[tuple[int, int]] = []

    def create(self) -> None:
        """Makes the table where it is missing; inside a transaction."""
        self._store.db.execute(
            f"CREATE TABLE IF NOT EXISTS {self.name}(place INTEGER, hlc INTEGER, row, mask, digest INTEGER, prior,"
            " PRIMARY KEY(place, hlc)) WITHOUT ROWID"
        )
        self._store.db.execute(f"CREATE INDEX IF NOT EXISTS mycomesh_rows_{self.table_id} ON {self.name}(row)")

    def load(self) -> None:
        """Reads count and digest sums in one scan, and enlists in the store's transactions."""
        count, low, high = self._store.db.execute(
            f"SELECT count(*), coalesce(sum(digest & {_LOW}), 0), coalesce(sum((digest >> 32) & {_LOW}), 0)"
            f" FROM {self.name}"
        ).fetchone()
        self.count = count
        self.sums = (low & _SUM, high & _SUM)
        self._store.enlist(self)

    def committed(self) -> None:
        """Adds the transaction's changes to count and sums."""
        assert not any((self._adds, self._replaces, self._removes)), "flush before the commit"
        count, low, high = self._delta
        if count or low or high:
            self.count += count
            self.sums = ((self.sums[0] + low) & _SUM, (self.sums[1] + high) & _SUM)
            self._delta = [0, 0, 0]

    def rolled_back(self) -> None:
        """Forgets the transaction's changes."""
        self._delta = [0, 0, 0]
        self._adds, self._replaces, self._removes = [], [], []

    @property
    def digest(self) -> bytes:
        """The 16-byte digest of all entries: sums of the two halves of their digests, each mod 2^64."""
        return self.sums[0].to_bytes(8, "big") + self.sums[1].to_bytes(8, "big")

    # ---- reading

    def leaves(self, row: Row) -> list[Leaf]:
        """Returns the entries of one row, ordered by (place, hlc)."""
        self.flush()
        listing = f"SELECT place, hlc, row, mask, digest, prior FROM {self.name} WHERE row = ? ORDER BY place, hlc"
        return list(self._store.db.execute(listing, (row,)))

    def leaves_of(self, rows: Sequence[Row]) -> dict[Row, list[Leaf]]:
        """Returns the entries of many rows at once."""
        self.flush()
        found: dict[Row, list[Leaf]] = {row: [] for row in rows}
        listing = f"SELECT place, hlc, row, mask, digest, prior FROM {self.name} WHERE row = ? ORDER BY place, hlc"
        for leaf in self._store.db.executemany(listing, [(row,) for row in rows]):
            found[leaf[2]].append(leaf)
        return found

    def rows_of(self, stamps: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Row]:
        """Returns the rows that entries of these stamps (place, hlc) describe; stamps without an entry are left out."""
        self.flush()
        listing = f"SELECT place, hlc, row FROM {self.name} WHERE place = ? AND hlc = ?"
        return {(place, hlc): row for place, hlc, row in self._store.db.executemany(listing, stamps)}

    def leaf(self, place: int, hlc: int) -> Leaf | None:
        """Returns the entry of one stamp."""
        self.flush()
        found: Leaf | None = self._store.db.execute(
            f"SELECT place, hlc, row, mask, digest, prior FROM {self.name} WHERE place = ? AND hlc = ?", (place, hlc)
        ).fetchone()
        return found

    def knows(self, row: Row) -> bool:
        """True if some entry describes the row."""
        self.flush()
        return self._store.db.execute(f"SELECT 1 FROM {self.name} WHERE row = ? LIMIT 1", (row,)).fetchone() is not None

    def any_row_between(self, low: int, high: int) -> bool:
        """True if some entry describes an integer row in `low..high`."""
        self.flush()
        found = self._store.db.execute(
            f"SELECT 1 FROM {self.name} WHERE row BETWEEN ? AND ? LIMIT 1", (low, high)
        ).fetchone()
        return found is not None

    def any_hlc_between(self, place: int, low: int, high: int) -> bool:
        """True if the site has an entry with an hlc in `low..high`."""
        self.flush()
        found = self._store.db.execute(
            f"SELECT 1 FROM {self.name} WHERE place = ? AND hlc BETWEEN ? AND ? LIMIT 1", (place, low, high)
        ).fetchone()
        return found is not None

    def entry(self, leaf: Leaf) -> Entry:
        """Returns the leaf as the lattice sees it."""
        mask, dead = unpack_mask(leaf[3])
        return Entry((leaf[1], self._store.site(leaf[0])), mask, dead)

    def scan(self, place: int, hlc: int, limit: int) -> list[tuple[int, int, Row, int]]:
        """Returns up to `limit` (place, hlc, row, digest) after a stamp, in stamp order."""
        self.flush()
        listing = (
            f"SELECT place, hlc, row, digest FROM {self.name} WHERE (place, hlc) > (?, ?) ORDER BY place, hlc LIMIT ?"
        )
        return list(self._store.db.execute(listing, (place, hlc, limit)))

    # ---- writing, inside a transaction

    def add(self, leaves: Sequence[Leaf]) -> None:
        """Adds entries with stamps that the log does not hold."""
        self._adds.extend(leaves)
        self._count(len(leaves), (leaf[4] for leaf in leaves))

    def replace(self, old: Leaf, new: Leaf) -> None:
        """Gives the entry of one stamp another row, mask, digest or prior."""
        self._replaces.append((new[2], new[3], new[4], new[5], old[0], old[1]))
        self._count(0, (new[4],), (old[4],))

    def remove(self, leaf: Leaf) -> None:
        """Removes an entry that owns nothing any more."""
        self._removes.append(leaf[:2])
        self._count(-1, (), (leaf[4],))

    def flush(self) -> None:
        """Writes what was added, replaced and removed to the file, each kind in one go.

        Raises:
            DecodeError: a stamp that another row has already; the caller undoes the transaction.
        """
        db = self._store.db
        if self._removes:
            removes, self._removes = self._removes, []
            db.executemany(f"DELETE FROM {self.name} WHERE place = ? AND hlc = ?", removes)
        if self._replaces:
            replaces, self._replaces = self._replaces, []
            db.executemany(
                f"UPDATE {self.name} SET row = ?, mask = ?, digest = ?, prior = ? WHERE place = ? AND hlc = ?", replaces
            )
        if self._adds:
            adds, self._adds = self._adds, []
            try:
                db.executemany(f"INSERT INTO {self.name} VALUES(?, ?, ?, ?, ?, ?)", adds)
            except apsw.ConstraintError as error:
                raise DecodeError(
                    "one stamp for two rows: its site is forged, or went back behind what it had told"
                ) from error

    def rehome(self, old: Row, new: Row) -> None:
        """Moves every entry of one row to another name of the same row."""
        self.flush()
        self._store.db.execute(f"UPDATE {self.name} SET row = ? WHERE row = ?", (new, old))

    def _count(self, count: int, gained: Iterable[int], lost: Iterable[int] = ()) -> None:
        delta = self._delta
        delta[0] += count
        for digest in gained:
            delta[1] += digest & _LOW
            delta[2] += (digest >> 32) & _LOW
        for digest in lost:
            delta[1] -= digest & _LOW
            delta[2] -= (digest >> 32) & _LOW
