"""A login and TLS before librdkafka's mock cluster, which has neither: a test double of a Kafka listener with SASL PLAIN.

It answers ApiVersions, SaslHandshake and SaslAuthenticate as Kafka does (KIP-43, KIP-152), and then passes all bytes on. The
addresses of brokers in answers become its own, so that clients come back to it; both names have nine letters.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import struct
import threading

API_VERSIONS, HANDSHAKE, AUTHENTICATE = 18, 17, 36
UNSUPPORTED_VERSION, UNSUPPORTED_MECHANISM, WRONG_PASSWORD = 35, 33, 58
FRAME_BYTES_MAX = 16 << 20


class LoginFront(socketserver.ThreadingTCPServer):
    """Listens on a port of its own. `login` is (user, password); None lets everyone in, with TLS alone."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, mock_port, *, login=None, tls=None):
        super().__init__(("127.0.0.1", 0), _Connection)
        self.port = self.server_address[1]
        self.mock_port = mock_port
        self.login = login
        self.tls = None
        if tls is not None:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(*tls)
        self.logins = 0
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """Say nothing: clients hang up when a password is wrong."""


class _Connection(socketserver.BaseRequestHandler):
    def handle(self):
        front = self.server
        client = self.request
        with contextlib.suppress(OSError, EOFError):
            if front.tls is not None:
                client = front.tls.wrap_socket(client, server_side=True)
            with client, socket.create_connection(("127.0.0.1", front.mock_port)) as mock:
                while front.login is not None and not self._log_in(client, mock):
                    pass
                front.logins += 1
                threading.Thread(target=self._answers, args=(mock, client), daemon=True).start()
                while data := client.recv(65_536):
                    mock.sendall(data)

    def _answers(self, mock, client):
        here = struct.pack(">I", self.server.port)
        there = b"127.0.0.1" + struct.pack(">I", self.server.mock_port)
        with contextlib.suppress(OSError, EOFError):
            while True:
                _send(client, _frame(mock).replace(there, b"localhost" + here))

    def _log_in(self, client, mock):
        """Answer one request of a client; return whether it may go on."""
        frame = _frame(client)
        kind, version, number = struct.unpack_from(">hhi", frame)
        head = struct.pack(">i", number)
        (size,) = struct.unpack_from(">h", frame, 8)
        body = frame[10 + max(0, size) :]
        if kind == API_VERSIONS:
            _send(client, head + self._versions(version, frame, mock))
        elif kind == HANDSHAKE:
            wanted = body[2:].decode()
            error = 0 if wanted == "PLAIN" else UNSUPPORTED_MECHANISM
            _send(client, head + struct.pack(">hih", error, 1, 5) + b"PLAIN")
        elif kind == AUTHENTICATE:
            good = tuple(body[4:].decode().split("\0")[1:]) == self.server.login
            why = b"" if good else b"Authentication failed: Invalid username or password"
            text = struct.pack(">h", len(why) if why else -1) + why
            answer = struct.pack(">h", 0 if good else WRONG_PASSWORD) + text + struct.pack(">i", 0)
            _send(client, head + answer + (struct.pack(">q", 0) if version else b""))
            if not good:
                raise EOFError
            return True
        else:
            raise EOFError  # Kafka hangs up on a client that asks before it has logged in
        return False

    def _versions(self, version, frame, mock):
        if version:
            return struct.pack(">hi", UNSUPPORTED_VERSION, 0)
        _send(mock, frame)
        answer = _frame(mock)[4:]
        (count,) = struct.unpack_from(">i", answer, 2)
        more = struct.pack(">hhhhhh", HANDSHAKE, 0, 1, AUTHENTICATE, 0, 1)
        return answer[:2] + struct.pack(">i", count + 2) + answer[6:] + more


def _frame(connection):
    (size,) = struct.unpack(">I", _bytes(connection, 4))
    if size > FRAME_BYTES_MAX:
        raise EOFError
    return _bytes(connection, size)


def _bytes(connection, size):
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def _send(connection, frame):
    connection.sendall(struct.pack(">I", len(frame)) + frame)
