"""The change log of one table: one entry for each stamp that still owns a cell, which later writes remove or shrink.

So the log never grows beyond the cells of the table, and what it holds is all that a peer can be missing. An entry names its
row by `row`: a rowid, or an encoded key as bytes. Inserts that follow each other are packed into runs beside the log
(`insert_runs`). Sums of the entries' digests say whether two replicas have the same entries.

Invariants: after a commit, `count` and `sums` equal a scan of the log and its runs; a stamp is in one of the two.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apsw

from mycomesh.sync.crdt.hlc import HLC_MAX
from mycomesh.sync.crdt.lattice import EXISTENCE, Entry
from mycomesh.sync.errors import DecodeError
from mycomesh.sync.sqlite.table_spec import Row
from mycomesh.sync.storage.areas import Areas
from mycomesh.sync.storage.batch_join import join_names, join_numbers
from mycomesh.sync.storage.insert_runs import RUN_MIN, InsertRun, InsertRuns, RunPart, StoredEntry
from mycomesh.sync.storage.row_codec import sum_halves
from mycomesh.sync.storage.seals import Seals
from mycomesh.sync.storage.store import Store
from mycomesh.sync.wire.seals import Seal

__all__ = ["ChangeLog", "StoredEntry", "changes_name", "pack_mask", "unpack_mask"]

_LOW = 0xFFFF_FFFF
_SUM = (1 << 64) - 1
_TWICE = "one stamp for two rows: its site is forged, or was set back to before stamps that it had published"


def changes_name(table_id: int) -> str:
    """Return the name of the table's change log."""
    return f"mycomesh_changes_{table_id}"


