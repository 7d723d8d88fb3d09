"""Runs of the change log: consecutive inserts of one site, packed into one record.

Rows that are inserted in bulk, or stream in from one site, get consecutive stamps and rowids. A plain entry takes 49 bytes with
its index; in a run an entry takes 8, its digest (ADR 0006).

Invariants: the entries of a run are inserts of visible rows that overwrote nothing, and have one site and one mask; the clock
windows of one site's runs are disjoint, and so are the rows of all runs.
"""

from __future__ import annotations

import bisect
import itertools
import struct
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.sync.storage.row_codec import sum_halves
from mycomesh.sync.storage.store import Store

__all__ = ["RUN_MAX", "RUN_MIN", "InsertRun", "InsertRuns", "RunPart", "StoredEntry", "runs_name"]

# (site number, hlc, row, mask, digest, prior): an entry as the change log stores it. A plain tuple, because one is made for each
# row merged.
StoredEntry = tuple[int, int, Any, Any, int, bytes | None]
# Numbers of entries in a run, ascending, the mask that they keep (0 if they go), and their digests with it.
RunPart = tuple[Sequence[int], int, Sequence[int]]

# Two runs of this length fill one page of 4 KiB.
RUN_MAX = 250
# Shorter runs are kept as plain entries: a record of their own would not pay.
RUN_MIN = 8
_COLUMNS = "seq, place, hlc, row, n, mask, digests"


def runs_name(table_id: int) -> str:
    """Return the name of the table's runs."""
    return f"mycomesh_runs_{table_id}"


class InsertRun(NamedTuple):
    """`n` entries: that of stamp (hlc + i, site) is of row + i; `digests` has 8 bytes for each, little-endian."""

    seq: int
    site_number: int
    hlc: int
    row: int
    n: int
    mask: int | bytes
    digests: bytes

    def entry(self, number: int) -> StoredEntry:
        """Return one entry."""
        (digest,) = struct.unpack_from("<q", self.digests, 8 * number)
        return self.site_number, self.hlc + number, self.row + number, self.mask, digest, None

    def entries(self) -> list[StoredEntry]:
        """Return all entries in clock order."""
        place, hlc, row, mask = self.site_number, self.hlc, self.row, self.mask
        return [
            (place, hlc + number, row + number, mask, digest, None) for number, digest in enumerate(self.all_digests())
        ]

    def all_digests(self) -> tuple[int, ...]:
        """Return the digests of all entries in clock order."""
        return struct.unpack(f"<{self.n}q", self.digests)


