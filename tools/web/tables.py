"""Rows of tables as JSON, CSV and GeoJSON, and the layers of the map."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

from mycomesh.tools.web.database import Database, Rows, Table
from mycomesh.tools.web.geometry import Layer, geometry_of, layer_of
from mycomesh.tools.web.values import csv_text, plain

__all__ = ["as_csv", "as_geojson", "as_json", "key_of", "layer_in", "rows_json"]


def key_of(cells: tuple[Any, ...]) -> str:
    """Return the text of a key as `mycomesh why` takes it: the value, a JSON array of several, a rowid without a key."""
    values = [plain(cell) for cell in cells]
    if len(values) == 1:
        return values[0] if isinstance(values[0], str) else json.dumps(values[0], ensure_ascii=False)
    return json.dumps(values, ensure_ascii=False)


def layer_in(database: Database, table: Table) -> Layer | None:
    """Return how a table holds positions, None if it has none."""
    return layer_of(table.name, table.columns, table.key, lambda column: database.sample(table, column))


def as_json(table: Table, found: Rows) -> bytes:
    """Return a page of `Database.page` as JSON: columns, rows of values, and the keys of the rows."""
    return _object(
        table=_text(table.name),
        columns=_text(table.columns),
        rows=_array(_text([plain(cell) for cell in row[1:]]) for row in found.rows),
        keys=_array(_text(key_of(row[0])) for row in found.rows),
        more=_text(found.more),
    )


def rows_json(found: Rows) -> bytes:
    """Return the answer of a query as JSON: columns, rows of values, and whether there are more."""
    rows = _array(_text([plain(cell) for cell in row]) for row in found.rows)
    return _object(columns=_text(found.columns), rows=rows, more=_text(found.more))


def as_csv(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> bytes:
    """Return rows as CSV with a line of names (RFC 4180); a blob is in base 64, NULL is empty."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([csv_text(cell) for cell in row] for row in rows)
    return text.getvalue().encode(errors="replace")


def as_geojson(table: Table, layer: Layer, found: Rows) -> bytes:
    """Return a page as a collection of GeoJSON (RFC 7946); rows without a position have no geometry."""
    place = {name: number for number, name in enumerate(found.columns)}

    def feature(row: tuple[Any, ...]) -> dict[str, Any]:
        lon = row[place[layer.lon]] if layer.lon else None
        geometry = geometry_of(layer.kind, row[place[layer.lat]], lon)
        used = {layer.lat} if layer.kind != "pair" else set()
        names = [name for name in table.columns if name not in used]
        properties = {name: plain(row[place[name]]) for name in names}
        return {"type": "Feature", "id": key_of(row[0]), "geometry": geometry, "properties": properties}

    return _object(type=b'"FeatureCollection"', features=_array(_text(feature(row)) for row in found.rows))


def _text(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _array(parts: Iterable[bytes]) -> bytes:
    """Join parts that were encoded one by one: as one string, an answer takes four bytes a character for a single emoji."""
    return b"[" + b",".join(parts) + b"]"


def _object(**parts: bytes) -> bytes:
    return b"{" + b",".join(_text(name) + b":" + part for name, part in parts.items()) + b"}"
