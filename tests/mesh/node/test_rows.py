"""Rows of the embedding API: tuples that take names too."""

from __future__ import annotations

import copy
import pickle
import sqlite3

import pytest

from mycomesh.mesh.node.rows import Row, row_type

NAMES = ("id", "Name", "ID", "größe")
VALUES = (1, "kestrel", 2, 3.5)


@pytest.fixture
def row():
    return row_type(NAMES)(VALUES)


def test_a_row_is_the_tuple_of_its_values(row):
    assert row == VALUES
    assert hash(row) == hash(VALUES)
    assert repr(row) == repr(VALUES)
    assert row[1:] == VALUES[1:]
    assert row[-1] == 3.5
    first, *rest = row
    assert (first, rest) == (1, ["kestrel", 2, 3.5])
    assert isinstance(row, Row)


@pytest.mark.parametrize("name", ["id", "ID", "name", "NAME", "größe"])
def test_names_give_what_they_give_in_row_of_sqlite3(row, name):
    db = sqlite3.connect(":memory:")
    db.row_factory = sqlite3.Row
    theirs = db.execute('SELECT 1 AS id, \'kestrel\' AS "Name", 2 AS "ID", 3.5 AS "größe"').fetchone()
    assert row[name] == theirs[name]
    assert row.keys() == theirs.keys()
    assert dict(row) == dict(theirs)


@pytest.mark.parametrize("key", ["nothing", "GRößE", 4, -5])
def test_an_unknown_name_or_position_is_an_index_error(row, key):
    with pytest.raises(IndexError):
        row[key]


def test_rows_are_copied_and_pickled_with_their_names(row):
    for other in (copy.copy(row), copy.deepcopy(row), pickle.loads(pickle.dumps(row))):
        assert other == row
        assert other["name"] == "kestrel"


def test_rows_of_one_query_share_a_type_without_names():
    assert row_type(NAMES) is row_type(NAMES)
    assert not hasattr(row_type(NAMES)(VALUES), "__dict__")
