"""A webhook answers rows, and while it is away a flow waits without a row that has failed."""

from __future__ import annotations

import http.server
import json
import threading

import pytest

from mycomesh.mesh.node.errors import ConfigError
from mycomesh.tools.flows.settings import parse
from mycomesh.tools.flows.sql_function import NotReadyError
from mycomesh.tools.flows.writer import Batch

pytest.importorskip("h11")


class Hook(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list = []  # noqa: RUF012 -- one server a test
    status = 200
    answer = None  # of all, instead of those by row

    def do_POST(self):
        row = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.headers["Idempotency-Key"], self.headers.get("Authorization"), row))
        made = self.answer
        if made is None:
            made = json.dumps([{"drone": row["id"], "what": f"seen {n}"} for n in range(row["battery"])]).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(made)))
        self.end_headers()
        self.wfile.write(made)

    def log_message(self, *_):
        pass


@pytest.fixture
def hook():
    """Serve a webhook; return (class of its requests, URL)."""
    kind = type("OneHook", (Hook,), {"seen": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield kind, f"http://127.0.0.1:{server.server_port}/hook"
    server.shutdown()
    server.server_close()


def write(flow, changes):
    return flow.write(Batch(len(changes), changes, list(range(len(changes)))), b"\x01", lambda _: b"\x02")


def test_a_webhook_answers_rows(hook, writer, change, rows, tmp_path):
    kind, url = hook
    secret = tmp_path / "secret.toml"
    secret.write_text('token = "t0p"\n')
    secret.chmod(0o600)
    flow = writer(url, credentials=str(secret))
    changes = [change(number, id=f"d{number}", battery=number % 3) for number in range(100)]
    assert write(flow, changes) == 100
    assert rows("SELECT count(*), count(DISTINCT key) FROM alerts") == [(99, 99)]
    assert len({key for key, _, _ in kind.seen}) == 100, "each has the id of its change"
    assert {token for _, token, _ in kind.seen} == {"Bearer t0p"}
    assert kind.seen[0][2]["_node"] == "alpha"


@pytest.mark.parametrize(
    ("status", "answer", "why"),
    [
        (404, b"", "ValueError: the server answers with status 404"),
        (200, b"<html>", "ValueError: the server answers with something that is no JSON: b'<html>'"),
        (200, b"7", "answered with something else than rows: 7"),
    ],
)
def test_an_answer_without_rows_is_a_dead_letter(hook, writer, change, rows, status, answer, why):
    kind, url = hook
    kind.status, kind.answer = status, answer
    flow = writer(f"http: {url}")
    assert write(flow, [change(1, id="d1", battery=1)]) == 1
    assert rows("SELECT why FROM mycomesh_dead_letters") == [(why,)]


def test_a_server_that_is_away_is_waited_for(hook, writer, change, rows):
    kind, url = hook
    kind.status = 503
    flow = writer(url)
    with pytest.raises(NotReadyError, match="the server answers with status 503"):
        write(flow, [change(1, id="d1", battery=1)])
    assert rows("SELECT count(*) FROM mycomesh_dead_letters") == [(0,)]
    kind.status = 200
    assert write(flow, [change(1, id="d1", battery=1)]) == 1
    assert rows("SELECT drone FROM alerts") == [("d1",)]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"run": "http: nowhere"}, "names a webhook"),
        ({"run": "https://user:secret@host/"}, "without a password"),
        ({"run": "http://host:x/"}, "Port could not be cast"),
        ({"run": "exec: cat", "ca": "x.pem"}, "for a webhook alone"),
    ],
)
def test_a_webhook_that_cannot_be_is_refused(section, said):
    with pytest.raises(ConfigError, match=said):
        parse("low", {"on": "drones", "into": "alerts", **section})
