"""Many rows are compared with the digests of their entries at once, and none counts as unchanged that a look alone doubts."""

from __future__ import annotations

import random

import pytest

from mycomesh.sync.capture import table_scan
from mycomesh.sync.storage import row_batch
from mycomesh.sync.storage.row_view import AHEAD_BYTES_MAX, RowView
from tests.sync.peers import converge
from tests.sync.scans import FILL, SHAPES, bypassing

ROWS = 120
EDITS = (
    "UPDATE t SET v = 'edited' WHERE v = '{0}'",
    "UPDATE t SET v = NULL, w = 1.0 * w WHERE v = '{0}'",
    "UPDATE t SET v = CAST(v AS BLOB) WHERE v = '{0}'",
    "DELETE FROM t WHERE v = '{0}'",
    "INSERT INTO t(id, v, w) VALUES('99999', 'more', 0)",
    "UPDATE t SET v = CAST(x'ff' AS TEXT) WHERE v = '{0}'",
)


def names(table):
    return table_scan.first_rows(table, 10 * ROWS)


def doubted(table):
    """The rows that a look at each doubts."""
    return {view.row for view in RowView.each(table, names(table)) if table_scan._suspect(view)}


def grow(both, shape, seed):
    """Rows of two files in runs and in none, edited by both, some of them deleted."""
    one, two = both
    rng = random.Random(seed)
    one.sql(shape)
    one.sql(FILL.format(ROWS))
    converge(both)
    for peer in (one, two, one):
        for number in rng.sample(range(1, ROWS), 15):
            peer.sql("UPDATE t SET v = v || ? WHERE v = ?", f"+{peer.number}", f"v{number}")
        peer.sql(f"DELETE FROM t WHERE v = 'v{rng.randrange(1, ROWS)}'")
        peer.sql("INSERT INTO t(id, v, w) VALUES(?, 'own', 2)", f"{1000 + rng.randrange(10**6)}")
        converge(both)
    return rng


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_rows_that_nobody_has_touched_are_unchanged(both, shape):
    grow(both, shape, 1)
    for peer in both:
        table = peer.replica.tables["t"]
        assert row_batch.unchanged_rows(table, names(table), AHEAD_BYTES_MAX) == set(names(table)) != set()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_no_row_that_a_look_doubts_is_unchanged(both, shape):
    rng = grow(both, shape, 2)
    peer = both[1]
    table = peer.replica.tables["t"]
    kept = [v for (v,) in peer.sql("SELECT v FROM t WHERE v GLOB 'v*'")]
    for edit in EDITS:
        bypassing(peer, edit.format(rng.choice(kept)))
        rows = names(table)
        unchanged = row_batch.unchanged_rows(table, rows, AHEAD_BYTES_MAX)
        assert not unchanged & doubted(table)
        if "ff" not in edit:  # of rows with text that is not UTF-8 each gets a look
            assert unchanged | doubted(table) == set(rows)


def test_rows_of_many_bytes_get_a_look_each(both):
    one, _ = both
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 'a'), (2, zeroblob(5000)), (3, 'c')")
    one.drain()
    table = one.replica.tables["t"]
    assert row_batch.unchanged_rows(table, [1, 2, 3], 3_000) == {1}
    assert row_batch.unchanged_rows(table, [1, 2, 3], 30_000) == {1, 2, 3}


def test_scrub_compares_most_rows_without_a_look_each(both, monkeypatch):
    one, _ = both
    grow(both, SHAPES["rowid"], 3)
    looks = []
    monkeypatch.setattr(table_scan, "_suspect", lambda view: looks.append(view.row))
    assert one.scrub().found == 0
    assert looks == []
