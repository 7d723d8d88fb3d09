"""Areas of one table: which sites write which area, and the sums and vectors of each.

A node stamps its writes to an area under a site of that area. So an entry's site says its area, and the vector, the digest and
the log of an area are those of its sites. Entries of all other sites are the base: rows of no area, and those from before the
table was cut.

A table with a primary key that was cut with its rows has no base: see `moved_rows`.

Invariants: a site has one area for good; the sums of an area equal a scan of the entries of its sites. ADR 54.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from mycomesh.sync import codec
from mycomesh.sync.crdt.hlc import SITE_PREFIX
from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.errors import DatabaseError
from mycomesh.sync.storage.area_tree import AreaTree
from mycomesh.sync.storage.coverage import Coverage
from mycomesh.sync.storage.insert_runs import StoredEntry
from mycomesh.sync.storage.internal_tables import create_rare
from mycomesh.sync.storage.moved_rows import MovedRows, mixed_site
from mycomesh.sync.storage.store import Store
from mycomesh.sync.wire.units import NO_AREA, area_of

__all__ = ["REMEMBERED_AREAS_MAX", "Areas", "area_numbers", "area_site"]

# Digests of earlier vectors of all areas of a table that are remembered, as `Coverage.remembered` does for a table.
REMEMBERED_AREAS_MAX = 4_096
_LOW = 0xFFFF_FFFF
_SUM = (1 << 64) - 1


def area_site(site: bytes, table: str, area: str) -> bytes:
    """Return the site under which a file with this site stamps its writes to an area of a table, by canonical name."""
    said = codec.encode([site, table, area])
    return site[:SITE_PREFIX] + hashlib.blake2b(said, digest_size=SITE_PREFIX, person=b"mycomesh-area").digest()


def area_numbers(store: Store) -> set[int]:
    """Return the numbers of all sites of areas that the file knows."""
    if store.meta("areas") is None:
        return set()
    return {number for (number,) in store.db.execute("SELECT place FROM mycomesh_areas ORDER BY place")}


class Areas:
    """The areas of one table. It follows transactions."""

    def __init__(
        self,
        store: Store,
        table_id: int,
        table: str,
        column: str,
        coverage: Coverage,
        moved: MovedRows | None = None,
    ) -> None:
        """Take the canonical names of the table and of the column that cuts it, and the record of a cut with rows."""
        self.column = column
        self.moved = moved
        self.parked = False  # cut with its rows by another column than the mesh has decided
        self.fresh = True  # made by a transaction that has not been committed
        self.store = self._store = store
        self._table_id = table_id
        self._table = table
        self._coverage = coverage
        self._area: dict[int, str] = {}  # by the number of the site
        self._numbers: dict[str, list[int]] = {}  # by area
        self._tops: dict[
            int, int
        ] = {}  # clocks that this node has published beyond its coverage, by the number of its site
        self._sums: dict[int, list[int]] = {}  # count, low and high lane by the number of the site
        self._delta: dict[int, list[int]] = {}
        self._new: list[int] = []  # sites that this transaction has recorded
        self._tops_before: dict[int, int] | None = None
        self._vectors: dict[str | None, Vector] = {}
        self._digests: dict[str | None, bytes] = {}  # of these vectors, without the horizon
        self._mixed: dict[str | None, bytes] = {}  # with it
        self._remembered: dict[tuple[str | None, bytes], None] = {}
        self._tree = AreaTree()
        self._stale: dict[str, None] = {}  # areas that have changed since the tree was last looked at
        self._unremembered: dict[str, None] = {}  # areas whose vectors have changed since `remember_changed`
        self.version = 0  # increases with each change of the tree

    def create(self) -> None:
        """Create the record of areas where it is missing; inside a transaction.

        Raises:
            DatabaseError: it was dropped by hand.
        """
        known = "SELECT 1 FROM sqlite_schema WHERE name = 'mycomesh_areas' AND type = 'table'"
        if self._store.meta("areas") is not None and self._store.db.execute(known).fetchone() is None:
            raise DatabaseError(
                f"{self._store.path}: the node's own table mycomesh_areas was dropped and cannot be made again; put a backup in"
                " the place of the file, or move it away: 'mycomesh up' brings what the peers have"
            )
        self._store.db.execute(
            "CREATE TABLE IF NOT EXISTS mycomesh_areas(id INTEGER, place INTEGER, area TEXT NOT NULL, top INTEGER NOT NULL,"
            " PRIMARY KEY(id, place)) WITHOUT ROWID"
        )
        self._store.meta_set("areas", 1)

    def load(self, changes: str, runs: str) -> None:
        """Read the sites of each area, and their sums from the log's tables of these names."""
        db = self._store.db
        listing = "SELECT place, area, top FROM mycomesh_areas WHERE id = ? ORDER BY place"
        for number, area, top in db.execute(listing, (self._table_id,)):
            self._area[number] = area
            self._numbers.setdefault(area, []).append(number)
            if top:
                self._tops[number] = top
        scans = (
            f"SELECT place, count(*), sum(digest & {_LOW}), sum((digest >> 32) & {_LOW}) FROM {changes} GROUP BY place",
            f"SELECT place, sum(n), sum(low), sum(high) FROM {runs} GROUP BY place",
        )
        for scan in scans:
            for number, count, low, high in db.execute(f"{scan} ORDER BY place"):
                if number in self._area:
                    _add(self._sums, number, count, low, high)
        self._stale = dict.fromkeys(self._numbers)

    @property
    def idle(self) -> bool:
        """True if the table takes no part in the mesh: its entries are moving, or it was cut by another column."""
        return self.moving or self.parked

    @property
    def moving(self) -> bool:
        """True while entries of the table have still to move to the sites of their areas."""
        return self.moved is not None and bool(self.moved.sources)

    # ---- which site is of which area

    def of(self, number: int) -> str | None:
        """Return the area of a site by its number, None for a site of the base."""
        return self._area.get(number)

    def of_site(self, site: bytes) -> str | None:
        """Return the area of a site, None for one of the base or an unknown one."""
        number = self._store.site_number(site)
        return None if number is None else self._area.get(number)

    def known(self) -> list[str]:
        """Return the areas of which this file knows a site, sorted."""
        return sorted(self._numbers)

    def numbers(self, area: str) -> Sequence[int]:
        """Return the numbers of the sites of an area."""
        return self._numbers.get(area, ())

    def written_by(self, member: bytes) -> list[str]:
        """Return the areas in which a member has written, by the first bytes of its node id and of its sites."""
        site = self._store.site
        return [
            area
            for area, numbers in self._numbers.items()
            if any(site(number).startswith(member) for number in numbers)
        ]

    def own_site(self, site: bytes, area: str) -> bytes:
        """Return the site of an area for the file whose own site is `site`."""
        if self.moved is not None:
            return mixed_site(site, self._table, self.moved.column, area)
        return area_site(site, self._table, area)

    def origin(self, site: bytes, area: str) -> bytes:
        """Return the site of the whole table for a site of an area of a table that was cut with its rows."""
        assert self.moved is not None
        return mixed_site(site, self._table, self.moved.column, area)

    def origin_of(self, site: bytes) -> bytes:
        """Return the site from before a cut with rows, the site itself without one."""
        area = None if self.moved is None else self.of_site(site)
        return site if area is None else self.origin(site, area)

    def learn(self, site: bytes, area: str) -> bool:
        """Record the area of a site; return False if the site is of another area or of the base. Inside a transaction."""
        number = self._store.site_number(site)
        if number is not None and number in self._area:
            return self._area[number] == area
        if number is not None and self._coverage.staged.ranges(site):
            return False
        number = self._store.site_number_or_new(site)
        self._store.db.execute("INSERT INTO mycomesh_areas VALUES(?, ?, ?, 0)", (self._table_id, number, area))
        self._area[number] = area
        self._numbers.setdefault(area, []).append(number)
        self._new.append(number)
        if self.moved is not None:
            self._begin_as_before(self.moved, site, number, area)
        return True

    def _begin_as_before(self, moved: MovedRows, site: bytes, number: int, area: str) -> None:
        """Cover of a site of an area what the file covered of the whole table's before the cut.

        This happens once, as the site stays on record: a release gives that coverage up with the rest.
        """
        origin = self.origin(site, area)
        for after, upto in moved.before.ranges(origin):
            self._coverage.cover(site, after, upto)
        if origin in moved.collected:
            create_rare(self._store.db, "mycomesh_collected")
            self._store.db.execute(
                "INSERT OR IGNORE INTO mycomesh_collected VALUES(?, ?, ?)",
                (self._table_id, number, moved.collected[origin]),
            )

    def follow_renewal(self, old: int, new: int) -> None:
        """Have entries move on from another site, which they get in place of one that they had to move from."""
        moved = self.moved
        if moved is not None and old in moved.sources and new not in moved.sources:
            moved.sources.append(new)
            moved.write(self._store, self._table_id)

    def area_of(self, value: Any) -> str | None:
        """Return the area of a row by its value, None for a row of the base."""
        found = area_of(value)
        return NO_AREA if found is None and self.moved is not None else found

    # ---- what this node has published

    def top(self, site: bytes, area: str | None = None) -> int:
        """Return how far an own site was published: as far as it is covered, or further if its area was released.

        With the area, also one that this file has not met: before a cut with rows it may have published there.
        """
        number = self._store.site_number(site)
        area = area or (None if number is None else self._area.get(number))
        before = self._top_before(site, area)
        return max(self._coverage.staged.top(site), before, 0 if number is None else self._tops.get(number, 0))

    def _top_before(self, site: bytes, area: str | None) -> int:
        """Return how far a site was covered in an area before a cut with rows, 0 without one."""
        return 0 if self.moved is None or area is None else self.moved.top(self.origin(site, area))

    def keep_top(self, site: bytes) -> None:
        """Remember how far an own site was published before its coverage is given up; inside a transaction."""
        number, top = self._store.site_number_or_new(site), self.top(site)
        if self._tops_before is None:
            self._tops_before = dict(self._tops)
        self._tops[number] = top
        self._store.db.execute(
            "UPDATE mycomesh_areas SET top = ? WHERE id = ? AND place = ?", (top, self._table_id, number)
        )

    # ---- sums and vectors

    def count(self, number: int, entries: int, low: int, high: int) -> None:
        """Add to the sums of a site."""
        if number in self._area:
            _add(self._delta, number, entries, low, high)

    def count_entries(self, stored_entries: Iterable[StoredEntry], sign: int) -> None:
        """Add entries to the sums of their sites, or take them off."""
        for stored in stored_entries:
            self.count(stored[0], sign, sign * (stored[4] & _LOW), sign * (stored[4] >> 32 & _LOW))

    def entries(self, area: str) -> int:
        """Return how many entries an area has."""
        return sum(self._sums[number][0] for number in self.numbers(area) if number in self._sums)

    def writers(self, area: str) -> list[tuple[str, int]]:
        """Return how many entries of an area each node has written, the greatest number first.

        A node is named by the first half of its id, hexadecimal, as its sites begin with it.
        """
        found: dict[str, int] = {}
        for number in self.numbers(area):
            node = self._store.site(number)[:SITE_PREFIX].hex()
            found[node] = found.get(node, 0) + self._sums.get(number, (0, 0, 0))[0]
        return sorted(((node, count) for node, count in found.items() if count), key=lambda each: (-each[1], each[0]))

    def digest(self, area: str) -> bytes:
        """Return the 16-byte digest of an area's entries, as `ChangeLog.digest` for a table."""
        lanes = [self._sums.get(number, (0, 0, 0)) for number in self.numbers(area)]
        return _joined(sum(lane[1] for lane in lanes), sum(lane[2] for lane in lanes))

    def base_digest(self, sums: tuple[int, int]) -> bytes:
        """Return the digest of the base, given the sums of all entries."""
        lanes = self._sums.values()
        return _joined(sums[0] - sum(lane[1] for lane in lanes), sums[1] - sum(lane[2] for lane in lanes))

    def vector(self, area: str | None) -> Vector:
        """Return the committed vector of an area, or of the base for None; not to be changed."""
        found = self._vectors.get(area)
        if found is None:
            every = self._coverage.vector
            if area is None:
                own = {site: ranges for site, ranges in every.items() if self.of_site(site) is None}
            else:
                sites = map(self._store.site, self.numbers(area))
                own = {site: tuple(every.ranges(site)) for site in sites if every.ranges(site)}
            found = self._vectors[area] = Vector(own)
        return found

    def vector_digest(self, area: str | None) -> bytes:
        """Return the digest of that vector, and of the table's horizon if there is one."""
        found = self._mixed.get(area)
        if found is None:
            plain = self._digests.get(area)
            if plain is None:
                plain = self._digests[area] = self.vector(area).digest()
            found = self._mixed[area] = self._coverage.mixed(plain)
        return found

    def on_moved(self) -> None:
        """Follow the horizon of the table, which has moved: it is part of the digest of each vector."""
        self._mixed = {}
        self._stale = dict.fromkeys(self._numbers)

    @property
    def tree(self) -> AreaTree:
        """The digests of all areas of which the file covers something, as committed; not to be changed."""
        if self._stale:
            for area in self._stale:
                covered = self.vector(area).count > 0
                self._tree.put(area, (self.vector_digest(area), self.digest(area)) if covered else None)
            self._unremembered |= self._stale
            self._stale = {}
            self.version += 1
        return self._tree

    def remember_changed(self) -> None:
        """Keep the digests of all vectors that have changed since the last call, as `remember` does for one."""
        pairs, changed = self.tree.pairs, self._unremembered
        self._unremembered = {}
        for area in changed:
            if area in pairs:
                self.remember(area)

    def remember(self, area: str | None) -> None:
        """Keep the digest of a committed vector, as `Coverage.remember` does."""
        key = area, self.vector_digest(area)
        if key not in self._remembered:
            self._remembered[key] = None
            if len(self._remembered) > REMEMBERED_AREAS_MAX:
                del self._remembered[next(iter(self._remembered))]

    def has_had(self, area: str | None, digest: bytes) -> bool:
        """Return True if an area had a vector with this digest a moment ago."""
        return (area, digest) in self._remembered

    def forget_vectors(self, area: str | None) -> None:
        """Forget the earlier vectors of an area, as its coverage was given up."""
        self._remembered = {key: None for key in self._remembered if key[0] != area}

    def on_covered(self, sites: Iterable[bytes]) -> None:
        """Forget the cached vectors of the areas of some sites, after the commit that changed their coverage."""
        for area in dict.fromkeys(map(self.of_site, sorted(sites))):
            self._forget(area)
            if area is not None:
                self._stale[area] = None

    def _forget(self, area: str | None) -> None:
        for known in (self._vectors, self._digests, self._mixed):
            known.pop(area, None)

    # ---- transactions

    def committed(self) -> None:
        """Keep what the transaction did."""
        for number, (count, low, high) in self._delta.items():
            _add(self._sums, number, count, low, high)
            self._stale[self._area[number]] = None
        if self._new:  # a site that was covered already can never become one of an area, so only these are new
            for number in self._new:
                self._forget(self._area[number])
                self._stale[self._area[number]] = None
        self._delta, self._new, self._tops_before = {}, [], None
        self.fresh = False
        if self.moved is not None:
            self.moved.changed = False

    def rolled_back(self) -> None:
        """Forget what the transaction did."""
        for number in reversed(self._new):
            area = self._area.pop(number)
            self._numbers[area].remove(number)
            if not self._numbers[area]:
                del self._numbers[area]
        if self._tops_before is not None:
            self._tops = self._tops_before
        self._delta, self._new, self._tops_before = {}, [], None
        if self.moved is not None and self.moved.changed and not self.fresh:
            self.moved = MovedRows.read(self._store, self._table_id)


def _add(sums: dict[int, list[int]], number: int, count: int, low: int, high: int) -> None:
    lanes = sums.setdefault(number, [0, 0, 0])
    lanes[0] += count
    lanes[1] = (lanes[1] + low) & _SUM
    lanes[2] = (lanes[2] + high) & _SUM


def _joined(low: int, high: int) -> bytes:
    return (low & _SUM).to_bytes(8, "big") + (high & _SUM).to_bytes(8, "big")
