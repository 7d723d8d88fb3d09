"""A bundle on its way into the file: what of it is still to be merged, and what the parts so far have done."""

from __future__ import annotations

from collections import deque
from collections.abc import Sized

from mycomesh.sync.merge.bulk_insert import slice_group
from mycomesh.sync.merge.section_merge import FACTS_AHEAD, SectionMerge, fast_weight, read_definitions
from mycomesh.sync.merge.work_budget import CHUNK_BYTES_MAX, bytes_weight_of
from mycomesh.sync.replication.applied import Applied
from mycomesh.sync.schema.catalog import SCHEMA_TABLE
from mycomesh.sync.storage.large_rows import KEY_BYTES_MAX
from mycomesh.sync.storage.table import Table
from mycomesh.sync.wire.bundle import Bundle

__all__ = ["Incoming"]


class Incoming:
    """One bundle that a transaction after the other merges."""

    __slots__ = ("_size", "applied", "begun", "bundle", "changed", "checked", "sections", "weight")

    def __init__(self, bundle: Bundle, applied: Applied, size: int) -> None:
        """Take a bundle that was admitted, the result to fill, and the bundle's encoded size in bytes."""
        self.bundle = bundle
        self.applied = applied
        self.begun = False
        self.sections: deque[SectionMerge] = deque()  # what is left, once begun
        self.changed = False  # some change of the first section was news
        self.checked: Table | None = None  # the table whose policy the first section was last compared with
        self._size = size
        # The work of a merge if no constraint refuses any of it.
        groups = [group for section in bundle.sections for group in section.groups]
        self.weight = bytes_weight_of(size) + sum(len(group.hlcs) * fast_weight(group) for group in groups)

    def begin(self, tables: Sized) -> None:
        """Begin with the first section of the bundle, which does not change from here on; `tables` are those of the file."""
        self.begun = True
        changes = sum(section.rows for section in self.bundle.sections)
        self.sections.extend(
            SectionMerge(
                section,
                facts_among=tables if section.table == SCHEMA_TABLE else None,
                change_bytes=-(-self._size // max(changes, 1)),
                weighs_values=self._size > CHUNK_BYTES_MAX,
                looks_at_keys=self._size > KEY_BYTES_MAX,
            )
            for section in self.bundle.sections
        )

    def prepare(self) -> None:
        """Do what the next part needs no file for; outside a transaction."""
        if self.sections:
            self.sections[0].prepare()
        elif not self.begun:
            for section in self.bundle.sections[:1]:  # facts come first
                if section.table == SCHEMA_TABLE and section.groups:
                    read_definitions(slice_group(section.groups[0], 0, FACTS_AHEAD))

    @property
    def done(self) -> bool:
        """True if nothing is left to merge."""
        return self.begun and not self.sections
