"""`mycomesh mailbox test` on storages that work, and on those in which one thing is wrong: one line says which."""

import os
import time

import pytest

from mycomesh.mesh.mailbox.directory import DirectoryMailbox
from mycomesh.mesh.mailbox.mailbox import MailboxError
from mycomesh.mesh.mailbox.probe import CLOCK_MS_MAX, probe
from mycomesh.mesh.mailbox.storages import Credentials, open_mailbox
from tests.mesh.mailbox.servers import Nats

STEPS = ["list", "append", "read back", "taken position", "list after", "large", "clock", "remove"]


def wall_ms():
    return time.time_ns() // 1_000_000


def tried(mailbox, now=wall_ms):
    found = probe(mailbox, os.urandom, now)
    mailbox.close()
    assert all(len(each.text.splitlines()) == 1 for each in found)
    return found


def test_every_storage_passes_all_steps(tmp_path, s3):
    folder = tmp_path / "stick"
    folder.mkdir()
    with Nats(tmp_path) as server:
        keys = Credentials(access_key_id="fleet", secret_access_key="s3cret")
        for mailbox in (DirectoryMailbox(folder), open_mailbox(server.url()), open_mailbox(s3.url(), keys)):
            found = tried(mailbox)
            assert [(each.step, each.good) for each in found] == [(step, True) for step in STEPS], found
    assert list((folder / "mycomesh").iterdir()) == []


class Wrong(DirectoryMailbox):
    """A directory in which one verb does something else."""

    def __init__(self, path, **verbs):
        super().__init__(path)
        for name, verb in verbs.items():
            setattr(self, name, verb)


def denied(*_):
    raise MailboxError("AccessDenied; check what the keys may do")


@pytest.mark.parametrize(
    ("verbs", "step"),
    [
        ({"list_after": denied}, "list"),
        ({"append": denied}, "append"),
        ({"append": lambda *_: False}, "append"),
        ({"get": lambda *_: b"other"}, "read back"),
        ({"get": denied}, "read back"),
        ({"server_ms": lambda: wall_ms() + CLOCK_MS_MAX + 5_000}, "clock"),
        ({"server_ms": lambda: wall_ms() - CLOCK_MS_MAX - 5_000}, "clock"),
        ({"remove": denied}, "remove"),
        ({"remove": lambda *_: None}, "remove"),
    ],
)
def test_what_is_wrong_is_the_step_that_fails(tmp_path, verbs, step):
    found = tried(Wrong(tmp_path, **verbs))
    bad = [each for each in found if not each.good]
    assert bad[0].step == step, found


def test_a_clock_within_the_limit_is_good(tmp_path):
    found = tried(Wrong(tmp_path, server_ms=lambda: wall_ms() + CLOCK_MS_MAX - 5_000))
    assert all(each.good for each in found)


def test_a_storage_that_overwrites_is_found_out(tmp_path):
    class Overwrites(DirectoryMailbox):
        def append(self, mesh, stream, position, data):
            (tmp_path / "mycomesh" / mesh.hex() / stream.hex() / f"{position:016x}.box").unlink(missing_ok=True)
            return super().append(mesh, stream, position, data)

    found = tried(Overwrites(tmp_path))
    assert [each.step for each in found if not each.good] == ["taken position"]
