"""A file is looked at before a node serves it: tables whose ids collide are named with the choices, and nothing is changed."""

from __future__ import annotations

import sqlite3

import pytest

from mycomesh.sync.admin import preflight
from mycomesh.sync.admin.preflight import look
from mycomesh.sync.errors import DatabaseError
from tests.sync.peers import Peer

TABLES = """
CREATE TABLE auto(id INTEGER PRIMARY KEY AUTOINCREMENT, v);
CREATE TABLE bag(v);
CREATE TABLE "it's"(id INTEGER PRIMARY KEY, v);
CREATE TABLE keyed(id TEXT PRIMARY KEY, v);
CREATE VIRTUAL TABLE words USING fts5(v);
"""


@pytest.fixture(params=["wal", "delete"])
def file(request, tmp_path):
    path = tmp_path / "some file.db"
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA journal_mode = {request.param}")
    db.executescript(TABLES)
    db.close()
    return path


def looks(path):
    return {each.table: each for each in look(path)}


def test_tables_whose_ids_collide_are_named(file):
    found = looks(file)
    assert {name: each.well for name, each in found.items()} == {
        "auto": None, "bag": True, "it's": None, "keyed": True, "words": None,
    }  # fmt: skip
    choices = "mycomesh policy auto own-ids; mycomesh policy auto keep-both; or let the programs draw the key"
    assert choices in found["auto"].remedy
    assert """mycomesh policy 'it'"'"'s' keep-both""" in found["it's"].remedy
    assert "own-ids" in found["it's"].remedy.rpartition("AUTOINCREMENT")[2]
    assert "virtual table" in found["words"].found


def test_many_rows_are_not_sent_to_keep_both(file, monkeypatch):
    monkeypatch.setattr(preflight, "KEEP_BOTH_ROWS_MAX", 2)
    with sqlite3.connect(file) as db:
        db.execute("INSERT INTO auto(v) VALUES(1), (2), (3)")
    db.close()
    assert "keep-both" not in looks(file)["auto"].remedy
    assert "own-ids" in looks(file)["auto"].remedy


def test_rows_without_a_key_are_warned_of(file):
    with sqlite3.connect(file) as db:
        db.execute("INSERT INTO bag VALUES(1)")
    db.close()
    assert looks(file)["bag"].well is None
    assert "doubles" in looks(file)["bag"].found


def test_nothing_is_changed_beside_or_in_it(file):
    before = file.read_bytes(), file.stat().st_mtime_ns
    look(file)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before


def test_a_file_in_use_is_read_with_its_log(tmp_path):
    path = tmp_path / "a.db"
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.executescript("CREATE TABLE late(id INTEGER PRIMARY KEY); BEGIN IMMEDIATE; CREATE TABLE later(v)")
    assert list(looks(path)) == ["late"]
    db.close()


def test_policies_of_a_served_file_are_known(tmp_path):
    peer = Peer(tmp_path / "a.db", 0)
    peer.sql("CREATE TABLE own(id INTEGER PRIMARY KEY AUTOINCREMENT); CREATE TABLE both(id INTEGER PRIMARY KEY)")
    peer.drain()
    peer.replica.decisions.decide_policy("own", "own-ids")
    peer.replica.decisions.decide_policy("both", "keep-both")
    peer.drain()
    assert {name: (each.well, each.remedy) for name, each in looks(peer.path).items()} == {
        "own": (True, ""), "both": (True, ""),
    }  # fmt: skip
    peer.close()


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "no such file"), (b"", "not an SQLite database"), (b"plain text\n", "not an SQLite database"),
     (b"SQLite format 3\0" + b"x" * 400, "encrypted, or damaged"), ("folder", "not a regular file")],
)  # fmt: skip
def test_other_files_get_one_clear_line(tmp_path, content, why):
    path = tmp_path / "a.db"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(DatabaseError, match=why) as error:
        look(path)
    assert "\n" not in str(error.value)


def test_a_damaged_schema_gets_one_clear_line(file):
    db = sqlite3.connect(file)
    db.executescript(
        "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = 'CREATE TABLE auto(' WHERE name = 'auto'"
    )
    db.close()
    with pytest.raises(DatabaseError, match="malformed database schema"):
        look(file)
