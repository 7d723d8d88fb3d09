"""Readers of tables of text: CSV, JSON (an array, or an object a line) and GeoJSON, also compressed with gzip.

Each file is read twice: once to check every line and to learn the columns' types, before anything is written, and once for the
rows. Memory stays small for CSV and JSON lines; an array of JSON and GeoJSON are held whole.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TextIO

from mycomesh.tools.imports.record import BadFileError, Notes, Record, Selection
from mycomesh.tools.vehicles.rows import Value, sql_value

__all__ = ["CsvFile", "GeoJsonFile", "JsonFile", "open_text"]

COLUMNS_MAX = 1_000  # SQLite's own limit is 2,000
FIELD_CHARS_MAX = 1 << 24

_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)?(\.[0-9]+|\.)?([eE][+-]?[0-9]{1,3})?")

Place = tuple[int, dict[str, Value]]


def open_text(path: Path) -> TextIO:
    """Open a file as UTF-8 text; what a byte order mark and gzip hide is found."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


class _Table:
    """The part that the readers of text share: the check of all rows, then the rows."""

    unit = "line"

    def __init__(self, path: Path, selection: Selection) -> None:
        if not selection.positions:
            raise BadFileError(f"{path}: --messages is for flight logs; this file has one kind of row")
        self._path = path
        self._types: dict[str, str] = {}
        self._rows = 0
        self.notes = Notes()

    def columns(self, kind: str) -> dict[str, str]:
        """Return the columns with their SQL types."""
        assert not kind
        return self._types

    def records(self) -> Iterator[Record]:
        """Check the whole file, then yield a record for each row."""
        size = self._path.stat().st_size
        for _place, values in self._read():
            self._rows += 1
            for name, value in values.items():
                self._types[name] = _wider(self._types.get(name), value)
        if len(self._types) > COLUMNS_MAX:
            raise BadFileError(f"{self._path}: {len(self._types):,} columns; the most is {COLUMNS_MAX:,}")
        for n, (place, values) in enumerate(self._read()):
            row = {name: _as_type(values.get(name), self._types[name]) for name in self._types}
            yield Record("", n, row, (n + 1) * size // self._rows, f"{self.unit} {place}")

    def _read(self) -> Iterator[Place]:
        try:
            with open_text(self._path) as file:
                yield from self.rows(file)
        except UnicodeDecodeError as error:
            raise BadFileError(f"{self._path}: {error.reason} (not UTF-8 text); save it as UTF-8") from error
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise BadFileError(f"{self._path}: {error}; the compressed file is damaged or cut off") from error
        except OSError as error:
            raise BadFileError(f"{self._path}: cannot be read: {error.strerror}; check the path") from error

    def rows(self, file: TextIO) -> Iterator[Place]:
        """Yield (place, values) of each row."""
        raise NotImplementedError

    def fail(self, place: int, why: str) -> BadFileError:
        """Return the error of one row."""
        return BadFileError(f"{self._path}: {self.unit} {place:,}: {why}; nothing was imported")


class CsvFile(_Table):
    """A CSV with a line of names first. A column whose values are all numbers is one of numbers; an empty value is NULL."""

    def rows(self, file: TextIO) -> Iterator[Place]:
        """Yield (line, values) of each row."""
        csv.field_size_limit(FIELD_CHARS_MAX)
        head = file.readline()
        file.seek(0)
        found = max(",;\t|", key=head.count)
        lines = csv.reader(file, delimiter=found if found in head else ",", strict=True)
        try:
            names = [name.strip() for name in next(lines, [])]
            if not names or any(not name for name in names):
                raise self.fail(1, "the first line must name every column")
            twice = next((name for at, name in enumerate(names) if name.lower() in map(str.lower, names[:at])), None)
            if twice is not None:
                raise self.fail(1, f"two columns are named {twice!r}")
            for fields in lines:
                if not fields:
                    continue
                if len(fields) != len(names):
                    raise self.fail(lines.line_num, f"{len(fields)} values for {len(names)} columns")
                yield lines.line_num, {name: text or None for name, text in zip(names, fields, strict=True)}
        except csv.Error as error:
            raise self.fail(lines.line_num, str(error)) from error


class JsonFile(_Table):
    """A JSON array of objects, or one object a line; each object is a row."""

    unit = "object"

    def rows(self, file: TextIO) -> Iterator[Place]:
        """Yield (number, values) of each object."""
        start = file.read(1)
        while start and start.isspace():
            start = file.read(1)
        file.seek(0)
        objects: Iterable[Any] = _parsed(file.read(), self, 1) if start == "[" else self._lines(file)
        if not isinstance(objects, list | Iterator):
            raise self.fail(1, "the file must be an array of objects, or one object a line")
        for place, each in enumerate(objects, 1):
            if not isinstance(each, dict):
                raise self.fail(place, "it is not an object")
            yield place, {name: _json_value(value) for name, value in each.items()}

    def _lines(self, file: TextIO) -> Iterator[Any]:
        for place, line in enumerate(file, 1):
            if line.strip():
                yield _parsed(line, self, place)


class GeoJsonFile(_Table):
    """GeoJSON: each feature is a row of its properties, with `geometry` as text; a point has `lat`, `lon` and `alt_m` too."""

    unit = "feature"

    def rows(self, file: TextIO) -> Iterator[Place]:
        """Yield (number, values) of each feature."""
        text = file.read()
        found = _parsed(text, self, 1)
        features = (
            found.get("features") if isinstance(found, dict) and found.get("type") == "FeatureCollection" else [found]
        )
        if not isinstance(features, list):
            raise self.fail(1, "'features' must be a list")
        for place, feature in enumerate(features, 1):
            if not isinstance(feature, dict) or feature.get("type") != "Feature":
                raise self.fail(place, "it is not a Feature")
            geometry, properties = feature.get("geometry"), feature.get("properties") or {}
            if not isinstance(properties, dict) or not isinstance(geometry, dict | None):
                raise self.fail(place, "'properties' and 'geometry' must be objects or null")
            row = {name: _json_value(value) for name, value in properties.items()}
            if "id" in feature:
                row["id"] = _json_value(feature["id"])
            row.update(self._point(place, geometry))
            row["geometry"] = None if geometry is None else json.dumps(geometry, separators=(",", ":"))
            yield place, row

    def _point(self, place: int, geometry: dict[str, Any] | None) -> dict[str, Value]:
        if geometry is None or geometry.get("type") != "Point":
            return {}
        places = geometry.get("coordinates")
        numbers = isinstance(places, list) and all(
            isinstance(each, int | float) and not isinstance(each, bool) for each in places
        )
        if not numbers or not isinstance(places, list) or len(places) < 2:
            raise self.fail(place, "the coordinates of a point are two or three numbers")
        if not (-180 <= places[0] <= 180 and -90 <= places[1] <= 90):
            raise self.fail(place, f"{places[0]}, {places[1]} is no longitude and latitude (EPSG:4326 is meant)")
        point: dict[str, Value] = {"lat": float(places[1]), "lon": float(places[0])}
        return point if len(places) == 2 else point | {"alt_m": float(places[2])}


def _parsed(text: str, table: _Table, place: int) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number)
    except RecursionError as error:
        raise table.fail(place, "it is nested too deeply") from error
    except ValueError as error:
        raise table.fail(place, f"not JSON: {error}") from error


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _json_value(value: Any) -> Value:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return sql_value(value)


_RANK: Final = ("", "INTEGER", "REAL", "TEXT")


def _wider(known: str | None, value: Value) -> str:
    """Return the type that holds the column's values so far and this one; "" while all are NULL."""
    if value is None:
        return known or ""
    if isinstance(value, str):
        kind = "INTEGER" if _WHOLE.fullmatch(value) else "REAL" if _is_number(value) else "TEXT"
    else:
        kind = "INTEGER" if isinstance(value, int) else "REAL"
    return max(known or "", kind, key=_RANK.index)


def _is_number(text: str) -> bool:
    return any(char.isdigit() for char in text) and _NUMBER.fullmatch(text) is not None


_CONVERT: Final[dict[str, Callable[[Any], Value]]] = {"INTEGER": int, "REAL": float, "TEXT": str, "": sql_value}


def _as_type(value: Value, kind: str) -> Value:
    return None if value is None else sql_value(_CONVERT[kind](value))
