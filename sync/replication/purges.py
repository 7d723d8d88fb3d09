"""Carries out the orders to purge what revoked members have written, in short transactions beside the node's other work.

The file keeps the orders. Each is carried out once; a merge leaves out what arrives later (`storage.purged`). Definitions and
policies are not purged: they are the mesh's, and rows of others depend on them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mycomesh.sync.crdt.hlc import SITE_PREFIX, hlc_from_ms
from mycomesh.sync.merge import inserted_again
from mycomesh.sync.merge.purge import Counted, Purged, count, purge
from mycomesh.sync.merge.work_budget import WorkBudget
from mycomesh.sync.replication.outbox import Outbox
from mycomesh.sync.replication.site import Site
from mycomesh.sync.schema.facts import SCHEMA_TABLE
from mycomesh.sync.schema.registry import Registry
from mycomesh.sync.sqlite.table_spec import Row
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table

__all__ = ["PurgeStep", "Purges"]

SETTLED_AT_ONCE = 32  # rows in a transaction, each read with what others have written into it


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
        self._stamped: list[bytes] = []  # batches of what the last step has written itself

    @property
    def waiting(self) -> bool:
        """True while some order is to be carried out, or rows that were inserted again are to be compared."""
        return self._unsaved or bool(self._store.purged.waiting or self._store.purged.late)

    @property
    def orders_wait(self) -> bool:
        """True while some order is to be carried out."""
        return bool(self._store.purged.waiting)

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
            self._settle(wall_ms, step)
            return step
        parts: list[tuple[Purged, bool]] = []
        step.published = self._outbox.write_within_budget(
            wall_ms, lambda budget: parts.append(self._purge(*waiting[0], wall_ms, budget))
        )
        part, ended = parts[-1]
        step.published += self._stamped
        self._stamped = []
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
                break
        else:
            ended = True
        self._stamp(done.again, wall_ms, budget)
        return done, ended

    def _stamp(self, again: list[tuple[Table, bytes, Row]], wall_ms: int, budget: WorkBudget) -> None:
        """Stamp what this node has just written into rows that are there again, and remember the stamps."""
        self._stamped = []  # those of a transaction that failed must not go out
        if again:
            self._outbox.invalidate()
            self._stamped, _ = self._outbox.drain_chunk(wall_ms, budget)
            for table, key, row in again:
                inserted_again.remember(table, key, row)

    def _settle(self, wall_ms: int, step: PurgeStep) -> None:
        """Compare some of the rows that were inserted again with what has arrived since."""
        late = self._store.purged.late
        some = list(itertools.islice(late, SETTLED_AT_ONCE))
        tables = {table.table_id: table for table in self._tables()}

        def settle(budget: WorkBudget) -> None:
            again = []
            for table_id, key in some:
                table = tables.get(table_id)
                row = None if table is None else inserted_again.settle(table, key, self._site.id, wall_ms)
                if table is not None and row is not None:
                    again.append((table, key, row))
            self._stamp(again, wall_ms, budget)

        if some:
            step.published = [*self._outbox.write_within_budget(wall_ms, settle), *self._stamped]
            self._stamped, step.changed = [], True
            self._outbox.invalidate()
            for each in some:
                late.pop(each, None)

    def _tables(self) -> list[Table]:
        return [table for name, table in sorted(self._registry.tables.items()) if name != SCHEMA_TABLE]
