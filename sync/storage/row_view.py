"""One row with its entries: what drain and merge share when they change who owns its cells.

Owns the bookkeeping of a join in the change log (superseded entries removed, shrunk ones digested again) and the form of
`prior`, the stamps that a change overwrote. What always holds: every bit of every entry has a value, in the user's row or
held. It must not write user tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mycomesh.sync import codec
from mycomesh.sync.crdt.lattice import EXISTENCE, Entry, visible
from mycomesh.sync.sqlite.table_spec import Row
from mycomesh.sync.storage.change_log import Leaf, pack_mask, unpack_mask
from mycomesh.sync.storage.table import Table
from mycomesh.sync.wire.bundle import Part

__all__ = [
    "RowView",
    "concurrent",
    "decode_prior",
    "differing",
    "encode_prior",
    "has_equal",
    "priors_of",
    "retyped",
    "shrink",
]

# The one integer that a column of integers keeps apart from its equal: as a float it is no integer to SQLite.
_LEAST = -(1 << 63)
# (mask of columns or None for all, place of the site, hlc)
Prior = tuple[int | None, int, int]


class RowView:
    """A row as the file holds it when the view is made."""

    __slots__ = ("_held", "_holds", "_key", "entries", "leaves", "present", "row", "table", "visible")

    def __init__(
        self,
        table: Table,
        row: Row,
        present: dict[str, Any] | None,
        leaves: Sequence[Leaf],
        *,
        holds: bool = True,
    ) -> None:
        """`holds` false promises that no entry of the table has held values, which saves looking."""
        self.table = table
        self._holds = holds
        self.row = row
        self.present = present
        self.leaves = leaves
        self.entries: list[Entry] = [table.log.entry(leaf) for leaf in leaves]
        self.visible = visible(self.entries)  # the newest existence entry is a birth: the row should be seen
        self._held: dict[tuple[int, int], dict[str, Any]] = {}
        self._key: Any = None

    @classmethod
    def read(cls, table: Table, row: Row) -> RowView:
        """Read the row and its entries."""
        return cls(table, row, table.rows.read(row), table.log.leaves(row))

    @classmethod
    def read_many(cls, table: Table, rows: Sequence[Row]) -> list[RowView]:
        """Read many rows, all different, at once."""
        holds = table.held.any()
        present = table.rows.read_many(rows)
        leaves = table.log.leaves_of(rows)
        return [cls(table, row, present[row], leaves[row], holds=holds) for row in rows]

    @property
    def key(self) -> Any:
        """The row's key as peers know it; of a row by birth, some entry must be that."""
        if self._key is None:
            self._key = self.table.key(self.row, self.leaves)
        return self._key

    @property
    def plain(self) -> bool:
        """True if the row is shown and everything that its entries own is in the user's table."""
        return self.present is not None and not self._holds and not self.table.columns.counters

    @property
    def hlc(self) -> int:
        """The greatest hlc of the row's entries, 0 without any."""
        return max([leaf[1] for leaf in self.leaves], default=0)

    def held(self, leaf: Leaf) -> dict[str, Any]:
        """Return the values held for one of the row's entries."""
        if not self._holds:
            return {}
        found = self._held.get(leaf[:2])
        if found is None:
            found = self._held[leaf[:2]] = self.table.held.read(leaf)
        return found

    @property
    def parked(self) -> bool:
        """True if the row should be seen, is not in the user's table, and all that its entries own is held: it was refused."""
        if self.present is not None or not self.visible or not self._holds:
            return False
        known = self.table.columns.local_mask
        return all(
            self.held(leaf).keys() >= {*self.table.columns.names_of(entry.mask & known)}
            for leaf, entry in zip(self.leaves, self.entries, strict=True)
        )

    def values(self, leaf: Leaf, mask: int) -> dict[str, Any]:
        """Return the values of an entry's columns by name, in wire order."""
        present = self.present or {}
        columns = self.table.columns.names_of(mask)
        if not self._holds:
            return {name: present.get(name) for name in columns}
        held = self.held(leaf)
        return {name: held[name] if name in held else present.get(name) for name in columns}

    def owned(self) -> dict[str, Any]:
        """Return the values of every owned column, from whichever entry owns it."""
        values: dict[str, Any] = {}
        for leaf, entry in zip(self.leaves, self.entries, strict=True):
            values.update(self.values(leaf, entry.mask & ~EXISTENCE))
        return values


def shrink(view: RowView, masks: Sequence[int], key: Any) -> None:
    """Give each entry of the row the mask that a join left it; entries that own nothing go."""
    table = view.table
    for leaf, entry, mask in zip(view.leaves, view.entries, masks, strict=True):
        if mask == entry.mask:
            continue
        held = view.held(leaf)
        if not mask:
            table.log.remove(leaf)
            if held:
                table.held.write(leaf[0], leaf[1], {})
            continue
        values = view.values(leaf, mask)
        digest = table.digests.entry(leaf[0], leaf[1], mask, key, list(values.values()))
        table.log.replace(leaf, (leaf[0], leaf[1], leaf[2], pack_mask(mask), digest, leaf[5]))
        if held:
            table.held.write(leaf[0], leaf[1], {name: value for name, value in held.items() if name in values})


def differing(view: RowView) -> int:
    """Return the columns of the entries whose values are no longer those that they were digested with."""
    changed = 0
    for leaf, entry in zip(view.leaves, view.entries, strict=True):
        if not entry.dead:
            changed |= _differing(view, leaf, entry)
    return changed & view.table.columns.local_mask


