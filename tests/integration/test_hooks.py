"""Hooks with real nodes: commands get each change at least once, over failures, kills and restarts."""

from __future__ import annotations

import json

import pytest

from tests.integration.machines import SQLITE, Machine, eventually

pytestmark = pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)")


@pytest.fixture
def machine(tmp_path):
    """A machine whose hook `pager` on `alerts` runs the given command."""
    machine = Machine(tmp_path, "alpha")
    machine.done("init", "--node-name", "alpha")

    def start(command, more=""):
        config = machine.home.config_file
        config.write_text(f"[hook.pager]\non = \"alerts\"\nrun = '''{command}'''\n{more}")
        config.chmod(0o600)
        machine.sql("CREATE TABLE IF NOT EXISTS alerts(id INTEGER PRIMARY KEY, text)")
        machine.up("--port", "0")
        return machine

    yield start
    if machine.process is not None and machine.process.poll() is None:
        machine.terminate()


def got(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def rows(path):
    return {change["row"] for change in got(path)}


def test_a_command_gets_old_rows_and_new_ones(machine, tmp_path):
    out = tmp_path / "out"
    alpha = machine(f"cat >> {out}; echo $MYCOMESH_HOOK $MYCOMESH_TABLE > {tmp_path}/names")
    alpha.sql("INSERT INTO alerts VALUES(1, 'low battery'), (2, 'geofence')")
    eventually(lambda: rows(out) == {"1", "2"}, "both are there")
    alpha.sql("UPDATE alerts SET text = 'landed' WHERE id = 2; DELETE FROM alerts WHERE id = 1")
    eventually(lambda: {change["op"] for change in got(out)} >= {"delete", "update"}, "what follows is there")
    names = tmp_path / "names"  # it is written behind the rows, and empty for a moment at each run
    eventually(lambda: names.exists() and names.read_text() == "pager alerts\n", "the command knows what it is run for")
    assert [each["cursor"] for each in alpha.status()["readers"]] == ["hook.pager"]


def test_a_change_that_goes_on_failing_is_set_aside(machine, tmp_path):
    out = tmp_path / "out"
    part = tmp_path / "part"
    alpha = machine(f"cat > {part}; if grep -q poison {part}; then echo bad row >&2; exit 7; fi; cat {part} >> {out}")
    alpha.sql("INSERT INTO alerts VALUES(1, 'poison'), (2, 'fine')")
    eventually(lambda: "2" in rows(out), "the row behind the poison is there")
    eventually(lambda: json.loads(alpha.done("dead", "--json")), "the poison is a dead letter")
    (letter,) = json.loads(alpha.done("dead", "--json"))
    assert (letter["reader"], letter["table"], letter["row"], letter["tries"]) == ("hook.pager", "alerts", "1", 3)
    assert letter["why"] == "the command ended with 7: bad row"
    assert "hook.failed" in alpha.output()
    alpha.sql("UPDATE alerts SET text = 'cured' WHERE id = 1")
    eventually(lambda: "1" in rows(out), "the cured row is there")
    alpha.done("dead", "--retry", str(letter["number"]))
    eventually(lambda: sum(change["row"] == "1" for change in got(out)) == 2, "the retried row is there")
    eventually(lambda: json.loads(alpha.done("dead", "--json")) == [], "it is gone once the command has ended")


def test_kills_of_the_node_lose_no_change(machine, tmp_path):
    out = tmp_path / "out"
    alpha = machine(f"cat >> {out}")
    for number in range(4):
        alpha.sql(f"INSERT INTO alerts VALUES({10 * number}, 'before'), ({10 * number + 1}, 'before')")
        alpha.kill()
        alpha.sql(f"INSERT INTO alerts VALUES({10 * number + 2}, 'while down')")
        alpha.up("--port", "0")
    eventually(
        lambda: rows(out) == {str(10 * number + last) for number in range(4) for last in range(3)}, "all are there"
    )


def test_a_command_that_hangs_is_ended(machine, tmp_path):
    out = tmp_path / "out"
    alpha = machine(f"grep -q slow && sleep 1000; echo done >> {out}", "timeout_s = 1\n")
    alpha.sql("INSERT INTO alerts VALUES(1, 'slow')")
    eventually(lambda: "did not end within 1 s" in alpha.output(), "the log says so")
    assert alpha.terminate() == 0
