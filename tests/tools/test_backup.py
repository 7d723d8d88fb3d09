"""`mycomesh backup`: the rows, another site for the node that serves the copy, never a write that would be stamped twice."""

from __future__ import annotations

import os
import random
import sqlite3
import stat

import pytest

from mycomesh.sync.replica import Replica, ReplicaConfig
from mycomesh.tools import exits
from mycomesh.tools.cli import main
from mycomesh.tools.commands import backup

NODE = bytes(16)


def served(path):
    rng = random.Random(path.name)
    return Replica.open(
        str(path), node_id=NODE, mesh_key=bytes(32), entropy=rng.randbytes,
        config=ReplicaConfig(),
    )  # fmt: skip


@pytest.fixture
def source(tmp_path, monkeypatch):
    path = tmp_path / "a.db"
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript("CREATE TABLE bag(v); CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 'one')")
    db.execute("INSERT INTO bag VALUES('keyless')")
    monkeypatch.setattr(backup, "ask", lambda _home, _what: {"file": str(path)})
    monkeypatch.setattr(backup, "TRY_S", 0)
    return path


def test_the_copy_has_the_rows_and_gets_another_site(source, tmp_path):
    replica = served(source)
    while replica.outbox.stale():
        replica.drain(1_800_000_000_000)
    before = replica.status()
    assert main(["backup", str(tmp_path / "copy.db")]) == exits.DONE
    replica.close()
    restored = served(tmp_path / "copy.db")
    after = restored.status()
    restored.close()
    assert [(table.name, table.rows, table.digest) for table in after.tables] == [
        (table.name, table.rows, table.digest) for table in before.tables
    ]
    db = sqlite3.connect(tmp_path / "copy.db")
    assert db.execute("SELECT v FROM bag").fetchall() == [("keyless",)]
    assert before.site != after.site


def test_writes_that_are_not_stamped_are_never_copied(source, tmp_path, capsys):
    served(source).close()
    sqlite3.connect(source, isolation_level=None).execute("INSERT INTO bag VALUES('waiting')")
    assert main(["backup", str(tmp_path / "copy.db")]) == exits.FAILED
    assert "without a pause" in capsys.readouterr().err
    assert not (tmp_path / "copy.db").exists()


def test_an_existing_file_is_never_replaced(source, tmp_path):
    (tmp_path / "copy.db").write_text("mine")
    assert main(["backup", str(tmp_path / "copy.db")]) == exits.USAGE
    assert (tmp_path / "copy.db").read_text() == "mine"


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_the_copy_is_no_more_open_than_the_original(source, tmp_path, mode):
    replica = served(source)
    while replica.outbox.stale():
        replica.drain(1_800_000_000_000)
    replica.close()
    source.chmod(mode)
    before = os.umask(0o022)
    try:
        assert main(["backup", str(tmp_path / "copy.db")]) == exits.DONE
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == mode


def test_a_directory_that_is_missing_is_named(source, tmp_path, capsys):
    served(source).close()
    assert main(["backup", str(tmp_path / "nowhere" / "copy.db")]) == exits.FAILED
    assert "No such file or directory" in capsys.readouterr().err
