"""Rows are read ahead of their merge, few where their values are large."""

from __future__ import annotations

import pytest

from mycomesh.sync.sqlite.table_spec import KeyKind, encode_key
from mycomesh.sync.storage.row_view import AHEAD_BYTES_MAX, RowView
from tests.sync.lock_holds import COUNT, PLAIN, File, batch, updates

KINDS = {"rowid": PLAIN, "keyed": f"{PLAIN} WITHOUT ROWID", "keyless": "CREATE TABLE d(id, u, v)"}


def names(table, numbers):
    return [encode_key(table.spec, (n,)) if table.spec.kind is KeyKind.KEYED else n for n in numbers]


@pytest.fixture
def file_of():
    files = []

    def make(*script):
        files.append(File(*script))
        return files[-1]

    yield make
    for file in files:
        file.close()


@pytest.mark.parametrize("ddl", KINDS.values(), ids=KINDS)
def test_few_large_rows_are_read_ahead(file_of, ddl):
    file = file_of(ddl, f"{COUNT.format(20)} INSERT INTO d SELECT i, zeroblob({AHEAD_BYTES_MAX // 4}), i FROM n")
    table = file.replica.tables["d"]
    rows = names(table, range(20) if ddl == PLAIN else range(1, 20))
    ahead = RowView.read_ahead(table, rows)
    assert [view.row for view in ahead] == rows[:4]
    every = list(RowView.each(table, rows))
    assert [view.row for view in every] == rows
    assert [view.present for view in every] == [table.rows.read(row) for row in rows]


@pytest.mark.parametrize("ddl", KINDS.values(), ids=KINDS)
def test_missing_rows_are_read_as_none(file_of, ddl):
    file = file_of(
        ddl, f"{COUNT.format(9)} INSERT INTO d SELECT i + 1, 'u' || i, i FROM n", "DELETE FROM d WHERE id % 3 = 0"
    )
    table = file.replica.tables["d"]
    rows = names(table, range(12))
    found = table.rows.read_many(rows)
    assert list(found) == rows
    assert found == {row: table.rows.read(row) for row in rows}
    assert None in found.values()


def test_large_parked_rows_are_tried_again_in_short_steps(file_of):
    size = 600_000
    file = file_of(
        PLAIN, "CREATE UNIQUE INDEX i ON d(v)", f"{COUNT.format(13)} INSERT INTO d SELECT i, zeroblob({size}), i FROM n"
    )
    file.take(batch(file, updates(file, ("v",), [[12]] * 12)))
    assert file.replica.status().tables[0].parked == 12
    file.holds.clear()
    file.sql("DELETE FROM d WHERE id = 12")  # each parked row may be the one that fits
    assert len(file.holds) >= 12
    assert file.app.execute("SELECT count(*) FROM d").fetchone() == (1,)
