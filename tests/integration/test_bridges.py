"""Bridges as processes of real nodes: what goes out and comes in over kills, mistakes in config.toml, and other nodes."""

from __future__ import annotations

import json
import os
import signal

import pytest

from mycomesh.mesh.node.control.client import RESPONSE_BYTES_MAX
from mycomesh.mesh.node.control.feed import BODIES_CHARS_MAX
from mycomesh.tools.node_link import ANSWER_BYTES_MAX
from tests.integration.machines import SQLITE, Machine, eventually

pytestmark = pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)")


@pytest.fixture
def machine(tmp_path):
    """Return a function that starts a machine with the given sections in its config.toml."""
    machine = Machine(tmp_path, "alpha")
    machine.done("init", "--node-name", "alpha")

    def start(config, sql="CREATE TABLE drones(id TEXT PRIMARY KEY, lat REAL, note TEXT)"):
        machine.home.config_file.write_text(config)
        machine.home.config_file.chmod(0o600)
        if sql:
            machine.sql(sql)
        return machine.up("--port", "0")

    yield start
    if machine.process is not None and machine.process.poll() is None:
        machine.terminate()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def child(machine, name="ground"):
    (found,) = [each for each in machine.status().get("children", ()) if each["name"] == name] or [{}]
    return found


def section(folder, more):
    return f'[bridge.ground]\nurl = "file://{folder}"\ncreate = true\n{more}\n'


def test_rows_go_out_and_lines_come_in(machine, tmp_path):
    folder = tmp_path / "box"
    config = section(folder, 'out = { drones = "out/{id}.jsonl" }\nin = { "in/*.jsonl" = "orders" }')
    alpha = machine(config, "CREATE TABLE drones(id TEXT PRIMARY KEY, lat REAL)")
    eventually(lambda: child(alpha).get("text") == "there is no table orders yet", "it waits for the table")
    alpha.sql("CREATE TABLE orders(id INTEGER PRIMARY KEY, what TEXT)")
    alpha.sql("INSERT INTO drones VALUES('d1', 1.5), ('d 2/x', 2.5)")
    eventually(lambda: len(lines(folder / "out" / "d1.jsonl")) == 1, "the row is there")
    (line,) = lines(folder / "out" / "d1.jsonl")
    assert line["value"] == {"id": "d1", "lat": 1.5}
    assert line["mesh-id"].split("/")[0] == "drones"
    assert (line["mesh-op"], line["mesh-node"]) == ("insert", "alpha")
    assert (folder / "out" / "d%202%2Fx.jsonl").exists()
    (folder / "in").mkdir()
    (folder / "in" / "a.jsonl").write_text('{"id": 1, "what": "fly"}\n{"id": 2, "what": "lan')
    alpha.shows("SELECT * FROM orders", "1|fly\n")
    with (folder / "in" / "a.jsonl").open("a") as file:
        file.write('d"}\n{"id": 3, "wat": 1}\nno json\n')
    alpha.shows("SELECT * FROM orders", "1|fly\n2|land\n")
    eventually(lambda: len(json.loads(alpha.done("dead", "--json"))) == 2, "two are dead letters")
    whys = [letter["why"] for letter in json.loads(alpha.done("dead", "--json"))]
    assert "orders has no column 'wat'" in whys[0]
    assert "the body is no JSON" in whys[1]
    alpha.sql("DELETE FROM drones WHERE id = 'd1'")
    eventually(lambda: len(lines(folder / "out" / "d1.jsonl")) == 2, "the delete is there")
    assert lines(folder / "out" / "d1.jsonl")[1]["value"] is None


