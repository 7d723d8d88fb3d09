"""A mailbox in JetStream: servers die, fill up and refuse, and what was appended is there afterwards."""

import contextlib
import os
import re
import socket
import threading
import time

import pytest

from mycomesh.mesh.mailbox import nats
from mycomesh.mesh.mailbox.mailbox import LISTED_MAX, STREAMS_MAX, Listed, MailboxError
from mycomesh.mesh.mailbox.storages import Credentials, open_mailbox
from tests.mesh.mailbox.servers import HUB, Nats, eventually
from tests.sync.scale import SCALE

MESH, STREAM, OTHER = bytes(range(16)), bytes(range(8)), b"\xff" * 8
BASES = ("alps", "bay")


@pytest.fixture
def server(tmp_path):
    with Nats(tmp_path) as found:
        yield found


@pytest.fixture
def mailbox(server):
    found = open_mailbox(server.url())
    yield found
    found.close()


def positions(mailbox, stream=STREAM):
    return [each.position for each in mailbox.list_after(MESH, stream, 0)]


def test_a_killed_server_keeps_what_it_acknowledged(server, mailbox):
    for position in range(1, 50):
        assert mailbox.append(MESH, STREAM, position, os.urandom(2_000))
    server.kill()
    with pytest.raises(MailboxError, match=r"check the server|cannot reach|closed the connection"):
        mailbox.append(MESH, STREAM, 50, b"data")
    server.start()
    assert mailbox.append(MESH, STREAM, 50, b"data")
    assert positions(mailbox) == list(range(1, 51))


def test_a_watch_tells_and_survives_a_restart(server, mailbox):
    changed, writer = threading.Event(), open_mailbox(server.url())
    stop = mailbox.watch(MESH, changed.set)
    writer.append(bytes(16), STREAM, 1, b"of another mesh")
    assert not changed.wait(0.2)
    writer.append(MESH, STREAM, 1, b"data")
    assert changed.wait(10)
    changed.clear()
    server.kill()
    assert changed.wait(10), "the loss of the connection was not told"
    server.start()
    assert positions(mailbox) == [1]  # connects again
    changed.clear()
    writer.append(MESH, STREAM, 2, b"data")
    assert changed.wait(10)
    stop()
    changed.clear()
    writer.append(MESH, STREAM, 3, b"data")
    assert not changed.wait(0.2)
    writer.close()


def test_a_look_at_all_streams_lists_those_with_news(server, mailbox, monkeypatch):
    writer, many = open_mailbox(server.url()), [bytes([number]) * 8 for number in range(1, 40)]
    for stream in many:
        assert writer.append(MESH, stream, 5, b"data")
    assert mailbox.list_all(MESH, dict.fromkeys((*many, OTHER), 0)) == {
        stream: [Listed(stream, 5, 4)] for stream in many
    }
    writer.append(MESH, many[7], 6, b"more")
    writer.append(bytes(16), many[8], 6, b"of another mesh")
    listed, listing = [], mailbox._listing
    monkeypatch.setattr(mailbox, "_listing", lambda *words: listed.append(words) or listing(*words))
    after = dict.fromkeys(many, 5)
    assert mailbox.list_all(MESH, after) == {many[7]: [Listed(many[7], 6, 4)]}
    assert len(listed) == 2
    assert mailbox.list_all(MESH, after | {many[7]: 6}) == {}
    assert len(listed) == 3
    # Positions that go back, as with a restored file, show again what lies beyond them.
    assert mailbox.list_all(MESH, after | {many[3]: 4}) == {
        many[3]: [Listed(many[3], 5, 4)],
        many[7]: [Listed(many[7], 6, 4)],
    }
    server.kill()
    server.start()
    with contextlib.suppress(MailboxError):
        mailbox.list_all(MESH, after)  # finds that the connection is lost
    assert mailbox.list_all(MESH, after) == {many[7]: [Listed(many[7], 6, 4)]}
    writer.close()


def test_parts_are_invisible_until_all_are_there(server, tmp_path):
    server.kill()
    server.lines["alone"] = "max_payload: 20000"
    server.start()
    mailbox = open_mailbox(server.url())
    large = os.urandom(100_000)
    assert mailbox.append(MESH, STREAM, 1, large)
    assert mailbox.payload_max == 20_000
    assert mailbox.get(MESH, Listed(STREAM, 1, 0)) == large
    assert mailbox.list_after(MESH, STREAM, 0) == [Listed(STREAM, 1, len(large))]
    publish, sent = mailbox._domain("").__class__.publish, []

    async def dies(self, subject, *words, **more):
        sent.append(subject)
        if len(sent) == 3:
            raise nats.NatsError("the line went down")
        return await publish(self, subject, *words, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mailbox._domain("").__class__, "publish", dies)
        with pytest.raises(MailboxError, match="the line went down"):
            mailbox.append(MESH, STREAM, 2, large[::-1])
    assert positions(mailbox) == [1]
    assert mailbox.get(MESH, Listed(STREAM, 2, 0)) is None
    assert mailbox.append(MESH, STREAM, 2, large)
    assert mailbox.get(MESH, Listed(STREAM, 2, 0)) == large
    mailbox.close()


