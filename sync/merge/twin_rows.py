"""Rows that two copies of one file bring to the mesh twice, in tables without a primary key: one of the two sets goes.

Each row of such a table is named by its insert, so the rows of a copied file are other rows than those of the first. Two copies
that nobody has touched have the same rows in the same order. The node whose early site is the greater compares the two in that
order, and deletes its own if every row is equal. If one copy has been changed since, the rows before the first difference are
the same ones, provided that they are many. Rows that a program has changed on the mesh stay.

Invariant: a row is deleted only if the other site has an equal early row at its place, and all rows before it are equal: as many
as the site has, or `ALIKE_MIN` different ones and at least half of this node's. ADR 0031.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from mycomesh.sync import codec
from mycomesh.sync.crdt.hlc import SITE_PREFIX, is_early
from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.merge.work_budget import CHUNK_BYTES_MAX
from mycomesh.sync.sqlite.table_spec import Row
from mycomesh.sync.storage.pending_log import OP_DELETE, look_statement
from mycomesh.sync.storage.row_view import RowView
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table

__all__ = ["TwinQueue", "twin_key"]

# Rows that are compared for each row that a step may write.
_COMPARED_FOR_EACH = 4
_SITE_BYTES = 16
_READ_AT_ONCE = 8  # rows in memory, which may be large
# So many different rows at the beginning of two tables are those of one file. Fewer may be what a program writes at each start.
ALIKE_MIN = 16


def twin_key(table_id: int) -> str:
    """Return the key in `mycomesh_meta` that says that the table's early rows of this node are being deleted."""
    return f"twin/{table_id}"


@dataclass(slots=True)
class _Search:
    """Progress in one table.

    pairs: an early site of this node, and one before it whose rows may be the same; None until they are looked up.
    compared: for each pair, the last stamps of the two up to which all rows are equal.
    different: pairs with another row, or another number of rows.
    alike: for each pair, how many rows are equal, and digests of up to `ALIKE_MIN` different ones of them.
    found: the site of this node whose rows go, since every one is equal to one of another site; `until` this stamp, None: all.
    """

    active: bool = True
    pairs: list[tuple[int, int]] | None = None
    compared: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    different: set[tuple[int, int]] = field(default_factory=set)
    alike: dict[tuple[int, int], tuple[int, frozenset[bytes]]] = field(default_factory=dict)
    found: int | None = None
    until: int | None = None
    done: dict[tuple[int, int], int] = field(default_factory=dict)  # the stamps up to which equal rows are gone
    after: int = -1  # the last stamp of that site whose row was deleted, or stays


