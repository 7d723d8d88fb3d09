"""A machine with a wrong clock: a real node whose clock is one hour ahead of the others'."""

from __future__ import annotations

import sys

import pytest

from tests.integration.machines import SQLITE, eventually

# Runs `mycomesh` with a wall clock that is one hour ahead while the file in its first argument exists.
SKEWED = """
import os, sys, time
right, flag = time.time_ns, sys.argv.pop(1)
time.time_ns = lambda: right() + (3_600_000_000_000 if os.path.exists(flag) else 0)
time.time = lambda: time.time_ns() / 1e9
from tools.__main__ import main
sys.exit(main())
"""
CREATE = "CREATE TABLE track(x, y); CREATE TABLE orders(id INTEGER PRIMARY KEY, state);"

pytestmark = pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)")


def joined(founder, one):
    code = founder.done("invite").strip()
    done = one.run("join", code, "--node-name", one.name, "--no-multicast", "--peer", founder.address)
    assert done.returncode == 0, done.stderr
    return one


def test_a_fast_clock_is_corrected_by_two_peers(machine):
    alpha, bravo, wrong = machine("alpha"), machine("bravo"), machine("wrong")
    alpha.done("init", "--name", "fleet", "--node-name", "alpha")
    alpha.up()
    joined(alpha, bravo).up("--port", "0", "--peer", alpha.address)
    flag = wrong.dir / "ahead"
    flag.touch()
    joined(alpha, wrong).program = [sys.executable, "-c", SKEWED, str(flag)]
    wrong.up()
    wrong.sql(CREATE)
    wrong.shows("SELECT count(*) FROM mycomesh_replicated WHERE name IN ('track', 'orders');", "2\n")
    wrong.sql("INSERT INTO track VALUES(1, 1); INSERT INTO orders VALUES(1, 'alone');")
    eventually(lambda: not wrong.status().get("pending", 1), "the writes have their stamps")
    assert wrong.terminate() == 0
    wrong.up("--port", "0", "--peer", alpha.address, "--peer", bravo.address)
    alpha.shows("SELECT * FROM track; SELECT * FROM orders;", "1|1\n1|alone\n")
    assert "[site.set_back]" in wrong.output()
    wrong.sql("INSERT INTO track VALUES(2, 2); UPDATE orders SET state = 'still ahead';")
    bravo.shows("SELECT * FROM track; SELECT * FROM orders;", "1|1\n2|2\n1|still ahead\n")
    alpha.sql("UPDATE orders SET state = 'later';")
    wrong.shows("SELECT * FROM orders;", "1|later\n")
    flag.unlink()  # the clock is set right
    wrong.sql("INSERT INTO track VALUES(3, 3);")
    for one in (alpha, bravo):
        one.shows("SELECT x FROM track ORDER BY x;", "1\n2\n3\n")
    eventually(lambda: alpha.run("verify").returncode == 0, lambda: alpha.run("verify").stderr)