def test_an_envelope_of_too_many_parts_is_refused(mailbox, monkeypatch):
    monkeypatch.setattr(nats, "PARTS_MAX", 2)
    size = mailbox.payload_max or (mailbox.streams(MESH), mailbox.payload_max)[1]
    most = 2 * (size - nats.HEADERS_BYTES)
    assert mailbox.append(MESH, STREAM, 1, bytes(most))
    with pytest.raises(MailboxError, match="needs 3 messages; raise max_payload"):
        mailbox.append(MESH, STREAM, 2, bytes(most + 1))
    monkeypatch.setattr(nats, "PARTS_MAX", 1)
    assert mailbox.get(MESH, Listed(STREAM, 1, 0)) is None


def test_what_counts_of_a_server_is_bounded(mailbox, monkeypatch):
    assert (LISTED_MAX, STREAMS_MAX) == (65_536, 2_048)
    for number in range(1, 6):
        mailbox.append(MESH, STREAM, number, b"x")
        mailbox.append(MESH, bytes([number]) * 8, 1, b"x")
    monkeypatch.setattr(nats, "LISTED_MAX", 2)
    monkeypatch.setattr(nats, "STREAMS_MAX", 3)
    assert positions(mailbox) == [1, 2]
    assert [each.position for each in mailbox.list_after(MESH, STREAM, 2)] == [3, 4]
    monkeypatch.setattr(nats, "LISTED_MAX", LISTED_MAX)
    assert len(mailbox.streams(MESH)) == 3
    monkeypatch.setattr(nats, "ENVELOPE_BYTES_MAX", 3)
    assert mailbox.append(MESH, OTHER, 1, b"xxx")
    mailbox.append(MESH, OTHER, 2, b"xxxx")
    assert mailbox.get(MESH, Listed(OTHER, 1, 0)) == b"xxx"
    assert mailbox.get(MESH, Listed(OTHER, 2, 0)) is None
    monkeypatch.setattr(nats, "SCANNED_MAX", 1)
    assert positions(mailbox, OTHER) == [1, 2]
    assert mailbox.streams(MESH)


def test_a_full_server_refuses_and_goes_on_later(tmp_path):
    with Nats(tmp_path, lines={"alone": "jetstream: max_file_store: 200KB ;;"}) as server:
        mailbox = open_mailbox(server.url())
        stored, refusal = [], ""
        for position in range(1, 40):
            try:
                assert mailbox.append(MESH, STREAM, position, os.urandom(10_000))
                stored.append(position)
            except MailboxError as error:
                refusal = str(error)
                break
        assert 5 < len(stored) < 30
        assert "insufficient" in refusal or "exceeds" in refusal or "resources" in refusal, refusal
        assert positions(mailbox) == stored
        server.kill()
        server.lines["alone"] = ""
        server.start()
        assert mailbox.append(MESH, STREAM, stored[-1] + 1, b"the one that waited")
        assert positions(mailbox) == [*stored, stored[-1] + 1]
        mailbox.close()


def test_withdrawn_credentials_are_one_clear_line(tmp_path):
    users = 'authorization { users: [{ user: alps, password: "secret" }] }'
    with Nats(tmp_path, lines={"alone": users}) as server:
        mailbox = open_mailbox(server.url(), Credentials(user="alps", password="secret"))
        assert mailbox.append(MESH, STREAM, 1, b"data")
        server.lines["alone"] = users.replace("alps", "nobody")
        server.reload()
        eventually(lambda: "refuses the name or the password; name a cred" in refused(mailbox), "the user is shut out")
        assert "secret" not in refused(mailbox)
        server.lines["alone"] = users
        server.reload()
        eventually(lambda: not refused(mailbox), "the user is back")
        assert positions(mailbox) == [1]
        mailbox.close()


def refused(mailbox):
    try:
        mailbox.streams(MESH)
    except MailboxError as error:
        return str(error)
    return ""


