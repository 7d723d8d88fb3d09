"""Two real nodes and the stock sqlite3 shell: plain SQL on one node appears on the other.

The nodes run on this machine and reach each other by `--peer` over the loopback. A test waits for another process by asking it
repeatedly, with a limit that only a broken node reaches.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from datetime import datetime
from pathlib import Path

import pytest

from mycomesh.tools.render import short_hash
from tests.free_ports import free_port
from tests.integration.machines import ROOT, SQLITE, WAIT_S, Machine, eventually

ORM_FIGURES = re.compile(
    r"keeps its tables, (\d+) for one table of yours and three more.*without it (\d+) changes beside one table, and (\d+)",
    re.DOTALL,
)
CREATE = (
    "CREATE TABLE drones(drone_id, latitude, longitude, altitude, timestamp);"
    "CREATE TABLE humvees(humvee_id, latitude, longitude, fuel, timestamp);"
)
INSERT = (
    "INSERT INTO drones (drone_id, latitude, longitude, altitude, timestamp) "
    "VALUES (1, 40.7128, -74.0060, 500, '2023-09-11 12:34:56');"
)
SELECT = "SELECT * FROM drones ORDER BY timestamp DESC LIMIT 1;"
ANSWER = "1|40.7128|-74.006|500|2023-09-11 12:34:56\n"

pytestmark = pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)")


def linked(one):
    return [peer["name"] for peer in one.status().get("peers", ()) if peer["state"] == "linked"]


def content(one):
    """Return the rows of a machine's user tables as the sqlite3 shell prints them."""
    return "".join(one.sql(f"SELECT * FROM {name} ORDER BY 1, 2, 3, 4, 5;") for name in ("drones", "humvees"))


def test_the_seed_example_word_for_word(pair):
    alpha, bravo = pair
    assert alpha.sql(CREATE) == ""
    assert alpha.sql(INSERT) == ""
    bravo.shows(SELECT, ANSWER)
    bravo.sql("INSERT INTO humvees VALUES (7, 40.7, -74.0, 0.5, '2023-09-11 12:35:00');")
    alpha.shows("SELECT humvee_id, fuel FROM humvees;", "7|0.5\n")


def test_tables_that_were_there_before_the_node_come_along(machine):
    alpha, bravo = machine("alpha"), machine("bravo")
    alpha.sql(CREATE + INSERT * 3)
    alpha.done("init")
    alpha.up()
    bravo.done("join", alpha.done("invite").strip(), "--no-multicast", "--peer", alpha.address)
    bravo.up("--port", "0", "--peer", alpha.address)
    bravo.shows("SELECT count(*) FROM drones;", "3\n")


def test_updates_and_deletes_cross_both_ways(pair):
    alpha, bravo = pair
    alpha.sql("CREATE TABLE notes(id INTEGER PRIMARY KEY, text); INSERT INTO notes VALUES(1, 'a'), (2, 'b');")
    bravo.shows("SELECT * FROM notes ORDER BY id;", "1|a\n2|b\n")
    bravo.sql("UPDATE notes SET text = 'c' WHERE id = 1; DELETE FROM notes WHERE id = 2;")
    alpha.shows("SELECT * FROM notes ORDER BY id;", "1|c\n")


def test_wait_returns_when_a_write_is_on_both(pair):
    alpha, bravo = pair
    alpha.sql(CREATE + INSERT)
    done = alpha.run("wait", "--replicas", "2", "--timeout", str(WAIT_S))
    assert done.returncode == 0, done.stderr
    assert bravo.sql(SELECT) == ANSWER
    refused = alpha.run("wait", "--replicas", "3", "--timeout", "0")
    assert refused.returncode == 3
    assert "on 2 of 3 nodes" in refused.stderr