class InsertRuns:
    """The runs of one table. Writes are inside the caller's transaction."""

    __slots__ = ("_empty", "_store", "_table_id", "name")

    def __init__(self, store: Store, table_id: int) -> None:
        self._store = store
        self._table_id = table_id
        self.name = runs_name(table_id)
        self._empty: bool | None = None  # None: somebody has to look

    @property
    def is_empty(self) -> bool:
        """True if there is no run, as in every table that no rowid numbers: each merge of a row would look for one four times."""
        if self._empty is None:
            self._empty = self._store.db.execute(f"SELECT 1 FROM {self.name} LIMIT 1").fetchone() is None
        return self._empty

    def rolled_back(self) -> None:
        """Look again whether there are runs: the transaction may have removed the last one."""
        self._empty = None

    def create(self) -> None:
        """Create the table where it is missing."""
        db = self._store.db
        db.execute(
            f"CREATE TABLE IF NOT EXISTS {self.name}(seq INTEGER PRIMARY KEY, place INTEGER, hlc INTEGER, row INTEGER,"
            " n INTEGER, mask, low INTEGER, high INTEGER, digests BLOB)"
        )
        db.execute(f"CREATE INDEX IF NOT EXISTS {self.name}_stamp ON {self.name}(place, hlc)")
        db.execute(f"CREATE INDEX IF NOT EXISTS {self.name}_row ON {self.name}(row)")

    def sums(self) -> tuple[int, int, int]:
        """Return (entries, sum of the digests' low halves, sum of their high halves)."""
        found: tuple[int, int, int] = self._store.db.execute(
            f"SELECT coalesce(sum(n), 0), coalesce(sum(low), 0), coalesce(sum(high), 0) FROM {self.name}"
        ).fetchone()
        return found

    # ---- reading

    def of_row(self, row: int) -> InsertRun | None:
        """Return the run with the entry of a row."""
        return self._within(
            f"row <= ? AND row > ? - {RUN_MAX} ORDER BY row DESC LIMIT 1", (row, row), "row + n > ?", row
        )

    def of_stamp(self, site_number: int, hlc: int) -> InsertRun | None:
        """Return the run with the entry of a stamp."""
        where = f"place = ? AND hlc <= ? AND hlc > ? - {RUN_MAX} ORDER BY hlc DESC LIMIT 1"
        return self._within(where, (site_number, hlc, hlc), "hlc + n > ?", hlc)

    def _within(self, nearest: str, parameters: tuple[int, ...], reaches: str, point: int) -> InsertRun | None:
        if self.is_empty:
            return None
        # The index finds the nearest run below. Its digests, the bulk of it, are read only if it reaches that far.
        inner = f"SELECT seq FROM {self.name} WHERE {nearest}"
        found = self._store.db.execute(
            f"SELECT {_COLUMNS} FROM {self.name} WHERE seq = ({inner}) AND {reaches}", (*parameters, point)
        ).fetchone()
        return None if found is None else InsertRun(*found)

    def of_rows(self, rows: Iterable[int]) -> Iterator[tuple[int, InsertRun]]:
        """Yield (row, its run) for those of the rows whose entries are in runs; `rows` ascend."""
        for run, found in self.by_rows(list(rows)):
            yield from zip(found, itertools.repeat(run))

    def by_rows(self, rows: Sequence[int]) -> Iterator[tuple[InsertRun, Sequence[int]]]:
        """Yield (run, those of the rows whose entries are in it); `rows` ascend."""
        at = 0
        while at < len(rows):
            run = self.of_row(rows[at])
            end = self._next_row(rows[at]) if run is None else run.row + run.n
            start, at = at, bisect.bisect_left(rows, end, at)
            if run is not None:
                yield run, rows[start:at]

    def of_stamps(self, stamps: Iterable[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], InsertRun]]:
        """Yield (stamp, its run) for those of the stamps (site number, hlc) that are in runs; `stamps` ascend."""
        for run, found in self._by_run(list(stamps)):
            yield from zip(found, itertools.repeat(run))

    def _by_run(self, stamps: Sequence[tuple[int, int]]) -> Iterator[tuple[InsertRun, Sequence[tuple[int, int]]]]:
        """Yield (run, those of the stamps that are in it); `stamps` ascend."""
        at = 0
        while at < len(stamps):
            run = self.of_stamp(*stamps[at])
            end = self._next_stamp(stamps[at]) if run is None else (run.site_number, run.hlc + run.n)
            start, at = at, bisect.bisect_left(stamps, end, at)
            if run is not None:
                yield run, stamps[start:at]

    def _next_row(self, row: int) -> int:
        listing = f"SELECT row FROM {self.name} WHERE row > ? ORDER BY row LIMIT 1"
        found = self._store.db.execute(listing, (row,)).fetchone()
        return 1 << 63 if found is None else int(found[0])

    def _next_stamp(self, stamp: tuple[int, int]) -> tuple[int, int]:
        listing = f"SELECT place, hlc FROM {self.name} WHERE (place, hlc) > (?, ?) ORDER BY place, hlc LIMIT 1"
        found: tuple[int, int] | None = self._store.db.execute(listing, stamp).fetchone()
        return (1 << 63, 0) if found is None else found

    def overlaps_stamps(self, site_number: int, low: int, high: int) -> bool:
        """Return True if a run has the entry of some hlc of a site in `low..high`."""
        listing = (
            f"SELECT 1 FROM {self.name} WHERE place = ? AND hlc <= ? AND hlc > ? - {RUN_MAX} AND hlc + n > ? LIMIT 1"
        )
        found = None if self.is_empty else self._store.db.execute(listing, (site_number, high, low, low)).fetchone()
        return found is not None

    def overlaps_rows(self, low: int, high: int) -> bool:
        """Return True if a run has the entry of some row in `low..high`."""
        listing = f"SELECT 1 FROM {self.name} WHERE row <= ? AND row > ? - {RUN_MAX} AND row + n > ? LIMIT 1"
        return not self.is_empty and self._store.db.execute(listing, (high, low, low)).fetchone() is not None

    def after(self, site_number: int, hlc: int, upto: int | None = None) -> Iterator[InsertRun]:
        """Yield the runs with stamps after (site number, hlc), in stamp order; with `upto`, of that site and up to that hlc."""
        if self.is_empty:
            return
        straddling = self.of_stamp(site_number, hlc)
        if straddling is not None and straddling.hlc + straddling.n - 1 > hlc:
            yield straddling
        window, bounds = "(place, hlc) > (?, ?)", [site_number, hlc]
        if upto is not None:
            window, bounds = "place = ? AND hlc > ? AND hlc <= ?", [site_number, hlc, upto]
        listing = f"SELECT {_COLUMNS} FROM {self.name} WHERE {window} ORDER BY place, hlc"
        yield from map(InsertRun._make, self._store.db.execute(listing, bounds))

    def all(self) -> Iterator[InsertRun]:
        """Yield every run, in the order of rows."""
        yield from map(InsertRun._make, self._store.db.execute(f"SELECT {_COLUMNS} FROM {self.name} ORDER BY row"))

    def from_row(self, after: int | None) -> Iterator[tuple[int, int]]:
        """Yield (first row, number of rows) of the runs that start after a row, in the order of rows."""
        start, parameters = ("", ()) if after is None else ("WHERE row > ?", (after,))
        yield from self._store.db.execute(f"SELECT row, n FROM {self.name} {start} ORDER BY row", parameters)

    def missing(self, table: str, rowid: str, runs: Iterable[tuple[int, int]]) -> Iterator[int]:
        """Yield the rows of these runs, (first row, number of rows) each, that a table does not have."""
        name = quoted(rowid)
        listing = f"SELECT t.{name} FROM {quoted(table)} t WHERE t.{name} BETWEEN ? AND ?"
        for row, n in runs:
            there = {found for (found,) in self._store.db.execute(listing, (row, row + n - 1))}
            yield from (number for number in range(row, row + n) if number not in there)

    # ---- writing

    def add(self, site_number: int, hlc: int, row: int, mask: int | bytes, digests: Sequence[int]) -> None:
        """Add consecutive entries, as runs of at most `RUN_MAX`."""
        self._empty = False
        records = []
        for at in range(0, len(digests), RUN_MAX):
            part = digests[at : at + RUN_MAX]
            records.append((site_number, hlc + at, row + at, len(part), mask, *_packed(part)))
        self._store.db.executemany(
            f"INSERT INTO {self.name}(place, hlc, row, n, mask, low, high, digests) VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
            records,
        )

    def remask(self, run: InsertRun, mask: int | bytes, digests: Sequence[int]) -> None:
        """Give a run another mask and other digests."""
        self._store.db.execute(
            f"UPDATE {self.name} SET mask = ?, low = ?, high = ?, digests = ? WHERE seq = ?",
            (mask, *_packed(digests), run.seq),
        )

    def take(self, stamps: Iterable[tuple[int, int]]) -> list[StoredEntry]:
        """Take entries out of their runs, which fall into pieces; return the entries that the caller has to keep as plain ones.

        These are the taken ones, and those of pieces that are too short to be runs.
        """
        loose: list[StoredEntry] = []
        for run, found in list(self._by_run(sorted(stamps))):
            loose += self._store_pieces(run, run.entries(), {hlc - run.hlc for _, hlc in found})
        return loose

    def change(
        self, changed: Mapping[tuple[int, int], StoredEntry | None]
    ) -> tuple[set[tuple[int, int]], list[StoredEntry]]:
        """Give those of some stamps that are in runs other entries, or none; return them, and the entries to keep as plain ones.

        Entries that follow each other and have lost the same columns stay in a run.
        """
        taken: set[tuple[int, int]] = set()
        loose: list[StoredEntry] = []
        for run, found in list(self._by_run(sorted(changed))):
            taken.update(found)
            pieces: list[StoredEntry | None] = list(run.entries())
            for stamp in found:
                pieces[stamp[1] - run.hlc] = changed[stamp]
            loose += self._store_pieces(run, pieces)
        return taken, loose

    def reshape(self, run: InsertRun, parts: Iterable[RunPart]) -> list[StoredEntry]:
        """Give parts of a run other masks and digests, or remove them with mask 0; return the entries to keep as plain ones."""
        own = list(parts)
        if len(own) == 1 and len(own[0][0]) == run.n and own[0][1]:
            self.remask(run, own[0][1], own[0][2])
            return []
        masks: list[int | bytes] = [run.mask] * run.n
        digests = list(run.all_digests())
        for numbers, mask, changed in own:
            if numbers[-1] - numbers[0] == len(numbers) - 1:
                window = slice(numbers[0], numbers[-1] + 1)
                masks[window] = [mask] * len(numbers)
                digests[window] = changed
            else:
                for number, digest in zip(numbers, changed, strict=True):
                    masks[number], digests[number] = mask, digest
        self._store.db.execute(f"DELETE FROM {self.name} WHERE seq = ?", (run.seq,))
        loose: list[StoredEntry] = []
        start = 0
        for kept, same in itertools.groupby(masks):
            first, start = start, start + len(list(same))
            if kept and start - first >= RUN_MIN:
                self.add(run.site_number, run.hlc + first, run.row + first, kept, digests[first:start])
            elif kept:
                place, hlc, row = run.site_number, run.hlc, run.row
                loose += [(place, hlc + at, row + at, kept, digests[at], None) for at in range(first, start)]
        return loose

    def _store_pieces(
        self, run: InsertRun, pieces: Sequence[StoredEntry | None], apart: Container[int] = ()
    ) -> list[StoredEntry]:
        """Store what a run has become, None where an entry is gone, as runs; return the entries that fit into none.

        The entries with the numbers `apart` are returned in any case.
        """
        loose: list[StoredEntry] = []
        self._store.db.execute(f"DELETE FROM {self.name} WHERE seq = ?", (run.seq,))
        shift = run.row - run.hlc
        masks = [
            None
            if stored is None or stored[5] is not None or stored[2] != stored[1] + shift or number in apart
            else stored[3]
            for number, stored in enumerate(pieces)
        ]
        start = 0
        for mask, same in itertools.groupby(masks):
            end = start + len(list(same))
            part = [stored for stored in pieces[start:end] if stored is not None]
            if mask is not None and len(part) >= RUN_MIN:
                self.add(run.site_number, run.hlc + start, run.row + start, mask, [stored[4] for stored in part])
            else:
                loose += part
            start = end
        return loose


def _packed(digests: Sequence[int]) -> tuple[int, int, bytes]:
    """Return (sum of the low halves, sum of the high halves, the digests in their stored form)."""
    return *sum_halves(digests), struct.pack(f"<{len(digests)}q", *digests)
