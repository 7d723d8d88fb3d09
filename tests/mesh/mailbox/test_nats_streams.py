"""The configuration in docs/mailboxes.md, as it is written there: TLS, a login for each base, and no deleting at the hub."""

import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from mycomesh.mesh.mailbox import nats
from mycomesh.mesh.mailbox.mailbox import Listed, MailboxError
from mycomesh.mesh.mailbox.nats_streams import AGE_S
from mycomesh.mesh.mailbox.storages import open_mailbox
from tests.mesh.mailbox.servers import Nats, eventually

PAGE = (Path(__file__).parents[3] / "docs" / "mailboxes.md").read_text()
BLOCKS = dict(re.findall(r"^```conf (\w+)\.conf\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
MESH, STREAM, OTHER = bytes(range(16)), bytes(range(8)), b"\xff" * 8


class Documented(Nats):
    """The servers of the page, at free ports of this machine, with a certificate that the test makes."""

    def config(self, name):
        text = BLOCKS["hub"] if name == "hub" else BLOCKS["alps"].replace("alps", name)
        folder = self.folder / name
        for there, here in (
            ("0.0.0.0:4222" if name == "hub" else "127.0.0.1:4222", f"127.0.0.1:{self.ports[name]}"),
            ("0.0.0.0:7422", f"127.0.0.1:{self.leaf_port}"),
            ("hub.example.org:7422", f"localhost:{self.leaf_port}"),
            ("/var/lib/nats", str(folder)),
            ("/etc/nats/hub.pem", str(self.folder / "cert.pem")),
            ("/etc/nats/ca.pem", str(self.folder / "cert.pem")),
            ("/etc/nats/hub.key", str(self.folder / "key.pem")),
        ):
            text = text.replace(there, here)
        return text


@pytest.fixture
def servers(tmp_path):
    words = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    words += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    words += ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    subprocess.run(words, check=True, capture_output=True)
    with Documented(tmp_path, ("hub", "alps", "bay")) as found:
        yield found


def bases(servers):
    return [open_mailbox(servers.url(name, f"?base={name}&hub=hub")) for name in ("alps", "bay")]


def test_the_page_connects_bases_that_cannot_delete(servers):
    alps, bay = bases(servers)
    assert alps.append(MESH, STREAM, 1, b"from alps")
    assert bay.append(MESH, OTHER, 1, b"from bay")
    eventually(lambda: bay.list_after(MESH, STREAM, 0), "it has come to bay")
    eventually(lambda: alps.list_after(MESH, OTHER, 0), "it has come to alps")
    assert bay.get(MESH, Listed(STREAM, 1, 0)) == b"from alps"
    alps.remove(MESH, Listed(STREAM, 1, 0))
    assert alps._hub_removes is False
    assert bay.get(MESH, Listed(STREAM, 1, 0)) == b"from alps"
    for each in (alps, bay):
        each.close()


def test_streams_that_exist_are_used_as_they_are(servers, monkeypatch):
    monkeypatch.setattr(nats, "JOIN_S", 0.02)
    for _ in range(2):
        alps, bay = bases(servers)
        eventually(
            lambda one=alps, other=bay: (
                one.streams(MESH) == other.streams(MESH) == [] and min(one._joined, other._joined) == nats.CONFIRMED
            ),
            "the hub collects both",
        )

        async def seen(mailbox=alps):
            here = [await mailbox._domain("").stream_info(name) for name in ("mycomesh-alps", "mycomesh-all")]
            hub = await mailbox._domain("hub").stream_info("mycomesh-all")
            return here, hub

        here, hub = alps._call(seen())
        assert [each.config.max_age for each in here] == [AGE_S, AGE_S]
        assert here[1].config.mirror.external.api == "$JS.hub.API"
        assert sorted(each.name for each in hub.config.sources) == ["mycomesh-alps", "mycomesh-bay"]
        alps.close()
        bay.close()


def test_a_withdrawn_base_is_shut_out_by_a_restart(servers, monkeypatch):
    text = BLOCKS["hub"]
    assert "{ user: bay," in text
    monkeypatch.setitem(BLOCKS, "hub", text.replace("{ user: bay,", "{ user: nobody,"))
    log = servers.folder / "hub.log"
    eventually(lambda: 'remote "bay"' in log.read_text(), "the leaf of bay is linked")  # else the reload shuts it out
    servers.reload("hub")
    eventually(lambda: "Reloaded server configuration" in log.read_text(), "it is reloaded")
    assert "authentication error" not in log.read_text()  # the page says so: the leaf's link stays
    servers.kill("hub")
    servers.start("hub")
    eventually(lambda: "authentication error" in log.read_text(), "the leaf of bay is shut out")


def test_a_base_starts_while_the_hub_is_away(servers, monkeypatch):
    monkeypatch.setattr(nats, "JOIN_S", 0.1)
    servers.kill("hub")
    alps, bay = bases(servers)
    assert alps.append(MESH, STREAM, 1, b"written before the hub was there")
    assert [each.position for each in alps.list_after(MESH, STREAM, 0)] == [1]
    servers.start("hub")
    eventually(lambda: alps.list_after(MESH, STREAM, 0) and alps._streams.joined, "the hub collects the base's stream")
    alps.close()
    bay.close()


def test_a_hub_without_its_disk_carries_again(servers, monkeypatch):
    """Its numbers begin again, and mirrors would wait until it has passed theirs."""
    monkeypatch.setattr(nats, "JOIN_S", 0.02)
    monkeypatch.setattr(nats, "CHECK_S", 0.1)
    alps, bay = bases(servers)
    for position in range(1, 30):
        assert alps.append(MESH, STREAM, position, b"before")
    eventually(lambda: len(bay.list_after(MESH, STREAM, 0)) == 29, "all have come to bay")
    for each in alps.list_after(MESH, STREAM, 0)[:-1]:
        alps.remove(MESH, each)
    news = threading.Event()
    bay.watch(MESH, news.set)
    servers.kill("hub")
    shutil.rmtree(servers.folder / "hub")
    servers.start("hub")
    assert alps.append(MESH, STREAM, 30, b"after")

    def positions():
        try:
            alps.list_after(MESH, STREAM, 0)  # each look of a gateway checks the hub, if it is time
            return [each.position for each in bay.list_after(MESH, STREAM, 0)]
        except MailboxError:  # a gateway tries again
            return []

    eventually(lambda: positions() == [29, 30], "the hub and the mirror begin again")
    eventually(lambda: bay._streams.joined and alps._streams.joined, "the hub collects both")
    monkeypatch.setattr(nats, "CHECK_S", 300)
    news.clear()
    assert alps.append(MESH, STREAM, 31, b"watched")
    assert news.wait(30)
    assert positions() == [29, 30, 31]
    for each in (alps, bay):
        each.close()
