"""Values as columns store them, compared with tables of each type."""

from __future__ import annotations

import sqlite3

import pytest

from mycomesh.sync.sqlite.affinity import as_stored

TEXTS = ("7", "07", " 7 ", "7.0", "7.5", "1e3", "9223372036854775808", "x7", "", "0x10")


@pytest.mark.parametrize("affinity", ["INTEGER", "TEXT", "REAL", "NUMERIC", "BLOB"])
def test_texts_are_stored_as_the_column_does(affinity):
    with sqlite3.connect(":memory:") as db:
        db.execute(f"CREATE TABLE t(v {affinity})")
        db.executemany("INSERT INTO t VALUES(?)", [(text,) for text in TEXTS])
        stored = [value for (value,) in db.execute("SELECT v FROM t ORDER BY rowid")]
    db.close()
    found = as_stored(TEXTS, affinity)
    assert list(map(repr, found)) == list(map(repr, stored))