def retyped(view: RowView, mask: int) -> int:
    """Return the columns whose numbers an update of `mask` has made their equals of another type: 1 is 1.0 to a trigger.

    An entry that owns some of `mask` too cannot tell: what it keeps is digested as it is, and repair finds one value for all.
    """
    table, present = view.table, view.present or {}
    loose = table.columns.local_mask if _LEAST in present.values() else table.columns.loose_mask
    changed = 0
    for leaf, entry in zip(view.leaves, view.entries, strict=True):
        suspect = entry.mask & loose
        if suspect and not entry.mask & mask and _any_has_equal(present, table.columns.names_of(suspect)):
            changed |= _differing(view, leaf, entry)
    return changed & table.columns.local_mask


def has_equal(value: Any) -> bool:
    """True for a number that compares equal to one that is stored otherwise: 1 and 1.0, 0.0 and -0.0."""
    return type(value) is int or (type(value) is float and value.is_integer())


def _any_has_equal(present: Mapping[str, Any], names: Sequence[str]) -> bool:
    for name in names:  # asked for each updated row, and any() costs three times as much
        value = present[name]
        if type(value) is int or (type(value) is float and value.is_integer()):
            return True
    return False


def _differing(view: RowView, leaf: Leaf, entry: Entry) -> int:
    """Return the columns of an entry that are not what it was digested with: one if its type says it all, else each."""
    table = view.table
    values = view.values(leaf, entry.mask)
    if table.digests.entry(leaf[0], leaf[1], entry.mask, view.key, list(values.values())) == leaf[4]:
        return 0
    for name, value in values.items():
        for equal in _equals(value):
            cells = list((values | {name: equal}).values())
            if table.digests.entry(leaf[0], leaf[1], entry.mask, view.key, cells) == leaf[4]:
                return 1 << table.columns.bits[name]
    return entry.mask


def _equals(value: Any) -> list[int | float]:
    """Return the numbers that compare equal to a value and are stored otherwise."""
    if not has_equal(value):
        return []
    if not value:
        return [0, 0.0, -0.0]
    return [float(value)] if type(value) is int else [int(value)]


def priors_of(view: RowView, own_place: int, mask: int) -> list[Prior]:
    """Return what a local change of `mask` has seen: for each other site, its newest write of these cells.

    A version vector a cell: what the overwritten entries had seen counts as seen too, since the log keeps only the newest
    entry of a cell. A site's own earlier writes are its own past, never a conflict, and are left out. Where a site's clock
    has a gap here, only what lies before the gap counts as seen, since an older write may still arrive.
    """
    if all([leaf[0] == own_place and leaf[5] is None for leaf in view.leaves]):  # noqa: C419 - once a row: a generator costs more
        return []
    coverage, site = view.table.coverage.staged, view.table.store.site
    seen: dict[tuple[int | None, int], int] = {}
    for leaf, entry in zip(view.leaves, view.entries, strict=True):
        touched = entry.mask if mask & EXISTENCE else entry.mask & mask
        if not touched or (not view.visible and not entry.mask & EXISTENCE):
            continue  # nobody saw a cell of a row that is not shown
        for part_mask, place, hlc in [(None, leaf[0], leaf[1]), *decode_prior(leaf[5])]:
            share = touched if part_mask is None else touched & part_mask
            hlc = min(hlc, coverage.upto(site(place)))  # noqa: PLW2901
            if not share or place == own_place or not hlc:
                continue
            # A birth or a tombstone overwrites the row as a whole.
            cells = None if mask & EXISTENCE or share == mask else share
            seen[cells, place] = max(seen.get((cells, place), 0), hlc)
    parts = [(cells, place, hlc) for (cells, place), hlc in seen.items()]
    return sorted(parts, key=lambda part: (part[0] or 0, part[1]))


def encode_prior(parts: Sequence[Prior]) -> bytes | None:
    """Return the stored form; None for nothing overwritten. A mask of more than 63 bits is bytes, as in the change log."""
    if not parts:
        return None
    return codec.encode([(mask and pack_mask(mask), place, hlc) for mask, place, hlc in parts])


def decode_prior(stored: bytes | None) -> list[Prior]:
    """Return the stored prior."""
    if stored is None:
        return []
    return [
        (mask and unpack_mask(mask)[0], place, hlc) for mask, place, hlc in codec.decode(stored, bytes_max=len(stored))
    ]


def prior_to_wire(table: Table, stored: bytes | None, mask: int) -> list[Part]:
    """Return a stored prior with names and sites in place of local numbers; columns outside `mask` are left out."""
    parts: list[Part] = []
    for part_mask, place, hlc in decode_prior(stored):
        names = None
        if part_mask is not None:
            names = table.columns.names_of(part_mask & mask)
            if not names:
                continue
        parts.append((names, table.store.site(place), hlc))
    return parts


def prior_from_wire(table: Table, parts: Sequence[Part]) -> bytes | None:
    """Return the stored form of a prior that a peer sent."""
    return encode_prior(
        [
            (None if names is None else table.columns.mask_of(names), table.store.site_number_or_new(site), hlc)
            for names, site, hlc in parts
        ]
    )


def concurrent(
    table: Table, winner: tuple[int, bytes], prior: bytes | None, loser: tuple[int, bytes], bit: int
) -> bool:
    """Return True if the winner's writer had not seen the loser's write of this cell (bit 0: the row's existence)."""
    if winner[1] == loser[1]:
        return False
    place = table.store.site_number(loser[1])
    seen = 0
    for mask, other, hlc in decode_prior(prior):
        if other == place and (mask is None or mask >> bit & 1):
            seen = max(seen, hlc)
    return seen < loser[0]
