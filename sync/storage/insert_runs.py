"""Runs of the change log: consecutive inserts of one site, packed into one record.

Rows that are inserted in bulk, or stream in from one site, get consecutive stamps and rowids. A plain entry takes 49 bytes with
its index; in a run an entry takes 8, its digest (ADR 0006).

Invariants: the entries of a run have one site and one mask, and overwrote nothing; the clock windows of one site's runs are
disjoint, and so are the rows of all runs.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.sync.storage.store import Store

__all__ = ["RUN_MAX", "RUN_MIN", "InsertRun", "InsertRuns", "runs_name"]

# Two runs of this length fill one page of 4 KiB.
RUN_MAX = 250
# Shorter runs are kept as plain entries: a record of their own would not pay.
RUN_MIN = 8
_LOW = 0xFFFF_FFFF
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

    def digest(self, number: int) -> int:
        """Return the digest of one entry."""
        return int(struct.unpack_from("<q", self.digests, 8 * number)[0])

    def all_digests(self) -> tuple[int, ...]:
        """Return the digests of all entries in clock order."""
        return struct.unpack(f"<{self.n}q", self.digests)


class InsertRuns:
    """The runs of one table. Writes are inside the caller's transaction."""

    __slots__ = ("_store", "_table_id", "name")

    def __init__(self, store: Store, table_id: int) -> None:
        self._store = store
        self._table_id = table_id
        self.name = runs_name(table_id)

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
        # The index finds the nearest run below. Its digests, the bulk of it, are read only if it reaches that far.
        inner = f"SELECT seq FROM {self.name} WHERE {nearest}"
        found = self._store.db.execute(
            f"SELECT {_COLUMNS} FROM {self.name} WHERE seq = ({inner}) AND {reaches}", (*parameters, point)
        ).fetchone()
        return None if found is None else InsertRun(*found)

    def of_rows(self, rows: Iterable[int]) -> Iterator[tuple[int, InsertRun]]:
        """Yield (row, its run) for those of the rows whose entries are in runs; `rows` ascend."""
        run: InsertRun | None = None
        end = 0  # rows before it are of `run`, or of no run
        for number, row in enumerate(rows):
            if number == 0 or row >= end:
                run = self.of_row(row)
                end = self._next_row(row) if run is None else run.row + run.n
            if run is not None:
                yield row, run

    def of_stamps(self, stamps: Iterable[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], InsertRun]]:
        """Yield (stamp, its run) for those of the stamps (site number, hlc) that are in runs; `stamps` ascend."""
        run: InsertRun | None = None
        end = (-1, 0)
        for stamp in stamps:
            if stamp >= end:
                run = self.of_stamp(*stamp)
                end = self._next_stamp(stamp) if run is None else (run.site_number, run.hlc + run.n)
            if run is not None:
                yield stamp, run

    def _next_row(self, row: int) -> int:
        listing = f"SELECT row FROM {self.name} WHERE row > ? ORDER BY row LIMIT 1"
        found = self._store.db.execute(listing, (row,)).fetchone()
        return 1 << 63 if found is None else int(found[0])

    def _next_stamp(self, stamp: tuple[int, int]) -> tuple[int, int]:
        listing = f"SELECT place, hlc FROM {self.name} WHERE (place, hlc) > (?, ?) ORDER BY place, hlc LIMIT 1"
        found: tuple[int, int] | None = self._store.db.execute(listing, stamp).fetchone()
        return (1 << 63, 0) if found is None else found

    def overlaps_rows(self, low: int, high: int) -> bool:
        """Return True if a run has the entry of some row in `low..high`."""
        listing = f"SELECT 1 FROM {self.name} WHERE row <= ? AND row > ? - {RUN_MAX} AND row + n > ? LIMIT 1"
        return self._store.db.execute(listing, (high, low, low)).fetchone() is not None

    def after(self, site_number: int, hlc: int, upto: int | None = None) -> Iterator[InsertRun]:
        """Yield the runs with stamps after (site number, hlc), in stamp order; with `upto`, of that site and up to that hlc."""
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

    def take(
        self, stamps: Iterable[tuple[int, int]], *, keep: bool = False
    ) -> tuple[set[tuple[int, int]], list[tuple[int, int, Any, Any, int, None]]]:
        """Take entries out of their runs, which fall into pieces.

        Return the stamps (site number, hlc) that were in runs, and the entries that the caller has to keep as plain ones:
        those of pieces that are too short to be runs, and with `keep` the taken entries too.
        """
        broken: dict[InsertRun, list[int]] = {}
        for (_site_number, hlc), run in self.of_stamps(sorted(stamps)):
            broken.setdefault(run, []).append(hlc - run.hlc)
        taken: set[tuple[int, int]] = set()
        loose: list[tuple[int, int, Any, Any, int, None]] = []
        for run, numbers in broken.items():
            self._store.db.execute(f"DELETE FROM {self.name} WHERE seq = ?", (run.seq,))
            taken.update((run.site_number, run.hlc + number) for number in numbers)
            digests = run.all_digests()
            plain = list(numbers) if keep else []
            for before, number in itertools.pairwise([-1, *numbers, run.n]):
                first = before + 1
                if number - first >= RUN_MIN:
                    self.add(run.site_number, run.hlc + first, run.row + first, run.mask, digests[first:number])
                else:
                    plain += range(first, number)
            loose += [(run.site_number, run.hlc + at, run.row + at, run.mask, digests[at], None) for at in plain]
        return taken, loose


def _packed(digests: Sequence[int]) -> tuple[int, int, bytes]:
    """Return (sum of the low halves, sum of the high halves, the digests in their stored form)."""
    low = sum([digest & _LOW for digest in digests])
    high = sum([digest >> 32 & _LOW for digest in digests])
    return low, high, struct.pack(f"<{len(digests)}q", *digests)