def test_counters_add_up_and_lost_values_are_restored(pair):
    alpha, bravo = pair
    alpha.sql("CREATE TABLE stock(item TEXT PRIMARY KEY, n INTEGER, note); INSERT INTO stock VALUES('bolt', 100, '');")
    bravo.shows("SELECT n FROM stock;", "100\n")
    alpha.done("counter", "stock", "n")
    eventually(lambda: bravo.sql("SELECT count(*) FROM mycomesh_schema WHERE kind = 'counter';") == "1\n", "declared")
    bravo.done("isolate")
    assert "mycomesh rejoin" in json.loads(bravo.done("status", "--json"))["hint"]
    eventually(lambda: not linked(alpha), "cut off")
    alpha.sql("UPDATE stock SET n = n - 1, note = 'alpha';")
    assert alpha.done("conflicts", "--json") == "[]\n"
    bravo.sql("UPDATE stock SET n = n - 2, note = 'bravo';")
    bravo.done("rejoin")
    assert json.loads(bravo.done("status", "--json"))["hint"] == ""
    for one in pair:
        one.shows("SELECT n, note FROM stock;", "97|bravo\n")
    [lost] = eventually(lambda: json.loads(alpha.done("conflicts", "--json")), "the conflict is listed")
    assert (lost["table"], lost["key"], lost["lost_by"], lost["won_by"]) == ("stock", "bolt", "alpha", "bravo")
    assert (lost["lost"], lost["won"]) == ({"note": "alpha"}, {"note": "bravo"})
    assert 'note="alpha" (alpha ' in alpha.done("conflicts")
    alpha.done("restore", str(lost["number"]))
    for one in pair:
        one.shows("SELECT n, note FROM stock;", "97|alpha\n")
    again = alpha.run("restore", str(lost["number"]))
    assert (again.returncode, len(again.stderr.splitlines())) == (1, 1)
    refused = alpha.run("counter", "stock", "item")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert "primary key" in refused.stderr


def test_a_migration_meets_writes_under_old_names(pair):
    alpha, bravo = pair
    alpha.sql(
        "CREATE TABLE units(id INTEGER PRIMARY KEY, call_sign, fuel, spare); INSERT INTO units VALUES(1, 'a', 5, 0);"
    )
    bravo.shows("SELECT call_sign FROM units;", "a\n")
    bravo.done("isolate")
    eventually(lambda: not linked(alpha), "cut off")
    script = alpha.dir / "2026.sql"
    script.write_text(
        "ALTER TABLE units RENAME COLUMN call_sign TO name;\nALTER TABLE units DROP COLUMN spare;\n"
        "ALTER TABLE units ADD COLUMN tanks;\nUPDATE units SET tanks = fuel * 2;\nALTER TABLE units RENAME TO fleet;\n"
    )
    assert alpha.done("migrate", str(script)).splitlines() == [
        "drops units.spare and its values",
        "renames units.call_sign to name",
        "renames units to fleet",
    ]
    bravo.sql("INSERT INTO units VALUES(2, 'b', 6, 1); UPDATE units SET call_sign = 'A', spare = 9 WHERE id = 1;")
    bravo.done("rejoin")
    for one in pair:
        one.shows("SELECT id, name, fuel, tanks FROM fleet ORDER BY id;", "1|A|5|10\n2|b|6|\n")
        assert one.sql("SELECT name FROM pragma_table_info('fleet');") == "id\nname\nfuel\ntanks\n"
    bravo.sql("UPDATE fleet SET tanks = 1 WHERE name = 'b';")
    alpha.shows("SELECT tanks FROM fleet WHERE id = 2;", "1\n")
    assert [table["name"] for table in alpha.status()["tables"]] == ["fleet"]
    eventually(lambda: alpha.run("verify").returncode == 0, "equal")
    refused = alpha.run("migrate", str(script))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("mycomesh: line 1: no such table: units")


def test_keep_both_keeps_two_rows_with_one_id(pair):
    alpha, bravo = pair
    alpha.sql("CREATE TABLE log(id INTEGER PRIMARY KEY, what);")
    eventually(lambda: alpha.run("policy", "log").stdout == "same-row\n", "the table is known")
    alpha.done("policy", "log", "keep-both")
    eventually(lambda: bravo.run("policy", "log").stdout == "keep-both\n", "decided")
    bravo.done("isolate")
    eventually(lambda: not linked(alpha), "cut off")
    alpha.sql("INSERT INTO log(what) VALUES('alpha');")
    bravo.sql("INSERT INTO log(what) VALUES('bravo');")
    bravo.sql("UPDATE log SET what = what || '!';")
    bravo.done("rejoin")
    for one in pair:
        one.shows("SELECT what, id > 0 FROM log ORDER BY what;", "alpha|1\nbravo!|0\n")
    assert alpha.sql("SELECT * FROM log ORDER BY what;") == bravo.sql("SELECT * FROM log ORDER BY what;")
    new_id = alpha.sql("SELECT id FROM log WHERE id < 0;").strip()
    [conflict] = json.loads(bravo.done("conflicts", "--json"))
    assert (conflict["lost_by"], conflict["won_by"], conflict["reason"]) == (
        "bravo",
        "alpha",
        f"both rows are kept, this one as {new_id}",
    )
    assert new_id in bravo.done("conflicts")
    refused = alpha.run("policy", "log", "same-row")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)


