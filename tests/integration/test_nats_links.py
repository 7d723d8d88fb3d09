"""Nodes that reach a NATS server and not each other: links over its subjects, sealed from end to end."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.machines import MYCOMESH, Machine, eventually
from tests.integration.netns import Lab
from tests.mesh.mailbox.servers import Nats
from tests.tools.bridges.brokers import certificate, program

pytestmark = pytest.mark.slow


@pytest.fixture
def apart(machine, joined, tmp_path):
    """Two members that serve and have no way to each other, and a server."""
    for name in ("alpha", "bravo"):
        shutil.copytree(joined / name, tmp_path / name)
    with Nats(tmp_path) as server:
        alpha, bravo = machine("alpha"), machine("bravo")
        for each in (alpha, bravo):
            each.up("--port", "0", "--peer", server.url())
        yield alpha, bravo, server


def linked(one):
    return [peer["address"] for peer in one.status().get("peers", ()) if peer["state"] == "linked"]


def rows(one):
    return one.sql("SELECT id, v FROM drones ORDER BY id")


def digest(one):
    return {table["name"]: table["digest"] for table in one.status()["tables"]}


def test_a_link_over_a_server_syncs_and_survives_it(apart):
    alpha, bravo, server = apart
    alpha.sql("CREATE TABLE drones(id TEXT PRIMARY KEY, v TEXT)")
    alpha.sql(
        "WITH n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 5000)"
        " INSERT INTO drones SELECT 'd' || x, 'known value ' || x FROM n"
    )
    server.listen("mycomesh-link.>")
    eventually(lambda: linked(alpha) and linked(bravo), "they are linked")
    assert all(address.startswith("nats%") for address in (*linked(alpha), *linked(bravo)))
    eventually(lambda: bravo.status()["tables"] and digest(alpha) == digest(bravo), "both are equal")
    assert rows(bravo) == rows(alpha)
    bravo.sql("UPDATE drones SET v = 'changed' WHERE id = 'd7'")
    eventually(lambda: "d7|changed" in rows(alpha), "an update has come back")
    server.kill()
    eventually(lambda: not linked(alpha) and not linked(bravo), "the links have ended")
    alpha.sql("DELETE FROM drones WHERE id = 'd9'")
    bravo.sql("INSERT INTO drones VALUES('new', 'of bravo')")
    server.start()
    eventually(lambda: linked(alpha) and linked(bravo), "they are linked again")
    eventually(lambda: "new|of bravo" in rows(alpha) and "d9|" not in rows(bravo), "both have both")
    assert rows(bravo) == rows(alpha)
    assert len(server.seen) > 10_000
    for what in (b"known value", b"drones", b"changed", b"alpha"):
        assert what not in server.seen


def test_a_direct_link_replaces_one_over_a_server(apart):
    alpha, bravo, server = apart
    eventually(lambda: linked(alpha) and linked(bravo), "they are linked")
    assert linked(alpha)[0].startswith("nats%")
    bravo.terminate()
    bravo.up("--port", "0", "--peer", server.url(), "--peer", alpha.address)
    eventually(lambda: linked(bravo) == [alpha.address], "the link is direct")
    eventually(lambda: len(linked(alpha)) == 1, "alpha has one link too")


def test_a_server_that_refuses_is_told_once(machine, joined, tmp_path):
    shutil.copytree(joined / "alpha", tmp_path / "alpha")
    alpha, login = machine("alpha"), tmp_path / "login.toml"
    login.write_text('user = "alpha"\npassword = "wrong"\n')
    login.chmod(0o600)
    with Nats(tmp_path, lines={"alone": 'authorization { user: alpha, password: "right" }'}) as server:
        alpha.up("--port", "0", "--peer", server.url(), "--peer-credentials", str(login))
        eventually(lambda: "refuses the name or the password" in alpha.output(), "the refusal is in the log")
        assert alpha.output().count("no links over") == 1
        alpha.terminate()
        login.chmod(0o644)
        done = alpha.run("up", str(alpha.file), "--peer", server.url(), "--peer-credentials", str(login))
        assert done.returncode == 2
        assert "chmod 600" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_code_works_over_a_server(machine, tmp_path):
    with Nats(tmp_path) as server:
        founder, newcomer = machine("founder"), machine("newcomer")
        founder.done("init", "--name", "fleet", "--node-name", "founder")
        founder.up("--port", "0", "--peer", server.url())
        code = founder.done("invite").strip()
        newcomer.done("join", *code.split(), "--node-name", "newcomer", "--no-multicast", "--peer", server.url())
        newcomer.up("--port", "0", "--peer", server.url())
        eventually(lambda: linked(newcomer), "the newcomer is linked")


@pytest.mark.netns
def test_two_networks_meet_only_at_a_server(joined, tmp_path):
    """The namespaces of the nodes have one cable each, to the server's; it forwards nothing."""
    with Lab() as lab:
        hosts = {name: lab.host(name, switch=None) for name in ("alpha", "bravo", "hub")}
        machines = []
        for number, name in enumerate(("alpha", "bravo"), 1):
            lab.cable(name, "hub")
            shutil.copytree(joined / name, tmp_path / name)
            machines.append(Machine(tmp_path, name, hosts[name], ("--peer", f"nats://10.98.{number}.2:4222")))
        alpha, bravo = machines
        server = program("nats-server", Path(sys.executable).parent / "nats-server")
        process = lab.popen("hub", server, "-a", "0.0.0.0", "-p", "4222", stderr=subprocess.DEVNULL)
        try:
            alpha.up("--port", "7447")
            bravo.up("--port", "7447")
            assert lab.run("alpha", "ping", "-c", "1", "-W", "1", "10.98.2.1").returncode != 0
            alpha.sql("CREATE TABLE drones(id TEXT PRIMARY KEY, v TEXT); INSERT INTO drones VALUES('d1', 'of alpha')")
            eventually(lambda: bravo.status()["tables"] and digest(alpha) == digest(bravo), "both are equal")
            process.kill()
            process.wait()
            eventually(lambda: not linked(alpha), "the link has ended")
            bravo.sql("INSERT INTO drones VALUES('d2', 'of bravo')")
            lab.popen("hub", server, "-a", "0.0.0.0", "-p", "4222", stderr=subprocess.DEVNULL)
            eventually(lambda: "d2|of bravo" in rows(alpha), "the write came after the server's return")
            assert rows(alpha) == rows(bravo)
            eventually(lambda: alpha.run("verify").returncode == 0, lambda: alpha.run("verify").stderr)
            found = json.loads(alpha.done("verify", "--json"))
            assert found["converged"]
            assert [each["equal"] for each in found["peers"]] == [True]
        finally:
            for each in machines:
                each.run("down")
                each.process.wait(60)


