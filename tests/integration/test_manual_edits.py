"""Manual edits of a live file with the stock shell: the node recovers from them, or ends with one line."""

from __future__ import annotations

import subprocess

import pytest

from tests.integration.machines import SQLITE, WAIT_S, eventually

pytestmark = pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)")

DDL = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE bag(v);"
OURS = "SELECT type || ' ' || name FROM sqlite_schema WHERE name GLOB 'mycomesh_*' AND sql IS NOT NULL ORDER BY type, name;"
NO_MORE = ("changes", "held", "meta", "replicated", "runs", "schema", "sites")


@pytest.fixture
def filled(pair):
    alpha, bravo = pair
    alpha.sql(
        f"{DDL} INSERT INTO t VALUES(1, 'a'); INSERT INTO bag VALUES('a'), ('b'), ('c'); DELETE FROM bag WHERE v = 'a';"
    )
    bravo.shows("SELECT count(*) FROM bag;", "2\n")
    return pair


def test_a_node_recreates_internal_objects_that_are_dropped(filled):
    alpha, bravo = filled
    number = 10
    for what in alpha.sql(OURS).splitlines():
        kind, name = what.split()
        if kind == "table" and name.split("_")[1] in NO_MORE:
            continue
        number += 1
        assert alpha.sql(f"DROP {what};") == ""
        # Retries like an application does; a failure message contains the reason.
        eventually(
            lambda number=number: alpha.sql(f"INSERT OR IGNORE INTO t VALUES({number}, 'x');") == "",
            lambda what=what: f"writes go on after DROP {what}; {alpha.output()}",
        )
        eventually(lambda number=number: alpha.sql(f"INSERT INTO bag VALUES({number});") == "", f"and in bag: {what}")
        bravo.shows(f"SELECT count(*) FROM t WHERE id = {number};", "1\n")
        bravo.shows(f"SELECT count(*) FROM bag WHERE v = {number};", "1\n")
        bravo.sql(f"DELETE FROM bag WHERE v = {number};")
        alpha.shows(f"SELECT count(*) FROM bag WHERE v = {number};", "0\n")
        if "pending" in name:
            assert f"{name} had been dropped or altered: recreated" in alpha.output()
    assert "Traceback" not in alpha.output() + bravo.output()
    assert alpha.sql("SELECT * FROM t ORDER BY id;") == bravo.sql("SELECT * FROM t ORDER BY id;")
    assert alpha.sql("SELECT v FROM bag ORDER BY v;") == bravo.sql("SELECT v FROM bag ORDER BY v;") == "b\nc\n"
    assert alpha.terminate() == 0


@pytest.mark.parametrize("name", ["mycomesh_changes_3", "mycomesh_meta", "mycomesh_schema"])
def test_a_node_that_cannot_recover_ends_with_one_line(filled, name):
    alpha, bravo = filled
    assert alpha.sql(f"DROP TABLE {name}; INSERT INTO bag VALUES('after');") == ""
    assert alpha.process.wait(WAIT_S) == 1
    alpha.process = None
    assert "Traceback" not in alpha.output()
    last = alpha.output().splitlines()[-1]
    assert f"{name} was dropped, emptied or altered, and cannot be made again; put a backup" in last
    again = alpha.run("up", str(alpha.file), "--no-multicast", "--port", "0")
    assert again.returncode == 1
    assert len(again.stderr.splitlines()) == 1
    assert alpha.sql("INSERT INTO bag VALUES('still written'); SELECT v FROM bag;") == "b\nc\nafter\nstill written\n"
    assert bravo.sql("SELECT v FROM bag;") == "b\nc\n"
    alpha.file.rename(alpha.dir / "away.db")
    alpha.up("--port", "0", "--peer", bravo.address)
    alpha.shows("SELECT v FROM bag;", "b\nc\n")


@pytest.mark.parametrize("running", [False, True], ids=["stopped", "running"])
def test_a_dump_loaded_into_another_file_keeps_its_history(filled, running):
    alpha, bravo = filled
    if not running:
        alpha.terminate()
    copy = alpha.dir / "copy.db"
    dump = subprocess.run([SQLITE, str(alpha.file), ".dump"], capture_output=True, check=True, timeout=WAIT_S).stdout
    subprocess.run([SQLITE, str(copy)], input=dump, check=True, timeout=WAIT_S)
    if running:
        alpha.terminate()
    bravo.sql("DELETE FROM bag WHERE v = 'b'; INSERT INTO bag VALUES('theirs');")
    alpha.file = copy
    alpha.sql("INSERT INTO bag VALUES('ours');")
    alpha.up("--port", "0", "--peer", bravo.address)
    for one in filled:
        one.shows("SELECT v FROM bag ORDER BY v;", "c\nours\ntheirs\n")
    assert "Traceback" not in alpha.output() + bravo.output()
    verified = eventually(lambda: alpha.run("verify").returncode == 0, lambda: f"verify says equal; {alpha.output()}")
    assert verified