def test_old_rows_go_on_both_machines(pair):
    alpha, bravo = pair
    alpha.sql("CREATE TABLE track(at TEXT, what);")
    young = "strftime('%Y-%m-%dT%H:%M:%SZ', 'now')"
    alpha.sql(f"INSERT INTO track VALUES('2020-01-01T00:00:00Z', 'old'), ({young}, 'young'), ('soon', 'untimed');")
    eventually(lambda: "track" in bravo.done("tables"), "the table is known")
    bravo.done("retain", "track", "7d", "BY", "at")
    for one in pair:
        one.shows("SELECT what FROM track ORDER BY what;", "untimed\nyoung\n")
    bravo.sql("INSERT INTO track VALUES('2020-01-01', 'imported');")
    bravo.shows("SELECT what FROM track ORDER BY what;", "untimed\nyoung\n")
    eventually(lambda: json.loads(alpha.done("retain", "--json"))["tables"][0]["refused"] == 1, "it came too late")
    [shown] = json.loads(bravo.done("retain", "track", "--json"))["tables"]
    assert (shown["age_ms"], shown["by"], shown["cut"], shown["untimed"]) == (7 * 86_400_000, "at", 2, 1)
    assert "older are gone" in alpha.done("tables")
    eventually(lambda: all(peer["equal"] for peer in json.loads(alpha.done("peers", "--json"))), "equal")
    assert 'mycomesh_table_refused_rows_total{table="track"} 1' in alpha.done("metrics")
    for words in (("track", "7d", "at"), ("track", "7d", "--local", "1d")):
        refused = alpha.run("retain", *words)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    refused = alpha.run("retain", "track", "7d", "BY", "nowhere")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    alpha.done("retain", "track", "off")
    listed = [line.split()[1] for line in alpha.done("retain").splitlines() if line.startswith("track ")]
    assert listed in ([], ["off"]), "until it has ended on this node"
    eventually(lambda: json.loads(bravo.done("retain", "--json")) == {"tables": []}, "the rule has ended")


def test_own_ids_of_linked_nodes_never_collide(pair):
    alpha, _ = pair
    alpha.sql("CREATE TABLE log(id INTEGER PRIMARY KEY AUTOINCREMENT, what);")
    eventually(lambda: alpha.run("policy", "log").stdout == "same-row\n", "the table is known")
    alpha.done("policy", "log", "own-ids")
    for one in pair:
        eventually(lambda one=one: one.run("policy", "log").stdout.startswith("same-row, own-ids\nthe next"), "decided")
    for number in range(20):
        for one in pair:
            one.sql(f"INSERT INTO log(what) VALUES('{number}');" * 5)
    for one in pair:
        one.shows("SELECT count(*) FROM log;", "200\n")
        assert json.loads(one.done("conflicts", "--json")) == []


def test_a_killed_node_catches_up_and_brings_local_writes(pair):
    alpha, bravo = pair
    alpha.sql(CREATE + INSERT)
    bravo.shows("SELECT count(*) FROM drones;", "1\n")
    bravo.kill()
    alpha.sql(INSERT * 5)
    bravo.sql("INSERT INTO humvees VALUES (9, 1, 2, 3, 'while the node was dead');")
    bravo.up("--port", "0", "--peer", alpha.address)
    bravo.shows("SELECT count(*) FROM drones;", "6\n")
    alpha.shows("SELECT humvee_id FROM humvees;", "9\n")
    eventually(lambda: content(alpha) == content(bravo), "both files are equal")


