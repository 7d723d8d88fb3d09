"""Settings of tables on one node: what a link may carry of them, which rows go first, and the free space that they leave.

A table has the settings of the first pattern that its name here matches. They say what this node does, and are no facts. A
pattern such as `telemetry[7]` is of areas alone, and says only what space they leave.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mycomesh.sync.sqlite.identifiers import fold, is_internal
from mycomesh.sync.wire.units import area_pattern, matches, split_unit

if TYPE_CHECKING:  # readers of the settings, as the processes of bridges, do without a replica
    from mycomesh.sync.schema.registry import Registry

__all__ = ["TableSetting", "TableSettings"]


@dataclass(frozen=True, slots=True)
class TableSetting:
    """The settings of the tables whose names match a shell pattern, or of areas; None and 0 for no limit.

    bytes_s: bytes a second that this node sends of them, each, on each metered link.
    bytes_day: bytes a day that it sends of them, each, on all metered links together, spread over the day.
    score: the column whose greatest numbers go first, "" for the order of writing.
    free_bytes_min: with less free space on the disk, this node takes in no rows of other nodes for them.
    """

    pattern: str
    bytes_s: int | None = None
    bytes_day: int | None = None
    score: str = ""
    free_bytes_min: int = 0


class TableSettings:
    """The settings of the tables of one file."""

    __slots__ = ("_registry", "_settings")

    def __init__(self, registry: Registry, settings: Sequence[TableSetting]) -> None:
        self._registry = registry
        self._settings = tuple(settings)

    def of(self, name: str) -> TableSetting | None:
        """Return the setting of the table or area of that canonical name; None for a table without, and for facts."""
        if not self._settings or is_internal(name):
            return None
        table = self._registry.table_of(name)
        local = fold(name if table is None else table.spec.name)
        tables = (each for each in self._settings if area_pattern(each.pattern) is None)
        return next((each for each in tables if fnmatch.fnmatchcase(local, fold(each.pattern))), None)

    def _floor(self, name: str) -> int:
        """Return the free space that a table or area leaves; an area without a setting leaves that of its table."""
        scoped = split_unit(name)
        table = self._registry.table_of(name)
        if scoped is not None and table is not None:
            local = fold(table.spec.name)
            for each in self._settings:
                parts = area_pattern(each.pattern)
                if parts is not None and matches(f"{fold(parts[0])}[{parts[1]}]", local, scoped[1]):
                    return each.free_bytes_min
        setting = self.of(name)
        return 0 if setting is None else setting.free_bytes_min

    def is_paced(self, name: str) -> bool:
        """Return True if a table has a budget, so that its rows go in rounds alone where links are metered."""
        setting = self.of(name)
        return setting is not None and (setting.bytes_s is not None or setting.bytes_day is not None)

    @property
    def floors(self) -> bool:
        """True if some table leaves free space of its own."""
        return any(each.free_bytes_min for each in self._settings)

    def closes_areas(self, name: str, free: int | None) -> bool:
        """Return True if some areas of a table take in no rows of others with so much free space."""
        table = self._registry.table_of(name)
        local = fold(name if table is None else table.spec.name)
        scoped = ((area_pattern(each.pattern), each.free_bytes_min) for each in self._settings)
        return any(
            parts is not None and free is not None and free < floor and matches(fold(parts[0]), local, None)
            for parts, floor in scoped
        )

    def is_closed(self, name: str, free: int | None) -> bool:
        """Return True if a table or area takes in no rows of others with so much free space; None if that is not known."""
        return free is not None and free < self._floor(name)
