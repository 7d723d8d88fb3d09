"""Checks while a run goes on that no replica covers a change that it neither has nor has replaced.

Replicas that are equal at the end may have been wrong before: a replica that covers an update without the later one that had
taken its place shows an older value, and a repair would delete what others have. So every change log is read whenever its vector
has moved, and compared with all changes that were seen in any of them.

Invariant of the product: at each commit, every change that a vector covers still owns its cells, or later changes of the log do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mycomesh.sync.crdt.lattice import EXISTENCE as EXISTENCE_BIT
from mycomesh.sync.merge import tombstones
from mycomesh.sync.wire.units import table_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mycomesh.sync.crdt.version_vector import Vector
    from mycomesh.sync.replica import Replica
    from mycomesh.sync.sqlite.table_spec import Row
    from mycomesh.sync.storage.insert_runs import StoredEntry
    from mycomesh.sync.storage.table import Table
    from mycomesh.sync.storage.unit import Unit

__all__ = ["Causality"]

EXISTENCE = ""  # in the place of a column: that the row exists, or was deleted
EVERYTHING = 1 << 40  # entries
LISTED_MAX = 5
ROWS_KEPT = 200_000  # of all logs, between two looks: some 200 MB

Stamp = tuple[int, bytes]
NEVER: Stamp = (0, b"")
NOTHING: dict[str, Stamp] = {}  # the cells of a row that a log does not have


@dataclass(frozen=True, slots=True)
class _Change:
    """The cells of the change of one stamp. `deletes`: the row's existence ends."""

    cells: tuple[str, ...]
    deletes: bool


