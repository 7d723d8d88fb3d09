"""Reader of NMEA 0183 logs (.nmea), also compressed with gzip: one record a position."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mycomesh.tools.imports.record import TRACK, BadFileError, Notes, Record, Selection
from mycomesh.tools.imports.text_files import open_text
from mycomesh.tools.vehicles.nmea import NmeaReader
from mycomesh.tools.vehicles.rows import Value

__all__ = ["NmeaLog"]


class NmeaLog:
    """Lines of a receiver; a damaged line is passed over and counted."""

    def __init__(self, path: Path, selection: Selection) -> None:
        if not selection.positions:
            raise BadFileError(f"{path}: --messages is for flight logs; an .nmea has positions alone")
        self._path = path
        self.notes = Notes()

    def columns(self, kind: str) -> dict[str, str]:
        """Return the columns with their SQL types."""
        assert not kind
        return TRACK

    def records(self) -> Iterator[Record]:
        """Yield a record for each position."""
        reader, n, offset, number = NmeaReader(), 0, 0, 0
        try:
            with open_text(self._path) as file:
                for number, line in enumerate(file, 1):
                    offset += len(line)
                    damaged = reader.damaged
                    row = reader.feed(line)
                    if reader.damaged > damaged:
                        self.notes.skipped.add(f"line {number:,}")
                    if row is not None:
                        yield Record("", n, _full(row), offset, f"line {number:,}")
                        n += 1
        except (OSError, UnicodeDecodeError, EOFError) as error:
            raise BadFileError(f"{self._path}: line {number + 1:,}: {error}; is it an .nmea?") from error
        row = reader.flush()
        if row is not None:
            yield Record("", n, _full(row), offset, f"line {number:,}")
        elif not n and reader.damaged:
            raise BadFileError(f"{self._path}: no NMEA sentence in {number:,} lines; is it an .nmea?")


def _full(row: dict[str, Value]) -> dict[str, Value]:
    return dict.fromkeys(TRACK) | {"vehicle": "gps0"} | row
