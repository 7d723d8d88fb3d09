"""The page's files and base maps: ranges, tiles, and names that lead nowhere else."""

from __future__ import annotations

import gzip
import json
import sqlite3

import pytest

from mycomesh.mesh.node.errors import NodeError
from mycomesh.tools.web import files
from mycomesh.tools.web.errors import HttpError, UnknownError
from mycomesh.tools.web.files import RANGE_BYTES_MAX, Page, open_basemap
from mycomesh.tools.web.http import Request


def asked(**headers):
    return Request("GET", "/", {}, {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.fixture
def page(tmp_path):
    (tmp_path / "index.html").write_text("<!doctype html>")
    (tmp_path / "app.js").write_text("let x")
    (tmp_path / "app.js.gz").write_bytes(gzip.compress(b"let x"))
    (tmp_path / "secret").write_text("s")
    return Page(tmp_path)


def test_files_are_sent_as_they_were_built(page):
    plain = page.response(asked(), "app.js")
    zipped = page.response(asked(accept_encoding="gzip, br"), "app.js")
    assert plain.body == gzip.decompress(zipped.body) == b"let x"
    assert dict(zipped.headers)["Content-Encoding"] == "gzip"
    again = page.response(asked(if_none_match=dict(plain.headers)["ETag"]), "app.js")
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize("name", ["../secret", "secret", "app.js.gz", "", "/etc/passwd", "index.html/.."])
def test_other_names_lead_nowhere(page, name):
    with pytest.raises(UnknownError):
        page.response(asked(), name)


def test_installation_without_page_says_so(tmp_path):
    page = Page(tmp_path / "absent")
    assert not page.is_built
    assert b"make web" in page.response(asked(), "index.html").body


def test_ranges_of_a_base_map_are_limited(tmp_path, monkeypatch):
    path = tmp_path / "a.pmtiles"
    path.write_bytes(b"PMTiles\x03" + bytes(200))
    base = open_basemap(path)
    part = base.range(asked(range="bytes=0-6"))
    assert (part.status, part.body) == (206, b"PMTiles")
    assert dict(part.headers)["Content-Range"] == "bytes 0-6/208"
    assert len(base.range(asked(range="bytes=200-999")).body) == 8
    monkeypatch.setattr(files, "RANGE_BYTES_MAX", 100)
    assert RANGE_BYTES_MAX >= 1 << 20
    assert [len(base.range(asked(range=f"bytes=1-{end}")).body) for end in (99, 100)] == [99, 100]
    for bad in ("bytes=1-101", "bytes=208-", "bytes=5-4", "bytes=-5", "bytes=a-b", "lines=1-2", ""):
        with pytest.raises(HttpError) as caught:
            base.range(asked(range=bad))
        assert caught.value.status == 416


def test_tiles_of_mbtiles_count_from_the_north(tmp_path):
    path = tmp_path / "a.mbtiles"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE metadata(name, value)")
        db.execute("CREATE TABLE tiles(zoom_level, tile_column, tile_row, tile_data)")
        db.executemany(
            "INSERT INTO metadata VALUES(?, ?)",
            [("name", "alps"), ("format", "pbf"), ("json", json.dumps({"vector_layers": [{"id": "water"}]}))],
        )
        db.executemany(
            "INSERT INTO tiles VALUES(?, ?, ?, ?)",
            [(1, 0, 1, b"\x89PNG..."), (1, 1, 0, gzip.compress(b"mvt")), (2, 0, 0, "text")],
        )
    db.close()
    base = open_basemap(path)
    assert (base.about["kind"], base.about["layers"], base.about["name"]) == ("mbtiles", ["water"], "alps")
    assert base.tile("1/0/0").content_type == "image/png"
    assert dict(base.tile("1/1/1").headers)["Content-Encoding"] == "gzip"
    for place in ("1/0/1", "2/0/3"):
        assert (base.tile(place).status, base.tile(place).body) == (204, b"")
    for place in ("1/0", "1/0/0/0", "a/b/c", "99/0/0", "-1/0/0", "1/0/999999999999"):
        with pytest.raises(UnknownError):
            base.tile(place)


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"", "neither"), (b"PMTiles\x02", "version 2"), (b"SQLite format 3\0", "not .mbtiles"), (None, "cannot read")],
)
def test_other_files_are_no_base_map(tmp_path, data, says):
    path = tmp_path / "x"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(NodeError, match=says):
        open_basemap(path)
