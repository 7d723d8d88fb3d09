"""A record of an imported file, and the interface of a reader.

A record's number counts the records of the file, whatever is chosen of it: with the file's fingerprint it is the key of the row,
so that an import can be repeated. A timestamp is never a key: logs repeat them and go back in time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from mycomesh.mesh.node.errors import NodeError
from mycomesh.tools.vehicles.rows import Value

__all__ = ["TRACK", "BadFileError", "FlightLog", "Reader", "Record", "Selection", "fingerprint"]

TRACK: Final = {
    "vehicle": "TEXT", "at": "INTEGER", "lat": "REAL", "lon": "REAL", "alt_m": "REAL", "height_m": "REAL",
    "speed_mps": "REAL", "climb_mps": "REAL", "course_deg": "REAL", "heading_deg": "REAL", "fix": "INTEGER",
    "satellites": "INTEGER", "battery_v": "REAL", "battery_pct": "INTEGER",
}  # fmt: skip
"""Columns of the positions of every kind of log; `at` is UTC in unix ms, `alt_m` above the sea, `height_m` above the start."""

_STEP = 1 << 20
_DIGITS = 16


class BadFileError(NodeError):
    """A file to be imported is not what its name says, or is damaged. Rows of before the damage may be in the table."""

    code = "import.file"


@dataclass(frozen=True, slots=True)
class Record:
    """One record: `kind` names its message, "" a position or a line; `offset` is how far in the file it ends."""

    kind: str
    n: int
    values: dict[str, Value]
    offset: int
    place: str = ""  # "line 17", for messages


@dataclass(frozen=True, slots=True)
class Selection:
    """The messages to import, each into its own table; empty: the positions alone, into one table."""

    kinds: tuple[str, ...] = ()
    every: bool = False

    @property
    def positions(self) -> bool:
        """Whether the positions are to be imported."""
        return not self.every and not self.kinds

    def takes(self, kind: str) -> bool:
        """Return True if messages of that kind are to be imported."""
        return self.every or kind in self.kinds


@dataclass(slots=True)
class Skipped:
    """Damaged places of a file that a reader passes over, counted, with the first one."""

    count: int = 0
    first: str = ""

    def add(self, place: str, count: int = 1) -> None:
        """Count one more."""
        self.first = self.first or place
        self.count += count


@dataclass(slots=True)
class Notes:
    """Remarks about a file for the person who imports it."""

    skipped: Skipped = field(default_factory=Skipped)
    lines: list[str] = field(default_factory=list)


class Reader(Protocol):
    """Reads one file. `columns` is complete for a kind once the kind's first record has come."""

    notes: Notes

    def columns(self, kind: str) -> dict[str, str]:
        """Return the columns of a kind with their SQL types."""

    def records(self) -> Iterator[Record]:
        """Yield the records in the order of the file."""


class FlightLog:
    """The part that the readers of flight logs share: positions, or each kind of message with columns of its own."""

    def __init__(self, path: Path, selection: Selection) -> None:
        self._path = path
        self._selection = selection
        self._columns: dict[str, dict[str, str]] = {"": TRACK}
        self.notes = Notes()

    def columns(self, kind: str) -> dict[str, str]:
        """Return the columns of a kind with their SQL types."""
        return self._columns[kind]


def fingerprint(path: Path) -> str:
    """Return the first hexadecimal digits of the hash of a file's bytes, which name the file whatever its path."""
    digest = hashlib.blake2b(digest_size=_DIGITS // 2)
    try:
        with path.open("rb") as file:
            while block := file.read(_STEP):
                digest.update(block)
    except OSError as error:
        raise BadFileError(f"{path}: cannot be read: {error.strerror}; check the path") from error
    return digest.hexdigest()
