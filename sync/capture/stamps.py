"""Stamps of one chunk of the pending log: the sites and times that give them, and the ranges that they cover.

A file has two sites in a run. One stamps what programs write on the mesh. The early site stamps rows from before the mesh. Its
clock begins at 0, so they lose to every write on the mesh. ADR 0031.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from mycomesh.sync.crdt.hlc import Clock
from mycomesh.sync.storage.pending_log import AT_EARLY, OP_INSERT
from mycomesh.sync.storage.table import Table
from mycomesh.sync.wire.units import unit_name

__all__ = ["Chunk", "Stamper", "Times", "captured_ms", "is_early_record", "stamps_of"]

_UNIX_EPOCH_JULIAN = 2_440_587.5
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Stamper:
    """A site of this file: its number in the file, and its clock."""

    site_number: int
    clock: Clock


@dataclass(frozen=True, slots=True)
class Times:
    """Wall times in milliseconds: now, and the time of an insert that was logged without one."""

    now_ms: int
    untimed_ms: int

    def of(self, at: Any, what: int) -> int:
        """Return the time of a log record in milliseconds.

        `at` is a Julian day that a trigger wrote, None if it wrote no time, or what a backfill writes in place of one.
        """
        if at is None:
            return self.untimed_ms if what == OP_INSERT else self.now_ms
        # A write captured while the clock was ahead gets the present time: peers refuse stamps from the future.
        return min(captured_ms(at), self.now_ms)


def captured_ms(at: Any) -> int:
    """Return the wall time in milliseconds of a Julian day that a trigger wrote; 0 for what a backfill writes in place of one."""
    return round((at - _UNIX_EPOCH_JULIAN) * _DAY_MS) if type(at) is float else 0


def is_early_record(at: Any) -> bool:
    """Return True if a log record with this `at` is of a row from before the mesh."""
    return type(at) is int and at == AT_EARLY


def stamps_of(stamper: Stamper, times: Times, written: Sequence[Any], what: int) -> list[int]:
    """Return a clock for each log record of one operation, from their `at`, in the order of the log."""
    clock = stamper.clock
    hlcs: list[int] = []
    # Rows written at one time follow the first by one tick each, which costs less than asking for the time again.
    for at, same in itertools.groupby(written):
        first = clock.tick(times.of(at, what))
        clock.last += len(list(same)) - 1
        hlcs += range(first, clock.last + 1)
    return hlcs


class Chunk:
    """The stamps of one chunk: the sites that give them, and what they cover."""

    __slots__ = ("_after", "_areas", "_early", "_early_areas", "_make_early", "site", "table")

    def __init__(self, table: Table, site: Stamper, early: Callable[[], Stamper]) -> None:
        self.table = table
        self.site = site
        self._make_early = early
        self._early: Stamper | None = None
        self._areas: dict[str, Stamper] = {}
        self._early_areas: dict[str, Stamper] = {}  # of a table that was cut with its rows
        self._after = {site.site_number: self._top(site)}

    @property
    def early_clock(self) -> Clock:
        """The clock of the early site."""
        return self._make_early().clock

    def early(self, area: str | None = None) -> Stamper:
        """Return the early site, whose stamps this chunk then covers; for an area, its site of that area."""
        if area is not None:
            found = self._early_areas.get(area)
            if found is None:
                early = self._make_early()
                found = self._early_areas[area] = self._in_area(area, early)
                self._after[found.site_number] = self._top(found)
                self.of_area(area)  # this site answers for it
            return found
        if self._early is None:
            self._early = self._make_early()
            self._after[self._early.site_number] = self._top(self._early)
        return self._early

    def of_area(self, area: str | None) -> Stamper:
        """Return what stamps the writes to an area of a table that is cut; to its base for None."""
        areas = self.table.areas
        if area is None or areas is None:
            return self.site
        found = self._areas.get(area)
        if found is None:
            found = self._areas[area] = self._in_area(area, self.site)
            self._after[found.site_number] = areas.top(self.table.store.site(found.site_number))
        return found

    def _in_area(self, area: str, stamper: Stamper) -> Stamper:
        """Return what stamps in an area under the clock of a site of this file."""
        store, areas = self.table.store, self.table.areas
        assert areas is not None
        site = areas.own_site(store.site(stamper.site_number), area)
        learnt = areas.learn(site, area)
        assert learnt, "no other file has this site"
        return Stamper(store.site_number_or_new(site), stamper.clock)

    def cover_early(self, area: str | None = None) -> None:
        """Cover what the early site has stamped, before a change of this chunk overwrites it."""
        early = self.early(area)
        self.table.coverage.cover(self.table.store.site(early.site_number), self._top(early), early.clock.last)

    def cover(self, used: Collection[int]) -> dict[str, list[tuple[bytes, int, int]]]:
        """Cover the stamps of the chunk in the table's vector; return their ranges by the name of their unit.

        `used` are the numbers of the sites that have changes in it: if all are of areas, the base has nothing to say.

        A stamp of the early site is below every tombstone, so the collection of tombstones could not wait for it. So this site
        answers for it: its clock goes on by one in the same batch, and a replica that misses the batch has a gap in this site.
        """
        ranges: dict[str, list[tuple[bytes, int, int]]] = {}
        name = self.table.spec.folded
        stampers = [(name, self._early), (name, self.site)]
        stampers += [(unit_name(name, area), stamper) for area, stamper in self._early_areas.items()]
        stampers += [(unit_name(name, area), stamper) for area, stamper in self._areas.items()]
        adopting = {self._areas[area].site_number for area in self._early_areas}
        for unit, stamper in stampers:
            if stamper is None:
                continue
            if stamper is self.site and self._areas and self._early is None and stamper.site_number not in used:
                continue
            clock = stamper.clock
            answers = stamper.site_number in adopting or (stamper is self.site and self._early is not None)
            upto = clock.tick(0) if answers else clock.last
            site, after = self.table.store.site(stamper.site_number), self._after[stamper.site_number]
            self.table.coverage.cover(site, after, upto)
            ranges.setdefault(unit, []).append((site, after, upto))
        return ranges

    def _top(self, stamper: Stamper) -> int:
        return self.table.coverage.staged.top(self.table.store.site(stamper.site_number))
