"""Releases areas that this node does not keep, once enough members that keep them cover what it holds of them.

An area is held that the node does not keep if it has written there, has kept it before, or had the right to it. A release gives
up the coverage first and the entries after that, some in each transaction, so it goes on after a crash where it was. How far
this site had published stays on record: its next batch must not claim what it holds no longer.

Invariant: entries that this file covers go only together with the coverage of the area (tests/stories/test_areas.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.merge.release import release_rows
from mycomesh.sync.replication.outbox import Outbox
from mycomesh.sync.replication.site import Site
from mycomesh.sync.schema.registry import Registry
from mycomesh.sync.storage.internal_tables import has_rare
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.unit import Unit

__all__ = ["ReleaseStep", "Releases"]

# Entries of one transaction, whose rows are read, and removed from the user's table, one by one.
RELEASED_MAX = 128


@dataclass(slots=True)
class ReleaseStep:
    """The outcome of one step: batches to publish, the entries that went, and whether the area holds no others to go."""

    published: list[bytes] = field(default_factory=list)
    entries: int = 0
    done: bool = True


class Releases:
    """The releases of one file."""

    def __init__(
        self, store: Store, registry: Registry, site: Site, outbox: Outbox, keeps: Callable[[str], bool]
    ) -> None:
        """Take what returns whether this node keeps what it has of a unit, by name."""
        self._keeps = keeps
        self._store = store
        self._registry = registry
        self._site = site
        self._outbox = outbox

    def held(self) -> Iterator[Unit]:
        """Yield the areas that this node holds and does not keep, by name."""
        for unit in self._registry.areas():
            if not self._keeps(unit.name) and (unit.has_entries or unit.vector.count):
                yield unit

    def give_up(self, unit: Unit, covered: Vector, wall_ms: int) -> list[bytes] | None:
        """Give up the coverage of an area if others cover all of it; return batches to publish, None if they do not.

        `covered` is what enough members that keep the area have said to cover, since this node ceased to keep it.
        """
        given: list[bool] = []
        published = self._outbox.write_drained(wall_ms, lambda: given.append(self._give_up(unit, covered)))
        if not given[-1]:
            self._outbox.publish_later(published)
            return None
        return published

    def _give_up(self, unit: Unit, covered: Vector) -> bool:
        areas, coverage = unit.table.areas, unit.table.coverage
        assert areas is not None
        assert unit.area is not None
        numbers = areas.numbers(unit.area)
        ranges = {site: coverage.staged.ranges(site) for site in map(self._store.site, numbers)}
        if self._keeps(unit.name) or Vector(ranges).missing_from(covered):
            return False  # a program has written to it meanwhile
        areas.keep_top(unit.own_site(self._site.id))
        for site in ranges:
            coverage.cut(site, 0)
        coverage.loss = object()
        areas.forget_vectors(unit.area)
        if has_rare(self._store.db, "mycomesh_collected"):
            self._store.db.executemany(
                "DELETE FROM mycomesh_collected WHERE id = ? AND place = ?",
                [(unit.table.table_id, number) for number in numbers],
            )
        return True

    def step(self, unit: Unit, wall_ms: int) -> ReleaseStep:
        """Remove some entries of an area that this file neither keeps nor covers, and their rows, in one transaction.

        Raises:
            DatabaseError: nothing was changed; the next call repeats the step.
        """
        step = ReleaseStep()
        step.published = self._outbox.write_drained(wall_ms, lambda: self._drop(unit, step))
        return step

    def _drop(self, unit: Unit, step: ReleaseStep) -> None:
        if self._keeps(unit.name):
            return
        covered = unit.table.coverage.staged
        found = unit.scan(-1, 0, RELEASED_MAX)
        going = [entry for entry in found if not covered.covers(self._store.site(entry[0]), entry[1])]
        while not going and len(found) == RELEASED_MAX:
            found = unit.scan(found[-1][0], found[-1][1], RELEASED_MAX)
            going = [entry for entry in found if not covered.covers(self._store.site(entry[0]), entry[1])]
        release_rows(unit.table, [entry[:2] for entry in going])
        step.entries = len(going)
        step.done = len(found) < RELEASED_MAX