@dataclass(slots=True)
class _History:
    """All changes of one row that some log has had, by stamp. `version` counts what was added."""

    changes: dict[Stamp, _Change] = field(default_factory=dict)
    version: int = 0

    def add(self, stamp: Stamp, change: _Change) -> None:
        """Record a change; a stamp that has lost some of its cells before it was seen gets those that it had at most."""
        before = self.changes.get(stamp)
        if before is None or len(change.cells) > len(before.cells):
            self.changes[stamp] = change
            self.version += 1


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of one log: its entries as they are stored, its key, and by cell the last stamp."""

    stored: list[StoredEntry]
    key: str
    cells: dict[str, Stamp]


@dataclass(slots=True)
class _Log:
    """The rows of a log at the last look: the next one decodes and compares only those that have changed.

    settled: by unit and row, the cells and the version of the row's history for which every change is covered and there.
    """

    table: Table
    bits: dict[str, int]
    dropped: frozenset[str]
    rows: dict[Row, _Row] = field(default_factory=dict)
    settled: dict[str, dict[str, tuple[dict[str, Stamp], int]]] = field(default_factory=dict)

    def fits(self, table: Table) -> bool:
        """Return whether the rows of this table still mean what they meant."""
        return self.table is table and self.bits == table.columns.bits and self.dropped == table.columns.dropped


class Causality:
    """Looks at the logs of all nodes, and keeps the first violations."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self._seen: dict[str, dict[str, _History]] = {}  # table -> row, by its key -> its changes in any log
        self._logs: dict[tuple[int, str, str], _Log] = {}  # node, its file, table
        self._vectors: dict[tuple[int, str, str], bytes] = {}  # node, its file, unit -> digest at the last look

    def look(self, nodes: Iterable[tuple[int, str, Replica]], at_s: float) -> None:
        """Compare each log whose vector has moved with all changes that were seen. A node is its index, file and replica."""
        read: dict[tuple[int, str, str], tuple[_Log, dict[str, dict[str, Stamp]]]] = {}
        moved = list(self._moved(nodes))
        for place, unit in moved:
            if place not in read:
                log = self._log(place, unit.table)
                read[place] = log, self._read(place[2], log)
        for place, unit in moved:
            for text in self._holes(place[2], unit, *read[place]):
                if len(self.violations) < LISTED_MAX:
                    self.violations.append(f"node {place[0]}: at {at_s:.1f} s {text}")
        if sum(len(log.rows) for log in self._logs.values()) > ROWS_KEPT:
            self._logs.clear()

    def _moved(self, nodes: Iterable[tuple[int, str, Replica]]) -> Iterator[tuple[tuple[int, str, str], Unit]]:
        for index, path, replica in nodes:
            for unit in replica.registry.units():
                place = index, path, unit.name
                if self._vectors.get(place) != unit.vector_digest:
                    self._vectors[place] = unit.vector_digest
                    yield (index, path, unit.name if unit.area is None else table_of(unit.name)), unit

    def _log(self, place: tuple[int, str, str], table: Table) -> _Log:
        log = self._logs.get(place)
        if log is None or not log.fits(table):
            log = self._logs[place] = _Log(table, dict(table.columns.bits), table.columns.dropped)
        return log

    def _read(self, name: str, log: _Log) -> dict[str, dict[str, Stamp]]:
        """Return by row and cell the stamps that a log has, and note its changes."""
        table = log.table
        names = list(dict.fromkeys(row for _, _, row, _ in table.log.scan(-1, -1, EVERYTHING)))
        rows: dict[Row, _Row] = {}
        cells: dict[str, dict[str, Stamp]] = {}
        for row, stored in table.log.entries_of_rows(names).items():
            known = log.rows.get(row)
            if known is None or known.stored != stored:
                known = self._decoded(name, table, row, stored)
            rows[row] = known
            other = cells.get(known.key)
            cells[known.key] = known.cells if other is None else _later(other, known.cells)
        log.rows = rows
        return cells

    def _decoded(self, name: str, table: Table, row: Row, stored: list[StoredEntry]) -> _Row:
        """Return a row of a log, and note its changes."""
        key = repr(table.key(row, stored))
        history = self._seen.setdefault(name, {}).setdefault(key, _History())
        cells: dict[str, Stamp] = {}
        for each in stored:
            entry = table.log.entry(each)
            exists = (EXISTENCE,) if entry.dead or entry.mask & EXISTENCE_BIT else ()
            owned = (*(() if entry.dead else table.columns.names_of(entry.mask)), *exists)
            history.add(entry.stamp, _Change(owned, entry.dead))
            for cell in owned:
                cells[cell] = max(cells.get(cell, NEVER), entry.stamp)
        return _Row(stored, key, cells)

    def _holes(self, name: str, unit: Unit, log: _Log, cells: dict[str, dict[str, Stamp]]) -> Iterator[str]:
        """Yield what a log covers and neither has nor has replaced."""
        vector, collected = unit.vector, tombstones.watermarks(unit)
        settled = log.settled.setdefault(unit.name, {})
        for key, history in self._seen.get(name, {}).items():
            row = cells.get(key, NOTHING)
            before = settled.get(key)
            if before is not None and before[0] is row and before[1] == history.version:
                continue
            existence = row.get(EXISTENCE, NEVER)
            settles = True
            for stamp, change in history.changes.items():
                if not vector.covers(stamp[1], stamp[0]):
                    settles = False
                    continue
                kept = [cell for cell in change.cells if cell not in log.dropped]  # entries lose a dropped column
                missing = [cell for cell in kept if max(row.get(cell, NEVER), existence) < stamp]
                if missing:
                    settles = False
                    if not _is_collected(history, stamp, collected):
                        yield f"{unit.name} covers a change of row {key} without its {missing[0] or 'existence'}, or a later one"
            if settles:
                settled[key] = row, history.version


def _later(one: dict[str, Stamp], other: dict[str, Stamp]) -> dict[str, Stamp]:
    """Return the later stamp of each cell: one row may have two names in a file."""
    return {cell: max(one.get(cell, NEVER), other.get(cell, NEVER)) for cell in one | other}


def _is_collected(history: _History, stamp: Stamp, collected: Vector) -> bool:
    """Return whether the row's delete at this stamp or later was collected."""
    return any(
        change.deletes and late >= stamp and collected.covers(late[1], late[0])
        for late, change in history.changes.items()
    )
