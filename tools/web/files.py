"""The files of the page, which the build has bundled, and the base map that the user has given.

Large files are read in the ranges that the client asks for; nothing is read into memory as a whole. Tiles of an .mbtiles file
come from SQLite, which that format is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from mycomesh.mesh.node.errors import NodeError
from mycomesh.tools.web import STATIC
from mycomesh.tools.web.errors import HttpError, UnknownError
from mycomesh.tools.web.http import Request, Response

__all__ = ["RANGE_BYTES_MAX", "Basemap", "Page", "open_basemap"]

RANGE_BYTES_MAX = 8 << 20  # of one range of the base map
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_RASTER = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff\xe0": "image/jpeg",
    b"\xff\xd8\xff\xe1": "image/jpeg",
    b"RIFF": "image/webp",
}
_NOT_BUILT = (
    "<!doctype html><html lang=en><title>mycomesh</title><p>The page is not part of this installation, because npm was missing"
    " when it was built. Run <code>make web</code> in the source tree. The API works: see <a href=/api/openapi.json>its"
    " description</a>.</p></html>"
)


class Page:
    """The bundled files, known by name: no path of a request leads anywhere else."""

    def __init__(self, folder: Path = STATIC) -> None:
        self._folder = folder
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        self._names = frozenset(name for name in names if Path(name).suffix in _TYPES)
        self._zipped = frozenset(name for name in names if name.endswith(".gz"))

    @property
    def is_built(self) -> bool:
        """Whether this installation has the page."""
        return "index.html" in self._names

    @property
    def build(self) -> str:
        """A name of the sources that the page was bundled from; "" without a page."""
        stamp = self._folder / "built.txt"
        return stamp.read_text().strip() if self.is_built and stamp.is_file() else ""

    def response(self, request: Request, name: str) -> Response:
        """Return a file of the page, or its beginning.

        Raises:
            HttpError: no file has that name.
        """
        if name == "index.html" and not self.is_built:
            return Response(_NOT_BUILT.encode(), content_type=_TYPES[".html"])
        if name not in self._names:
            raise UnknownError("no such file; the page is at /")
        headers = [("Vary", "Accept-Encoding")]
        zipped = f"{name}.gz" in self._zipped and "gzip" in request.headers.get("accept-encoding", "")
        data = (self._folder / (f"{name}.gz" if zipped else name)).read_bytes()
        tag = f'"{hashlib.blake2b(data, digest_size=12).hexdigest()}"'
        headers += [("ETag", tag), ("Cache-Control", "no-cache")]
        if zipped:
            headers.append(("Content-Encoding", "gzip"))
        if request.headers.get("if-none-match") == tag:
            return Response(status=304, content_type=_TYPES[Path(name).suffix], headers=tuple(headers))
        return Response(data, content_type=_TYPES[Path(name).suffix], headers=tuple(headers))


@dataclass(slots=True)
class Basemap:
    """A base map: one .pmtiles file, read by ranges, or the tiles of an .mbtiles file."""

    path: Path
    kind: str
    about: dict[str, Any]
    _db: apsw.Connection | None = None

    def range(self, request: Request) -> Response:
        """Return the part of a .pmtiles file that the request names.

        Raises:
            HttpError: no range, one outside of the file or a too long one.
        """
        size = self.path.stat().st_size
        unit, _, text = request.headers.get("range", "").partition("=")
        first, _, last = text.partition("-")
        if self.kind != "pmtiles" or unit != "bytes" or not first.isdigit() or not (last.isdigit() or not last):
            raise HttpError("ask for a range of bytes", 416, headers=(("Content-Range", f"bytes */{size}"),))
        start, end = int(first), min(int(last) if last else size - 1, size - 1)
        if start > end or end - start >= RANGE_BYTES_MAX:
            raise HttpError(
                f"no such range of up to {RANGE_BYTES_MAX:,} bytes",
                416,
                headers=(("Content-Range", f"bytes */{size}"),),
            )
        with self.path.open("rb") as file:
            file.seek(start)
            data = file.read(end - start + 1)
        headers = (
            ("Content-Range", f"bytes {start}-{start + len(data) - 1}/{size}"),
            ("Accept-Ranges", "bytes"),
            ("ETag", f'"{size}-{self.path.stat().st_mtime_ns}"'),
        )
        return Response(data, 206, "application/octet-stream", headers)

    def tile(self, place: str) -> Response:
        """Return the tile at Z/X/Y, counted from the north; 204 where the file has none, as in the sea of a map of a land."""
        parts = place.split("/")
        if self._db is None or len(parts) != 3 or not all(part.isdigit() and len(part) < 9 for part in parts):
            raise UnknownError("no such tile")
        zoom, x, y = map(int, parts)
        if zoom > 30:
            raise UnknownError("no such tile")
        find = "SELECT tile_data FROM tiles WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?"
        row = self._db.execute(find, (zoom, x, (1 << zoom) - 1 - y)).fetchone()  # rows count from the south
        kept = (("Cache-Control", "max-age=3600"),)
        if row is None or not isinstance(row[0], bytes):
            return Response(status=204, headers=kept)
        data = row[0]
        if data[:2] == b"\x1f\x8b":
            return Response(data, content_type="application/x-protobuf", headers=(*kept, ("Content-Encoding", "gzip")))
        return Response(data, content_type=_RASTER.get(data[:4], "application/x-protobuf"), headers=kept)


def open_basemap(path: Path) -> Basemap:
    """Open a base map, and read what it says about itself.

    Raises:
        NodeError: the file is neither .pmtiles nor .mbtiles, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(127)
    except OSError as error:
        raise NodeError(f"cannot read the base map {path}: {error.strerror}") from error
    if head[:7] == b"PMTiles":
        if head[7:8] != b"\x03":
            raise NodeError(f"{path} is PMTiles of version {head[7]}; this console reads version 3")
        return Basemap(path, "pmtiles", {"kind": "pmtiles", "name": path.name})
    if head[:15] != b"SQLite format 3":
        raise NodeError(f"{path} is neither .pmtiles nor .mbtiles; make one with tippecanoe, tilemaker or pmtiles")
    try:
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        about = {str(name): value for name, value in db.execute("SELECT name, value FROM metadata ORDER BY name")}
        db.execute("SELECT zoom_level, tile_column, tile_row, tile_data FROM tiles LIMIT 1").fetchall()
        if not about.get("maxzoom"):
            (about["maxzoom"],) = db.execute("SELECT coalesce(max(zoom_level), '') FROM tiles").fetchone() or ("",)
    except apsw.Error as error:
        raise NodeError(f"{path} is not .mbtiles: {error}") from error
    layers: list[str] = []
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        layers = [str(each["id"]) for each in json.loads(str(about.get("json", "{}"))).get("vector_layers", [])]
    shown = {
        name: str(about.get(name, "")) for name in ("name", "format", "minzoom", "maxzoom", "attribution", "bounds")
    }
    return Basemap(path, "mbtiles", {"kind": "mbtiles", "layers": layers, **shown}, db)
