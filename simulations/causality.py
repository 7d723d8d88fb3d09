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

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mycomesh.sync.crdt.version_vector import Vector
    from mycomesh.sync.replica import Replica
    from mycomesh.sync.storage.unit import Unit

__all__ = ["Causality"]

EXISTENCE = ""  # in the place of a column: that the row exists, or was deleted
EVERYTHING = 1 << 40  # entries
LISTED_MAX = 5

Stamp = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class _Change:
    """The change of one stamp: its row, by the key, and its cells. `deletes`: the row's existence ends."""

    key: str
    cells: tuple[str, ...]
    deletes: bool


@dataclass(slots=True)
class _Seen:
    """All changes of one table that some log has had, and the deletes by row."""

    changes: dict[Stamp, _Change] = field(default_factory=dict)
    deletes: dict[str, list[Stamp]] = field(default_factory=dict)

    def add(self, stamp: Stamp, change: _Change) -> None:
        """Record a change; a stamp that has lost some of its cells before it was seen gets those that it had at most."""
        before = self.changes.get(stamp)
        if before is None and change.deletes:
            self.deletes.setdefault(change.key, []).append(stamp)
        if before is None or len(change.cells) > len(before.cells):
            self.changes[stamp] = change


class Causality:
    """Looks at the logs of all nodes, and keeps the first violations."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self._seen: dict[str, _Seen] = {}
        self._vectors: dict[tuple[int, str, str], bytes] = {}  # node, its file, table -> digest at the last look

    def look(self, nodes: Iterable[tuple[int, str, Replica]], at_s: float) -> None:
        """Compare each log whose vector has moved with all changes that were seen. A node is its index, file and replica."""
        logs = [(index, unit, self._read(unit)) for index, unit in list(self._moved(nodes))]
        for index, unit, cells in logs:
            for text in self._holes(unit, cells):
                if len(self.violations) < LISTED_MAX:
                    self.violations.append(f"node {index}: at {at_s:.1f} s {text}")

    def _moved(self, nodes: Iterable[tuple[int, str, Replica]]) -> Iterator[tuple[int, Unit]]:
        for index, path, replica in nodes:
            for unit in replica.registry.units():
                place = index, path, unit.name
                if self._vectors.get(place) != unit.vector_digest:
                    self._vectors[place] = unit.vector_digest
                    yield index, unit

    def _read(self, unit: Unit) -> dict[str, dict[str, Stamp]]:
        """Return by row and cell the stamps that a log has, and note its changes."""
        seen = self._seen.setdefault(unit.name, _Seen())
        cells: dict[str, dict[str, Stamp]] = {}
        table = unit.table
        rows = list(dict.fromkeys(row for _, _, row, _ in table.log.scan(-1, -1, EVERYTHING)))
        for name, stored_entries in table.log.entries_of_rows(rows).items():
            key = repr(table.key(name, stored_entries))
            row = cells.setdefault(key, {})
            for stored in stored_entries:
                entry = table.log.entry(stored)
                exists = (EXISTENCE,) if entry.dead or entry.mask & EXISTENCE_BIT else ()
                owned = (*(() if entry.dead else table.columns.names_of(entry.mask)), *exists)
                seen.add(entry.stamp, _Change(key, owned, entry.dead))
                for cell in owned:
                    row[cell] = max(row.get(cell, (0, b"")), entry.stamp)
        return cells

    def _holes(self, unit: Unit, cells: dict[str, dict[str, Stamp]]) -> Iterator[str]:
        """Yield what a log covers and neither has nor has replaced."""
        seen = self._seen[unit.name]
        vector, collected = unit.vector, tombstones.watermarks(unit)
        dropped = unit.table.columns.dropped  # entries lose these columns
        for stamp, change in seen.changes.items():
            hlc, site = stamp
            if not vector.covers(site, hlc):
                continue
            row = cells.get(change.key, {})
            existence = row.get(EXISTENCE, (0, b""))
            kept = [cell for cell in change.cells if cell not in dropped]
            missing = [cell for cell in kept if max(row.get(cell, (0, b"")), existence) < stamp]
            if missing and not _is_collected(seen, change.key, stamp, collected):
                yield f"{unit.name} covers a change of row {change.key} without its {missing[0] or 'existence'}, or a later one"


def _is_collected(seen: _Seen, key: str, stamp: Stamp, collected: Vector) -> bool:
    """Return whether the row's delete at this stamp or later was collected."""
    return any(late >= stamp and collected.covers(late[1], late[0]) for late in seen.deletes.get(key, ()))
