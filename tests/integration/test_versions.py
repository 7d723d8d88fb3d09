"""Two versions of the protocol between real processes; config.toml limits which versions each one speaks."""

from __future__ import annotations

import json

import pytest

from tests.integration.machines import SQLITE, eventually

pytestmark = pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)")


def speak(one, oldest, newest):
    """Configure the protocol versions that a machine speaks, because there is only one program to run."""
    one.home.config.mkdir(parents=True, exist_ok=True)
    (one.home.config / "config.toml").write_text(f"protocol = [{oldest}, {newest}]\n")


def peers(one):
    return {peer["name"]: peer for peer in json.loads(one.done("peers", "--json"))}


def linked(one):
    return {peer["name"]: peer["protocol"] for peer in one.status().get("peers", ()) if peer["state"] == "linked"}


def refusals(one):
    return [line for line in one.output().splitlines() if " speaks protocol " in line]


def test_a_mesh_is_upgraded_node_by_node(machine):
    alpha, bravo = machine("alpha"), machine("bravo")
    alpha.done("init", "--node-name", "alpha")
    ticket = alpha.dir / "bravo.ticket"
    alpha.done("ticket", "bravo", "-o", str(ticket))
    bravo.done("join", str(ticket))

    speak(alpha, 1, 1)
    alpha.up()
    bravo.up("--port", "0", "--peer", alpha.address)  # the upgraded node speaks both versions
    eventually(lambda: linked(alpha) == {"bravo": "1"} and linked(bravo) == {"alpha": "1"}, "linked by version 1")
    alpha.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, x); INSERT INTO t VALUES(1, 'one');")
    bravo.shows("SELECT x FROM t;", "one\n")
    bravo.terminate()

    speak(bravo, 2, 2)
    bravo.up("--port", "0", "--peer", alpha.address)
    eventually(lambda: refusals(alpha) and refusals(bravo), "both sides say why they do not link")
    expected = "speaks protocol 2, this node 1: upgrade mycomesh on this node"
    assert [expected in line for line in refusals(alpha)] == [True]
    expected = "speaks protocol 1, this node 2: upgrade mycomesh on alpha"
    assert [expected in line for line in refusals(bravo)] == [True]
    assert (peers(bravo)["alpha"]["state"], peers(bravo)["alpha"]["protocol"]) == ("down", "1")
    assert "speaks only protocol 2" in alpha.done("peers")
    bravo.sql("INSERT INTO t VALUES(2, 'written meanwhile');")
    alpha.terminate()

    speak(alpha, 1, 2)
    alpha.up("--port", "0", "--peer", bravo.address)
    eventually(lambda: linked(alpha) == {"bravo": "2"} and linked(bravo) == {"alpha": "2"}, "linked by version 2")
    alpha.shows("SELECT x FROM t WHERE id = 2;", "written meanwhile\n")
    eventually(lambda: "caught up with bravo" in alpha.output(), "the log shows the peer's name, not its id")


def test_an_unsupported_protocol_range_is_refused_in_one_line(machine):
    alpha = machine("alpha")
    alpha.done("init", "--node-name", "alpha")
    speak(alpha, 2, 3)
    refused = alpha.run("up", str(alpha.file), "--no-multicast", "--port", "0")
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert "config.toml" in line
    assert "protocol 2 to 3 is not supported; this mycomesh speaks 1 to 2" in line
