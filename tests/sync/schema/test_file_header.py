"""The numbers that name a file format reach files that nodes began empty, and no others."""

from __future__ import annotations

import apsw
import pytest

from mycomesh.sync.schema.file_header import read_header
from tests.sync.peers import converge

GPKG = 0x47504B47


def header(peer):
    return peer.sql("SELECT application_id, user_version FROM pragma_application_id, pragma_user_version")[0]


def stated(peer):
    return peer.sql("SELECT sql FROM mycomesh_schema WHERE kind = 'header'")


def test_an_empty_file_gets_the_numbers_of_the_format(pair):
    one, two = pair
    one.shell(f"PRAGMA application_id = {GPKG}; PRAGMA user_version = 10200; CREATE TABLE t(id INTEGER PRIMARY KEY)")
    converge(pair)
    assert header(one) == header(two) == (GPKG, 10200)
    assert stated(one) == stated(two) == [(f"[{GPKG}, 10200]",)]


def test_the_numbers_of_an_application_stay_its_own(pair):
    one, two = pair
    one.shell(f"PRAGMA application_id = {GPKG}; PRAGMA user_version = 10200; CREATE TABLE t(id INTEGER PRIMARY KEY)")
    two.shell("PRAGMA user_version = 3")
    converge(pair)
    assert header(two) == (0, 3)
    two.close()
    two.path.unlink()
    app = apsw.Connection(str(two.path))
    app.execute("CREATE TABLE u(id INTEGER PRIMARY KEY)")
    app.close()
    two.open()
    converge(pair)
    assert header(two) == (0, 0)


def test_a_count_of_migrations_is_no_format(pair):
    one, two = pair
    one.shell("PRAGMA user_version = 7; CREATE TABLE t(id INTEGER PRIMARY KEY)")
    converge(pair)
    assert header(two) == (0, 0)
    assert stated(two) == []


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "[]",
        "[0, 1]",
        "[1]",
        "[1, 2, 3]",
        '["1", 2]',
        "[true, 1]",
        "[1.0, 1]",
        "[2147483648, 1]",
        "[1, -2147483649]",
        "[",
    ],
)
def test_another_text_states_no_numbers(text):
    assert read_header(text) is None


def test_the_limits_of_the_numbers_are_taken():
    assert read_header("[-2147483648, 2147483647]") == (-2147483648, 2147483647)