def test_rows_written_while_down_get_the_files_time(pair):
    alpha, _ = pair
    alpha.sql(CREATE)
    eventually(lambda: "mycomesh_" in alpha.sql("SELECT group_concat(name) FROM sqlite_schema;"), "capture")
    assert alpha.terminate() == 0
    alpha.sql(INSERT)
    written_s = time.time()
    time.sleep(1)
    alpha.up()
    eventually(lambda: not json.loads(alpha.done("why", "drones", "1", "--json"))["pending"], "the row has its stamp")
    cells = json.loads(alpha.done("why", "drones", "1", "--json"))["cells"]
    assert len(cells) == 5
    assert all(datetime.fromisoformat(cell["at"]).timestamp() < written_s + 0.5 for cell in cells), cells


def test_a_known_node_is_found_again_without_its_address(pair):
    alpha, bravo = pair
    eventually(lambda: linked(bravo) == ["alpha"], "bravo is linked")
    port = alpha.status()["port"]
    assert bravo.terminate() == 0
    assert alpha.terminate() == 0
    alpha.up("--port", str(port))
    bravo.up("--port", "0")
    eventually(lambda: linked(alpha) == ["bravo"], "alpha is linked to bravo again")


def test_a_join_completes_when_the_first_member_is_met(machine):
    alpha, bravo = machine("alpha"), machine("bravo")
    port = free_port()
    alpha.done("init", "--name", "fleet")
    code = alpha.done("invite").strip()
    waiting = bravo.run("join", code, "--node-name", "bravo", "--no-multicast", "--peer", f"127.0.0.1:{port}")
    assert waiting.returncode == 0
    assert "no member answered yet" in waiting.stderr
    bravo.launch("--port", "0", "--peer", f"127.0.0.1:{port}")
    eventually(lambda: bravo.status().get("phase") == "joining", "bravo waits")
    assert not bravo.file.exists()
    alpha.sql(CREATE + INSERT)
    alpha.up("--port", str(port))
    bravo.shows(SELECT, ANSWER)
    assert "joined mesh 'fleet' as 'bravo'" in bravo.output()


def test_a_code_admits_as_many_machines_as_it_says(pair, machine):
    alpha, _ = pair
    code = alpha.done("invite", "--uses", "1").strip()
    charlie, delta = machine("charlie"), machine("delta")
    words = ("join", code, "--no-multicast", "--peer", alpha.address)
    assert "joined mesh" in charlie.run(*words).stderr
    assert "did not accept the code" in delta.run(*words).stderr


def test_tables_that_are_left_out_stay_where_they_are(machine):
    alpha, bravo = machine("alpha"), machine("bravo")
    alpha.done("init")
    alpha.up("--port", "0", "--except", "humvees")
    bravo.done("join", alpha.done("invite").strip(), "--no-multicast", "--peer", alpha.address)
    bravo.up("--port", "0", "--peer", alpha.address)
    alpha.sql(CREATE + "INSERT INTO humvees VALUES (1, 2, 3, 4, 5);" + INSERT)
    bravo.shows(SELECT, ANSWER)
    assert "no such table: humvees" in bravo.sql("SELECT * FROM humvees;")


def test_status_says_the_same_to_people_and_programs(pair):
    alpha, bravo = pair
    alpha.sql(CREATE + INSERT)
    bravo.shows(SELECT, ANSWER)
    text = alpha.done("status")
    assert "alpha of mesh fleet: serving" in text
    assert "1 of 1 other member(s) linked" in text
    names = [table["name"] for table in alpha.status()["tables"]]
    assert "drones" in names
    assert "humvees" in names

    def digests(one):
        return {table["name"]: table["digest"] for table in one.status()["tables"]}

    eventually(lambda: digests(alpha) == digests(bravo), "equal hashes")