@dataclass(slots=True)
class TwinQueue:
    """The tables of one file whose early rows another node may have too."""

    _store: Store
    _searches: dict[int, _Search] = field(default_factory=dict)
    _started: bool = False

    def __post_init__(self) -> None:
        self._store.enlist(self)

    def committed(self) -> None:
        """Keep the progress of the transaction."""

    def rolled_back(self) -> None:
        """Forget all progress."""
        self._started = False
        self._searches.clear()

    @property
    def has_work(self) -> bool:
        """True if a step has anything to compare or to delete."""
        return not self._started or any(search.active for search in self._searches.values())

    def add(self, table: Table) -> None:
        """Compare a table's early rows (again), because some of another node have arrived."""
        if table.spec.lacks_primary_key and not table.columns.counters:
            search = self._searches.setdefault(table.table_id, _Search())
            search.active, search.pairs = True, None

    def step(self, tables: Mapping[int, Table], budget: int) -> int:
        """Compare and delete rows, as many as the budget allows; return the budget that is left. Inside a transaction."""
        if not self._started:
            self._started = True
            for table in tables.values():
                self.add(table)
        for table_id in sorted(self._searches):
            search = self._searches[table_id]
            if table_id not in tables:
                del self._searches[table_id]
                continue
            while budget > 0 and search.active:
                budget -= self._advance(tables[table_id], search, budget)
        return budget

    def _advance(self, table: Table, search: _Search, budget: int) -> int:
        if search.pairs is None:
            search.pairs = self._pairs(table)
            stored = self._store.meta(twin_key(table.table_id))
            search.found, search.until = None, None
            if isinstance(stored, bytes):
                search.found = self._store.site_number(stored[:_SITE_BYTES])
                search.until = int.from_bytes(stored[_SITE_BYTES:], "big") if stored[_SITE_BYTES:] else None
        if search.found is not None:
            return self._delete(table, search, search.found, budget)
        for pair in search.pairs:
            if pair not in search.different:
                tried = self._compare(table, search, pair, budget)
                if tried or search.found is not None:
                    return tried
        search.active = False
        return 0

    def _pairs(self, table: Table) -> list[tuple[int, int]]:
        """Return the pairs of early sites with rows in a table, of which this node has the greater one."""
        node = self._store.meta("site")[:SITE_PREFIX]
        staged = table.coverage.staged
        early = []
        for site in dict(staged.items()):  # in the order of the sites
            number = self._store.site_number(site)
            # A site that has written nothing else yet has a clock as low as that of an early site.
            if number is not None and is_early(staged.top(site)) and _early_rows(table, number, -1, 1):
                early.append((site, number))
        own = [(at, number) for at, (site, number) in enumerate(early) if site[:SITE_PREFIX] == node]
        return [(number, other) for at, number in own for _, other in early[:at]]

    def _compare(self, table: Table, search: _Search, pair: tuple[int, int], budget: int) -> int:
        """Compare the next rows of two sites in the order of their stamps; return how much was done, 0 if nothing is left."""
        mine, theirs = search.compared.get(pair, (-1, -1))
        most = budget * _COMPARED_FOR_EACH
        here, there = _early_rows(table, pair[0], mine, most), _early_rows(table, pair[1], theirs, most)
        done = size = 0
        while done < min(len(here), len(there)) and size < CHUNK_BYTES_MAX:
            end = min(done + _READ_AT_ONCE, len(here), len(there))
            values = _values(table, here[done:end])
            others = _values(table, there[done:end])
            equal = _equal(values, others)
            if equal:
                assert values is not None, "some are equal"
                done += equal
                size += sum(map(len, values))
                self._note_alike(search, pair, values[:equal])
                search.compared[pair] = here[done - 1][0], there[done - 1][0]
            if done < end:
                search.different.add(pair)
                self._find_alike(table, search, pair)
                return -(-end // _COMPARED_FOR_EACH)
        if not done and there:
            search.different.add(pair)  # the other site has more rows
        if not done and mine >= 0:
            if not here and not there:
                self._find(table, search, pair, None)
            else:
                self._find_alike(table, search, pair)
        return -(-done // _COMPARED_FOR_EACH)

    def _note_alike(self, search: _Search, pair: tuple[int, int], values: list[bytes]) -> None:
        count, known = search.alike.get(pair, (0, frozenset()))
        if len(known) < ALIKE_MIN:
            known |= {hashlib.blake2b(each, digest_size=8).digest() for each in values}
        search.alike[pair] = count + len(values), known

    def _find_alike(self, table: Table, search: _Search, pair: tuple[int, int]) -> None:
        """Let the rows go that are equal up to here, if they are many enough to be those of one file."""
        count, known = search.alike.get(pair, (0, frozenset()))
        upto = search.compared.get(pair, (-1, -1))[0]
        if len(known) >= ALIKE_MIN and len(_early_rows(table, pair[0], upto, count + 1)) <= count:
            self._find(table, search, pair, upto)

    def _find(self, table: Table, search: _Search, pair: tuple[int, int], until: int | None) -> None:
        if until is not None and search.done.get(pair) == until:
            return
        search.found, search.until = pair[0], until
        if until is not None:
            search.done[pair] = until
        upto = b"" if until is None else until.to_bytes(8, "big")
        self._store.meta_set(twin_key(table.table_id), table.store.site(pair[0]) + upto)

    def _delete(self, table: Table, search: _Search, own: int, budget: int) -> int:
        rows = _early_rows(table, own, search.after, budget)
        rows = [(hlc, row) for hlc, row in rows if search.until is None or hlc <= search.until]
        for at in range(0, len(rows), _READ_AT_ONCE):
            here = [row for _, row in rows[at : at + _READ_AT_ONCE] if isinstance(row, int)]
            for view in filter(_is_untouched, RowView.each(table, here)):
                condition = table.rows.condition(view.row)
                assert condition is not None, "a visible row"
                deleted = look_statement(table.spec, table.table_id, OP_DELETE, condition[0])
                self._store.db.execute(deleted, condition[1])
                table.rows.delete(view.row)
                table.pending.unread = True
        if rows:
            search.after = rows[-1][0]
            return len(rows)
        self._store.db.execute("DELETE FROM mycomesh_meta WHERE name = ?", (twin_key(table.table_id),))
        if search.until is None:
            # Rows that are left were touched, so they are no twins of any.
            search.different.update(pair for pair in search.pairs or () if pair[0] == own)
        search.found, search.until, search.after = None, None, -1
        return 0


def _early_rows(table: Table, site_number: int, after: int, most: int) -> list[tuple[int, Row]]:
    """Return (hlc, row) of up to `most` entries of an early site after a stamp, in the order of their stamps."""
    return [(hlc, row) for number, hlc, row, _ in table.log.scan(site_number, after, most) if number == site_number]


def _values(table: Table, rows: list[tuple[int, Row]]) -> list[bytes] | None:
    """Return the encoded values of rows; None if one of them is not as its insert made it."""
    views = RowView.read_many(table, [row for _, row in rows if isinstance(row, int)])
    if len(views) < len(rows) or not all(map(_is_untouched, views)):
        return None
    return [codec.encode(list((view.present or {}).values())) for view in views]


def _equal(here: list[bytes] | None, there: list[bytes] | None) -> int:
    """Return how many rows at the beginning of two lists are equal."""
    pairs = zip(here or (), there or (), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _is_untouched(view: RowView) -> bool:
    """Return True if a row is there as its insert made it, with a value for each column."""
    if view.present is None or len(view.entries) != 1 or view.held(view.stored[0]):
        return False
    return view.entries[0].mask == view.table.columns.local_mask | EXISTENCE
