"""A mailbox in a bucket: stores without conditional put, that fail now and then, or refuse; beside the contract with moto."""

import http.server
import threading
import urllib.parse
from xml.sax.saxutils import escape

import pytest

from mycomesh.mesh.mailbox import s3
from mycomesh.mesh.mailbox.mailbox import Listed, MailboxError
from mycomesh.mesh.mailbox.storages import Credentials, open_mailbox

MESH, STREAM = bytes(range(16)), bytes(range(8))
KEYS = Credentials(access_key_id="fleet", secret_access_key="s3cret")


class Store(http.server.ThreadingHTTPServer):
    """An S3-compatible store in memory. Tests say what it cannot do, or what it answers next."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Requests)
        self.objects = {}
        self.failures = []  # (status, code) of the next answers; a status of 0 loses the answer of a write that was done
        self.conditional = True
        self.lists_after = True
        self.seen = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"s3://boxes/fleet?endpoint=http://127.0.0.1:{self.server_port}"


class Requests(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Last-Modified": "Tue, 01 Dec 2026 00:00:00 GMT"}.items():
            self.send_header(name, headers.pop(name, value))
        self.send_header("ETag", '"1"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code):
        self.answer(status, f"<Error><Code>{code}</Code><Message>{code} was said</Message></Error>".encode())

    def failed(self):
        self.server.seen.append((self.command, self.path))
        if not self.server.failures or self.server.failures[0][0] == 0:
            return False
        self.refuse(*self.server.failures.pop(0))
        return True

    def do_PUT(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.failed():
            return
        if self.headers.get("If-None-Match"):
            if not self.server.conditional:
                self.refuse(501, "NotImplemented")
                return
            if self.path in self.server.objects:
                self.refuse(412, "PreconditionFailed")
                return
        self.server.objects[self.path] = body
        if self.server.failures:
            self.server.failures.pop(0)
            self.close_connection = True
            return
        self.answer(200)

    def do_GET(self):
        if self.failed():
            return
        parts = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        if "list-type" in query:
            after = f"/boxes/{query.get('start-after', '')}" if self.server.lists_after else ""
            keys = sorted(
                key for key in self.server.objects if key.startswith(f"/boxes/{query['prefix']}") and key > after
            )
            found = "".join(
                f"<Contents><Key>{escape(key.removeprefix('/boxes/'))}</Key><LastModified>2026-12-01T00:00:00Z</LastModified>"
                f"<ETag>1</ETag><Size>{len(self.server.objects[key])}</Size></Contents>"
                for key in keys
            )
            self.answer(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode())
        elif self.path in self.server.objects:
            self.answer(200, self.server.objects[self.path])
        else:
            self.refuse(404, "NoSuchKey")

    do_HEAD = do_GET  # noqa: N815 -- the name that the library calls

    def do_DELETE(self):
        if not self.failed():
            self.server.objects.pop(self.path, None)
            self.answer(204)

    def do_POST(self):
        """Delete several keys at once."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if not self.failed():
            for key in body.split("<Key>")[1:]:
                self.server.objects.pop(f"/boxes/{key.partition('</Key>')[0]}", None)
            self.answer(200, b"<DeleteResult></DeleteResult>")


@pytest.fixture
def store():
    found = Store()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture
def mailbox(store):
    return open_mailbox(store.url, KEYS)


def test_a_store_without_conditional_put_is_looked_at(store, mailbox):
    store.conditional = False
    assert mailbox.append(MESH, STREAM, 1, b"first")
    assert not mailbox.conditional
    assert not mailbox.append(MESH, STREAM, 1, b"second")
    assert mailbox.append(MESH, STREAM, 2, b"third")
    assert mailbox.get(MESH, Listed(STREAM, 1, 0)) == b"first"


def test_a_store_that_ignores_start_after(store, mailbox):
    store.lists_after = False
    for position in (3, 1, 2):
        mailbox.append(MESH, STREAM, position, b"data")
    assert [each.position for each in mailbox.list_after(MESH, STREAM, 1)] == [2, 3]


def test_a_store_that_fails_is_tried_again(store, mailbox):
    store.failures = [(503, "SlowDown"), (500, "InternalError")]
    assert mailbox.append(MESH, STREAM, 1, b"data")
    store.failures = [(503, "SlowDown")]
    assert mailbox.get(MESH, Listed(STREAM, 1, 0)) == b"data"
    store.failures = [(503, "SlowDown")] * (s3.RETRIES + 1)
    with pytest.raises(MailboxError, match="SlowDown: SlowDown was said; check the endpoint"):
        mailbox.list_after(MESH, STREAM, 0)
    assert mailbox.list_after(MESH, STREAM, 0) == [Listed(STREAM, 1, 4)]