def test_verify_says_whether_peers_and_files_are_equal(pair):
    one, two = pair
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 'x'), (2, 'y');")
    two.shows("SELECT count(*) FROM t;", "2\n")
    eventually(lambda: one.run("verify").returncode == 0, "equal")
    answer = json.loads(one.done("verify", "--json"))
    assert answer["converged"]
    (table,) = answer["tables"]
    assert (table["name"], table["rows"], [peer["equal"] for peer in table["peers"]]) == ("t", 2, [True])
    assert len(table["hash"]) == 32
    for command in ("verify", "tables"):
        (line,) = [line for line in one.done(command).splitlines() if line.startswith("t ")]
        assert line.split()[2] == short_hash(table["hash"])
    assert "equal on this node and 1 linked peer(s)" in one.run("verify").stderr
    two.done("isolate")
    eventually(lambda: not linked(one), "cut off")
    two.sql("UPDATE t SET v = 'other' WHERE id = 2;")
    alone = one.run("verify")
    assert alone.returncode == 3
    assert "no peer is linked" in alone.stderr
    files = one.run("verify", str(one.file), str(two.file))
    assert files.returncode == 1, files.stderr
    assert "~ id=2: v: 'y' -> 'other'" in files.stdout
    two.done("rejoin")
    eventually(lambda: one.run("verify").returncode == 0, "equal again")
    assert one.done("verify", str(one.file), str(two.file)) == "t: equal, 2 row(s)\n"


def test_down_leaves_an_ordinary_database_that_goes_on_logging(pair):
    alpha, bravo = pair
    alpha.sql(CREATE + INSERT)
    bravo.shows(SELECT, ANSWER)
    assert bravo.run("down").returncode == 0
    assert bravo.process.wait(WAIT_S) == 0
    bravo.sql("INSERT INTO drones VALUES (2, 0, 0, 0, '2024');")
    assert bravo.run("status").returncode == 69
    bravo.up("--port", "0", "--peer", alpha.address)
    alpha.shows("SELECT count(*) FROM drones;", "2\n")


def test_down_remove_leaves_no_trace_in_the_file(pair):
    alpha, _ = pair
    alpha.sql(CREATE + INSERT)
    eventually(lambda: len(alpha.status().get("tables", ())) >= 2, "the tables are captured")
    assert "mycomesh" in alpha.sql(".schema")
    done = alpha.run("down", "--remove")
    assert done.returncode == 0, done.stderr
    assert alpha.process.wait(WAIT_S) == 0
    assert "mycomesh" not in alpha.sql(".schema")
    assert alpha.sql("PRAGMA integrity_check;") == "ok\n"
    assert alpha.sql(SELECT) == ANSWER
    again = alpha.run("down", "--remove")
    assert (again.returncode, "mycomesh forget FILE.db" in again.stderr) == (69, True)


