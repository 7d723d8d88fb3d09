"""Priority of tables: the writes of urgent tables go first on a link that is slower than the writes, in the order of their list.

Invariant: this node sends all writes of one table in one class. A batch therefore never overtakes an earlier one of the same
table, which would leave a gap there. If any table is urgent, the schema table is too, because rows need their definitions.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from mycomesh.sync.replication.table_settings import TableSetting, TableSettings
from mycomesh.sync.schema.facts import SCHEMA_TABLE
from mycomesh.sync.schema.interests import Interests
from mycomesh.sync.schema.registry import Registry
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.wire.bundle import BUNDLE_BYTES_MAX, SECTIONS_MAX, Bundle, Section
from mycomesh.sync.wire.units import is_area_name

__all__ = ["PacedBatch", "Priority", "UrgentBatch"]


class UrgentBatch(bytes):
    """A batch that holds only urgent tables. `Turn.publish` tests for this type; all others see bytes."""

    __slots__ = ()


class PacedBatch(bytes):
    """A batch that holds only tables with budgets: metered links leave it to rounds."""

    __slots__ = ()


class Priority:
    """The urgent tables of one file, by shell patterns over the names in this file. Without a pattern no table is urgent."""

    __slots__ = ("_interests", "_patterns", "_registry", "settings")

    def __init__(
        self,
        registry: Registry,
        patterns: Sequence[str],
        interests: Interests,
        settings: Sequence[TableSetting] = (),
    ) -> None:
        self._registry = registry
        self._interests = interests
        self.settings = TableSettings(registry, settings)
        self._patterns = tuple(map(fold, patterns))

    def is_urgent(self, name: str) -> bool:
        """Return True if the table of that canonical name goes first; of none without a pattern."""
        return self.rank(name) < len(self._patterns)

    def is_paced(self, name: str) -> bool:
        """Return True if a table has a budget; an urgent one needs none."""
        return self.settings.is_paced(name) and not self.is_urgent(name)

    @property
    def has_urgent(self) -> bool:
        """True if some table may be urgent."""
        return bool(self._patterns)

    def rank(self, name: str) -> int:
        """Return the place of a table among the urgent ones: that of its first pattern; all others have the same, last place.

        The schema table has the first place.
        """
        if not self._patterns or name == SCHEMA_TABLE:
            return 0
        table = self._registry.table_of(name)
        local = name if table is None else fold(table.spec.name)
        places = (at for at, pattern in enumerate(self._patterns) if fnmatch.fnmatchcase(local, pattern))
        return next(places, len(self._patterns))

    def batches(self, sections: Sequence[Section]) -> list[bytes]:
        """Return the sections that one transaction has stamped as batches: the urgent ones first, and usually one of each.

        Areas that the same members keep are in batches of their own, which go to those members alone. A batch that is larger than
        any message is left out: peers fetch its changes in rounds, in pieces.
        """
        urgent = sorted(
            (each for each in sections if self.is_urgent(each.table)), key=lambda each: self.rank(each.table)
        )
        rest = [section for section in sections if not self.is_urgent(section.table)]
        others = [section for section in rest if not self.is_paced(section.table)]
        paced = [section for section in rest if self.is_paced(section.table)]
        found: list[bytes] = [UrgentBatch(batch) for batch in self._encoded(urgent)] + self._encoded(others)
        found += [PacedBatch(batch) for batch in self._encoded(paced)]
        return [batch for batch in found if len(batch) <= BUNDLE_BYTES_MAX]

    def _encoded(self, sections: Sequence[Section]) -> list[bytes]:
        if not any(is_area_name(section.table) for section in sections):
            return _encoded(sections)
        by_audience: dict[frozenset[bytes] | None, list[Section]] = {}
        for section in sections:
            # The first section says for whom a batch is, so areas are apart from tables that everybody keeps.
            left_out = self._interests.left_out(section.table) if is_area_name(section.table) else None
            by_audience.setdefault(left_out, []).append(section)
        return [batch for some in by_audience.values() for batch in _encoded(some)]


def _encoded(sections: Sequence[Section]) -> list[bytes]:
    """Return bundles of the sections: one, unless a transaction has changed more tables than a bundle may have."""
    most = SECTIONS_MAX - any(section.seals for section in sections)  # the seals are a section too
    pieces = (sections[at : at + most] for at in range(0, len(sections), most))
    return [Bundle(list(piece)).encode() for piece in pieces]
