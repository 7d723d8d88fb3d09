"""One row with its entries: what drain and merge share when they change who owns its cells.

Owns the bookkeeping of a join in the change log (superseded entries removed, shrunk ones digested again) and the form of
`prior`, the stamps that a change overwrote. What always holds: every bit of every entry has a value, in the user's row or
held. It must not write user tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sync import codec
from sync.batch import Part
from sync.changelog import Leaf, pack_mask, unpack_mask
from sync.lattice import EXISTENCE, Entry, visible
from sync.table import Row, Table

__all__ = ["RowView", "concurrent", "decode_prior", "differing", "encode_prior", "priors_of", "shrink"]

# (mask of columns or None for all, place of the site, hlc)
Prior = tuple[int | None, int, int]


class RowView:
    """A row as the file holds it when the view is made."""

    __slots__ = ("_held", "_holds", "entries", "leaves", "present", "row", "table", "visible")

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

    @classmethod
    def read(cls, table: Table, row: Row) -> RowView:
        """Reads the row and its entries."""
        return cls(table, row, table.read(row), table.log.leaves(row))

    @classmethod
    def read_many(cls, table: Table, rows: Sequence[Row]) -> list[RowView]:
        """Reads many rows, all different, at once."""
        holds = table.holds_any()
        present = table.read_many(rows)
        leaves = table.log.leaves_of(rows)
        return [cls(table, row, present[row], leaves[row], holds=holds) for row in rows]

    @property
    def plain(self) -> bool:
        """True if the row is shown and everything that its entries own is in the user's table."""
        return self.present is not None and not self._holds and not self.table.counters

    @property
    def hlc(self) -> int:
        """The greatest hlc of the row's entries, 0 without any."""
        return max((leaf[1] for leaf in self.leaves), default=0)

    def held(self, leaf: Leaf) -> dict[str, Any]:
        """Returns the values held for one of the row's entries."""
        if not self._holds:
            return {}
        found = self._held.get(leaf[:2])
        if found is None:
            found = self._held[leaf[:2]] = self.table.held(leaf)
        return found

    def values(self, leaf: Leaf, mask: int) -> dict[str, Any]:
        """Returns the values of an entry's columns by name, in wire order."""
        present = self.present or {}
        columns = self.table.columns_of(mask)
        if not self._holds:
            return {name: present.get(name) for name in columns}
        held = self.held(leaf)
        return {name: held[name] if name in held else present.get(name) for name in columns}

    def owned(self) -> dict[str, Any]:
        """Returns the values of every owned column, from whichever entry owns it."""
        values: dict[str, Any] = {}
        for leaf, entry in zip(self.leaves, self.entries, strict=True):
            values.update(self.values(leaf, entry.mask & ~EXISTENCE))
        return values


def shrink(view: RowView, masks: Sequence[int], key: Any) -> None:
    """Gives each entry of the row the mask that a join left it; entries that own nothing go."""
    table = view.table
    for leaf, entry, mask in zip(view.leaves, view.entries, masks, strict=True):
        if mask == entry.mask:
            continue
        held = view.held(leaf)
        if not mask:
            table.log.remove(leaf)
            if held:
                table.hold(leaf[0], leaf[1], {})
            continue
        values = view.values(leaf, mask)
        digest = table.digest(leaf[0], leaf[1], mask, key, list(values.values()))
        table.log.replace(leaf, (leaf[0], leaf[1], leaf[2], pack_mask(mask), digest, leaf[5]))
        if held:
            table.hold(leaf[0], leaf[1], {name: value for name, value in held.items() if name in values})


def differing(view: RowView) -> int:
    """Returns the columns of the entries whose values are no longer those that they were digested with."""
    table = view.table
    key = table.key(view.row, view.leaves)
    changed = 0
    for leaf, entry in zip(view.leaves, view.entries, strict=True):
        values = list(view.values(leaf, entry.mask).values())
        if not entry.dead and table.digest(leaf[0], leaf[1], entry.mask, key, values) != leaf[4]:
            changed |= entry.mask & table.known_mask
    return changed


def priors_of(view: RowView, own_place: int, mask: int) -> list[Prior]:
    """Returns what a local change of `mask` has seen: for each other site, its newest write of these cells.

    A version vector a cell: what the overwritten entries had seen counts as seen too, since the log keeps only the newest
    entry of a cell. A site's own earlier writes are its own past, never a conflict, and are left out. Where a site's clock
    has a gap here, only what lies before the gap counts as seen, since an older write may still arrive.
    """
    coverage, site = view.table.coverage, view.table.store.site
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
    """Returns the stored form; None for nothing overwritten. A mask of more than 63 bits is bytes, as in the change log."""
    if not parts:
        return None
    return codec.encode([(mask and pack_mask(mask), place, hlc) for mask, place, hlc in parts])


def decode_prior(stored: bytes | None) -> list[Prior]:
    """Returns the stored prior."""
    if stored is None:
        return []
    return [
        (mask and unpack_mask(mask)[0], place, hlc) for mask, place, hlc in codec.decode(stored, bytes_max=len(stored))
    ]


def prior_to_wire(table: Table, stored: bytes | None, mask: int) -> list[Part]:
    """Returns a stored prior with names and sites in place of local numbers; columns outside `mask` are left out."""
    parts: list[Part] = []
    for part_mask, place, hlc in decode_prior(stored):
        names = None
        if part_mask is not None:
            names = table.columns_of(part_mask & mask)
            if not names:
                continue
        parts.append((names, table.store.site(place), hlc))
    return parts


def prior_from_wire(table: Table, parts: Sequence[Part]) -> bytes | None:
    """Returns the stored form of a prior that a peer sent."""
    return encode_prior(
        [
            (None if names is None else table.mask_of(names), table.store.place_made(site), hlc)
            for names, site, hlc in parts
        ]
    )


def concurrent(
    table: Table, winner: tuple[int, bytes], prior: bytes | None, loser: tuple[int, bytes], bit: int
) -> bool:
    """True if the winner's writer had not seen the loser's write of this cell (bit 0: the row's existence)."""
    if winner[1] == loser[1]:
        return False
    place = table.store.place(loser[1])
    seen = 0
    for mask, other, hlc in decode_prior(prior):
        if other == place and (mask is None or mask >> bit & 1):
            seen = max(seen, hlc)
    return seen < loser[0]
