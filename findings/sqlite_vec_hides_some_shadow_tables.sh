#!/usr/bin/env bash
# sqlite-vec 0.1.9 (PyPI) in apsw 3.54.1.0: of the tables in which a vec0 virtual table keeps its rows, SQLite knows some as shadow
# tables and one as an ordinary table, though the module is loaded.
#
# Expected: `PRAGMA table_list` has the type 'shadow' for each of them, as for those of FTS5 and R-tree, so that tools which
# copy or compare "ordinary tables" leave them alone, and SQLITE_DBCONFIG_DEFENSIVE protects them.
# Seen: the table with the vectors themselves, NAME_vector_chunks00, has the type 'table'.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check apsw==3.54.1.0 sqlite-vec==0.1.9
"$work/env/bin/python" - <<'PY'
import apsw
import sqlite_vec

db = apsw.Connection(":memory:")
db.enable_load_extension(True)
db.load_extension(sqlite_vec.loadable_path())
db.execute("CREATE VIRTUAL TABLE docs USING vec0(embedding float[4]); CREATE VIRTUAL TABLE words USING fts5(text)")
db.execute("CREATE VIRTUAL TABLE boxes USING rtree(id, low, high)")
kinds = dict(db.execute("SELECT name, type FROM pragma_table_list WHERE schema = 'main' ORDER BY name"))
for name, kind in kinds.items():
    print(name, kind)
ordinary = [name for name, kind in kinds.items() if kind == "table" and not name.startswith("sqlite_")]
assert ordinary == ["docs_vector_chunks00"], f"this has changed: {ordinary}"
PY
