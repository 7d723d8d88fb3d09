"""The console beside real nodes: its API as a program in another language sees it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.tools.codes import CODES
from mycomesh.tools.web import api
from mycomesh.tools.web.api import CLIENTS_MAX, CONFLICTS_MAX, PARKED_MAX, READERS_MAX, TABLES_MAX
from mycomesh.tools.web.cursors import HELD_MAX, PAGES_MAX
from mycomesh.tools.web.node_client import PAGE_ROWS
from tests.integration.machines import ROOT, SQLITE, Machine, eventually
from tests.sync.scale import examples

pytestmark = pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)")
START_S = 60


class Web:
    """One console, as a process."""

    def __init__(self, machine, *words, port=0):
        self.process = subprocess.Popen(
            machine.command("web", f"127.0.0.1:{port}", *words), cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        line = self.process.stdout.readline()
        found = re.fullmatch(r"console at http://127\.0\.0\.1:(\d+)/(?:#token=(\S+))?\n", line)
        assert found, line
        self.port, self.token = int(found[1]), found[2]

    def ask(self, path, *, method="GET", body=None, token=None, **headers):
        """Return (status, headers, body) of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_S)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            sent["Authorization"] = f"Bearer {token}"
        if body is not None:
            sent["Content-Type"] = "application/json"
            body = json.dumps(body)
        with contextlib.closing(connection):
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def json(self, path, **options):
        status, _, body = self.ask(path, **options)
        assert status == 200, body
        return json.loads(body)

    @contextlib.contextmanager
    def events(self, path, **headers):
        """Yield an iterator of (name, id, data) of server-sent events."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_S)) as connection:
            connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()

            def read():
                fields = {}
                while line := answer.readline().decode():
                    name, _, value = line.rstrip("\n").partition(": ")
                    if name:
                        fields[name] = value
                    elif "event" in fields:
                        yield fields["event"], fields.get("id"), json.loads(fields["data"])
                        fields = {}
                    else:
                        fields = {}

            yield read()

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(START_S) == 0
        self.process.stdout.close()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """Two members with a table, and a console that may write beside the second."""
    folder = tmp_path_factory.mktemp("web")
    first, second = (Machine(folder, name) for name in ("first", "second"))
    first.done("init", "--node-name", "first")
    first.up("--port", "0")
    code = first.done("invite").strip()
    second.done("join", code, "--no-multicast", "--peer", first.address, "--node-name", "second")
    second.up("--port", "0", "--peer", first.address)
    first.sql(
        "CREATE TABLE drones(id TEXT PRIMARY KEY, lat REAL, lon REAL, note); INSERT INTO drones VALUES('d1', 46.5, 7.5, 'a');"
        "CREATE TABLE plain(id INTEGER PRIMARY KEY, v)"
    )
    second.shows("SELECT count(*) FROM drones", "1\n")
    web = Web(second, "--allow-writes")
    yield first, second, web
    web.close()
    for machine in (first, second):
        machine.terminate()


def next_of(events, name):
    return next(each for each in events if each[0] == name)


def test_status_peers_and_tables_are_those_of_the_commands(fleet):
    _, second, web = fleet
    assert web.json("/api/status")["node"] == json.loads(second.done("status", "--json"))["node"]
    assert [peer["name"] for peer in web.json("/api/peers")] == ["first"]
    tables = {table["name"]: table for table in web.json("/api/tables")}
    assert set(tables) == {"drones", "plain"}
    assert tables["drones"]["layer"] == {
        "table": "drones",
        "kind": "pair",
        "lat": "lat",
        "lon": "lon",
        "entity": "",
        "time": "",
    }
    assert tables["plain"]["layer"] is None


def test_health_is_that_of_the_node(fleet):
    status, _, body = fleet[2].ask("/healthz")
    assert (status, body) == (200, b"ok\n")


def test_rows_come_as_json_csv_and_geojson(fleet):
    _, _, web = fleet
    where = quote("id = 'd1'")
    found = web.json(f"/api/tables/drones?where={where}")
    assert (found["columns"], found["rows"], found["keys"]) == (
        ["id", "lat", "lon", "note"],
        [["d1", 46.5, 7.5, "a"]],
        ["d1"],
    )
    _, headers, body = web.ask(f"/api/tables/drones?where={where}&format=csv")
    assert (headers["Content-Type"], body) == ("text/csv", b"id,lat,lon,note\r\nd1,46.5,7.5,a\r\n")
    (feature,) = web.json(f"/api/tables/drones?where={where}&format=geojson")["features"]
    assert feature["geometry"] == {"type": "Point", "coordinates": [7.5, 46.5]}
    assert web.json("/api/why/drones/d1")["cells"][0]["by"] == "first"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/tables/absent", 404, "web.unknown"),
        ("/api/why/drones/absent", 404, "decision.refused"),
        ("/api/tables/drones?where=(", 400, "web.sql"),
        ("/api/tables/drones?order=x", 400, "web.request"),
        ("/api/tables/drones?limit=x", 400, "web.request"),
        ("/api/tables/plain?format=geojson", 400, "web.unknown"),
        ("/api/changes", 400, "web.request"),
        ("/api/changes?table=absent", 404, "web.unknown"),
        ("/api/query?sql=DELETE+FROM+plain", 403, "web.sql"),
        ("/api/execute", 405, "web.request"),
        ("/api/nothing", 404, "web.unknown"),
        ("/static/..%2f..%2fserver.py", 404, "web.unknown"),
        ("/api/trace", 404, "web.unknown"),
        ("/basemap/file", 404, "web.unknown"),
    ],
)
def test_wrong_request_gets_one_line_and_a_code(fleet, path, status, code):
    got, _, body = fleet[2].ask(path)
    assert got == status, body
    assert json.loads(body)["code"] == code


def test_changes_of_other_nodes_come_as_events(fleet):
    first, _, web = fleet
    with web.events("/api/changes?table=drones") as events:
        assert next_of(events, "ready")[2] == {"table": "drones"}
        first.sql("UPDATE drones SET note = 'b' WHERE id = 'd1'")
        _, identity, change = next_of(events, "change")
        assert (change["op"], change["values"]["note"], change["who"]) == ("update", "b", "first")
        assert identity == change["id"]
        first.sql("UPDATE drones SET note = 'c' WHERE id = 'd1'; INSERT INTO drones VALUES('d2', 1, 2, 'n')")
        later = [next_of(events, "change") for _ in range(2)]
    with web.events("/api/changes?table=drones") as keeping:  # else the feed ends, and forgets what was recent
        next_of(keeping, "ready")
        first.sql("UPDATE drones SET note = 'd' WHERE id = 'd1'")
        _, last, _ = next_of(keeping, "change")
        first.sql("UPDATE drones SET note = 'e' WHERE id = 'd1'")
        expected = next_of(keeping, "change")
        with web.events("/api/changes?table=drones", Last_Event_ID=last) as resumed:
            assert next_of(resumed, "change") == expected
        with web.events("/api/changes?table=drones", Last_Event_ID=later[0][1] + "9") as unknown:
            assert next(unknown)[0] == "reset"
            assert next(unknown)[0] == "ready"


def dumped(web, path):
    body = web.ask(f"/api/changes?{path}&once=1")[2]
    return [each for each in map(json.loads, body.splitlines()) if each["op"] != "delete"]


def test_cursor_moves_by_acknowledgement_alone(fleet):
    first, second, web = fleet
    second.sql("DELETE FROM plain; INSERT INTO plain VALUES(1, 'a'), (2, 'b')")
    first.shows("SELECT count(*) FROM plain", "2\n")

    def read():
        return dumped(web, "table=plain&cursor=shop")

    def acknowledged(change):
        return web.ask("/api/cursors/shop", method="POST", body={"id": change["id"]})

    assert [each["row"] for each in read()] == ["1", "2"]
    found = read()  # the first client may have died
    assert [each["row"] for each in found] == ["1", "2"]
    assert json.loads(acknowledged(found[0])[2])["acknowledged"] >= 1  # deletes count too
    assert [each["row"] for each in read()] == ["2"]
    assert acknowledged(found[1])[0] == 200
    assert read() == []
    status, _, body = acknowledged(found[1])
    assert (status, json.loads(body)["code"]) == (409, "web.request")
    first.sql("INSERT INTO plain VALUES(3, 'c')")
    second.shows("SELECT count(*) FROM plain", "3\n")
    assert [each["row"] for each in read()] == ["3"]
    assert "shop" in second.done("cursors")


def test_stream_goes_on_behind_its_last_event(fleet):
    first, second, web = fleet
    path = "/api/changes?table=drones&cursor=resumed&from=now"
    with web.events(path) as events:
        next_of(events, "ready")
        first.sql("INSERT INTO drones VALUES('r1', 1, 1, 'n'); INSERT INTO drones VALUES('r2', 1, 1, 'n')")
        seen = [next_of(events, "change") for _ in range(2)]
        assert web.json("/api/cursors/resumed", method="POST", body={"id": seen[0][1]}) == {"acknowledged": 1}
        assert web.json("/api/cursors/resumed", method="POST", body={"id": seen[0][1]}) == {"acknowledged": 0}
    first.sql("INSERT INTO drones VALUES('r3', 1, 1, 'n')")
    second.shows("SELECT count(*) FROM drones WHERE id = 'r3'", "1\n")
    with web.events(path) as events:  # without the id the second comes again
        assert [next_of(events, "change")[2]["row"] for _ in range(2)] == ["r2", "r3"]
    with web.events(path, Last_Event_ID=seen[1][1]) as events:
        assert next_of(events, "change")[2]["row"] == "r3"


@pytest.mark.slow
def test_cursor_sends_four_pages_before_an_acknowledgement(fleet):
    first, second, web = fleet
    first.sql("CREATE TABLE many(id INTEGER PRIMARY KEY)")
    first.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000) INSERT INTO many SELECT i FROM n"
    )
    second.shows("SELECT count(*) FROM many", "6000\n")
    rows = []
    while found := dumped(web, "table=many&cursor=pages"):
        assert len(found) <= PAGES_MAX * PAGE_ROWS
        rows += [int(each["row"]) for each in found]
        web.json("/api/cursors/pages", method="POST", body={"id": found[-1]["id"]})
    assert sorted(rows) == list(range(1, 6001))
    with web.events("/api/changes?table=many&cursor=live&from=start") as events:
        last = [next_of(events, "change") for _ in range(PAGES_MAX * PAGE_ROWS)][-1]
        web.json("/api/cursors/live", method="POST", body={"id": last[1]})
        assert next_of(events, "change")[2]["op"] == "insert"  # the stream had waited for this


def test_only_some_readers_wait_for_a_client_that_left(fleet):
    first, _, web = fleet
    first.sql("INSERT OR REPLACE INTO plain VALUES(1, 'held')")
    found = [dumped(web, f"table=plain&cursor=held{number}")[-1] for number in range(HELD_MAX + 1)]
    codes = [
        web.ask(f"/api/cursors/held{number}", method="POST", body={"id": change["id"]})[0]
        for number, change in enumerate(found)
    ]
    assert codes == [409] + [200] * HELD_MAX


def test_stream_of_a_table_that_is_gone_waits(fleet):
    first, second, web = fleet
    first.sql("CREATE TABLE gone(id INTEGER PRIMARY KEY)")
    second.shows("SELECT count(*) FROM gone", "0\n")
    with web.events("/api/changes?table=gone") as events:
        next_of(events, "ready")
        second.sql("DROP TABLE gone")
        assert next(events)[0] == "reset"
        time.sleep(2.5)  # the console tries each second, and says nothing
        second.sql("CREATE TABLE gone(id INTEGER PRIMARY KEY); INSERT INTO gone VALUES(1)")
        assert next(events)[0] == "reset"
        second.sql("INSERT INTO gone VALUES(2)")
        assert next(each for each in events if each[0] == "change" and each[2]["row"] == "2")


def test_stream_with_a_cursor_is_taken_up_at_once(fleet):
    first, _, web = fleet
    path = "/api/changes?table=drones&cursor=pilot"
    seen = []
    for number in range(3):  # each client leaves while its reader waits in the node
        with web.events(path) as events:
            next_of(events, "ready")
            first.sql(f"INSERT INTO drones VALUES('p{number}', 1, 1, 'n')")
            seen.append(
                next(each for each in events if each[0] == "change" and each[2]["row"] == f"p{number}")[2]["op"]
            )
    assert seen == ["insert"] * 3


def test_live_stream_has_mesh_and_rows(fleet):
    first, _, web = fleet
    with web.events("/api/live?table=drones&table=plain") as events:
        assert {node["name"] for node in next_of(events, "status")[2]["mesh"]["nodes"]} == {"first", "second"}
        first.sql("UPDATE drones SET lat = lat + 0.1 WHERE id = 'd1'")
        found = next_of(events, "changes")[2]
        assert (found["table"], [each["row"] for each in found["changes"]]) == ("drones", ["d1"])


def test_change_of_any_size_comes_by_every_stream(fleet):
    """Above 4 MB, what a client has not read, a change was cut off in each stream that began with it."""
    first, second, web = fleet
    size = 5_000_000  # in base 64 above the limit
    second.sql(f"CREATE TABLE large(id INTEGER PRIMARY KEY, v BLOB); INSERT INTO large VALUES(1, zeroblob({size}))")
    first.shows("SELECT length(v) FROM large", f"{size}\n")
    (line,) = dumped(web, "table=large")
    assert len(line["values"]["v"]["base64"]) > size
    with web.events("/api/changes?table=large&from=start") as events:
        assert next_of(events, "change")[2]["row"] == "1"
    with web.events("/api/live?table=large") as events:
        next_of(events, "ready")
        second.sql(f"UPDATE large SET v = randomblob({size})")
        assert len(next_of(events, "changes")[2]["changes"][0]["values"]["v"]["base64"]) > size
        second.sql("UPDATE large SET v = 'small'")
        assert next_of(events, "changes")[2]["changes"][0]["values"] == {"id": 1, "v": "small"}


def test_more_live_queries_than_places_all_answer(fleet):
    first, _, web = fleet
    first.sql("CREATE TABLE counted(id INTEGER PRIMARY KEY)")
    eventually(lambda: web.ask("/api/tables/counted")[0] == 200, "the table")
    sql = quote("SELECT count(*) FROM counted")
    with contextlib.ExitStack() as stack:
        path = f"/api/query?sql={sql}"
        all_events = [stack.enter_context(web.events(path, Accept="text/event-stream")) for _ in range(40)]
        assert {next(events)[2]["rows"][0][0] for events in all_events} == {0}
        first.sql("INSERT INTO counted VALUES(1)")
        assert {next(events)[::2][0] for events in all_events} == {"rows"}


def test_live_query_answers_again_after_a_commit(fleet):
    first, _, web = fleet
    sql = quote("SELECT count(*) FROM plain WHERE v = 'live'")
    with web.events(f"/api/query?sql={sql}", Accept="text/event-stream") as events:
        assert next(events)[2]["rows"] == [[0]]
        first.sql("INSERT INTO plain(v) VALUES('live')")
        assert next(events)[2]["rows"] == [[1]]


def test_writes_need_the_token_and_spread(fleet):
    first, _, web = fleet
    sql = {"sql": "INSERT INTO plain(id, v) VALUES(?, ?)", "values": [77, "by http"]}
    assert web.ask("/api/execute", method="POST", body=sql)[0] == 401
    assert web.json("/api/execute", method="POST", body=sql, token=web.token)["rows"] == [[1]]
    first.shows("SELECT v FROM plain WHERE id = 77", "by http\n")
    cookie = web.ask("/session", method="POST", body={"token": web.token})[1]["Set-Cookie"].partition(";")[0]
    sql["values"][0] = 78
    status, _, body = web.ask("/api/execute", method="POST", body=sql, Cookie=cookie, Origin="http://evil.example")
    assert (status, json.loads(body)["code"]) == (403, "web.origin")
    assert web.json("/api/execute", method="POST", body=sql, Cookie=cookie)["rows"] == [[1]]


def test_conflict_is_restored_with_the_command_shown(fleet):
    first, second, web = fleet
    first.done("isolate")
    # The earlier write loses. Only its own node is sure to know it: another may get the later one first.
    second.sql("INSERT OR REPLACE INTO drones VALUES('both', 1, 1, 'second')")
    first.sql("INSERT OR REPLACE INTO drones VALUES('both', 1, 1, 'first')")
    first.done("rejoin")
    conflict = eventually(lambda: [each for each in web.json("/api/conflicts") if each["key"] == "both"], "a conflict")[
        0
    ]
    done = web.json("/api/restore", method="POST", body={"conflict": conflict["id"]}, token=web.token)
    assert done["command"] == f"mycomesh restore {conflict['id']}"
    lost = json.loads(json.dumps(conflict["lost"]))["note"]
    first.shows("SELECT note FROM drones WHERE id = 'both'", f"{lost}\n")


def test_parked_row_is_listed_and_tried_again(fleet):
    first, second, web = fleet
    second.sql("CREATE UNIQUE INDEX once ON plain(v) WHERE id > 900")
    first.shows("SELECT count(*) FROM sqlite_schema WHERE name = 'once'", "1\n")
    assert web.json("/api/parked") == []
    first.done("isolate")
    first.sql("INSERT INTO plain VALUES(901, 'same')")
    second.sql("INSERT INTO plain VALUES(902, 'same')")
    first.done("rejoin")
    (parked,) = eventually(lambda: web.json("/api/parked"), "one of both is parked")
    assert (parked["table"], parked["key"] in ("901", "902")) == ("plain", True)
    done = web.json("/api/parked/retry", method="POST", body={"table": "plain"}, token=web.token)
    assert done == {"done": "1 parked rows of plain are tried again", "command": "mycomesh parked --retry plain"}
    assert "same" in second.done("parked", "--retry", "plain")
    second.sql(f"DELETE FROM plain WHERE id = {903 - int(parked['key']) + 900}")
    eventually(lambda: web.json("/api/parked") == [], "it has entered")
    second.shows(f"SELECT v FROM plain WHERE id = {parked['key']}", "same\n")
    assert web.json("/api/dead") == []
    wrong = web.ask("/api/parked/retry", method="POST", body={"table": "absent"}, token=web.token)
    assert (wrong[0], b"no replicated table" in wrong[2]) == (400, True)


def test_another_host_name_is_not_answered(fleet):
    for host in ("evil.example", f"evil.example:{fleet[2].port}"):
        status, _, body = fleet[2].ask("/api/status", Host=host)
        assert (status, json.loads(body)["code"]) == (421, "web.host")


def test_streams_and_tables_have_limits(fleet, monkeypatch):
    _, _, web = fleet
    names = "&".join(["table=plain"] * TABLES_MAX)
    with web.events(f"/api/live?{names}") as events:
        assert next_of(events, "ready")[2] == {"tables": ["plain"]}
    assert web.ask(f"/api/live?{names}&table=plain")[0] == 400
    with contextlib.ExitStack() as stack:
        for _ in range(READERS_MAX):
            next_of(stack.enter_context(web.events("/api/changes?table=plain&from=start")), "ready")
        assert web.ask("/api/changes?table=plain&from=start")[0] == 503
        next_of(stack.enter_context(web.events("/api/changes?table=plain")), "ready")
    assert CLIENTS_MAX >= 100
    assert len(web.json("/api/conflicts?limit=9999")) <= CONFLICTS_MAX
    assert len(web.json("/api/parked")) <= PARKED_MAX == api.PARKED_MAX


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node (apt-get install nodejs)")
def test_javascript_client_follows_a_table(fleet):
    first, _, web = fleet
    command = ["node", "docs/examples/watch.mjs", f"http://127.0.0.1:{web.port}", "plain"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as client:
        try:
            assert client.stdout.readline().startswith("id, v: ")
            assert client.stdout.readline() == "ready\n"
            first.sql("INSERT INTO plain VALUES(500, 'from js')")
            line = next(line for line in client.stdout if " 500 " in line)
        finally:
            client.kill()
    assert line.startswith('insert 500 {"id":500,"v":"from js"} by first plain/')


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl (apt-get install curl)")
def test_curl_client_reads_and_writes(fleet):
    first, second, web = fleet
    second.sql("INSERT INTO plain VALUES(599, 'for curl')")
    sql = "INSERT INTO plain VALUES(600, 'from curl')"
    done = subprocess.run(
        ["docs/examples/watch.sh", f"http://127.0.0.1:{web.port}", "plain", "curl"],
        cwd=ROOT,
        env={**os.environ, "TOKEN": web.token, "SQL": sql},
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("id,v\n")
    assert '{"columns":["changes"],"rows":[[1]],"more":false}' in done.stdout
    assert re.search(r'\{"acknowledged": \d+\}', done.stdout)
    first.shows("SELECT v FROM plain WHERE id = 600", "from curl\n")


def test_node_runs_its_console_and_starts_it_again(machine):
    lone = machine("lone")
    lone.done("init")
    lone.home.config_file.parent.mkdir(exist_ok=True)
    lone.home.config_file.write_text("[web]\ntoken = true\n")
    lone.up("--port", "0", "--web", "127.0.0.1:0")

    def running():
        return [each for each in lone.status()["children"] if each["state"] == "running"]

    (child,) = eventually(running, "the console runs")
    assert "console at http://127.0.0.1:" in lone.output()
    token = (lone.home.state / "web-token").read_text().strip()
    assert token not in lone.output()
    address = re.search(r"http://127\.0\.0\.1:(\d+)", child["text"])[1]
    for sent, status in ((token, 200), ("wrong", 401)):
        connection = http.client.HTTPConnection("127.0.0.1", int(address), timeout=START_S)
        with contextlib.closing(connection):
            connection.request("GET", "/api/status", headers={"Authorization": f"Bearer {sent}"})
            assert connection.getresponse().status == status
    os.kill(child["pid"], signal.SIGKILL)
    eventually(lambda: [each for each in running() if each["pid"] != child["pid"]], "it runs again")
    lone.done("web", "pause")
    eventually(lambda: lone.status()["children"][0]["state"] == "paused", "it is paused")
    lone.done("web", "resume")
    (last,) = eventually(running, "it runs again")
    lone.kill()
    eventually(lambda: not Path(f"/proc/{last['pid']}").exists(), "it ends with its node")


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("adress = 'x'", "no key 'adress'"),
        ("token = 1", "'token' must be true or false"),
        ("names = [1]", "'names' must be a list of names"),
        ("address = 'a b'", "console 'a b' is not host:port"),
        ("basemap = 'absent.pmtiles'", "cannot read the base map"),
    ],
)
def test_wrong_section_is_refused_in_one_line(fleet, section, says):
    second = fleet[1]
    second.home.config_file.write_text(f"[web]\n{section}\n")
    try:
        done = second.run("web", "run", "127.0.0.1:0") if "address" not in section else second.run("web", "run")
    finally:
        second.home.config_file.unlink()
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_wrong_address_stops_up_before_it_begins(machine):
    lone = machine("mistaken")
    done = lone.run("up", str(lone.file), "--web", "127.0.0.1:99999")
    assert done.returncode == 2
    assert "no port between" in done.stderr
    assert not lone.file.exists()


def test_console_without_a_node_says_so(tmp_path):
    lone = Machine(tmp_path, "lone")
    done = lone.run("web", "127.0.0.1:0")
    assert done.returncode == 69
    assert "no node runs" in done.stderr


def test_console_says_that_its_node_has_ended(machine):
    lone = machine("ending")
    lone.done("init")
    lone.up("--port", "0")
    web = Web(lone)
    try:
        assert web.ask("/healthz")[0] == 200
        lone.terminate()
        eventually(lambda: web.ask("/healthz")[::2] == (503, b"no node runs\n"), "503")
    finally:
        web.close()


ODD = st.one_of(
    st.sampled_from(
        [
            "drones",
            "plain",
            "d1",
            "id",
            "1",
            "geojson",
            "csv",
            "start",
            "retry",
            "SELECT 1",
            "id = 1",
            "",
            "\0",
            "../..",
            "%",
            "-1",
        ]
    ),
    st.text(max_size=20),
)
WRONG = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), ODD, st.lists(ODD, max_size=2), st.just({"on": "drones"})
)
STREAMS = ("/api/changes", "/api/live")


@given(data=st.data(), allowed=st.booleans())
@examples(80)
def test_answers_are_as_openapi_describes_them(fleet, data, allowed):
    """Whatever a request has in the places that the description names, its answer is one that the description names too."""
    web = fleet[2]
    paths = web.json("/api/openapi.json")["paths"]
    path = data.draw(st.sampled_from([each for each in sorted(paths) if each not in STREAMS]))
    method = data.draw(st.sampled_from(sorted(paths[path])))
    operation = paths[path][method]
    query = {}
    for each in operation.get("parameters", ()):
        value = data.draw(ODD, each["name"])
        if each["in"] == "path":
            path = path.replace(f"{{{each['name']}}}", quote(value, safe=""))
        elif each["required"] or data.draw(st.booleans()):
            query[each["name"]] = value
    fields = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    body = None
    if fields:
        body = {
            name: data.draw(st.one_of(ODD, WRONG), name) for name in fields["properties"] if data.draw(st.booleans())
        }
    token = web.token if allowed and operation["operationId"] != "stepFlow" else None  # a step is an interpreter
    status, headers, answer = web.ask(f"{path}?{urlencode(query)}", method=method.upper(), body=body, token=token)
    kind = headers["Content-Type"].partition(";")[0]
    if status == 200:
        assert kind in operation["responses"]["200"]["content"]
        assert kind != "application/json" or json.loads(answer) is not None
        return
    assert status in (400, 401, 403, 404, 405, 409, 503), (status, answer)
    found = json.loads(answer)
    assert set(found) == set(web.json("/api/openapi.json")["components"]["schemas"]["Error"]["required"])
    assert "\n" not in found["error"]
    assert found["code"] in CODES


def test_address_in_use_is_one_line(fleet):
    _, second, _ = fleet
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = second.run("web", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 1
    assert "choose another HOST:PORT" in done.stderr
    assert done.stderr.count("\n") == 1
