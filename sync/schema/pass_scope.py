"""The scope of a pass over the schema: the tables that it looks at, if new facts are all that has changed since the last pass.

Taking in the facts of many tables takes many transactions, and a pass over all tables after each made that quadratic. A pass
of narrow scope leaves the file, its facts and its notes as a pass over all tables would (`tests/sync/schema/test_pass_scope.py`).
In doubt, and for all facts but definitions of tables and indexes, the pass is over all tables. ADR 41.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from mycomesh.sync.schema.fact_limits import Weight, exceeds, weight_of
from mycomesh.sync.schema.facts import INDEX, SCHEMA_TABLE, TABLE
from mycomesh.sync.schema.follow_facts import FactFollower
from mycomesh.sync.schema.policy import SLOT
from mycomesh.sync.schema.registry import Registry
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.sqlite.indexes import user_indexes
from mycomesh.sync.sqlite.table_spec import user_tables
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table
from mycomesh.sync.wire.interest import INTEREST

__all__ = ["FollowedFacts", "Scope"]

_Mark = tuple[Any, int]  # the kind of a fact, and the hash of its SQL
# Interests and slots are read in each pass, whatever its scope.
_NARROW = frozenset((TABLE, INDEX, INTEREST, SLOT))
_NOTHING: Weight = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Scope:
    """The tables and indexes that a pass looks at.

    tables: tables by canonical name, by which this file calls them too.
    indexes: facts of indexes by name.
    before: those of the tables that were loaded when the pass began.
    """

    tables: frozenset[str]
    indexes: frozenset[str]
    before: Mapping[str, Table]


class FollowedFacts:
    """The facts that passes over this file have followed."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._seen: dict[Any, _Mark] = {}
        self._weight = _NOTHING  # of all these facts, or more
        self._missing: frozenset[str] = frozenset()  # facts of indexes that this file has not
        self._settled = False  # whether the pass that follows may leave out tables

    def begin(self, *, unchanged: bool) -> Scope | None:
        """Return the scope of the pass that begins, None for all tables; inside a transaction, before it changes anything.

        `unchanged` if the last pass has left nothing to do, and the schema is as that one has left it.
        """
        before, changed = self._seen, []
        now: dict[Any, _Mark] = {}
        for name, kind, sql in self._registry.facts.listed():
            mark = now[name] = kind, hash(sql)
            if before.get(name) != mark:
                changed.append((name, kind, sql))
        self._seen = now
        settled, self._settled = self._settled and unchanged, False
        if not settled or not before.keys() <= now.keys():
            return None
        kinds = {kind for _, kind, _ in changed} | {before[name][0] for name, _, _ in changed if name in before}
        if not kinds <= _NARROW or self._is_beyond(changed) or not self._keeps_names():
            return None
        return self._scope(changed)

    def note_other(self) -> None:
        """Note a pass that does not follow facts: it may have left to the next one what facts say of tables that it has found."""
        self._settled = False

    def _scope(self, changed: Collection[tuple[Any, Any, Any]]) -> Scope | None:
        registry = self._registry
        dropped = {subject[0] for subject in registry.stated_drops}
        stated = {name for name, kind, _ in changed if kind == TABLE}
        indexes = {name for name, kind, _ in changed if kind == INDEX}
        if not all(type(name) is str and name.isascii() for name in stated | indexes):
            return None
        if not all(type(sql) is str and sql for _, kind, sql in changed if kind == INDEX):
            return None
        names = frozenset(stated) | registry.behind
        if dropped & names or SCHEMA_TABLE in names or not names.isdisjoint(registry.removed):
            return None
        loaded = {name: registry.tables[name] for name in sorted(names) if name in registry.tables}
        known = [name for name in sorted(names - loaded.keys()) if registry.record(name) is not None]
        if known and len(user_tables(self._store.db, known)[0]) < len(known):
            return None  # dropped or renamed by hand, or content of a virtual table
        return Scope(names, self._missing | indexes, loaded)

    def _keeps_names(self) -> bool:
        """Return True if this file calls every table and column as the mesh does, and no fact renames one."""
        return not self._registry.policies.renames and not self._registry.names.any()

    def _is_beyond(self, changed: Collection[tuple[Any, Any, Any]]) -> bool:
        """Return True if facts have no effect because of their number or size, or may have none."""
        if self._registry.facts.without_effect:
            return True
        self._weight = _sum(changed, self._weight)
        if exceeds(self._weight):  # as each version of each fact counts
            self._weight = _sum(self._registry.facts.listed(), _NOTHING)
        return exceeds(self._weight)

    def end(self, scope: Scope | None, follower: FactFollower, *, finished: bool) -> None:
        """Note what the pass has left to do."""
        registry = self._registry
        wanted = registry.facts.all(INDEX) if scope is None else registry.facts.some(INDEX, scope.indexes)
        here = {f"{INDEX}:{fold(name)}": sql for name, _, sql in user_indexes(self._store.db)} if wanted else {}
        self._missing = frozenset(name for name, sql in wanted if sql and here.get(name) != sql)
        self._settled = finished and (scope is None or self._is_plain(scope, follower))

    def _is_plain(self, scope: Scope, follower: FactFollower) -> bool:
        """Return True if the pass has only made tables and indexes, so that a pass over all tables would find nothing to do."""
        tables = self._registry.tables
        for name in scope.tables:
            before, table = scope.before.get(name), tables.get(name)
            if before is None and table is None:
                continue
            made = before is None and name in follower.made
            if not made and before is not table and name not in follower.indexed:
                return False
            if table is None or table.spec.generated or table.spec.folded != fold(table.spec.name):
                return False
        return not follower.rebuilt and follower.indexed <= tables.keys()


def _sum(facts: Any, start: Weight) -> Weight:
    total = start
    for _, kind, sql in facts:
        count, size, columns = weight_of(kind, sql)
        total = total[0] + count, total[1] + size, total[2] + columns
    return total
