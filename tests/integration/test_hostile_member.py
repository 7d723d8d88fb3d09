"""A dishonest member against real processes: what it writes into its own file, by plain SQL, stops and fills no other node."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from tests.integration.machines import SQLITE, eventually

pytestmark = pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)")

HOSTILE = "x\x1b]0;owned\x07\x9b31m\u202e"
POLICIES = 2_500
RSS_MB_MAX = 20


def rss_mb(node):
    lines = Path(f"/proc/{node.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def write(node, *statements):
    """Write as a program of the member does."""
    with contextlib.closing(sqlite3.connect(node.file, timeout=30)) as db, db:
        for text, *values in statements:
            db.execute(text, *values)


def rows(node, text):
    with contextlib.closing(sqlite3.connect(f"file:{node.file}?mode=ro", uri=True, timeout=30)) as db:
        return db.execute(text).fetchall()


def printable(text):
    return all(char.isprintable() for char in text.replace("\n", ""))


def test_a_member_that_writes_anything_stops_nobody(pair):
    alpha, bravo = pair
    alpha.sql("CREATE TABLE honest(id INTEGER PRIMARY KEY, v); INSERT INTO honest VALUES(1, 'first');")
    bravo.shows("SELECT v FROM honest;", "first\n")
    before = rss_mb(alpha)
    stated = [(f'policy:["made up {number}"]',) for number in range(POLICIES)]
    write(
        bravo,
        ("CREATE TABLE mycomesh_models(x, name)",),
        ("CREATE TABLE mycomesh_flows(section BLOB, other)",),
        (f'CREATE TABLE "{HOSTILE}"(id INTEGER PRIMARY KEY, "{HOSTILE}")',),
    )
    for name in ("mycomesh_models", "mycomesh_flows", HOSTILE):
        listing = f"SELECT count(*) FROM sqlite_schema WHERE name = '{name}'"
        eventually(lambda listing=listing: rows(alpha, listing) == [(1,)], f"{name!r} is at alpha")
    write(
        bravo,
        (f'INSERT INTO "{HOSTILE}" VALUES(1, ?)', (HOSTILE,)),
        ("INSERT INTO mycomesh_flows VALUES(?, ?)", (b"\x00" * 4_000_000, 7)),
        *(("INSERT INTO mycomesh_schema VALUES(?, 'policy', 'keep-both')", each) for each in stated),
        *(("INSERT INTO mycomesh_pending_1(what, at, k0) VALUES(1, NULL, ?)", each) for each in stated),
    )
    eventually(lambda: rows(alpha, f'SELECT count(*) FROM "{HOSTILE}"') == [(1,)], "the hostile row is at alpha")
    decided = "SELECT count(*) FROM mycomesh_schema WHERE kind = 'policy'"
    eventually(lambda: rows(alpha, decided) == [(POLICIES,)], "the policies are at alpha")
    for words in (
        ["status"],
        ["status", "--json"],
        ["tables"],
        ["members"],
        ["verify"],
        ["log", "--past", "9", "--limit", "1"],
    ):
        done = alpha.run(*words)
        assert printable(done.stdout + done.stderr), words
    refused = alpha.run("model", "list")
    assert refused.returncode == 1
    assert "mycomesh_models has other columns than a table of models" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    alpha.sql("INSERT INTO honest VALUES(2, 'second');")
    bravo.shows("SELECT v FROM honest WHERE id = 2;", "second\n")
    eventually(lambda: rss_mb(alpha) < before + RSS_MB_MAX, lambda: f"{before:.1f} MB, then {rss_mb(alpha):.1f} MB")
    assert alpha.process.poll() is None
    assert "Traceback" not in alpha.output()