def pack_mask(mask: int, *, dead: bool = False) -> int | bytes:
    """Return the stored form of a mask: 0 for a tombstone, an integer while it fits, else little-endian bytes."""
    if dead:
        return 0
    return mask if mask < 1 << 63 else mask.to_bytes((mask.bit_length() + 7) // 8, "little")


def unpack_mask(stored: int | bytes) -> tuple[int, bool]:
    """Return (mask, dead) of a stored mask."""
    if stored == 0:
        return EXISTENCE, True
    return (stored, False) if isinstance(stored, int) else (int.from_bytes(stored, "little"), False)


class ChangeLog:
    """The entries of one table."""

    __slots__ = (
        "_adds",
        "_delta",
        "_digested",
        "_gone",
        "_plain_removes",
        "_removes",
        "_replaces",
        "_store",
        "areas",
        "count",
        "name",
        "runs",
        "seals",
        "sums",
        "table_id",
    )

    def __init__(self, store: Store, table_id: int) -> None:
        self._store = store
        self.table_id = table_id
        self.name = changes_name(table_id)
        self.runs = InsertRuns(store, table_id)
        self.count = 0
        self.sums = (0, 0)
        self._digested: tuple[tuple[int, int], bytes] | None = None  # the sums that `digest` saw last, and their bytes
        self.seals: Seals | None = None  # of a signed table: they go with the entries that they prove
        self.areas: Areas | None = None  # of a table that is cut: it sums the entries of each site too
        self._delta = [0, 0, 0]  # count, low lane, high lane of the running transaction
        # Writes of the running transaction that are not in the file yet; every read flushes them first.
        self._adds: list[StoredEntry] = []
        self._replaces: dict[tuple[int, int], StoredEntry] = {}
        self._removes: list[tuple[int, int]] = []
        self._plain_removes: list[tuple[int, int]] = []
        self._gone: list[tuple[int, int]] = []  # entries of runs that are removed already, and whose seals may go

    def create(self) -> None:
        """Create the table where it is missing; inside a transaction."""
        self._store.db.execute(
            f"CREATE TABLE IF NOT EXISTS {self.name}(place INTEGER, hlc INTEGER, row, mask, digest INTEGER, prior,"
            " PRIMARY KEY(place, hlc)) WITHOUT ROWID"
        )
        self._store.db.execute(f"CREATE INDEX IF NOT EXISTS mycomesh_rows_{self.table_id} ON {self.name}(row)")
        self._store.db.execute(
            f"CREATE INDEX IF NOT EXISTS mycomesh_dead_{self.table_id} ON {self.name}(hlc) WHERE mask = 0"
        )
        self.runs.create()

    def read_sums(self) -> tuple[int, int, int]:
        """Return (count, low lane, high lane) of all entries, in one scan."""
        count, low, high = self._store.db.execute(
            f"SELECT count(*), coalesce(sum(digest & {_LOW}), 0), coalesce(sum((digest >> 32) & {_LOW}), 0)"
            f" FROM {self.name}"
        ).fetchone()
        packed = self.runs.sums()
        return count + packed[0], (low + packed[1]) & _SUM, (high + packed[2]) & _SUM

    def load(self, sums: tuple[int, int, int] | None = None) -> None:
        """Follow the store's transactions from here on, with count and sums as `read_sums` returns them."""
        self.count, low, high = sums or self.read_sums()
        self.sums = low, high
        self._store.enlist(self)

    def committed(self) -> None:
        """Add the transaction's changes to count and sums."""
        assert not any((self._adds, self._replaces, self._removes, self._plain_removes, self._gone)), (
            "flush before the commit"
        )
        count, low, high = self._delta
        if count or low or high:
            self.count += count
            self.sums = ((self.sums[0] + low) & _SUM, (self.sums[1] + high) & _SUM)
            self._delta = [0, 0, 0]

    def rolled_back(self) -> None:
        """Forget the transaction's changes."""
        self._delta = [0, 0, 0]
        self.runs.rolled_back()
        self._adds, self._replaces, self._removes, self._plain_removes, self._gone = [], {}, [], [], []

    @property
    def staged_count(self) -> int:
        """The number of entries with those of the running transaction."""
        return self.count + self._delta[0]

    @property
    def digest(self) -> bytes:
        """The 16-byte digest of all entries: sums of the two halves of their digests, each mod 2^64."""
        if self._digested is None or self._digested[0] is not self.sums:
            self._digested = self.sums, self.sums[0].to_bytes(8, "big") + self.sums[1].to_bytes(8, "big")
        return self._digested[1]

    # ---- reading

    def entries_of_row(self, row: Row) -> list[StoredEntry]:
        """Return the entries of one row, ordered by (site number, hlc)."""
        self.flush()
        listing = f"SELECT place, hlc, row, mask, digest, prior FROM {self.name} WHERE row = ? ORDER BY place, hlc"
        found: list[StoredEntry] = self._store.db.execute(listing, (row,)).fetchall()
        run = self.runs.of_row(row) if isinstance(row, int) else None
        if run is not None:
            found.append(run.entry(row - run.row))  # type: ignore[operator]
            found.sort()  # no two have one stamp
        return found

    def entries_of_rows(self, rows: Sequence[Row]) -> dict[Row, list[StoredEntry]]:
        """Return the entries of many rows at once."""
        self.flush()
        found: dict[Row, list[StoredEntry]] = {row: [] for row in rows}
        columns = "t.place, t.hlc, t.row, t.mask, t.digest, t.prior"
        for stored in join_names(self._store.db, columns, self.name, "row", list(found)):
            found[stored[2]].append(stored)
        for run, numbers in self.runs.by_rows(sorted(row for row in found if isinstance(row, int))):
            packed = run.entries()
            for row in numbers:
                found[row].append(packed[row - run.row])
        for entries in found.values():
            if len(entries) > 1:
                entries.sort()  # no two have one stamp
        return found

    def entries_and_runs(self, rows: Sequence[Row]) -> tuple[dict[Row, list[StoredEntry]], list[InsertRun | None]]:
        """Return the plain entries of different rows, in no order, and for each row in turn the run that has an entry of it."""
        stored_entries, parts = self.entries_in_order(rows)
        found: dict[Row, list[StoredEntry]] = {}
        for stored in stored_entries:
            found.setdefault(stored[2], []).append(stored)
        runs: list[InsertRun | None] = [None] * len(rows)
        for run, places in parts:
            for at in places:
                runs[at] = run
        return found, runs

    def entries_in_order(self, rows: Sequence[Row]) -> tuple[list[StoredEntry], list[tuple[InsertRun, Sequence[int]]]]:
        """Return the plain entries of different rows, and the runs that have some, each with the places in `rows` of its rows."""
        self.flush()
        columns = "t.place, t.hlc, t.row, t.mask, t.digest, t.prior"
        found = list(join_names(self._store.db, columns, self.name, "row", rows))
        places = [at for at, row in enumerate(rows) if type(row) is int]
        places.sort(key=rows.__getitem__)
        parts: list[tuple[InsertRun, Sequence[int]]] = []
        start = 0
        for run, numbers in self.runs.by_rows([rows[at] for at in places]):  # type: ignore[misc]
            while rows[places[start]] != numbers[0]:
                start += 1
            parts.append((run, places[start : start + len(numbers)]))
            start += len(numbers)
        return found, parts

    def rows_of(self, stamps: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Row]:
        """Return the rows of the entries with these stamps (site number, hlc); stamps without an entry are left out."""
        self.flush()
        found: dict[tuple[int, int], Row] = {}
        for site_number in dict.fromkeys(number for number, _ in stamps):
            hlcs = [hlc for number, hlc in stamps if number == site_number]
            where = f"t.place = {site_number}"
            for hlc, row in join_numbers(self._store.db, "t.hlc, t.row", self.name, "hlc", hlcs, where):
                found[site_number, hlc] = row
        for stamp, run in self.runs.of_stamps(sorted(stamp for stamp in stamps if stamp not in found)):
            found[stamp] = run.row + stamp[1] - run.hlc
        return found

    def row_of(self, site_number: int, hlc: int) -> Row | None:
        """Return the row of the entry with one stamp, None without an entry."""
        return self.rows_of([(site_number, hlc)]).get((site_number, hlc))

    def knows(self, row: Row) -> bool:
        """Return True if the row has an entry."""
        self.flush()
        if self._store.db.execute(f"SELECT 1 FROM {self.name} WHERE row = ? LIMIT 1", (row,)).fetchone() is not None:
            return True
        return isinstance(row, int) and self.runs.of_row(row) is not None

    def rows_with_entries(self, rows: Sequence[Row]) -> set[Row]:
        """Return those of the rows that have entries."""
        self.flush()
        found: set[Row] = {row for (row,) in join_names(self._store.db, "t.row", self.name, "row", rows)}
        found.update(row for row, _ in self.runs.of_rows(sorted(row for row in rows if isinstance(row, int))))
        return found

    def entries_between(self, site_number: int, low: int, high: int) -> dict[int, tuple[Row, int]]:
        """Return by hlc (row, mask) of the site's entries with an hlc in `low..high`; the mask of a tombstone is 0."""
        self.flush()
        listing = f"SELECT hlc, row, mask FROM {self.name} WHERE place = ? AND hlc BETWEEN ? AND ?"
        found: dict[int, tuple[Row, int]] = {}
        for hlc, row, packed in self._store.db.execute(listing, (site_number, low, high)):
            mask, dead = unpack_mask(packed)
            found[hlc] = row, 0 if dead else mask
        for run in self.runs.after(site_number, low - 1, high):
            mask, _ = unpack_mask(run.mask)
            window = range(max(run.hlc, low), min(run.hlc + run.n - 1, high) + 1)
            found.update((hlc, (run.row + hlc - run.hlc, mask)) for hlc in window)
        return found

    def numbered_rows(self) -> list[int]:
        """Return every row with an integer name that has entries, ascending."""
        self.flush()
        listing = f"SELECT DISTINCT row FROM {self.name} WHERE typeof(row) = 'integer'"
        rows = {row for (row,) in self._store.db.execute(listing)}
        rows.update(itertools.chain.from_iterable(range(run.row, run.row + run.n) for run in self.runs.after(-1, 0)))
        return sorted(rows)

    def site_numbers(self) -> list[int]:
        """Return the numbers of the sites that have entries, ascending."""
        self.flush()
        found: set[int] = set()
        for name in (self.name, self.runs.name):
            number = -1
            while True:  # a step for each site, where DISTINCT would read each entry
                listing = f"SELECT min(place) FROM {name} WHERE place > ?"
                number = self._store.db.execute(listing, (number,)).fetchone()[0]
                if number is None:
                    break
                found.add(number)
        return sorted(found)

    def any_row_between(self, low: int, high: int) -> bool:
        """Return True if some row with an integer name in `low..high` has entries."""
        self.flush()
        found = self._store.db.execute(
            f"SELECT 1 FROM {self.name} WHERE row BETWEEN ? AND ? LIMIT 1", (low, high)
        ).fetchone()
        return found is not None or self.runs.overlaps_rows(low, high)

    def entry(self, stored: StoredEntry) -> Entry:
        """Return the entry in the form that the lattice joins."""
        packed = stored[3]
        # Nearly every mask is stored as the integer that it is, and this runs for each entry that a drain or a merge reads.
        mask, dead = (packed, False) if type(packed) is int and packed else unpack_mask(packed)
        return Entry((stored[1], self._store.site(stored[0])), mask, dead)

    def scan(self, site_number: int, hlc: int, limit: int) -> list[tuple[int, int, Row, int]]:
        """Return up to `limit` (site number, hlc, row, digest) after a stamp, in stamp order."""
        self.flush()
        listing = (
            f"SELECT place, hlc, row, digest FROM {self.name} WHERE (place, hlc) > (?, ?) ORDER BY place, hlc LIMIT ?"
        )
        plain = self._store.db.execute(listing, (site_number, hlc, limit))
        packed = itertools.chain.from_iterable(map(_unpacked, self.runs.after(site_number, hlc)))
        later = itertools.dropwhile(lambda entry: entry[:2] <= (site_number, hlc), packed)
        return list(itertools.islice(heapq.merge(plain, later), limit))

    def scan_site(self, site_number: int, hlc: int, limit: int) -> list[tuple[int, int, Row, int]]:
        """Return up to `limit` entries of one site after an hlc, as `scan` does."""
        self.flush()
        listing = f"SELECT place, hlc, row, digest FROM {self.name} WHERE place = ? AND hlc > ? ORDER BY hlc LIMIT ?"
        plain = self._store.db.execute(listing, (site_number, hlc, limit))
        packed = itertools.chain.from_iterable(map(_unpacked, self.runs.after(site_number, hlc, HLC_MAX)))
        later = itertools.dropwhile(lambda entry: entry[1] <= hlc, packed)
        return list(itertools.islice(heapq.merge(plain, later), limit))

    # ---- writing, inside a transaction

    def add(self, stored: StoredEntry) -> None:
        """Add an entry whose stamp is not in the log."""
        self._adds.append(stored)
        self._delta[0] += 1
        self._delta[1] += stored[4] & _LOW
        self._delta[2] += stored[4] >> 32 & _LOW
        if self.areas is not None:
            self.areas.count_entries((stored,), 1)

    def add_inserts(
        self,
        site_number: int,
        hlcs: Sequence[int],
        rows: Sequence[Row],
        mask: int | bytes,
        digests: Sequence[int],
        *,
        packed: bool = True,
    ) -> None:
        """Add inserts that overwrote nothing, with ascending stamps that are not in the log; pack consecutive ones into runs.

        With `packed` false, all become plain entries: only those can have held values.
        """
        self.flush()
        self._count(digests, 1, site_number)
        if not packed:
            own, packed_mask = itertools.repeat(site_number), itertools.repeat(mask)
            self._adds += zip(own, hlcs, rows, packed_mask, digests, itertools.repeat(None))
            return
        breaks = [
            at for at in range(1, len(hlcs)) if hlcs[at] - hlcs[at - 1] != 1 or not _follows(rows[at - 1], rows[at])
        ]
        for start, end in itertools.pairwise([0, *breaks, len(hlcs)]):
            first = rows[start]
            if end - start >= RUN_MIN and isinstance(first, int):
                self.runs.add(site_number, hlcs[start], first, mask, digests[start:end])
            else:
                self._adds += [(site_number, hlcs[at], rows[at], mask, digests[at], None) for at in range(start, end)]

    def replace(self, old: StoredEntry, new: StoredEntry) -> None:
        """Give the entry of one stamp another row, mask, digest or prior."""
        self._replaces[old[:2]] = new
        self._delta[1] += (new[4] & _LOW) - (old[4] & _LOW)
        self._delta[2] += (new[4] >> 32 & _LOW) - (old[4] >> 32 & _LOW)
        if self.areas is not None:
            self.areas.count_entries((old,), -1)
            self.areas.count_entries((new,), 1)

    def add_many(self, stored_entries: Sequence[StoredEntry]) -> None:
        """Add entries as `add` does for one."""
        self._adds += stored_entries
        self._count_entries(stored_entries, 1)

    def replace_plain(self, old: Sequence[StoredEntry], new: Sequence[StoredEntry]) -> None:
        """Replace entries that are in no run, as `replace` does for one; stamps and rows stay. It writes at once."""
        self._count_entries(old, -1)
        self._count_entries(new, 1)
        self._replace([(*stored[2:], *stored[:2]) for stored in new])

    def remove_plain(self, stored_entries: Sequence[StoredEntry]) -> None:
        """Remove entries that are in no run, as `remove` does for one."""
        self._plain_removes += [stored[:2] for stored in stored_entries]
        self._count_entries(stored_entries, -1)

    def reshape(self, parts: Iterable[tuple[InsertRun, RunPart]]) -> None:
        """Give parts of runs the masks that they keep, and their digests with them; 0 and any digests remove them."""
        by_run: dict[int, tuple[InsertRun, list[RunPart]]] = {}
        for run, part in parts:
            by_run.setdefault(run.seq, (run, []))[1].append(part)
        for run, own in by_run.values():
            before = run.all_digests()
            for numbers, mask, digests in own:
                gone = before if len(numbers) == run.n else [before[number] for number in numbers]
                self._count(gone, -1, run.site_number)
                if mask:
                    self._count(digests, 1, run.site_number)
                elif self.seals is not None:
                    self._gone += [(run.site_number, run.hlc + number) for number in numbers]
            self._insert(self.runs.reshape(run, own))

    def remask(self, run: InsertRun, mask: int | bytes, digests: Sequence[int]) -> None:
        """Give every entry of a run another mask, and the digests for that mask."""
        self._count(run.all_digests(), -1, run.site_number)
        self._count(digests, 1, run.site_number)
        self.runs.remask(run, mask, digests)

    def remove(self, stored: StoredEntry) -> None:
        """Remove an entry that owns nothing."""
        self._removes.append(stored[:2])
        self._delta[0] -= 1
        self._delta[1] -= stored[4] & _LOW
        self._delta[2] -= stored[4] >> 32 & _LOW
        if self.areas is not None:
            self.areas.count_entries((stored,), -1)

    def unpack(self, site_number: int, hlc: int) -> None:
        """Make an entry of a run a plain one, which can have held values and another name of its row."""
        self.flush()
        self._insert(self.runs.take([(site_number, hlc)]))

    def flush(self) -> None:
        """Write the pending additions, replacements and removals to the file, one statement for each kind.

        Raises:
            DecodeError: a stamp that is in the log already; the caller rolls the transaction back.
        """
        db = self._store.db
        removes, self._removes = self._removes, []
        plain_removes, self._plain_removes = self._plain_removes, []
        replaces, self._replaces = self._replaces, {}
        adds, self._adds = self._adds, []
        gone, self._gone = [*self._gone, *removes, *plain_removes] if self.seals is not None else [], []
        loose: list[StoredEntry] = []
        if removes or replaces:
            changed: dict[tuple[int, int], StoredEntry | None] = {**replaces, **dict.fromkeys(removes)}
            taken, loose = self.runs.change(changed)
            removes = [stamp for stamp in removes if stamp not in taken]
            replaces = {stamp: stored for stamp, stored in replaces.items() if stamp not in taken}
        removes += plain_removes
        if removes:
            db.executemany(f"DELETE FROM {self.name} WHERE place = ? AND hlc = ?", removes)
        if replaces:
            self._replace([(*stored[2:], *stamp) for stamp, stored in replaces.items()])
        if adds:
            if self._are_packed(adds):
                raise DecodeError(_TWICE)
            loose += adds
        self._insert(loose)
        if gone and self.seals is not None:
            self.seals.forget(gone, self._any_between)

    def trim_seals(self, seals: Iterable[Seal]) -> None:
        """Forget received seals of which no change has an entry, because later ones had superseded them all."""
        if self.seals is not None:
            numbers = [(self._store.site_number(seal.site), seal.hlcs[-1]) for seal in seals]
            self.seals.forget([(number, hlc) for number, hlc in numbers if number is not None], self._any_between)

    def _any_between(self, site_number: int, low: int, high: int) -> bool:
        listing = f"SELECT 1 FROM {self.name} WHERE place = ? AND hlc BETWEEN ? AND ? LIMIT 1"
        if self._store.db.execute(listing, (site_number, low, high)).fetchone() is not None:
            return True
        return next(iter(self.runs.after(site_number, low - 1, high)), None) is not None

    def _are_packed(self, added: Sequence[StoredEntry]) -> bool:
        """Return True if some stamp of these entries is in a run."""
        stamps = sorted([stored[:2] for stored in added])
        (first, low), (last, high) = stamps[0], stamps[-1]
        if first == last and not self.runs.overlaps_stamps(first, low, high):
            return False
        return any(True for _ in self.runs.of_stamps(stamps))

    def _replace(self, values: Sequence[tuple[Any, ...]]) -> None:
        changes = f"UPDATE {self.name} SET row = ?, mask = ?, digest = ?, prior = ? WHERE place = ? AND hlc = ?"
        self._store.db.executemany(changes, values)

    def _insert(self, stored_entries: Sequence[StoredEntry]) -> None:
        if not stored_entries:
            return
        try:
            self._store.db.executemany(f"INSERT INTO {self.name} VALUES(?, ?, ?, ?, ?, ?)", stored_entries)
        except apsw.ConstraintError as error:
            raise DecodeError(_TWICE) from error

    def rename_row(self, old: Row, new: Row) -> None:
        """Give the entries of a row its other name."""
        self.flush()
        if isinstance(old, int):
            run = self.runs.of_row(old)
            if run is not None:
                self.unpack(run.site_number, run.hlc + old - run.row)
        self._store.db.execute(f"UPDATE {self.name} SET row = ? WHERE row = ?", (new, old))

    def renumber(self, numbers: str) -> None:
        """Renumber the rows with integer names: `numbers` is a table (old, new) of all of them, ascending in both."""
        self.flush()
        db, new = self._store.db, f"(SELECT new FROM {numbers} WHERE old = {{}})"
        first, last = new.format("row"), new.format("row + n - 1")
        broken = f"SELECT place, hlc, n FROM {self.runs.name} WHERE {last} - {first} IS NOT n - 1 ORDER BY row"
        for site_number, hlc, n in db.execute(broken).fetchall():
            self._insert(self.runs.take([(site_number, hlc + number) for number in range(n)]))
        db.execute(f"UPDATE {self.name} SET row = {first} WHERE typeof(row) = 'integer'")
        db.execute(f"UPDATE {self.runs.name} SET row = {first}")

    def _count_entries(self, stored_entries: Sequence[StoredEntry], sign: int) -> None:
        self._count([stored[4] for stored in stored_entries], sign)
        if self.areas is not None:
            self.areas.count_entries(stored_entries, sign)

    def _count(self, digests: Sequence[int], sign: int, site_number: int = -1) -> None:
        """Add the digests of entries to the sums, or take them off; of those of one site also to the sums of its area."""
        delta, (low, high) = self._delta, sum_halves(digests)
        delta[0] += sign * len(digests)
        delta[1] += sign * low
        delta[2] += sign * high
        if self.areas is not None:
            self.areas.count(site_number, sign * len(digests), sign * low, sign * high)


def _follows(before: Row, row: Row) -> bool:
    return isinstance(before, int) and isinstance(row, int) and row - before == 1


def _unpacked(run: InsertRun) -> Iterator[tuple[int, int, Row, int]]:
    for number, digest in enumerate(run.all_digests()):
        yield run.site_number, run.hlc + number, run.row + number, digest
