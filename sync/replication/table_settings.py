"""Settings of tables on one node: what a link may carry of them, which rows go first, and the free space that they leave.

A table has the settings of the first pattern that its name here matches. They say what this node does, and are no facts.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mycomesh.sync.sqlite.identifiers import fold, is_internal

if TYPE_CHECKING:  # readers of the settings, as the processes of bridges, do without a replica
    from mycomesh.sync.schema.registry import Registry

__all__ = ["TableSetting", "TableSettings"]


@dataclass(frozen=True, slots=True)
class TableSetting:
    """The settings of the tables whose names match a shell pattern; None and 0 for no limit.

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
        return next((each for each in self._settings if fnmatch.fnmatchcase(local, fold(each.pattern))), None)

    def is_paced(self, name: str) -> bool:
        """Return True if a table has a budget, so that its rows go in rounds alone where links are metered."""
        setting = self.of(name)
        return setting is not None and (setting.bytes_s is not None or setting.bytes_day is not None)

    @property
    def floors(self) -> bool:
        """True if some table leaves free space of its own."""
        return any(each.free_bytes_min for each in self._settings)

    def is_closed(self, name: str, free: int | None) -> bool:
        """Return True if a table takes in no rows of other nodes with so much free space; None if that is not known."""
        setting = self.of(name)
        return setting is not None and free is not None and free < setting.free_bytes_min
