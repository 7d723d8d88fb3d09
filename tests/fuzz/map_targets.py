"""Fuzz targets of what a member may state about maps and indexes: blobs of geometries, and virtual tables with their triggers."""

from __future__ import annotations

import math
import struct

import apsw
from hypothesis import event
from hypothesis import strategies as st

from mycomesh.sync.schema.virtual_facts import IndexFact, index_refusal
from mycomesh.sync.sqlite.geometry import bounding_box, register
from tests.fuzz.bytes import hostile
from tests.fuzz.registry import target

__all__ = []

_POINT = struct.pack("<BI2d", 1, 1, 1.5, -2.5)
_LINE = struct.pack("<BII4d", 1, 2, 2, 1, 2, 3, 4)
_RING = struct.pack("<BIII8d", 1, 3, 1, 4, 0, 0, 1, 0, 1, 1, 0, 0)
_ARC = struct.pack("<BII6d", 1, 8, 3, -1, 0, 0, 1, 1, 0)
_MANY = struct.pack("<BII", 1, 7, 4) + _POINT + _LINE + _RING + _ARC
_HEAD = b"GP" + struct.pack("<BBi", 0, 1, 4326)
BLOBS = (
    _HEAD + _POINT,
    _HEAD + _MANY,
    _HEAD + struct.pack(">BII", 0, 4, 1) + struct.pack(">BI2d", 0, 1, 1, 2),
    b"GP" + struct.pack("<BBi4d", 0, 3, 4326, 1, 3, 2, 4) + _LINE,
    b"GP" + struct.pack("<BBi", 0, 0x11, 4326),
    struct.pack("<BBi4d", 0, 1, 4326, 1, 2, 3, 4) + b"\x7c" + _LINE[1:] + b"\xfe",
    struct.pack("<BBiB2d", 0, 0x81, 4326, 1, 1, 2) + b"\xfe",
)
ENTER = (
    "INSERT INTO box SELECT ?2, mycomesh_st_minx(?1), mycomesh_st_maxx(?1), mycomesh_st_miny(?1), mycomesh_st_maxy(?1)"
    " WHERE NOT mycomesh_st_isempty(?1)"
)


@target(st.lists(hostile(BLOBS), max_size=4))
def geometries(blobs):
    """Check that every blob has a box in order or none, and that an R-tree takes what the functions make of it."""
    db = apsw.Connection(":memory:")
    register(db)
    db.execute("CREATE VIRTUAL TABLE box USING rtree(id, x0, x1, y0, y1)")
    entered = 0
    for number, blob in enumerate(blobs):
        box = bounding_box(blob)
        event("none" if box is None else "empty" if not box else "box")
        if box:
            entered += 1
            assert all(map(math.isfinite, box))
            assert box[0] <= box[1]
            assert box[2] <= box[3]
        db.execute(ENTER, (blob, number))
    assert db.execute("SELECT count(*) FROM box").fetchone() == (entered,)
    assert db.execute("SELECT rtreecheck('box')").fetchone() == ("ok",)


TABLE = "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT)"
_INDEXES = (
    "CREATE VIRTUAL TABLE i USING rtree(id, a, b)",
    "CREATE VIRTUAL TABLE i USING fts5(name, content='t', content_rowid='id')",
    "CREATE VIRTUAL TABLE i USING fts4(name)",
    "CREATE VIRTUAL TABLE i USING fts5(name, content='other')",
    "CREATE TABLE i(id, a, b)",
)
_PIECES = (
    *("CREATE TRIGGER x AFTER INSERT ON t BEGIN", "CREATE TRIGGER y BEFORE UPDATE ON t WHEN new.id > 0 BEGIN"),
    *("CREATE TRIGGER z AFTER DELETE ON other BEGIN", "CREATE TEMP TRIGGER w AFTER INSERT ON t BEGIN", "END"),
    *("INSERT OR REPLACE INTO i VALUES(new.id, 1, 2);", "INSERT INTO i(rowid, name) VALUES(new.id, new.name);"),
    *("DELETE FROM i;", "DELETE FROM i WHERE rowid = old.id;", "UPDATE i SET rowid = 1;", "DELETE FROM t;"),
    *("INSERT INTO other VALUES(1);", "UPDATE other SET a = 0;", "DELETE FROM other WHERE a IN i;"),
    *("INSERT INTO i VALUES((SELECT a FROM other), 1, 2);", "SELECT raise(IGNORE);", "PRAGMA user_version = 9;"),
    *("SELECT RTreeAlign('i', NEW.ROWID, NEW.name);", "SELECT RTreeAlign('other', NEW.ROWID, NEW.name);"),
    *("INSERT INTO i VALUES(new.id, random(), 1);", "DROP TABLE other;", "ATTACH 'x' AS y;", "--", "/*", "'", '"', ";"),
)


_BODIES = {
    "INSERT": (
        "INSERT OR REPLACE INTO i VALUES(new.id, 1, 2);",
        "INSERT INTO i(rowid, name) VALUES(new.id, new.name);",
    ),
    "UPDATE": (
        "DELETE FROM i WHERE rowid = old.id;",
        "INSERT INTO i(rowid) VALUES(new.id);",
        "UPDATE i SET rowid = new.id;",
    ),
    "DELETE": ("DELETE FROM i WHERE rowid = old.id;", "DELETE FROM i;", "UPDATE i SET rowid = rowid + 1;"),
}


def _texts():
    return st.lists(st.sampled_from(_PIECES) | st.text("abi ();'\"", max_size=5), max_size=5).map(" ".join)


@st.composite
def _triggers(draw):
    """Draw triggers that keep an index, with now and then a statement or a text that does more."""
    drawn = []
    for number in range(draw(st.integers(1, 3))):
        when = draw(st.sampled_from(sorted(_BODIES)))
        body = draw(st.lists(st.sampled_from(_BODIES[when]), min_size=1, max_size=2))
        if draw(st.integers(0, 3)) == 0:
            body.append(draw(st.sampled_from(_PIECES)))
        drawn.append(f"CREATE TRIGGER x{number} AFTER {when} ON t BEGIN {' '.join(body)} END")
    return drawn


@target(
    st.sampled_from(_INDEXES) | _texts(),
    _triggers() | st.lists(_texts() | _triggers().map("".join), min_size=1, max_size=3),
)
def index_facts(sql, triggers):
    """Check that an index that is taken changes nothing but itself, whatever a program then writes."""
    if index_refusal(TABLE, IndexFact("t", sql, tuple(triggers)), "i"):
        return
    event("taken")
    db = apsw.Connection(":memory:")
    db.create_scalar_function("RTreeAlign", lambda *_: None, 3)
    db.execute(f"{TABLE}; CREATE TABLE other(a); INSERT INTO other VALUES(7)")
    for text in (sql, *triggers):
        db.execute(text)
    for write in (
        "INSERT INTO t VALUES(1, 'x'), (2, 'y')",
        "UPDATE t SET name = 'z' WHERE id = 1",
        "DELETE FROM t WHERE id = 2",
    ):
        try:
            db.execute(write)
        except apsw.Error:  # an index may refuse a row; it may not take one away
            event("refused")
    assert db.execute("SELECT a FROM other").fetchall() == [(7,)]
    assert db.execute("SELECT count(*) FROM t").fetchone()[0] <= 2
    assert db.execute("PRAGMA user_version").fetchone() == (0,)
    assert db.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name IN ('t', 'other') ORDER BY 1"
    ).fetchall() == [
        ("other",),
        ("t",),
    ]