def test_internal_tables_are_as_many_as_the_docs_say(founder):
    tables, proposed, more = map(int, ORM_FIGURES.search((ROOT / "docs" / "ORM.md").read_text()).groups())
    count = (
        "SELECT total(type = 'table'), count(*) FROM sqlite_schema"
        " WHERE name GLOB 'mycomesh_*' AND type IN ('table', 'index') AND sql IS NOT NULL;"
    )
    founder.up("--port", "0")
    founder.sql("CREATE TABLE item(id INTEGER PRIMARY KEY, name);")
    founder.shows(count, f"{tables}.0|{proposed}\n")
    founder.sql("CREATE TABLE version(number TEXT PRIMARY KEY);")
    founder.shows(count, f"{tables + 3}.0|{proposed + more}\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_gracefully(pair, number):
    alpha, bravo = pair
    alpha.process.send_signal(number)
    assert alpha.process.wait(WAIT_S) == 0
    assert not alpha.home.sockets[0].exists()
    eventually(lambda: linked(bravo) == [], "bravo noticed that the link ended")


# ---- invalid input: one line, an exit code, and nothing changed


@pytest.fixture
def founder(machine):
    alpha = machine("alpha")
    alpha.done("init")
    return alpha


def refused(one, *words, code=1):
    """Run an `up` that must fail; return its one line."""
    done = one.run("up", str(one.file), "--no-multicast", *(words or ("--port", "0")))
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def test_a_backup_restored_while_the_node_serves_loses_nothing(pair):
    alpha, bravo = pair
    alpha.sql(CREATE + INSERT)
    bravo.shows("SELECT count(*) FROM drones;", "1\n")
    backup = alpha.dir / "backup.db"
    alpha.sql(f"VACUUM INTO '{backup}'")
    alpha.sql(INSERT)
    bravo.shows("SELECT count(*) FROM drones;", "2\n")
    subprocess.run([SQLITE, str(alpha.file), "-cmd", ".timeout 5000", f".restore {backup}"], check=True)
    alpha.sql(INSERT)
    for one in pair:
        one.shows("SELECT count(*) FROM drones;", "3\n")
    assert "[database.replaced]" in alpha.output()
    alpha.sql("INSERT INTO humvees(humvee_id) VALUES(1);")
    bravo.shows("SELECT humvee_id FROM humvees;", "1\n")


def test_up_without_a_mesh_says_what_to_run(machine):
    alpha = machine("alpha")
    line = refused(alpha)
    assert "mycomesh init" in line
    assert "mycomesh join" in line
    assert [entry.name for entry in alpha.dir.iterdir()] == []


def test_a_file_that_is_not_sqlite_is_refused_untouched(founder):
    founder.file.write_bytes(b"just a text, not a database\n" * 100)
    before = founder.file.read_bytes()
    assert "fleet.db" in refused(founder)
    assert founder.file.read_bytes() == before


def test_a_directory_is_refused(founder):
    founder.file.mkdir()
    assert "is a directory" in refused(founder)


def test_a_file_in_an_absent_directory_is_refused(founder):
    founder.file = founder.dir / "absent" / "fleet.db"
    assert "no directory" in refused(founder)


def test_a_locked_file_is_refused(founder):
    founder.sql(CREATE)
    holder = sqlite3.connect(founder.file, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        assert "lock" in refused(founder).lower()
    finally:
        holder.close()
    assert "mycomesh" not in founder.sql(".schema")


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root to run as another user")
def test_a_read_only_file_is_refused():
    with tempfile.TemporaryDirectory() as folder:  # not below pytest's, which it keeps from other users
        Path(folder).chmod(0o755)
        founder = Machine(Path(folder), "alpha")
        founder.done("init", "--name", "fleet", "--node-name", "alpha")
        founder.sql(CREATE)
        founder.file.chmod(0o444)
        subprocess.run(["chown", "-R", "65534", str(founder.home.config)], check=True)
        prefix = ["setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
        command = [*prefix, *founder.command("up", str(founder.file), "--no-multicast", "--port", "0")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S, check=False)
        if "Permission denied" in done.stderr and "python" in done.stderr:
            pytest.skip("another user cannot read this installation")
        assert done.returncode == 1, done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "make the file and its directory writable" in done.stderr
        assert "mycomesh" not in founder.sql(".schema")


def test_a_file_that_another_node_serves_is_refused(pair):
    alpha, bravo = pair
    bravo.terminate()
    bravo.file = alpha.file
    assert "already served by another node" in refused(bravo)


def test_a_second_node_of_the_same_home_is_refused(pair):
    alpha, _ = pair
    alpha.file = alpha.dir / "other.db"
    assert "already runs for this home" in refused(alpha)
    assert not alpha.file.exists()


def test_an_exposed_key_is_refused_with_the_remedy(founder):
    (founder.home.state / "identity").chmod(0o644)
    assert "chmod 600" in refused(founder)
    assert not founder.file.exists()


def test_a_truncated_key_is_refused(founder):
    path = founder.home.state / "identity"
    path.write_bytes(path.read_bytes()[:50])
    assert "damaged" in refused(founder)


def test_a_busy_port_is_refused_without_creating_a_file(founder):
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as taken:
        line = refused(founder, "--port", str(taken.getsockname()[1]))
    assert "port" in line
    assert not founder.file.exists() or "mycomesh" not in founder.sql(".schema")


@pytest.mark.parametrize("code", ["hello", "", "0000-0000", "x" * 1000])
def test_a_wrong_join_code_is_refused_and_not_kept(machine, code):
    alpha = machine("alpha")
    done = alpha.run("join", code)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not (alpha.home.state / "join").exists()


@pytest.mark.parametrize(
    "words", [("--port", "70000"), ("--port", "x"), ("--peer", ":1"), ("--only", "a", "--except", "a")]
)
def test_a_wrong_setting_is_a_usage_error(founder, words):
    refused(founder, *words, code=2)
    assert not founder.file.exists()