def test_links_and_mailboxes_use_tls_with_a_login(machine, joined, tmp_path):
    """Each node is an interpreter of its own: one that serves leaves TLS out of its memory where it can (tools/lean.py)."""
    cert, key = certificate(tmp_path)
    (login := tmp_path / "nats.toml").write_text(f'user = "fleet"\npassword = "s3cret"\nca = "{cert}"\n')
    login.chmod(0o600)
    lines = f'tls {{ cert_file: "{cert}", key_file: "{key}" }}\nauthorization {{ user: fleet, password: s3cret }}'
    with Nats(tmp_path, lines={"alone": lines}) as server:
        made = []
        for name in ("alpha", "bravo"):
            shutil.copytree(joined / name, tmp_path / name)
            made.append(machine(name))
            made[-1].program = list(MYCOMESH)
            settings = f'[base]\nmailbox = "{server.url()}"\ncredentials = "{login}"\n'
            (made[-1].home.config / "config.toml").write_text(settings)
            made[-1].up("--port", "0", "--peer", server.url(), "--peer-credentials", str(login))
        alpha, bravo = made
        eventually(lambda: linked(alpha) and linked(bravo), alpha.output)
        assert linked(alpha)[0].startswith("nats%")
        for each in made:
            eventually(lambda each=each: each.status()["mailboxes"][0]["state"] == "running", each.output)
        alpha.sql("CREATE TABLE drones(id TEXT PRIMARY KEY, v TEXT); INSERT INTO drones VALUES('d1', 'x')")
        bravo.shows("SELECT v FROM drones", "x\n")
        done = alpha.run("mailbox", "test", server.url(), "--credentials", str(login))
        assert (done.returncode, done.stderr) == (0, "")
