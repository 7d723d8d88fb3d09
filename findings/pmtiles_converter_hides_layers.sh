#!/usr/bin/env bash
# pmtiles 3.8.1 (PyPI): `mbtiles_to_pmtiles` copies the row "json" of MBTiles as one text, so that the archive has no
# `vector_layers` in its metadata, where the specification of PMTiles 3 ("Metadata") wants them for vector tiles.
#
# Expected by a user: readers that list the layers of an archive find those that the MBTiles file names.
# Seen: `vector_layers` is missing; it is inside of the text under the key "json".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv v >/dev/null
v/bin/python -m pip install --quiet --disable-pip-version-check pmtiles==3.8.1 2>/dev/null
v/bin/python - <<'PY'
import gzip, json, sqlite3
from importlib.metadata import version
from pmtiles.convert import mbtiles_to_pmtiles
from pmtiles.reader import MmapSource, Reader

with sqlite3.connect("a.mbtiles") as db:
    db.execute("CREATE TABLE metadata(name TEXT, value TEXT)")
    db.execute("CREATE TABLE tiles(zoom_level INTEGER, tile_column INTEGER, tile_row INTEGER, tile_data BLOB)")
    layers = {"vector_layers": [{"id": "water", "fields": {}}]}
    db.executemany(
        "INSERT INTO metadata VALUES(?, ?)",
        [("name", "a"), ("format", "pbf"), ("minzoom", "0"), ("maxzoom", "0"), ("bounds", "-180,-85,180,85"), ("json", json.dumps(layers))],
    )
    db.execute("INSERT INTO tiles VALUES(0, 0, 0, ?)", (gzip.compress(b""),))
db.close()
mbtiles_to_pmtiles("a.mbtiles", "a.pmtiles", 0)
with open("a.pmtiles", "rb") as file:
    metadata = Reader(MmapSource(file)).metadata()
print("pmtiles", version("pmtiles"), "keys of the metadata:", sorted(metadata))
raise SystemExit("vector_layers" in metadata or "vector_layers" not in json.loads(metadata["json"]))
PY
