"""Carries out the orders to purge what revoked members have written, in short transactions beside the node's other work.

The file keeps the orders. Each is carried out once; a merge leaves out what arrives later (`storage.purged`). Definitions and
policies are not purged: they are the mesh's, and rows of others depend on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mycomesh.sync.crdt.hlc import SITE_PREFIX, hlc_from_ms
from mycomesh.sync.merge.purge import Counted, Purged, count, purge
from mycomesh.sync.merge.work_budget import WorkBudget
from mycomesh.sync.replication.outbox import Outbox
from mycomesh.sync.replication.site import Site
from mycomesh.sync.schema.facts import SCHEMA_TABLE
from mycomesh.sync.schema.registry import Registry
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table

__all__ = ["PurgeStep", "Purges"]


@dataclass(slots=True)
class PurgeStep:
    """The outcome of one step: batches to publish, and once an order is carried out, its node and what it has done."""

    published: list[bytes] = field(default_factory=list)
    changed: bool = False
    ended: bytes | None = None
    purged: Purged = field(default_factory=Purged)


class Purges:
    """The purges of one file."""

    def __init__(self, store: Store, registry: Registry, site: Site, outbox: Outbox) -> None:
        self._store = store
        self._registry = registry
        self._site = site
        self._outbox = outbox
        self._unsaved = False
        self._so_far = Purged()

    @property
    def waiting(self) -> bool:
        """True while some order is to be carried out."""
        return self._unsaved or bool(self._store.purged.waiting)

    def take(self, orders: Sequence[tuple[bytes, int]]) -> None:
        """Take orders: (16-byte node id, Unix milliseconds since which its writes go)."""
        self._unsaved |= self._store.purged.take(
            {node_id: hlc_from_ms(since_ms) for node_id, since_ms in orders}, self._site.id
        )

    def count(self, node_id: bytes, since_ms: int) -> Mapping[str, Counted]:
        """Return by the file's names of tables what an order would remove here; tables without any are left out."""
        since = hlc_from_ms(since_ms)
        found = {table.spec.name: count(table, node_id[:SITE_PREFIX], since) for table in self._tables()}
        return {name: counted for name, counted in sorted(found.items()) if counted != Counted()}

    def step(self, wall_ms: int) -> PurgeStep:
        """Carry out a part of the first order that waits, in one transaction.

        Raises:
            DatabaseError: nothing was changed; the next call repeats the step.
        """
        step = PurgeStep()
        if self._unsaved:
            with self._store.transaction():
                self._store.purged.save()
            self._unsaved = False
        waiting = self._store.purged.waiting
        if not waiting:
            return step
        parts: list[tuple[Purged, bool]] = []
        step.published = self._outbox.write_within_budget(
            wall_ms, lambda budget: parts.append(self._purge(*waiting[0], wall_ms, budget))
        )
        part, ended = parts[-1]
        self._so_far.add(part)
        step.changed = part.changes > 0
        if part.restored:
            self._outbox.invalidate()
        if ended:
            with self._store.transaction():
                self._store.purged.mark_done(*waiting[0])
                self._store.purged.save()
            step.ended, step.purged, self._so_far = waiting[0][0], self._so_far, Purged()
        return step

    def _purge(self, node: bytes, since: int, wall_ms: int, budget: WorkBudget) -> tuple[Purged, bool]:
        done = Purged()
        for table in self._tables():
            part, ended = purge(table, node, since, self._site.id, wall_ms, budget)
            done.add(part)
            if part.changes:
                self._outbox.retry(table)  # parked rows may fit now
            if not ended:
                return done, False
        return done, True

    def _tables(self) -> list[Table]:
        return [table for name, table in sorted(self._registry.tables.items()) if name != SCHEMA_TABLE]