def test_kills_of_bridge_and_node_lose_nothing(machine, tmp_path):
    folder = tmp_path / "box"
    alpha = machine(section(folder, 'out = { drones = "out" }\nin = { "in" = "drones" }'))
    for number in range(4):
        alpha.sql(f"INSERT INTO drones VALUES('a{number}', 1, NULL)")
        eventually(lambda: child(alpha).get("state") == "running", "it runs")
        pid = child(alpha)["pid"]
        with (folder / "in").open("a") as file:
            file.write(f'{{"id": "b{number}", "lat": 2}}\n')
        if number % 2:
            alpha.kill()
            eventually(lambda: not os.path.exists(f"/proc/{pid}"), "the bridge ends with its node")  # noqa: PTH110, B023
            alpha.up("--port", "0")
        else:
            os.kill(pid, signal.SIGKILL)
    alpha.sql("INSERT INTO drones VALUES('last', 1, NULL)")
    names = {f"a{number}" for number in range(4)} | {"last"}
    eventually(
        lambda: {line["value"]["id"] for line in lines(folder / "out")} == names, "all are out, and no row that came in"
    )
    alpha.shows("SELECT count(*) FROM drones WHERE id LIKE 'b%'", "4\n")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('out = { drones = "out/{height}" }', "'height', which drones does not have; its columns are id, lat, note"),
        ('out = { drones = "out/{lat}" }', "a delete of drones has only the key (id)"),
        ('out = { drones = "out" }\nformat = "xml"', "format must be one of row, debezium, cbor, not 'xml'"),
        ('out = { drones = "../out" }', "leads out of the directory"),
        ('out = { drones = "out" }\nwhere = "lat >"', "where 'lat >': near"),
    ],
)  # fmt: skip
def test_a_wrong_section_leaves_the_node_serving(machine, tmp_path, more, said):
    alpha = machine(section(tmp_path / "box", more))
    eventually(lambda: child(alpha).get("state") == "refused", "it is refused")
    assert said in child(alpha)["text"]
    assert "run: mycomesh bridge resume ground" in alpha.output()
    alpha.home.config_file.write_text(section(tmp_path / "box", 'out = { drones = "out" }'))
    alpha.done("bridge", "resume", "ground")
    eventually(lambda: child(alpha).get("state") == "running", "it runs after the repair")


def test_pause_ends_the_process_until_resume(machine, tmp_path):
    alpha = machine(section(tmp_path / "box", 'out = { drones = "out" }'))
    eventually(lambda: child(alpha).get("state") == "running", "it runs")
    alpha.done("bridge", "pause", "ground")
    assert (child(alpha)["state"], child(alpha)["pid"]) == ("paused", None)
    alpha.sql("INSERT INTO drones VALUES('a', 1, NULL)")
    assert not (tmp_path / "box" / "out").exists()
    alpha.done("bridge", "resume", "ground")
    eventually(lambda: len(lines(tmp_path / "box" / "out")) == 1, "the row is out")
    eventually(lambda: child(alpha).get("figures", {}).get("sent") == 1, "it is counted")

    def status():
        (row,) = json.loads(alpha.done("bridge", "status", "--json"))
        return row

    row = eventually(lambda: (row := status())["behind"] == 0 and row, "its cursor has followed")
    assert (row["name"], row["state"], row["text"], row["behind"]) == ("ground", "running", "", 0)
    head, shown = alpha.done("bridge", "status").splitlines()[:2]
    assert dict(zip(head.split(), shown.split(), strict=False)).items() >= {"BEHIND": "0", "SENT": "1"}.items()
    assert "file://" in alpha.done("bridge", "list")


def test_a_row_of_many_megabytes_holds_nothing_up(machine, tmp_path):
    alpha = machine(section(tmp_path / "box", 'out = { drones = "out" }'))
    alpha.sql("INSERT INTO drones VALUES('large', 1, randomblob(13000000)), ('after', 1, NULL)")
    eventually(lambda: len(lines(tmp_path / "box" / "out")) == 1, "the row behind it is out")
    (letter,) = eventually(lambda: json.loads(alpha.done("dead", "--json")), "the large row is a dead letter")
    assert (letter["row"], letter["why"].split()[:3]) == ("large", ["the", "message", "has"])
    assert letter["body"].endswith(" characters)")
    assert len(letter["body"].rpartition("... (")[0]) == BODIES_CHARS_MAX
    assert RESPONSE_BYTES_MAX < 13_000_000 * 4 / 3 < ANSWER_BYTES_MAX  # blobs are base64


