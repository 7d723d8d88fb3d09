"""Flows as processes of real nodes: results over kills, splits, mistakes and functions that fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

from tests.integration.machines import SQLITE, Machine, eventually

pytestmark = pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)")

LOW = """
[flow.low]
on = "SELECT * FROM drones WHERE battery < 20"
run = "sql: SELECT id AS drone, 'low at ' || battery AS what FROM new"
into = "alerts"
"""
TABLES = (
    "CREATE TABLE drones(id TEXT PRIMARY KEY, battery INTEGER);"
    "CREATE TABLE alerts(key TEXT PRIMARY KEY, drone TEXT, what TEXT)"
)


@pytest.fixture
def machine(tmp_path):
    """Return a function that starts a machine with the given sections in its config.toml."""
    machine = Machine(tmp_path, "alpha")
    machine.done("init", "--node-name", "alpha")

    def start(config, sql=TABLES):
        machine.home.config_file.write_text(config)
        machine.home.config_file.chmod(0o600)
        if sql:
            machine.sql(sql)
        return machine.up("--port", "0")

    yield start
    if machine.process is not None and machine.process.poll() is None:
        machine.terminate()


def child(machine, name="low"):
    (found,) = [each for each in machine.status().get("children", ()) if each["name"] == name] or [{}]
    return found


def is_in(state, machine, name="low"):
    return lambda: child(machine, name).get("state") == state


def test_rows_become_results(machine):
    alpha = machine(LOW)
    eventually(is_in("running", alpha), "the flow runs")
    alpha.sql("INSERT INTO drones VALUES('d1', 10), ('d2', 90)")
    alpha.shows("SELECT drone, what FROM alerts", "d1|low at 10\n")
    alpha.sql("UPDATE drones SET battery = 15 WHERE id = 'd2'")
    alpha.shows("SELECT drone, what FROM alerts ORDER BY drone", "d1|low at 10\nd2|low at 15\n")
    assert "running" in alpha.done("flow", "status")
    (listed,) = json.loads(alpha.done("flow", "list", "--json"))
    assert (listed["on"], listed["into"], listed["where"]) == ("drones", "alerts", "here")
    (first, _) = json.loads(alpha.done("flow", "test", "low", "--json"))
    assert first["results"][0]["what"] == "low at 15"
    alpha.shows("SELECT count(*) FROM alerts", "2\n")


def test_why_leads_back_over_two_flows(machine):
    second = '[flow.pages]\non = "alerts"\nrun = "sql: SELECT what AS text FROM new"\ninto = "pages"\n'
    alpha = machine(LOW + second, f"{TABLES}; CREATE TABLE pages(id INTEGER PRIMARY KEY, text TEXT)")
    eventually(is_in("running", alpha), "it runs")
    eventually(is_in("running", alpha, "pages"), "it runs")
    alpha.sql("INSERT INTO drones VALUES('d0', 90), ('d1', 10)")
    alpha.shows("SELECT text FROM pages", "low at 10\n")
    key = alpha.sql("SELECT id FROM pages").strip()
    eventually(lambda: "pages" in alpha.run("why", "pages", key).stdout, "it is in the log")
    steps = json.loads(alpha.done("why", "pages", key, "--json"))["made_by"]
    assert [(step["flow"], step["table"], step["who"]) for step in steps] == [
        ("pages", "alerts", "alpha"),
        ("low", "drones", "alpha"),
    ]
    assert steps[1]["values"] == {"id": "d1", "battery": 10}
    assert "made by flow low" in alpha.done("why", "pages", key)
    assert json.loads(alpha.done("why", "drones", "d1", "--json"))["made_by"] == []


def test_a_flow_waits_for_its_tables(machine):
    alpha = machine(LOW, "")
    eventually(is_in("waiting", alpha), "it waits")
    assert child(alpha)["text"] == "there is no table drones and no table alerts yet"
    drones, alerts = TABLES.split(";")
    alpha.sql(drones)
    eventually(lambda: child(alpha)["text"] == "there is no table alerts yet", "it says which")
    alpha.done("flow", "pause", "low")
    alpha.sql(f"{alerts}; INSERT INTO drones VALUES('d1', 10)")
    alpha.done("flow", "resume", "low")
    alpha.shows("SELECT drone FROM alerts", "d1\n")


def test_rows_from_before_count_only_from_the_start(machine):
    alpha = machine(
        LOW + LOW.replace("flow.low", "flow.all") + 'from = "start"\n',
        f"{TABLES}; INSERT INTO drones VALUES('d1', 10)",
    )
    eventually(is_in("running", alpha), "it runs")
    eventually(is_in("running", alpha, "all"), "it runs")
    alpha.sql("INSERT INTO drones VALUES('d2', 11)")
    alpha.shows("SELECT drone, count(*) FROM alerts GROUP BY drone ORDER BY drone", "d1|1\nd2|2\n")


def test_kills_of_flow_and_node_repeat_nothing(machine):
    config = '[flow.low]\non = "drones"\nrun = "sql: INSERT INTO alerts(drone) SELECT id FROM new"\n'
    tables = "CREATE TABLE drones(id TEXT PRIMARY KEY); CREATE TABLE alerts(id INTEGER PRIMARY KEY, drone TEXT)"
    alpha = machine(config, tables)
    for turn in range(4):
        eventually(is_in("running", alpha), "the flow runs")
        alpha.sql(
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)"
            f" INSERT INTO drones SELECT '{turn}-' || i FROM n"
        )
        if turn % 2:
            alpha.kill()
            alpha.up("--port", "0")
        else:
            os.kill(child(alpha)["pid"], signal.SIGKILL)
    alpha.shows("SELECT count(*), count(DISTINCT drone) FROM alerts", "8000|8000\n")


@pytest.mark.slow
def test_two_nodes_write_the_same_results(machine, tmp_path):
    everywhere = LOW.replace("flow.low", "flow.all").replace('"alerts"', '"shared"') + 'where = "everywhere"\n'
    alpha = machine(LOW + everywhere, f"{TABLES}; CREATE TABLE shared(key TEXT PRIMARY KEY, drone TEXT, what TEXT)")
    bravo = Machine(tmp_path, "bravo")
    bravo.done("join", alpha.done("invite").strip(), "--no-multicast", "--peer", alpha.address)
    bravo.home.config_file.write_text(LOW + everywhere)
    bravo.home.config_file.chmod(0o600)
    bravo.up("--port", "0", "--peer", alpha.address)
    for name in ("low", "all"):  # each begins with the rows that are written after its first start
        eventually(is_in("running", bravo, name), f"{name} runs there too")
    alpha.sql("INSERT INTO drones VALUES('a', 1)")
    bravo.shows("SELECT drone FROM alerts", "a\n")
    alpha.kill()
    bravo.sql("INSERT INTO drones VALUES('b', 2)")
    bravo.shows("SELECT count(*) FROM shared", "2\n")
    bravo.terminate()
    alpha.up("--port", "0")
    alpha.sql("INSERT INTO drones VALUES('c', 3)")
    alpha.shows("SELECT count(*) FROM shared", "2\n")
    bravo.up("--port", "0", "--peer", alpha.address)
    try:
        for each in (alpha, bravo):
            for table in ("alerts", "shared"):
                each.shows(f"SELECT drone, count(*) FROM {table} GROUP BY drone ORDER BY drone", "a|1\nb|1\nc|1\n")
            eventually(
                lambda each=each: not any(reader["behind"] for reader in each.status()["readers"]), "all is taken in"
            )
        for each in (alpha, bravo):
            for table in ("alerts", "shared"):
                assert each.sql(f"SELECT count(*) FROM {table}") == "3\n"
    finally:
        bravo.terminate()


@pytest.mark.slow
def test_kills_of_workers_lose_and_repeat_nothing(machine, tmp_path):
    (tmp_path / "alpha" / "home" / "crew.py").write_text("def seen(row):\n    return {'drone': row['id']}\n")
    tables = "CREATE TABLE drones(id TEXT PRIMARY KEY); CREATE TABLE alerts(id INTEGER PRIMARY KEY, drone TEXT)"
    alpha = machine('[flow.low]\non = "drones"\nrun = "python:crew:seen"\ninto = "alerts"\n', tables)
    for turn in range(6):
        eventually(is_in("running", alpha), "the flow runs")
        alpha.sql(
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)"
            f" INSERT INTO drones SELECT '{turn}-' || i FROM n"
        )
        flow = child(alpha)["pid"]
        workers = eventually(lambda flow=flow: processes_of(flow), "a worker runs")
        if turn % 3 == 2:
            alpha.kill()
            alpha.up("--port", "0")
        else:
            os.kill(workers[0] if turn % 3 else flow, signal.SIGKILL)
        eventually(lambda pids=workers, turn=turn: turn % 3 == 1 or not any(map(is_alive, pids)), "no worker is left")
    alpha.shows("SELECT count(*), count(DISTINCT drone) FROM alerts", "18000|18000\n")
    assert json.loads(alpha.done("dead", "--json")) == []


def processes_of(parent):
    found = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=False).stdout
    return [int(pid) for pid in found.split()]


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_failing_rows_stop_their_flow_alone(machine):
    alpha = machine(
        LOW
        + '[flow.bad]\non = "drones"\n'
        + 'run = "sql: INSERT INTO notes SELECT id, abs(-9223372036854775807 - (battery > 90)) FROM new"\n'
        + '[flow.wrong]\non = "drones"\nrun = "sql: INSERT INTO notes SELECT volt FROM new"\n'
        + '[flow.loop]\non = "alerts"\nrun = "sql: INSERT INTO drones SELECT drone, 1 FROM new"\n',
        f"{TABLES}; CREATE TABLE notes(id TEXT PRIMARY KEY, value INTEGER)",
    )
    eventually(is_in("refused", alpha, "wrong"), "its SQL is wrong")
    assert "no such column: volt" in child(alpha, "wrong")["text"]
    eventually(is_in("refused", alpha, "loop"), "it closes a cycle")
    assert "comes back to alerts, by loop -> low" in child(alpha, "loop")["text"]
    assert child(alpha)["state"] != "refused"
    eventually(is_in("running", alpha, "bad"), "it runs")
    alpha.sql("INSERT INTO drones VALUES('d1', 10), ('d2', 95)")
    eventually(lambda: len(json.loads(alpha.done("dead", "--json"))) == 1, "one is a dead letter")
    (letter,) = json.loads(alpha.done("dead", "--json"))
    assert (letter["row"], letter["why"]) == ("d2", "integer overflow")
    alpha.shows("SELECT id FROM notes", "d1\n")
    alpha.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)"
        " INSERT INTO drones SELECT 'x' || i, 99 FROM n"
    )
    eventually(is_in("stopped", alpha, "bad"), "it has stopped")
    assert len(json.loads(alpha.done("dead", "--json"))) == 20
    assert child(alpha)["state"] == "running"


def test_flows_come_and_go_in_a_running_node(machine):
    alpha = machine("")
    said = alpha.done(
        "flow", "add", "low", "--on", "drones", "--run", "sql: SELECT id AS drone FROM new", "--into", "alerts"
    )
    assert "the node runs it" in said
    alpha.sql("INSERT INTO drones VALUES('d1', 10)")
    eventually(is_in("running", alpha), "it runs at once, and takes in what was written before its process began")
    alpha.shows("SELECT drone FROM alerts", "d1\n")
    alpha.done("flow", "pause", "low")
    assert child(alpha)["state"] == "paused"
    assert "it has ended" in alpha.done("flow", "remove", "low")
    assert child(alpha) == {}
    assert alpha.sql("SELECT count(*) FROM mycomesh_cursors; SELECT count(*) FROM mycomesh_flow_states") == "0\n0\n"
    assert alpha.sql("SELECT drone FROM alerts") == "d1\n", "results stay"
    alpha.home.config_file.write_text('[flow.low]\non = "drones"\nrun = "nothing"\n')
    alpha.done("flow", "remove", "low")
    assert "no flow of that name is shared" in alpha.run("flow", "remove", "low").stderr
    alpha.home.config_file.write_text(LOW)
    alpha.done("flow", "resume", "low")
    eventually(is_in("running", alpha), "a section written by hand is found")
    alpha.sql("INSERT INTO drones VALUES('d2', 10)")
    alpha.shows("SELECT what FROM alerts WHERE drone = 'd2'", "low at 10\n")


def test_a_dead_letter_is_tried_again_when_asked(machine):
    alpha = machine(
        '[flow.low]\non = "drones"\nrun = "sql: INSERT INTO alerts SELECT id, id, abs(value) FROM new, fix"\n',
        f"{TABLES}; CREATE TABLE fix(value INTEGER); INSERT INTO fix VALUES(-9223372036854775808)",
    )
    eventually(is_in("running", alpha), "it runs")
    alpha.sql("INSERT INTO drones VALUES('d1', 10)")
    eventually(lambda: json.loads(alpha.done("dead", "--json")), "it is a dead letter")
    alpha.sql("UPDATE fix SET value = 7")
    (letter,) = json.loads(alpha.done("dead", "--json"))
    alpha.done("dead", "--retry", str(letter["number"]))
    alpha.shows("SELECT what FROM alerts", "7\n")
    eventually(lambda: json.loads(alpha.done("dead", "--json")) == [], "it is done with")


@pytest.mark.slow
def test_a_shared_flow_runs_where_it_is_accepted(machine, tmp_path):
    alpha = machine("")
    bravo = Machine(tmp_path, "bravo")
    bravo.done("join", alpha.done("invite").strip(), "--no-multicast", "--peer", alpha.address)
    bravo.home.config_file.write_text('[flows]\naccept = ["alpha"]\n')
    bravo.home.config_file.chmod(0o600)
    bravo.up("--port", "0", "--peer", alpha.address)
    share = ("flow", "add", "low", "--share", "--on", "drones", "--into", "alerts", "--run")
    try:
        assert "python: runs only from" in alpha.run(*share, "python: a:b").stderr
        alpha.done(*share, "sql: SELECT id AS drone FROM new")
        eventually(is_in("running", bravo), "it runs there")
        back = ("flow", "add", "back", "--share", "--on", "alerts", "--into", "drones")
        assert (
            "comes back to alerts, by back -> low"
            in alpha.run(*back, "--run", "sql: SELECT drone AS id FROM new").stderr
        )
        assert child(alpha) == {}, "nobody has asked for it here"
        (listed,) = json.loads(bravo.done("flow", "list", "--json"))
        assert (listed["name"], listed["author"]) == ("low", "alpha")
        bravo.sql("INSERT INTO drones VALUES('d1', 10)")
        bravo.shows("SELECT drone FROM alerts", "d1\n")
        alpha.done(*share, "sql: SELECT id AS drone, 'again' AS what FROM new")
        eventually(lambda: "again" in bravo.done("flow", "list"), "the other version runs")
        eventually(is_in("running", bravo), "it runs there")
        bravo.sql("INSERT INTO drones VALUES('d2', 10)")
        bravo.shows("SELECT what FROM alerts WHERE drone = 'd2'", "again\n")
        text = '{"on": "drones", "run": "sql: INSERT OR IGNORE INTO alerts SELECT _key, 1, 2 FROM new"}'
        bravo.sql(f"INSERT INTO mycomesh_flows VALUES('mine', '{text}')")
        alpha.done(*share, "sql: SELECT id AS drone, 'later' AS what FROM new")
        eventually(lambda: "later" in bravo.done("flow", "list"), "what comes after it is seen")
        eventually(lambda: "1 of 1 shared flows" in child(bravo, "").get("text", ""), "it is said that one is left out")
        assert child(bravo, "mine") == {}, "its author is not accepted"
        alpha.done("flow", "remove", "low")
        eventually(lambda: child(bravo) == {}, "it has ended")
    finally:
        bravo.terminate()


def test_the_most_important_rows_go_in_first(machine):
    alpha = machine(
        '[flow.low]\non = "drones"\npriority = "battery"\nrun = "sql: INSERT INTO seen(drone) SELECT id FROM new"\n',
        f"{TABLES}; CREATE TABLE seen(seq INTEGER PRIMARY KEY, drone)",
    )
    eventually(is_in("running", alpha), "it runs")
    alpha.done("flow", "pause", "low")
    alpha.sql("INSERT INTO drones VALUES('a', 5), ('b', 50), ('c', NULL), ('d', 20)")
    alpha.done("flow", "resume", "low")
    alpha.shows("SELECT group_concat(drone, '') FROM (SELECT drone FROM seen ORDER BY seq)", "bdac\n")
    alpha.sql("INSERT INTO drones VALUES('e', 1)")
    alpha.shows("SELECT count(*) FROM seen", "5\n")
