"""Tables of some shapes, with and without rows from before the mesh, for tests of scans and scrubs."""

from __future__ import annotations

import apsw
import pytest

from mycomesh.sync.merge.work_budget import CHUNK_ROWS_MAX
from tests.sync.peers import Peer

SHAPES = {
    "rowid": "CREATE TABLE t(id INTEGER PRIMARY KEY, v, w)",
    "bag": "CREATE TABLE t(id, v, w)",
    "text": "CREATE TABLE t(id TEXT PRIMARY KEY, v, w)",
    "composite": "CREATE TABLE t(id, v, w, PRIMARY KEY(id, w)) WITHOUT ROWID",
    "without": "CREATE TABLE t(id TEXT COLLATE NOCASE PRIMARY KEY, v, w) WITHOUT ROWID",
}
ROWS = 2 * CHUNK_ROWS_MAX + 100
FILL = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {})"
    " INSERT INTO t(id, v, w) SELECT i, 'v' || i, i % 3 FROM n"
)


@pytest.fixture(params=list(SHAPES))
def shape(request):
    return SHAPES[request.param]


@pytest.fixture
def scanned(tmp_path):
    opened = []

    def make(number=0):
        opened.append(Peer(tmp_path / f"{number}.db", number))
        return opened[-1]

    yield make
    for peer in opened:
        peer.close()


def before_the_mesh(path, *scripts):
    db = apsw.Connection(str(path))
    for script in scripts:
        db.execute(script)
    db.close()


def bypassing(peer, script):
    """Writes that no trigger sees."""
    peer.app.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    peer.sql(script)
    peer.app.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 1)
