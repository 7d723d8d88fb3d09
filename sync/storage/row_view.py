"""One row with its change log entries, as drain, merge and repair read it before they change who owns its cells.

`shrink` applies the outcome of a join to the log: it removes superseded entries and computes the digests of shrunk ones again.
`prior` is the stored form of the stamps that a change overwrote.

Invariant: every column of every entry has its value, in the user's row or held.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from mycomesh.sync import codec
from mycomesh.sync.crdt.lattice import EXISTENCE, Entry, visible
from mycomesh.sync.sqlite.table_spec import Row
from mycomesh.sync.storage.change_log import StoredEntry, pack_mask, unpack_mask
from mycomesh.sync.storage.table import Table
from mycomesh.sync.wire.bundle import COLUMNS_MAX, Part

__all__ = [
    "LEAST",
    "Priors",
    "RowView",
    "Seen",
    "decode_prior",
    "differing",
    "encode_prior",
    "has_equal",
    "priors_of",
    "retyped",
    "seen_by_site",
    "shrink",
]

# The one integer whose equal float SQLite does not convert to an integer, so that an integer column keeps the two apart.
LEAST = -(1 << 63)
# Parts of one prior, some 20 bytes each. A row that each of a thousand nodes writes in turn would collect more than a bundle
# may have. A part that is left out can make a conflict record of a write that was seen.
PRIORS_MAX = 256
# Names in all parts of one prior: finding their columns takes 50 ns each, and a member can name all of them in each part.
PRIOR_NAMES_MAX = 1 << 13
AHEAD_BYTES_MAX = 1 << 20  # of values that are read before they are needed
# CBOR of a prior with one part that is about all cells: an array of [NULL, a site number below 24, an integer of eight bytes].
_ONE_PART, _SMALL, _EIGHT_BYTES, _ONE_PART_SIZE = b"\x81\x83\xf6", 24, 0x1B, 13
ALL_CELLS = -1  # of a row, also those of columns that this file does not know
# (mask of columns, None for all; site number; hlc)
Prior = tuple[int | None, int, int]
# by number of the site: (mask of columns or None for all, hlc)
Seen = dict[int | None, list[tuple[int | None, int]]]


class RowView:
    """A row as the file has it when the view is made.

    `stored` are its entries as the log stores them, `entries` the same ones as the lattice joins them, in the same order.
    """

    __slots__ = ("_held", "_holds", "_key", "entries", "present", "row", "stored", "table", "visible")

    def __init__(
        self,
        table: Table,
        row: Row,
        present: dict[str, Any] | None,
        stored_entries: Sequence[StoredEntry],
        *,
        holds: bool = True,
    ) -> None:
        """Make a view; with `holds` False no entry of the table has held values, so none are looked up."""
        self.table = table
        self._holds = holds
        self.row = row
        self.present = present
        self.stored = stored_entries
        self.entries: list[Entry] = [table.log.entry(stored) for stored in stored_entries]
        self.visible = visible(
            self.entries
        )  # the newest entry of existence is an insert: the row should be in the user's table
        self._held: dict[tuple[int, int], dict[str, Any]] = {}
        self._key: Any = None

    @classmethod
    def read(cls, table: Table, row: Row, *, unread: Collection[str] = ()) -> RowView:
        """Read the row and its entries; `unread` columns get `UNREAD`, which no value is the same as."""
        return cls(table, row, table.rows.read(row, unread=unread), table.log.entries_of_row(row))

    @classmethod
    def read_many(cls, table: Table, rows: Sequence[Row]) -> list[RowView]:
        """Read many rows, all different, at once."""
        holds = table.held.any()
        present = table.rows.read_many(rows)
        stored_entries = table.log.entries_of_rows(rows)
        return [cls(table, row, present[row], stored_entries[row], holds=holds) for row in rows]

    @classmethod
    def each(cls, table: Table, rows: Sequence[Row]) -> Iterator[RowView]:
        """Yield the view of each of many rows, all different; few are read ahead where their values are large."""
        at = 0
        while at < len(rows):
            views = cls.read_ahead(table, rows[at:])
            at += len(views)
            yield from views

    @classmethod
    def read_ahead(cls, table: Table, rows: Sequence[Row]) -> list[RowView]:
        """Read the first of many rows, all different, at once: all, or those that take about `AHEAD_BYTES_MAX`."""
        holds = table.held.any()
        present = table.rows.read_many(rows, AHEAD_BYTES_MAX)
        stored_entries = table.log.entries_of_rows(rows[: len(present)])
        return [cls(table, row, present[row], stored_entries[row], holds=holds) for row in rows[: len(present)]]

    @property
    def key(self) -> Any:
        """The row's key on the wire. In a keyless table, one of the entries must be its insert."""
        if self._key is None:
            self._key = self.table.key(self.row, self.stored)
        return self._key

    @property
    def plain(self) -> bool:
        """True if the user's table has the row, and all values that its entries own."""
        return self.present is not None and not self._holds and not self.table.columns.counters

    @property
    def hlc(self) -> int:
        """The greatest hlc of the row's entries, 0 without any."""
        return max([stored[1] for stored in self.stored], default=0)

    def held(self, stored: StoredEntry) -> dict[str, Any]:
        """Return the values held for one of the row's entries."""
        if not self._holds:
            return {}
        found = self._held.get(stored[:2])
        if found is None:
            found = self._held[stored[:2]] = self.table.held.read(stored)
        return found

    @property
    def parked(self) -> bool:
        """True if a constraint refused the row: it should be visible and is not, and all its values are held."""
        if self.present is not None or not self.visible or not self._holds:
            return False
        known = self.table.columns.local_mask
        return all(
            self.held(stored).keys() >= {*self.table.columns.names_of(entry.mask & known)}
            for stored, entry in zip(self.stored, self.entries, strict=True)
        )

    def values(self, stored: StoredEntry, mask: int) -> dict[str, Any]:
        """Return the values of an entry's columns by name, in wire order."""
        present = self.present or {}
        columns = self.table.columns.names_of(mask)
        if not self._holds:
            return {name: present.get(name) for name in columns}
        held = self.held(stored)
        return {name: held[name] if name in held else present.get(name) for name in columns}

    def owned(self) -> dict[str, Any]:
        """Return the values of every owned column, from whichever entry owns it."""
        values: dict[str, Any] = {}
        for stored, entry in zip(self.stored, self.entries, strict=True):
            values.update(self.values(stored, entry.mask & ~EXISTENCE))
        return values