def test_a_table_that_goes_away_is_told_once(machine, tmp_path):
    alpha = machine(section(tmp_path / "box", 'out = { drones = "out" }'))
    alpha.sql("INSERT INTO drones VALUES('a', 1, NULL)")
    eventually(lambda: len(lines(tmp_path / "box" / "out")) == 1, "it is out")
    alpha.sql("ALTER TABLE drones RENAME TO machines; INSERT INTO machines VALUES('b', 2, NULL)")
    eventually(
        lambda: child(alpha).get("figures", {}).get("reconnects", 0) >= 3, lambda: f"it tries again: {child(alpha)}"
    )
    eventually(lambda: "no replicated table 'drones'" in child(alpha)["text"], "it says so between its tries")
    assert alpha.output().count("no replicated table 'drones'") == 1
    alpha.sql("ALTER TABLE machines RENAME TO drones")
    eventually(lambda: {line["value"]["id"] for line in lines(tmp_path / "box" / "out")} == {"a", "b"}, "both are out")


def test_a_column_that_goes_away_sets_no_row_aside(machine, tmp_path):
    alpha = machine(section(tmp_path / "box", 'out = { drones = "out/{note}" }\ndeletes = false'))
    alpha.sql("INSERT INTO drones VALUES('a', 1, 'x')")
    eventually(lambda: len(lines(tmp_path / "box" / "out" / "x")) == 1, "it is out")
    alpha.sql("ALTER TABLE drones RENAME COLUMN note TO remark; INSERT INTO drones VALUES('b', 2, 'y')")
    eventually(lambda: child(alpha).get("state") == "refused", lambda: f"it is refused: {child(alpha)}")
    assert "names the column 'note', which drones does not have any more" in child(alpha)["text"]
    assert json.loads(alpha.done("dead", "--json")) == []
    alpha.home.config_file.write_text(section(tmp_path / "box", 'out = { drones = "out/{remark}" }\ndeletes = false'))
    alpha.done("bridge", "resume", "ground")
    eventually(lambda: len(lines(tmp_path / "box" / "out" / "y")) == 1, "the row is out")
    assert "child.ended" not in alpha.output()


def test_replay_sends_again_what_was_written_since(machine, tmp_path):
    alpha = machine(section(tmp_path / "box", 'out = { drones = "out" }'))
    alpha.sql("INSERT INTO drones VALUES('a', 1, NULL), ('b', 1, NULL)")
    eventually(lambda: len(lines(tmp_path / "box" / "out")) == 2, "both are out")
    alpha.done("bridge", "replay", "ground", "--since", "1h")
    eventually(lambda: len(lines(tmp_path / "box" / "out")) == 4, "both are out again")
    ids = [line["mesh-id"] for line in lines(tmp_path / "box" / "out")]
    assert sorted(ids[:2]) == sorted(ids[2:])
    assert alpha.run("bridge", "replay", "ground").returncode == 2
    assert "there are: ground" in alpha.run("bridge", "pause", "other").stderr


def test_a_letter_from_outside_is_tried_again(machine, tmp_path):
    folder = tmp_path / "box"
    alpha = machine(section(folder, 'in = { "in" = "drones" }'))
    eventually(folder.exists, "it runs")
    (folder / "in").write_text('{"id": "x", "speed": 3}\n')
    (letter,) = eventually(lambda: json.loads(alpha.done("dead", "--json")), "it is a dead letter")
    alpha.sql("ALTER TABLE drones ADD COLUMN speed")
    alpha.done("dead", "--retry", str(letter["number"]))
    alpha.shows("SELECT id, speed FROM drones", "x|3\n")
    eventually(lambda: json.loads(alpha.done("dead", "--json")) == [], "it is gone")
    alpha.shows("SELECT name, state, received FROM mycomesh_bridges", "ground|running|1\n")


def test_a_trial_says_what_is_wrong(machine, tmp_path):
    alpha = machine("")
    (tmp_path / "box").mkdir()
    assert "ok" in alpha.done("bridge", "test", f"file://{tmp_path}/box")
    failed = alpha.run("bridge", "test", "nats://127.0.0.1:1")
    assert (failed.returncode, "cannot reach nats://127.0.0.1:1" in failed.stdout) == (1, True)
    for url, said in (
        ("gopher://x", "no scheme 'gopher'"),
        ("nats://h:99999", "Port out of range"),
        ("nats://u:p@h", "the URL has a password"),
        ("tak://0.0.0.0:8087x", "is not an address of tak://"),
    ):
        refused = alpha.run("bridge", "test", url)
        assert (refused.returncode, refused.stderr.count("\n"), said in refused.stderr) == (2, 1, True)
