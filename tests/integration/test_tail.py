"""`mycomesh tail` and `mycomesh cursors` with real nodes: what is printed, where a cursor goes on, and what is refused."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time

import pytest

from mycomesh.tools.manual import MANUAL
from tests.integration.machines import ROOT, SQLITE, Machine, eventually
from tests.tools.test_manual import fault

pytestmark = pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)")

KILLS = max(5, round(5 * float(os.environ.get("MYCOMESH_TEST_SCALE", "1"))))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tail")
    first, second = (Machine(folder, name) for name in ("first", "second"))
    first.done("init", "--node-name", "first")
    first.up("--port", "0")
    code = first.done("invite").strip()
    second.done("join", code, "--no-multicast", "--peer", first.address, "--node-name", "second")
    second.up("--port", "0", "--peer", first.address)
    first.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE other(v)")
    second.shows("SELECT count(*) FROM t", "0\n")
    yield first, second
    for machine in (first, second):
        if machine.process is not None and machine.process.poll() is None:
            machine.terminate()


@contextlib.contextmanager
def running(machine, *words, stdout=subprocess.PIPE):
    """Run `tail` within the block, and kill it then."""
    with subprocess.Popen(machine.command("tail", *words), cwd=ROOT, stdout=stdout, text=True) as tail:
        try:
            yield tail
        finally:
            tail.kill()


def changes(text):
    return [json.loads(line) for line in text.splitlines()]


def test_rows_that_are_there_are_printed_once_for_programs(pair):
    first, _ = pair
    first.sql("DELETE FROM t; INSERT INTO t VALUES(1, 'a'), (2, x'00ff')")
    found = changes(first.done("tail", "t", "--once", "--json"))
    assert [(change["op"], change["who"], change["values"]) for change in found if change["op"] != "delete"] == [
        ("insert", "first", {"id": 1, "v": "a"}),
        ("insert", "first", {"id": 2, "v": {"base64": "AP8="}}),
    ]
    assert not any(fault(change, MANUAL["tail"].shape) for change in found)


def test_a_change_of_a_peer_is_printed(pair):
    first, second = pair
    second.sql("DELETE FROM t; INSERT INTO t VALUES(7, 'base')")
    first.shows("SELECT v FROM t", "base\n")
    with running(first, "t", "--from", "start") as tail:
        assert "second" in (line := tail.stdout.readline())
        assert "+ t 7" in line
        second.sql("UPDATE t SET v = 'ridge'; DELETE FROM t")
        second.sql("INSERT INTO t VALUES(8, 'x')")
        lines = [tail.stdout.readline() for _ in range(2)]
        assert any("- t 7" in line for line in lines)
        assert any('+ t 8  id=8 v="x"' in line for line in lines)
        second.sql("UPDATE t SET v = 'y' WHERE id = 8")
        assert '~ t 8  v="x" -> "y"' in tail.stdout.readline()


@pytest.mark.slow
def test_stock_client_reads_the_lag_of_a_reader(pair):
    first, _ = pair
    first.done("tail", "other", "--once", "--cursor", "slow")
    first.sql("INSERT INTO other VALUES(1), (2), (3)")
    lag = "SELECT behind, (julianday('now') - julianday(oldest_at)) * 86400 BETWEEN 0 AND 60 FROM mycomesh_readers"
    first.shows(f"{lag} WHERE cursor = 'slow'", "3|1\n")
    first.done("tail", "other", "--once", "--cursor", "slow")
    first.shows(f"{lag} WHERE cursor = 'slow'", "0|\n")
    first.done("cursors", "--drop", "slow")
    first.shows("SELECT count(*) FROM mycomesh_readers WHERE cursor = 'slow'", "0\n")


def test_a_cursor_goes_on_where_the_last_run_ended(pair):
    first, _ = pair
    first.sql("DELETE FROM t; INSERT INTO t VALUES(1, 'a')")
    assert "+ t 1" in first.done("tail", "t", "--once", "--cursor", "reports")
    assert first.done("tail", "t", "--once", "--cursor", "reports") == ""
    first.sql("UPDATE t SET v = 'b'")
    (change,) = changes(first.done("tail", "t", "--once", "--cursor", "reports", "--json"))
    assert (change["op"], change["columns"]) == ("update", ["v"])
    first.sql("INSERT INTO t VALUES(2, 'c')")
    (row,) = [each for each in json.loads(first.done("cursors", "--json")) if each["cursor"] == "reports"]
    assert (row["table"], row["behind"], row["idle"]) == ("t", 1, False)
    (reader,) = [each for each in first.status()["readers"] if each["cursor"] == "reports"]
    assert (reader["behind"], reader["behind_s"] >= 0) == (1, True)
    assert "reports" in first.done("status")
    refused = first.run("cursors", "--drop", "nobody")
    assert (refused.returncode, "no cursor 'nobody'" in refused.stderr) == (1, True)
    first.done("cursors", "--drop", "reports")
    assert "reports" not in first.done("cursors")


def test_a_condition_chooses_rows(pair):
    first, _ = pair
    first.sql("DELETE FROM t; INSERT INTO t VALUES(1, 10), (2, 20), (3, 30)")
    found = changes(first.done("tail", "t", "--once", "--json", "--where", "v >= 20 AND id < 3"))
    assert [change["row"] for change in found if change["op"] != "delete"] == ["2"]
    first.sql("DELETE FROM t; INSERT INTO t VALUES(4, x'00ff'), (5, CAST(x'ff' AS TEXT))")
    found = changes(first.done("tail", "t", "--once", "--json", "--where", "hex(v) IN ('00FF', 'FF')"))
    assert [change["row"] for change in found if change["op"] != "delete"] == ["4", "5"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("nowhere", "--once"), "no replicated table 'nowhere' in"),
        (("t", "--once", "--where", "nonsense("), "--where 'nonsense('"),
        (("t", "--once", "--where", "1; DROP TABLE t"), "--where takes one condition"),
        (("t", "--once", "--cursor", "x" * 200), "a cursor cannot be called"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(pair, words, text):
    first, _ = pair
    first.sql("INSERT OR IGNORE INTO t VALUES(1, 'a')")
    done = first.run("tail", *words)
    assert done.returncode == 1
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_cursor_in_use_is_refused(pair):
    first, _ = pair
    with running(first, "t", "--cursor", "alone"):
        eventually(lambda: '"alone"' in first.done("cursors", "--json"), "the cursor is there")
        done = first.run("tail", "t", "--once", "--cursor", "alone")
        assert done.returncode == 1
        assert "cursor 'alone' of t is in use by another reader" in done.stderr


def test_a_reader_that_is_killed_loses_nothing(pair, tmp_path):
    first, _ = pair
    first.sql("DELETE FROM other")
    seen = set()
    for number in range(KILLS):
        first.sql(f"INSERT INTO other VALUES('{number}a'), ('{number}b')")
        out = tmp_path / f"{number}.txt"
        with out.open("w") as file, running(first, "other", "--cursor", "killed", "--json", stdout=file):
            time.sleep(0.05 * (number % 6))  # before it reads, while it reads, and while it waits
            first.sql(f"INSERT INTO other VALUES('{number}c')")
            time.sleep(0.05 * (number % 5))
        lines = [line for line in out.read_text().splitlines(keepends=True) if line.endswith("\n")]
        seen |= {change["values"]["v"] for change in map(json.loads, lines) if change["values"]}

    def rest():
        done = first.run("tail", "other", "--cursor", "killed", "--once", "--json")
        if done.returncode == 0:
            seen.update(change["values"]["v"] for change in changes(done.stdout) if change["values"])
        return done.returncode == 0

    eventually(rest, "the cursor of the killed reader is free again")
    assert seen == {f"{number}{letter}" for number in range(KILLS) for letter in "abc"}