def shrink(view: RowView, masks: Sequence[int], key: Any) -> None:
    """Give each entry of the row the mask that a join left it, and remove entries that own nothing."""
    table = view.table
    for stored, entry, mask in zip(view.stored, view.entries, masks, strict=True):
        if mask == entry.mask:
            continue
        held = view.held(stored)
        if not mask:
            table.log.remove(stored)
            if held:
                table.held.write(stored[0], stored[1], {})
            continue
        values = view.values(stored, mask)
        digest = table.digests.entry(stored[0], stored[1], mask, key, list(values.values()))
        table.log.replace(stored, (stored[0], stored[1], stored[2], pack_mask(mask), digest, stored[5]))
        if held:
            table.held.write(stored[0], stored[1], {name: value for name, value in held.items() if name in values})


def differing(view: RowView) -> int:
    """Return the columns of the entries whose values have changed since their digests were computed."""
    changed = 0
    for stored, entry in zip(view.stored, view.entries, strict=True):
        if not entry.dead:
            changed |= _differing(view, stored, entry)
    return changed & view.table.columns.local_mask


def retyped(view: RowView, mask: int) -> int:
    """Return the columns whose numbers an update of `mask` has replaced by equals of another type, as 1 by 1.0.

    Triggers miss that. The digest of an entry shows it, unless the entry owns some of `mask`, or a column that a program has
    dropped. Then the digest is computed again over the value of today, and a repair finds one value for all replicas.
    """
    table, present = view.table, view.present or {}
    loose = table.columns.local_mask if LEAST in present.values() else table.columns.loose_mask
    changed = 0
    for stored, entry in zip(view.stored, view.entries, strict=True):
        suspect = entry.mask & loose
        if not suspect or entry.mask & mask or not _any_has_equal(present, table.columns.names_of(suspect)):
            continue
        if not entry.mask & table.columns.lost_mask:
            changed |= _differing(view, stored, entry)
    return changed & table.columns.local_mask


def has_equal(value: Any) -> bool:
    """Return True for a number that is equal to one with another stored form: 1 and 1.0, 0.0 and -0.0."""
    return type(value) is int or (type(value) is float and value.is_integer())


def _any_has_equal(present: Mapping[str, Any], names: Sequence[str]) -> bool:
    for name in names:  # runs for each updated row, where any() would take three times as long
        value = present[name]
        if type(value) is int or (type(value) is float and value.is_integer()):
            return True
    return False


def _differing(view: RowView, stored: StoredEntry, entry: Entry) -> int:
    """Return the changed columns of an entry: the one whose other type explains its digest, else all of them."""
    table = view.table
    values = view.values(stored, entry.mask)
    if table.digests.entry(stored[0], stored[1], entry.mask, view.key, list(values.values())) == stored[4]:
        return 0
    for name, value in values.items():
        for equal in _equals(value):
            cells = list((values | {name: equal}).values())
            if table.digests.entry(stored[0], stored[1], entry.mask, view.key, cells) == stored[4]:
                return 1 << table.columns.bits[name]
    return entry.mask


