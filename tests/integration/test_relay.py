"""A relay in the middle of a line of five hosts, where only neighbours are connected: real processes, stock sqlite3."""

from __future__ import annotations

import itertools

import pytest

from tests.integration.machines import SQLITE, Machine, eventually
from tests.integration.netns import Lab, needs_namespaces

pytestmark = [
    needs_namespaces,
    pytest.mark.netns,
    pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)"),
]

NAMES = ("alpha", "bravo", "mast", "delta", "echo")
WRITTEN = "SELECT group_concat(x) FROM (SELECT x FROM notes ORDER BY id);"


def linked(one):
    return sorted(peer["name"] for peer in one.status().get("peers", ()) if peer["state"] == "linked")


def test_a_line_with_a_relay_splits_and_heals(tmp_path):
    with Lab() as lab:
        line = [Machine(tmp_path, name, lab.host(name, switch=None), net=()) for name in NAMES]
        for left, right in itertools.pairwise(NAMES):
            lab.cable(left, right)
        alpha, bravo, mast, delta, echo = line
        try:
            alpha.done("init", "--name", "fleet", "--node-name", "alpha")
            for one in line[1:]:
                ticket = one.dir / "ticket"
                role = ("--role", "relay") if one is mast else ()
                alpha.done("ticket", one.name, *role, "-o", str(ticket))
                one.done("join", str(ticket))
            for one in line:
                one.launch()
            eventually(lambda: linked(mast) == ["bravo", "delta"], "the relay has both its neighbours")
            eventually(lambda: linked(bravo) == ["alpha", "delta", "mast"], "bravo and delta are linked through it")
            assert linked(alpha) == ["bravo"], "alpha has no other link"

            alpha.sql("CREATE TABLE notes(id INTEGER PRIMARY KEY, x); INSERT INTO notes VALUES(1, 'west');")
            echo.shows(WRITTEN, "west\n")
            echo.sql("INSERT INTO notes VALUES(2, 'east');")
            alpha.shows(WRITTEN, "west,east\n")

            lab.cable_cut("mast", "delta")
            eventually(lambda: linked(delta) == ["echo"], "the cut was noticed, and the circuit is gone")
            alpha.sql("INSERT INTO notes VALUES(3, 'west alone'); UPDATE notes SET x = 'west now' WHERE id = 1;")
            echo.sql("INSERT INTO notes VALUES(4, 'east alone'); DELETE FROM notes WHERE id = 2;")
            bravo.shows(WRITTEN, "west now,east,west alone\n")
            delta.shows(WRITTEN, "west,east alone\n")
            eventually(lambda: linked(bravo) == ["alpha", "mast"], "bravo has no circuit either")

            lab.cable_repaired("mast", "delta")
            for one in (alpha, bravo, delta, echo):
                one.shows(WRITTEN, "west now,west alone,east alone\n")
            assert mast.sql("SELECT count(*) FROM sqlite_master WHERE name = 'notes';") == "0\n"
        finally:
            for one in line:
                if one.process is not None and one.process.poll() is None:
                    one.kill()
