"""Entries that a log has beyond its vector: rows of a round that has not ended, or of a batch that is merged in steps.

A change that the vector covers may have lost its place to one of these. A peer that took over the vector without them would
cover a change that it neither has nor has replaced, and a repair would delete that change elsewhere. So a stream sends them
last, without ranges: they cover nothing (ADR 77).

Invariant: after the chunk for which `read` returned that nothing is left, every entry beyond the vector is with the peer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from mycomesh.sync.crdt.hlc import HLC_MAX
from mycomesh.sync.crdt.version_vector import Range, Vector, difference
from mycomesh.sync.storage.log_reader import changes_in, read_range
from mycomesh.sync.storage.unit import Unit
from mycomesh.sync.wire.bundle import Section

__all__ = ["Ahead", "EntriesAhead"]


@dataclass(slots=True)
class Ahead:
    """The part of one chunk that lies beyond a vector. `whole`: nothing is left of this unit."""

    section: Section
    read: list[tuple[bytes, Range, int]] = field(default_factory=list)  # site, window, changes in it
    rows: int = 0
    size: int = 0
    whole: bool = True


class EntriesAhead:
    """The entries beyond the vectors that one stream has sent, to a peer that covered `have` at its beginning."""

    def __init__(self, have: dict[str, Vector]) -> None:
        self._have = have
        self._sent: dict[str, list[tuple[bytes, Range, int]]] = {}

    def read(self, unit: Unit, rows_max: int, bytes_max: int, chunk_bytes: int) -> Ahead:
        """Return the next entries that neither the vector nor the peer covers; none if the peer learns nothing by the vector."""
        found = Ahead(Section(unit.name, []))
        have = self._have[unit.name]
        if next(iter(unit.vouched.missing_from(have)), None) is None or not _is_ahead(unit):
            return found
        known = unit.vector.copy()
        known.merge(have)
        for site, window, count in self._sent.get(unit.name, []):
            if changes_in(unit.table, site, window) == count:  # else some have come into it since
                known.add(site, *window)
        for site, (after, upto) in _beyond(unit, known):
            limits = {
                "rows_max": rows_max - found.rows,
                "bytes_max": bytes_max - found.size,
                "chunk_bytes": chunk_bytes,
            }
            groups, reached, rows, size = read_range(unit.table, site, after, upto, **limits)
            if groups:
                found.section.groups += groups
                last = max(group.hlcs[-1] for group in groups)
                found.read.append((site, (after, last), rows))
            found.rows += rows
            found.size += size
            if reached != upto or found.rows >= rows_max or found.size >= bytes_max:
                found.whole = False
                break
        return found

    def record(self, name: str, read: list[tuple[bytes, Range, int]]) -> None:
        """Note what a chunk has brought to the peer."""
        again = {site for site, _, _ in read}
        kept = [each for each in self._sent.get(name, []) if each[0] not in again or _outside(each, read)]
        self._sent[name] = kept + read


def _outside(each: tuple[bytes, Range, int], read: list[tuple[bytes, Range, int]]) -> bool:
    """Return whether a window meets none of these."""
    return all(each[0] != site or each[1][1] <= after or upto <= each[1][0] for site, (after, upto), _ in read)


def _beyond(unit: Unit, vector: Vector) -> Iterator[tuple[bytes, Range]]:
    """Yield the windows of the unit's sites that a vector does not cover."""
    areas, store = unit.table.areas, unit.table.store
    numbers = range(len(store.sites)) if areas is None or unit.area is None else areas.numbers(unit.area)
    for site in sorted(store.site(number) for number in numbers if unit.has_number(number)):
        for window in difference([(0, HLC_MAX)], vector.ranges(site)):
            yield site, window


def _is_ahead(unit: Unit) -> bool:
    """Return whether the log has entries beyond the vector. A table that has none is asked again once it may have some."""
    coverage = unit.table.coverage
    if not coverage.may_be_ahead:
        return False
    ahead = any(changes_in(unit.table, site, window) for site, window in _beyond(unit, unit.vector))
    if not ahead and unit.table.areas is None:
        coverage.may_be_ahead = False
    return ahead