def _equals(value: Any) -> list[int | float]:
    """Return the numbers that are equal to a value and have another stored form."""
    if not has_equal(value):
        return []
    if not value:
        return [0, 0.0, -0.0]
    return [float(value)] if type(value) is int else [int(value)]


def priors_of(view: RowView, own_number: int, mask: int) -> list[Prior]:
    """Return the prior of a local change of `mask`: for each other site, its newest write of these cells.

    This is a version vector for each cell. Writes that the overwritten entries had overwritten are in it too, as the log has
    only the newest entry of a cell. Earlier writes of this site are left out: they are its own past, never a conflict. If
    there is a gap in a site's clock here, only its writes before the gap count, since one in the gap may still arrive.

    An insert or a delete overwrites the whole row. Its parts without a mask are those of the row; where the cells of one site
    are older than that, parts with a mask follow, which say so for each column.
    """
    if all([stored[0] == own_number and stored[5] is None for stored in view.stored]):  # noqa: C419 - runs for each row, where a generator takes longer
        return []
    coverage, site = view.table.coverage.staged, view.table.store.site
    whole = mask & EXISTENCE != 0
    seen: dict[tuple[int | None, int], int] = {}
    by_cell: dict[tuple[int, int], int] = {}
    for stored, entry in zip(view.stored, view.entries, strict=True):
        touched = entry.mask if whole else entry.mask & mask
        if not touched or (not view.visible and not entry.mask & EXISTENCE):
            continue  # the user did not see a cell of a row that is not visible
        for part_mask, covers, number, hlc in _parts_of(stored, entry):
            share = touched if part_mask is None else touched & part_mask
            hlc = min(hlc, coverage.upto(site(number)))  # noqa: PLW2901
            if number == own_number or not hlc:
                continue
            if whole and covers:
                by_cell[covers, number] = max(by_cell.get((covers, number), 0), hlc)
            if share:
                cells = None if whole or share == mask else share
                seen[cells, number] = max(seen.get((cells, number), 0), hlc)
    parts = [(cells, number, hlc) for (cells, number), hlc in seen.items()]
    if whole:
        owned = functools.reduce(operator.or_, (entry.mask for entry in view.entries))
        # A delete owns no cells, and its priors may name those that it had seen.
        if any(entry.dead for entry in view.entries):
            owned = view.table.columns.mask_of(tuple(view.table.columns.bits))
        named = _by_cell(view.table, parts, by_cell, owned)
        parts += named if len(parts) + len(named) <= PRIORS_MAX else []
    newest = _newest(parts, PRIORS_MAX)
    return sorted(newest, key=lambda part: (part[0] is not None, part[0] or 0, part[1], part[2]))


class Priors:
    """The stored priors of one site's changes of `mask` to visible rows without held values, as `priors_of` finds them.

    Most overwrite one write, which says it without a look at the rest.
    """

    __slots__ = ("_mask", "_own", "_table", "_uptos")

    def __init__(self, table: Table, own_number: int, mask: int) -> None:
        self._table = table
        self._own = own_number
        self._mask = mask
        self._uptos: dict[int, int] = {}

    def of(self, row: Row, stored_entries: Sequence[StoredEntry]) -> bytes | None:
        """Return the prior of the change of a row with these entries, None for an empty one."""
        mask, whole = self._mask, self._mask & EXISTENCE
        touched = [stored for stored in stored_entries if whole or stored[3] & mask]
        if len(touched) == 1 and not mask & ~touched[0][3]:
            place, hlc, _, owned, _, prior = touched[0]
            if prior is None:
                return None if place == self._own else self._one_part(place, hlc)
            parts = decode_prior(prior)
            if place == self._own and not owned & EXISTENCE and len(parts) == 1 and parts[0][0] is None:
                return self._one_part(parts[0][1], parts[0][2])
        view = RowView(self._table, row, None, stored_entries, holds=False)
        return encode_prior(priors_of(view, self._own, mask))

    def _one_part(self, place: int, hlc: int) -> bytes | None:
        upto = self._uptos.get(place)
        if upto is None:
            upto = self._uptos[place] = self._table.coverage.staged.upto(self._table.store.site(place))
        hlc = min(hlc, upto)
        return encode_prior([(None, place, hlc)]) if hlc and place != self._own else None


