"""A machine whose clock is wrong: a real node, which reads an hour more than the others from its clock."""

from __future__ import annotations

import sys

import pytest

from tests.integration.machines import SQLITE, eventually

# The wall clock of one process: an hour ahead while the file that is named first is there.
SKEWED = """
import os, sys, time
right, mark = time.time_ns, sys.argv.pop(1)
time.time_ns = lambda: right() + (3_600_000_000_000 if os.path.exists(mark) else 0)
time.time = lambda: time.time_ns() / 1e9
from tools.__main__ import main
sys.exit(main())
"""
CREATE = "CREATE TABLE track(x, y); CREATE TABLE orders(id INTEGER PRIMARY KEY, state);"

pytestmark = pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)")


def joined(founder, one):
    code = founder.done("invite").strip()
    told = one.run("join", code, "--node-name", one.name, "--no-multicast", "--peer", founder.address)
    assert told.returncode == 0, told.stderr
    return one


def test_a_fast_clock_is_corrected_by_two_peers(machine):
    alpha, bravo, wrong = machine("alpha"), machine("bravo"), machine("wrong")
    alpha.done("init", "--name", "fleet", "--node-name", "alpha")
    alpha.up()
    joined(alpha, bravo).up("--port", "0", "--peer", alpha.address)
    mark = wrong.dir / "ahead"
    mark.touch()
    joined(alpha, wrong).program = [sys.executable, "-c", SKEWED, str(mark)]
    wrong.up()
    wrong.sql(CREATE)
    wrong.shows("SELECT count(*) FROM mycomesh_replicated WHERE name IN ('track', 'orders');", "2\n")
    wrong.sql("INSERT INTO track VALUES(1, 1); INSERT INTO orders VALUES(1, 'alone');")
    eventually(lambda: not wrong.status().get("pending", 1), "what was written has its stamps")
    assert wrong.terminate() == 0
    wrong.up("--port", "0", "--peer", alpha.address, "--peer", bravo.address)
    alpha.shows("SELECT * FROM track; SELECT * FROM orders;", "1|1\n1|alone\n")
    assert "[site.set_back]" in wrong.said()
    wrong.sql("INSERT INTO track VALUES(2, 2); UPDATE orders SET state = 'still ahead';")
    bravo.shows("SELECT * FROM track; SELECT * FROM orders;", "1|1\n2|2\n1|still ahead\n")
    alpha.sql("UPDATE orders SET state = 'later';")
    wrong.shows("SELECT * FROM orders;", "1|later\n")
    mark.unlink()  # somebody sets the clock
    wrong.sql("INSERT INTO track VALUES(3, 3);")
    for one in (alpha, bravo):
        one.shows("SELECT x FROM track ORDER BY x;", "1\n2\n3\n")
    assert alpha.run("verify").returncode == 0
