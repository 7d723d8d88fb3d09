"""One contract for all storages: what is appended is listed and read, once, whole, in order, and apart for each mesh."""

import os
import sys

import pytest

from mycomesh.mesh.mailbox.envelope import POSITION_MAX
from mycomesh.mesh.mailbox.mailbox import Listed, MailboxError
from mycomesh.mesh.mailbox.storages import URL_CHARS_MAX, Credentials, check_url, open_mailbox
from tests.mesh.mailbox.servers import Nats

MESH, STREAM, OTHER = bytes(range(16)), bytes(range(8)), b"\xff" * 8
KEYS = Credentials(access_key_id="fleet", secret_access_key="s3cret")


@pytest.fixture(params=["dir", "nats", "s3"])
def mailbox(request, tmp_path):
    if request.param == "dir":
        found = open_mailbox(f"dir:{tmp_path}")
        yield found
    elif request.param == "nats":
        with Nats(tmp_path) as server:
            found = open_mailbox(server.url())
            yield found
            found.close()
    else:
        found = open_mailbox(request.getfixturevalue("s3").url(f"boxes/{os.urandom(4).hex()}"), KEYS)
        yield found
        found.close()


def test_storages_keep_order_and_whole_envelopes(mailbox):
    assert mailbox.streams(MESH) == []
    assert mailbox.list_after(MESH, STREAM, 0) == []
    for position in (5, 300, POSITION_MAX):
        assert mailbox.append(MESH, STREAM, position, b"data %d" % position)
    assert [each.position for each in mailbox.list_after(MESH, STREAM, 0)] == [5, 300, POSITION_MAX]
    assert mailbox.list_after(MESH, STREAM, 5)[0] == Listed(STREAM, 300, 8)
    assert mailbox.list_after(MESH, STREAM, POSITION_MAX) == []
    assert mailbox.get(MESH, Listed(STREAM, 300, 8)) == b"data 300"
    assert mailbox.get(MESH, Listed(STREAM, 301, 8)) is None
    assert mailbox.get(MESH, Listed(OTHER, 300, 8)) is None


def test_a_position_is_taken_only_once(mailbox):
    assert mailbox.append(MESH, STREAM, 7, b"first")
    assert not mailbox.append(MESH, STREAM, 7, b"second")
    assert mailbox.get(MESH, Listed(STREAM, 7, 0)) == b"first"
    assert mailbox.list_after(MESH, STREAM, 0) == [Listed(STREAM, 7, 5)]


def test_meshes_and_streams_do_not_meet(mailbox):
    for stream in (OTHER, STREAM):
        assert mailbox.append(MESH, stream, 1, stream)
    assert mailbox.append(bytes(16), STREAM, 1, b"of another mesh")
    assert mailbox.streams(MESH) == [STREAM, OTHER]
    assert mailbox.get(MESH, Listed(OTHER, 1, 0)) == OTHER
    assert mailbox.get(bytes(16), Listed(STREAM, 1, 0)) == b"of another mesh"


def test_large_envelopes_come_back_whole(mailbox):
    large = os.urandom(3 << 20)
    assert mailbox.append(MESH, STREAM, 1, large)
    assert not mailbox.append(MESH, STREAM, 1, large[:-1])
    assert mailbox.list_after(MESH, STREAM, 0) == [Listed(STREAM, 1, len(large))]
    assert mailbox.get(MESH, Listed(STREAM, 1, 0)) == large
    mailbox.remove(MESH, Listed(STREAM, 1, 0))
    assert mailbox.list_after(MESH, STREAM, 0) == []


def test_a_removed_envelope_is_gone(mailbox):
    for position in (1, 2, 3):
        mailbox.append(MESH, STREAM, position, b"data")
    assert len(mailbox.list_after(MESH, STREAM, 0)) == 3
    for _ in range(2):
        mailbox.remove(MESH, Listed(STREAM, 2, 4))
    assert mailbox.get(MESH, Listed(STREAM, 2, 4)) is None
    assert [each.position for each in mailbox.list_after(MESH, STREAM, 0)] == [1, 3]
    assert [each.position for each in mailbox.list_after(MESH, STREAM, 1)] == [3]


def test_listings_go_on_where_they_ended(mailbox):
    seen = []
    for position in range(1, 40):
        mailbox.append(MESH, STREAM, position * 10, b"data")
        if position % 4 == 0:
            seen += [each.position for each in mailbox.list_after(MESH, STREAM, seen[-1] if seen else 0)]
    assert seen == [number * 10 for number in range(1, 37)]
    assert len(mailbox.list_after(MESH, STREAM, 0)) == 39
    assert [each.position for each in mailbox.list_after(MESH, STREAM, 355)] == [360, 370, 380, 390]


def test_a_url_names_its_storage():
    assert check_url("/media/stick").path == "/media/stick"
    assert check_url("dir:/media/stick").scheme == "dir"
    found = check_url("s3://boxes/a/b/?endpoint=https://host:9000&region=eu-1")
    assert (found.host, found.path, found.option("endpoint"), found.option("base")) == (
        "boxes",
        "a/b",
        "https://host:9000",
        "",
    )
    assert check_url("nats://[::1]:4300?base=alps&hub=hub").port == 4300
    assert check_url("s3://" + "b" * (URL_CHARS_MAX - 5)).host
    for wrong, why in (
        ("stick", "no absolute path"),
        ("ftp://host/x", "unknown scheme"),
        ("nats://", "names no host"),
        ("s3:///prefix", "names no bucket"),
        ("s3://boxes?endpont=x", "unknown option 'endpont'"),
        ("nats://host:99999", "is no URL"),
        ("nats://user@host", "has a user or a password"),
        ("s3://" + "b" * (URL_CHARS_MAX - 4), "printable"),
        ("nats://host\n", "printable"),
    ):
        with pytest.raises(MailboxError, match=why):
            check_url(wrong)
    with pytest.raises(MailboxError) as caught:
        check_url("nats://user:hunter2@host")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "library", "extra"), [("s3://boxes", "obstore", "s3"), ("nats://host", "nats", "nats")]
)
def test_a_missing_library_is_named(monkeypatch, url, library, extra):
    for name in [name for name in sys.modules if name.partition(".")[0] == library or "mailbox.s3" in name]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("nats", "nats_streams"):
        monkeypatch.delitem(sys.modules, f"mycomesh.mesh.mailbox.{name}", raising=False)
    monkeypatch.delitem(sys.modules, "mycomesh.mesh.io.nats_client", raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MailboxError, match=rf"pip install 'mycomesh\[{extra}\]'"):
        open_mailbox(url)