def _parts_of(stored: StoredEntry, entry: Entry) -> Iterator[tuple[int | None, int, int, int]]:
    """Yield what an entry and its prior say that its writer had seen: (mask of the part, cells, site number, hlc).

    An insert or a delete covers all earlier cells of its site, and so does its prior, save for sites with parts that name cells.
    Of an insert itself the reader has seen what the entry still owns: who took the other cells says what he had seen of them.
    """
    whole = entry.mask & EXISTENCE != 0
    if whole:
        yield None, ALL_CELLS, stored[0], stored[1] - (not entry.dead)
    if not entry.dead:
        yield None, entry.mask, stored[0], stored[1]
    parts = decode_prior(stored[5])
    named = {number for part_mask, number, _ in parts if part_mask is not None}
    for part_mask, number, hlc in parts:
        if part_mask is not None:
            yield part_mask, part_mask if whole else entry.mask & part_mask, number, hlc
        elif whole:
            yield None, 0 if number in named else ALL_CELLS, number, hlc
        else:
            yield None, entry.mask, number, hlc


def _by_cell(table: Table, parts: Sequence[Prior], by_cell: Mapping[tuple[int, int], int], owned: int) -> list[Prior]:
    """Return the parts with a mask of an insert or a delete: of each site that it has not seen as far in all cells.

    These are those that the row's entries have `owned`, and those that their priors name.
    """
    for covers, _ in by_cell:
        owned |= covers if covers != ALL_CELLS else 0
    owned &= ~EXISTENCE
    named: list[Prior] = []
    for _, number, top in parts:
        latest = 0
        for (covers, origin), hlc in by_cell.items():
            if origin == number and hlc >= top:
                latest |= covers
        if not owned & ~latest:
            continue
        everywhere = by_cell.get((ALL_CELLS, number), 0)
        cells = [
            (covers & ~EXISTENCE, number, hlc)
            for (covers, origin), hlc in by_cell.items()
            if origin == number and covers != ALL_CELLS and hlc > everywhere
        ]
        if everywhere:
            cells.append((table.columns.mask_of(tuple(table.columns.bits)), number, everywhere))
        named += cells or [(0, number, top)]
    return named


def _newest(parts: list[Prior], limit: int) -> list[Prior]:
    """Return up to `limit` parts: those with the greatest stamps, as older writes have long met everywhere."""
    if len(parts) <= limit:
        return parts
    return sorted(parts, key=lambda part: (-part[2], part[1], part[0] or 0))[:limit]


def encode_prior(parts: Sequence[Prior]) -> bytes | None:
    """Return the stored form of a prior, None for an empty one. A mask of more than 63 bits is bytes, as in the change log."""
    if not parts:
        return None
    if len(parts) == 1:
        mask, number, hlc = parts[0]
        if mask is None and number < _SMALL and hlc >> 32:  # most are of one other site, and runs for each edit
            return _ONE_PART + bytes((number, _EIGHT_BYTES)) + hlc.to_bytes(8, "big")
    return codec.encode([(mask and pack_mask(mask), number, hlc) for mask, number, hlc in parts])


def decode_prior(stored: bytes | None) -> list[Prior]:
    """Return a stored prior."""
    if stored is None:
        return []
    if len(stored) == _ONE_PART_SIZE and stored[:3] == _ONE_PART and stored[4] == _EIGHT_BYTES:
        return [(None, stored[3], int.from_bytes(stored[5:], "big"))]
    return [
        (mask and unpack_mask(mask)[0], number, hlc)
        for mask, number, hlc in codec.decode(stored, bytes_max=len(stored))
    ]


def prior_to_wire(table: Table, stored: bytes | None, mask: int) -> list[Part]:
    """Return a stored prior with names and site ids in place of this file's numbers.

    The prior of an update is without columns outside `mask`, which the change has lost.
    """
    parts: list[Part] = []
    found = decode_prior(stored)
    if len(found) == 1 and found[0][0] is None:
        return [(None, table.store.site(found[0][1]), found[0][2])]
    for part_mask, number, hlc in _newest(found, COLUMNS_MAX):  # version 0.1 stored any number
        names = None
        if part_mask is not None:
            names = table.columns.names_of(part_mask if mask & EXISTENCE else part_mask & mask)
            if not names and not mask & EXISTENCE:
                continue
        parts.append((names, table.store.site(number), hlc))
    return parts


def prior_from_wire(table: Table, parts: Sequence[Part]) -> bytes | None:
    """Return the stored form of a prior of a peer. Names beyond `PRIOR_NAMES_MAX` count as columns that it has not seen."""
    found: list[Prior] = []
    left = PRIOR_NAMES_MAX
    for names, site, hlc in parts:
        mask = None
        if names is not None:
            left -= len(names)
            mask = table.columns.known_mask_of(names) if left >= 0 else 0
        found.append((mask, table.store.site_number_or_new(site), hlc))
    return encode_prior(found)


def seen_by_site(stored: bytes | None) -> Seen:
    """Return what a writer had seen, by the number of the site that wrote it: the cells (None for all), and up to which hlc."""
    seen: Seen = {}
    for mask, site_number, hlc in decode_prior(stored):
        seen.setdefault(site_number, []).append((mask, hlc))
    return seen
