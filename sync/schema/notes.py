"""Notes of tables, as `status` shows them: at most one line a table and source, so that each source replaces only its own."""

from __future__ import annotations

import enum
from collections.abc import Mapping

__all__ = ["Notes", "Source"]


class Source(enum.Enum):
    """The origin of a note, in the order in which `Notes` looks for the main note of a table."""

    STAYS = "stays"  # why a table of this file is not replicated
    SCHEMA = "schema"  # why a table, a column, an index, a view or a trigger is not as the mesh has it
    DRIFT = "drift"  # how a definition differs from the canonical one
    WAITS = "waits"  # why rows of other nodes are not taken in yet
    SPACE = "space"  # that the disk has less free space than the table leaves
    DROPS = "drops"  # which rows a member reports as deleted, and stay
    PARKED = "parked"  # whose rows are left out until some of its parked rows fit
    RETAIN = "retain"  # why rows do not go with time
    SIZE = "size"  # which columns have values that are too large to send
    KEYS = "keys"  # that rows stay on their node, because their keys are too large
    AREAS = "areas"  # why it takes no part: two nodes have cut it by two columns
    IDS = "ids"  # why rows of two nodes may get one id, although each should number its own
    INDEX = "index"  # which index is not kept up to date; appended to the main note


_MAIN = tuple(source for source in Source if source is not Source.INDEX)


class Notes:
    """The notes of one file. A name is the folded name of a table, canonical if it is replicated, or names an index."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, Source], str] = {}

    def put(self, name: str, line: str, source: Source = Source.SCHEMA) -> None:
        """Set the note of one source; an empty line removes it."""
        if line:
            self._lines[name, source] = line
        else:
            self._lines.pop((name, source), None)

    def replace(self, source: Source, lines: Mapping[str, str]) -> None:
        """Set all notes of one source."""
        self._lines = {key: line for key, line in self._lines.items() if key[1] is not source}
        self._lines |= {(name, source): line for name, line in lines.items()}

    def drop(self, name: str) -> None:
        """Remove every note of one name."""
        for source in Source:
            self._lines.pop((name, source), None)

    def copy(self) -> Notes:
        """Return a copy."""
        other = Notes()
        other._lines = dict(self._lines)
        return other

    def by_name(self) -> dict[str, str]:
        """Return one line for each name that has notes, sorted: its main note, and beside it that of its indexes."""
        lines = {}
        for name in sorted({name for name, _ in self._lines}):
            main = [line for source in _MAIN if (line := self._of(name, source))]
            index = self._of(name, Source.INDEX)
            lines[name] = "; ".join([*main[:1], *([index] if index else [])])
        return lines

    def _of(self, name: str, source: Source) -> str:
        return self._lines.get((name, source), "")
