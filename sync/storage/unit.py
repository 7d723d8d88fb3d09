"""A unit of replication: a whole table, the base of a table that is cut, or one of its areas.

A unit is compared, fetched, repaired and audited by itself, under its name on the wire. A table that is not cut is one unit.
"""

from __future__ import annotations

from dataclasses import dataclass

from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.sqlite.table_spec import Row
from mycomesh.sync.storage.horizon import Likeness
from mycomesh.sync.storage.table import Table

__all__ = ["Unit"]


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit by its name on the wire; a whole table and the base of one that is cut have no `area`."""

    name: str
    table: Table
    area: str | None

    @property
    def vector(self) -> Vector:
        """The committed vector, not to be changed."""
        areas = self.table.areas
        return self.table.coverage.vector if areas is None else areas.vector(self.area)

    @property
    def vouched(self) -> Vector:
        """A copy of the committed vector, as far as a peer may take it over."""
        return self.table.coverage.vouched(self.vector)

    @property
    def vector_digest(self) -> bytes:
        """The digest of the committed vector, and of the table's horizon if there is one."""
        areas = self.table.areas
        return self.table.coverage.digest if areas is None else areas.vector_digest(self.area)

    def likeness(self, digest: bytes, peer: bytes) -> Likeness:
        """Return whether a peer (16-byte node id) with that digest of its vector covers the same, whatever its horizon."""
        horizon = self.table.coverage.horizon
        if horizon is None:
            return Likeness.HOLDS if digest == self.vector_digest else Likeness.NONE
        return horizon.alike(self.vector.digest(), digest, peer)

    @property
    def digest(self) -> bytes:
        """The 16-byte digest of the unit's entries."""
        areas, log = self.table.areas, self.table.log
        if areas is None:
            return log.digest
        return areas.base_digest(log.sums) if self.area is None else areas.digest(self.area)

    @property
    def has_entries(self) -> bool:
        """True if the file has entries of the unit; of a table that is cut the base counts as having some."""
        if self.table.areas is None or self.area is None:
            return self.table.log.count > 0
        return self.table.areas.entries(self.area) > 0

    def remember(self) -> None:
        """Keep the digest of the vector, as `Coverage.remember` does."""
        if self.table.areas is None:
            self.table.coverage.remember()
        else:
            self.table.areas.remember(self.area)

    def has_had(self, digest: bytes) -> bool:
        """Return True if the unit had a vector with this digest a moment ago."""
        areas = self.table.areas
        return digest in self.table.coverage.remembered if areas is None else areas.has_had(self.area, digest)

    def own_site(self, site: bytes) -> bytes:
        """Return the site under which a file with this site stamps its writes to the unit."""
        areas = self.table.areas
        return site if areas is None or self.area is None else areas.own_site(site, self.area)

    def own_top(self, site: bytes) -> int:
        """Return how far a file with this site has published in the unit, its running transaction included."""
        own, areas = self.own_site(site), self.table.areas
        return self.table.coverage.staged.top(own) if areas is None else areas.top(own, self.area)

    def has_number(self, number: int) -> bool:
        """Return True if the site of that number is one of the unit."""
        areas = self.table.areas
        return areas is None or areas.of(number) == self.area

    def has_site(self, site: bytes) -> bool:
        """Return True if a site may write the unit: it is known as one of it, or unknown."""
        areas, number = self.table.areas, self.table.store.site_number(site)
        if areas is None or number is None:
            return True
        found = areas.of(number)
        return found == self.area or (found is None and not self.table.coverage.staged.ranges(site))

    def scan(self, site_number: int, hlc: int, limit: int) -> list[tuple[int, int, Row, int]]:
        """Return up to `limit` (site number, hlc, row, digest) of the unit's entries after a stamp, in stamp order."""
        log, areas = self.table.log, self.table.areas
        if areas is None:
            return log.scan(site_number, hlc, limit)
        if self.area is None:
            numbers = [number for number in range(len(self.table.store.sites)) if areas.of(number) is None]
        else:
            numbers = sorted(areas.numbers(self.area))
        found: list[tuple[int, int, Row, int]] = []
        for number in numbers:
            if number >= site_number and len(found) < limit:
                found += log.scan_site(number, hlc if number == site_number else -1, limit - len(found))
        return found