@pytest.mark.parametrize("number", [401, 403, 501])
def test_a_number_in_an_error_is_no_status(store, mailbox, monkeypatch, number):
    """The client names the time that a request took, which may be 403.58 ms."""
    text = f"Error performing PUT {number} in {number}.58ms, after 3 retries - Server returned non-2xx status code: 503"

    def put(*args, **options):
        raise OSError(text)

    monkeypatch.setattr(s3.obstore, "put", put)
    with pytest.raises(MailboxError, match="check the endpoint"):
        mailbox.append(MESH, STREAM, 1, b"data")
    assert mailbox.conditional


def test_a_lost_answer_does_not_take_the_position(store, mailbox):
    store.failures = [(0, "")]
    try:
        stored = mailbox.append(MESH, STREAM, 1, b"data")
    except MailboxError:
        stored = mailbox.append(MESH, STREAM, 1, b"data")
    assert stored
    assert mailbox.list_after(MESH, STREAM, 0) == [Listed(STREAM, 1, 4)]


def test_a_refusal_says_what_to_check(store, mailbox):
    for status, code in ((403, "AccessDenied"), (403, "InvalidAccessKeyId"), (401, "Unauthorized")):
        for use in (
            lambda: mailbox.append(MESH, STREAM, 1, b"data"),
            lambda: mailbox.list_after(MESH, STREAM, 0),
            lambda: mailbox.streams(MESH),
            lambda: mailbox.get(MESH, Listed(STREAM, 1, 0)),
            lambda: mailbox.remove(MESH, Listed(STREAM, 1, 0)),
        ):
            store.failures = [(status, code)] * (s3.RETRIES + 1)
            with pytest.raises(MailboxError, match="check the keys and what they may do") as caught:
                use()
            assert len(str(caught.value).splitlines()) == 1
            assert "s3cret" not in str(caught.value)
    store.failures = [(404, "NoSuchBucket")]
    with pytest.raises(MailboxError, match="create the bucket"):
        mailbox.get(MESH, Listed(STREAM, 1, 0))


def test_objects_that_are_no_envelopes_do_not_count(store, mailbox, monkeypatch):
    mailbox.append(MESH, STREAM, 1, b"data")
    folder = f"/boxes/fleet/mycomesh/{MESH.hex()}"
    for name in ("1.box", "8000000000000000.box", "000000000000000A.box", "deep/0000000000000002.box", "x"):
        store.objects[f"{folder}/{STREAM.hex()}/{name}"] = b"junk"
    store.objects[f"{folder}/notes/x"] = b"junk"
    assert mailbox.list_after(MESH, STREAM, 0) == [Listed(STREAM, 1, 4)]
    monkeypatch.setattr(s3, "ENVELOPE_BYTES_MAX", 4)
    assert mailbox.get(MESH, Listed(STREAM, 1, 0)) == b"data"
    monkeypatch.setattr(s3, "ENVELOPE_BYTES_MAX", 3)
    assert mailbox.get(MESH, Listed(STREAM, 1, 0)) is None
    monkeypatch.setattr(s3, "LISTED_MAX", 2)
    for position in (2, 3):
        mailbox.append(MESH, STREAM, position, b"data")
    assert [each.position for each in mailbox.list_after(MESH, STREAM, 0)] == [1, 2]


def test_names_that_a_listing_reads_are_bounded(store, mailbox, monkeypatch):
    assert s3.SEEN_MAX == s3.LISTED_MAX + s3.LIST_PAGE
    monkeypatch.setattr(s3, "SEEN_MAX", 3)
    monkeypatch.setattr(s3, "LIST_PAGE", 1)
    folder = f"/boxes/fleet/mycomesh/{MESH.hex()}/{STREAM.hex()}"
    for position in (1, 9):
        mailbox.append(MESH, STREAM, position, b"data")
    assert len(mailbox.list_after(MESH, STREAM, 0)) == 2
    for number in range(5):
        store.objects[f"{folder}/000000000000000{number + 2}.junk"] = b""
    assert [each.position for each in mailbox.list_after(MESH, STREAM, 0)] == [1]


def test_a_missing_certificate_file_is_named(tmp_path):
    with pytest.raises(MailboxError, match="cannot read the certificates of ca"):
        open_mailbox("s3://boxes?endpoint=https://127.0.0.1:1", Credentials(ca=str(tmp_path / "absent.pem")))


def test_a_client_that_has_rested_works_on(store):
    box = open_mailbox(store.url, KEYS)
    assert box.append(MESH, STREAM, 1, b"one")
    for _ in range(2):
        box.rest()
        assert box.get(MESH, Listed(STREAM, 1, 3)) == b"one"
    assert sum(length for _, length in box._code.parts) > 1 << 20, "the client's library was found"