def test_a_base_may_write_only_its_own_subject(tmp_path):
    inbox = '"_INBOX.>", "$JS.API.>"'
    users = f"""authorization {{ users: [
      {{ user: alps, password: a, permissions: {{ publish: [{inbox}, "mycomesh.alps.>"], subscribe: ["_INBOX.>"] }} }}
    ] }}"""
    with Nats(tmp_path, lines={"alone": users}) as server:
        own = open_mailbox(server.url(more="?base=alps"), Credentials(user="alps", password="a"))
        assert own.append(MESH, STREAM, 1, b"data")
        other = open_mailbox(server.url(more="?base=bay"), Credentials(user="alps", password="a"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nats, "REQUEST_S", 0.5)
            with pytest.raises(MailboxError, match=r"(?i)permissions violation"):
                other.append(MESH, OTHER, 1, b"data")
        assert other.list_after(MESH, STREAM, 0) == [Listed(STREAM, 1, 4)]
        own.close()
        other.close()


def test_a_truncated_stream_jumps_and_lists_the_rest(mailbox):
    for position in range(1, 21):
        mailbox.append(MESH, STREAM, position, b"data")
    assert len(mailbox.list_after(MESH, STREAM, 0)) == 20

    async def truncate():
        await mailbox._domain("").purge_stream("mycomesh", seq=15)

    mailbox._call(truncate())
    assert [each.position for each in mailbox.list_after(MESH, STREAM, 3)] == list(range(15, 21))
    assert mailbox.get(MESH, Listed(STREAM, 4, 4)) is None


@pytest.mark.slow
@pytest.mark.skipif(SCALE == 1, reason="waits 40 s; make long runs it")
def test_a_full_and_dead_hub_costs_no_envelope(tmp_path):
    """Over 40 s, nearly all of it waiting: sources of a hub that was killed wait so long before they go on."""
    small = {HUB: "jetstream: max_file_store: 300KB ;;"}
    with Nats(tmp_path, (HUB, *BASES), small) as servers:
        alps, bay = (open_mailbox(servers.url(name, f"?base={name}&hub={HUB}")) for name in BASES)
        assert alps.streams(MESH) == bay.streams(MESH) == []
        assert alps.append(MESH, STREAM, 1, b"from alps")
        assert bay.append(MESH, OTHER, 1, b"from bay")
        eventually(lambda: positions(bay) == [1] and positions(alps, OTHER) == [1], "both have both")
        assert bay.get(MESH, Listed(STREAM, 1, 0)) == b"from alps"
        assert bay.streams(MESH) == alps.streams(MESH) == [STREAM, OTHER]
        for position in range(2, 82):
            assert alps.append(MESH, STREAM, position, os.urandom(5_000))
        time.sleep(1)
        assert len(positions(bay)) < 70, "the hub took more than its disk holds"
        servers.kill(HUB)
        for position in range(82, 102):
            assert alps.append(MESH, STREAM, position, os.urandom(5_000))
            assert bay.append(MESH, OTHER, position, os.urandom(5_000))
        assert not alps.append(MESH, STREAM, 50, b"a second copy")
        whole, others = list(range(1, 102)), [1, *range(82, 102)]
        assert (positions(alps), positions(bay, OTHER)) == (whole, others)
        alps.remove(MESH, Listed(STREAM, 101, 0))
        assert positions(alps)[-1] == 100
        servers.lines[HUB] = ""
        servers.start(HUB)
        eventually(
            lambda: positions(bay) == whole[:-1] and positions(alps, OTHER) == others, "all came after its return", 180
        )
        assert all(bay.get(MESH, Listed(STREAM, at, 0)) == alps.get(MESH, Listed(STREAM, at, 0)) for at in whole[:-1])
        alps.close()
        bay.close()


@pytest.mark.parametrize("answer", [b"not json", b"[]", b'{"name": 5}', b"{}"])
def test_a_server_that_answers_nonsense_is_told(tmp_path, answer):
    """A server without JetStream, and a client that answers in its place."""
    with Nats(tmp_path, lines={"alone": "jetstream: enabled: false ;;"}) as server, Liar(server, answer):
        mailbox = open_mailbox(server.url())
        for use in (lambda: mailbox.append(MESH, STREAM, 1, b"data"), lambda: mailbox.list_after(MESH, STREAM, 0)):
            with pytest.raises(MailboxError) as caught:
                use()
            assert len(str(caught.value).splitlines()) == 1
        mailbox.close()


class Liar:
    """A client of NATS that answers every request of JetStream with the same bytes."""

    def __init__(self, server, answer):
        self.socket = socket.create_connection(("127.0.0.1", server.ports["alone"]))
        self.answer = answer

    def __enter__(self):
        self.socket.sendall(b'CONNECT {"verbose":false}\r\nSUB $JS.> 1\r\nSUB mycomesh.> 1\r\nPING\r\n')
        while b"PONG" not in self.socket.recv(65_536):
            pass
        threading.Thread(target=self.lie, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def lie(self):
        with contextlib.suppress(OSError):
            while data := self.socket.recv(65_536):
                for inbox in re.findall(rb"(_INBOX\.\S+) \d", data):
                    self.socket.sendall(b"PUB %b %d\r\n%b\r\n" % (inbox, len(self.answer), self.answer))


def test_names_of_bases_are_checked():
    for more, why in (("?hub=hub", "needs its base's name"), ("?base=a.b", "letters, digits"), ("?base=a>", "letters")):
        with pytest.raises(MailboxError, match=why):
            open_mailbox(f"nats://127.0.0.1:1{more}")


def test_a_stream_without_direct_reads_is_told(mailbox):
    async def make():
        await mailbox._jetstream()
        config = (await mailbox._domain("").stream_info("mycomesh")).config
        await mailbox._domain("").update_stream(config, allow_direct=False)
        await mailbox._disconnect()

    mailbox._call(make())
    with pytest.raises(MailboxError, match="run: nats stream edit mycomesh --allow-direct"):
        mailbox.append(MESH, STREAM, 1, b"data")
