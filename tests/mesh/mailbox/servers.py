"""Real servers for mailboxes: nats-server, alone or as a hub with leaves, and moto's S3."""

from __future__ import annotations

import gc
import http.client
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.free_ports import free_port
from tests.tools.bridges.brokers import program, wait_for_port

HUB = "hub"
WAIT_S = 90
UNCLOSED = "ignore::ResourceWarning"
OPERATOR = {"operator": "of-operator"}  # at a hub where leaves log in
REFUSALS = {"refused": (403, "InvalidAccessKeyId"), "full": (507, "XMinioStorageFull")}
KEYS = 'access_key_id = "fleet"\nsecret_access_key = "s3cret"\n'


def eventually(check, what, wait_s=WAIT_S):
    end = time.monotonic() + wait_s
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < end, f"not within {wait_s} s: {what}"
        time.sleep(0.02)


class Nats:
    """nats-servers that can be killed and started again: one alone, or leaves of a hub, each a domain of its own.

    `lines` are more lines of the configuration of each, such as limits or users. With `known`, a password of each leaf, these log
    in at the hub; one that leaves `logins` is shut out with the next `reload`.
    """

    def __init__(self, folder, names=("alone",), lines=None, known=None):
        self.folder = folder
        self.names = names
        self.lines = lines or {}
        self.known = known or {}
        self.logins = dict(self.known)
        self.ports = {name: free_port() for name in names}
        self.leaf_port = free_port()
        self.processes = {}
        self.seen = bytearray()  # after `listen`

    def listen(self, subject):
        """Collect all bytes that pass through the server under a subject, as its operator could, until it is killed."""
        client = socket.create_connection(("127.0.0.1", self.ports["alone"]))
        client.sendall(f'CONNECT {{"verbose":false}}\r\nSUB {subject} 1\r\nPING\r\n'.encode())
        while b"PONG" not in self.seen:
            self.seen += client.recv(65_536)

        def collect():
            with client:
                while data := client.recv(65_536):
                    self.seen += data

        threading.Thread(target=collect, daemon=True).start()

    def __enter__(self):
        for name in self.names:
            self.start(name)
        return self

    def __exit__(self, *_):
        for name in list(self.processes):
            self.kill(name)
        gc.collect()  # nats-py leaves the socket to a server that dies to the garbage collector: not in a later test

    def url(self, name="alone", more=""):
        return f"nats://127.0.0.1:{self.ports[name]}{more}"

    def config(self, name):
        store = self.folder / name
        jetstream = f'store_dir: "{store}"'
        if HUB in self.names:
            jetstream += f", domain: {name}"
        lines = [f"server_name: {name}", f"listen: 127.0.0.1:{self.ports[name]}"]
        if name == HUB:
            lines.append(f"leafnodes {{ listen: 127.0.0.1:{self.leaf_port} }}")
            if self.known:
                users = (f'{{ user: {user}, password: "{word}" }}' for user, word in (self.logins | OPERATOR).items())
                lines.append(f"accounts {{ FLEET {{ jetstream: enabled, users: [{', '.join(users)}] }} }}")
        elif HUB in self.names:
            login = f"{name}:{self.known[name]}@" if self.known else ""
            remote = f'url: "nats://{login}127.0.0.1:{self.leaf_port}"'
            lines.append(f"leafnodes {{ reconnect: 1, remotes: [{{ {remote} }}] }}")
        extra = self.lines.get(name, "")
        if "jetstream:" not in extra:
            lines.append(f"jetstream {{ {jetstream} }}")
        return "\n".join([*lines, extra.replace("jetstream:", f"jetstream {{ {jetstream}, ").replace(";;", "}")])

    def start(self, name="alone"):
        path = self.folder / f"{name}.conf"
        path.write_text(self.config(name))
        server = program("nats-server", Path(sys.executable).parent / "nats-server")
        with (self.folder / f"{name}.log").open("ab") as log:
            environ = {**os.environ, "GOMEMLIMIT": "64MiB"}  # else the heap of a leaf grows to 140 MB while it copies
            self.processes[name] = subprocess.Popen([server, "-c", str(path)], stdout=log, stderr=log, env=environ)
        wait_for_port(self.ports[name], self.processes[name])

    def reload(self, name="alone"):
        """Apply a changed configuration to the running server."""
        (self.folder / f"{name}.conf").write_text(self.config(name))
        self.processes[name].send_signal(1)

    def kill(self, name="alone"):
        process = self.processes.pop(name)
        process.kill()
        process.wait()


class S3:
    """moto's server with the bucket `boxes`."""

    def __init__(self, folder):
        self.port = free_port()
        with (folder / "moto.log").open("ab") as log:
            words = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
            self.process = subprocess.Popen(words, stdout=log, stderr=log)
        wait_for_port(self.port, self.process)
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        client.request("PUT", "/boxes", headers={"Host": f"127.0.0.1:{self.port}"})
        answer = client.getresponse()
        assert answer.status == 200, answer.read()
        client.close()

    def url(self, path="boxes/fleet"):
        return f"s3://{path}?endpoint=http://127.0.0.1:{self.port}"

    def close(self):
        self.process.kill()
        self.process.wait()


class Door(http.server.ThreadingHTTPServer):
    """The way to an S3 server, for its clients: it may be away, shut out all logins, or have a full disk."""

    daemon_threads = True

    def __init__(self, behind):
        self.behind = behind
        self.mode = "open"
        super().__init__(("127.0.0.1", 0), _AtTheDoor)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, path="boxes/fleet"):
        return f"s3://{path}?endpoint=http://127.0.0.1:{self.server_port}"

    def close(self):
        self.shutdown()
        self.server_close()


class _AtTheDoor(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_one_request(self):
        if self.server.mode == "away":
            self.close_connection = True
            return
        super().handle_one_request()

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, code = REFUSALS.get(self.server.mode, (0, ""))
        if self.server.mode == "away":
            self.close_connection = True
            return
        if status and (status == 403 or self.command == "PUT"):
            data, headers = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode(), []
        else:
            client = http.client.HTTPConnection("127.0.0.1", self.server.behind.port, timeout=60)
            client.request(self.command, self.path, body, dict(self.headers))
            found = client.getresponse()
            status, data, headers = found.status, found.read(), found.getheaders()
            client.close()
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in {"content-length", "connection", "transfer-encoding", "date", "server"}:
                self.send_header(name, value)
        length = dict(headers).get("Content-Length", str(len(data))) if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Keep quiet."""


for _verb in ("GET", "PUT", "POST", "DELETE", "HEAD"):
    setattr(_AtTheDoor, f"do_{_verb}", _AtTheDoor.answer)
