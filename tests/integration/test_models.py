"""Models between real nodes: added on one, verified and used on the other, rolled back, and told by `why`."""

from __future__ import annotations

import json
import threading

import pytest

from mycomesh.mesh.node.control.client import ask
from tests.integration.machines import SQLITE, Machine, eventually

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)")

FLOW = '[flow.health]\non = "telemetry"\nrun = "onnx: battery"\ninto = "health"\n'
TABLES = (
    "CREATE TABLE telemetry(id INTEGER PRIMARY KEY, height_m REAL, speed_mps REAL, battery_pct INT, battery_v REAL);"
    "CREATE TABLE health(key TEXT PRIMARY KEY, battery_v REAL, expected_v REAL, score REAL)"
)


@pytest.fixture
def pair(tmp_path):
    """Return two linked nodes; the second has the flow."""
    alpha, bravo = (Machine(tmp_path, name) for name in ("alpha", "bravo"))
    alpha.done("init", "--node-name", "alpha")
    alpha.sql(TABLES)
    alpha.up("--port", "0")
    bravo.done("join", alpha.done("invite").strip(), "--no-multicast", "--peer", alpha.address, "--node-name", "bravo")
    bravo.home.config_file.write_text(FLOW)
    bravo.home.config_file.chmod(0o600)
    bravo.up("--port", "0", "--peer", alpha.address)
    yield alpha, bravo
    for machine in (alpha, bravo):
        if machine.process is not None and machine.process.poll() is None:
            machine.terminate()


def test_a_member_without_the_right_adds_no_model(pair, tmp_path):
    alpha, _ = pair
    carol = Machine(tmp_path, "carol")
    code = alpha.done("invite", "--write", "telemetry", "--read", "*").strip()
    carol.done("join", code, "--no-multicast", "--peer", alpha.address, "--node-name", "carol")
    carol.up("--port", "0", "--peer", alpha.address)
    try:
        carol.shows("SELECT count(*) FROM telemetry", "0\n")
        carol.run("model", "add", "battery")
        carol.sql("INSERT INTO telemetry VALUES(9, 5.0, 2.0, 80, 10.9)")
        alpha.shows("SELECT id FROM telemetry", "9\n")
        assert json.loads(alpha.done("model", "list", "--json")) == []
        alpha.done("model", "add", "battery", "--version", "7")
        carol.shows("SELECT max(version) FROM mycomesh_models", "7\n")
        carol.run("model", "rollout", "battery", "--version", "7", "--nodes", "")
        carol.sql("DELETE FROM mycomesh_model_parts")
        carol.sql("INSERT INTO telemetry VALUES(10, 5.0, 2.0, 80, 10.9)")
        alpha.shows("SELECT count(*) FROM telemetry", "2\n")
        (listed,) = json.loads(alpha.done("model", "list", "--json"))
        assert (listed["version"], listed["nodes"], listed["parts"]) == (7, "*", 1)
    finally:
        carol.terminate()


def test_a_commit_elsewhere_may_end_a_wait(pair):
    alpha, _ = pair
    ended = []

    def wait(token, **more):
        request = {"token": token, "table": "telemetry", "from_now": True, "wait_ms": 10_000, **more}
        ended.append((token, ask(alpha.home, "changes", **request)["changes"]))

    threads = [
        threading.Thread(target=wait, args=("other",)),
        threading.Thread(target=wait, args=("one",), kwargs={"stirs": True}),
    ]
    for each in threads:
        each.start()
    while threads[1].is_alive():
        alpha.sql("INSERT INTO health VALUES(hex(randomblob(8)), 1, 1, 1)")
        threads[1].join(0.1)
    assert ended == [("one", [])]
    alpha.sql("INSERT INTO telemetry VALUES(9, 5.0, 2.0, 80, 10.9)")
    threads[0].join()
    assert len(ended[1][1]) == 1


def child(machine):
    (found,) = [each for each in machine.status().get("children", ()) if each["name"] == "health"] or [{}]
    return found


def test_model_travels_is_used_and_rolled_back(pair):
    alpha, bravo = pair
    eventually(lambda: "there is no model 'battery'" in child(bravo).get("text", ""), "the flow waits for its model")
    alpha.done("model", "add", "battery", "--nodes", "b*")
    eventually(lambda: "battery version 1" in child(bravo).get("text", ""), f"bravo uses it {child(bravo)}")
    bravo.sql("INSERT INTO telemetry VALUES(1, 5.0, 2.0, 80, 10.9), (2, 5.0, 2.0, 80, 9.0), (3, 5.0, 2.0, NULL, 9.0)")
    alpha.shows("SELECT battery_v, round(expected_v, 1), score > 2 FROM health ORDER BY 1", "9.0|10.0|1\n10.9|10.0|0\n")
    (letter,) = eventually(lambda: json.loads(bravo.done("dead", "--json")), "the third row is set aside")
    assert letter["why"] == "battery_pct is NULL, and the model takes numbers"

    (listed,) = json.loads(bravo.done("model", "list", "--json"))
    assert (listed["name"], listed["version"], listed["parts"], listed["nodes"]) == ("battery", 1, 1, "b*")
    tested = json.loads(bravo.run("model", "test", "battery", "--on", "telemetry", "--json").stdout)
    assert [each["note"] for each in tested["rows"]] == ["battery_pct is NULL, and the model takes numbers", "", ""]
    assert "does not beat the threshold" in bravo.done("model", "show", "battery").replace("\n", " ")

    alpha.done("model", "add", "battery", "--version", "3")
    bravo.shows("SELECT max(version) FROM mycomesh_models", "3\n")
    eventually(lambda: "battery version 3" in child(bravo).get("text", ""), "bravo uses version 3")
    assert "withdrew battery version 3" in bravo.run("model", "rollback", "battery").stderr
    eventually(lambda: "battery version 1" in child(bravo).get("text", ""), "and version 1 after the rollback")

    key = bravo.sql("SELECT key FROM health WHERE score > 2").strip()
    (step,) = json.loads(bravo.done("why", "health", key, "--json"))["made_by"]
    assert step["model"] == f"battery version 1 (sha256 {listed['sha256']})"
    assert step["values"]["battery_v"] == 9.0
    assert f"model battery version 1 (sha256 {listed['sha256']})" in bravo.done("why", "health", key)
    alpha.home.config_file.write_text(FLOW)
    alpha.home.config_file.chmod(0o600)
    assert json.loads(alpha.done("why", "health", key, "--json"))["made_by"] == [step]

    bravo.done("model", "remove", "battery")
    assert json.loads(bravo.done("model", "list", "--json")) == []
    assert "there is no model 'battery'" in bravo.run("model", "remove", "battery").stderr
