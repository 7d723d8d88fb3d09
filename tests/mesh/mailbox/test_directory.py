"""A mailbox in a directory: whole files under names that FAT takes, and nothing in it that is not an envelope counts."""

import os
import re
import shutil
import subprocess
import threading
import tracemalloc
from pathlib import Path

import pytest

from mycomesh.mesh.mailbox import directory
from mycomesh.mesh.mailbox.directory import DirectoryMailbox
from mycomesh.mesh.mailbox.envelope import ENVELOPE_BYTES_MAX, POSITION_MAX
from mycomesh.mesh.mailbox.mailbox import LISTED_MAX, STREAMS_MAX, Listed, MailboxError

MESH, STREAM = bytes(range(16)), bytes(range(8))


@pytest.fixture
def mailbox(tmp_path):
    return DirectoryMailbox(tmp_path)


def folder(tmp_path):
    return tmp_path / "mycomesh" / MESH.hex() / STREAM.hex()


def test_what_is_appended_is_listed_and_read(mailbox):
    assert mailbox.streams(MESH) == []
    assert mailbox.list_after(MESH, STREAM, 0) == []
    for position in (300, 5, POSITION_MAX):
        assert mailbox.append(MESH, STREAM, position, b"data %d" % position)
    assert [each.position for each in mailbox.list_after(MESH, STREAM, 0)] == [5, 300, POSITION_MAX]
    assert mailbox.list_after(MESH, STREAM, 5)[0] == Listed(STREAM, 300, 8)
    assert mailbox.get(MESH, Listed(STREAM, 300, 8)) == b"data 300"
    assert mailbox.streams(MESH) == [STREAM]
    assert mailbox.streams(bytes(16)) == []
    mailbox.remove(MESH, Listed(STREAM, 5, 0))
    mailbox.remove(MESH, Listed(STREAM, 5, 0))
    assert mailbox.get(MESH, Listed(STREAM, 5, 0)) is None


def test_a_taken_position_is_left_as_it_is(mailbox):
    assert mailbox.append(MESH, STREAM, 7, b"first")
    assert not mailbox.append(MESH, STREAM, 7, b"second")
    assert mailbox.get(MESH, Listed(STREAM, 7, 0)) == b"first"


def test_every_name_is_one_that_fat_takes(mailbox, tmp_path):
    mailbox.append(MESH, STREAM, 1, b"")
    mailbox.append(bytes(16), b"\xff" * 8, POSITION_MAX, b"")
    names = [each.name for each in (tmp_path / "mycomesh").rglob("*")]
    assert len(names) == 6
    devices = {"con", "prn", "aux", "nul", *(f"com{n}" for n in range(10)), *(f"lpt{n}" for n in range(10))}
    for name in [*names, "mycomesh", f"{POSITION_MAX:016x}-4194304.tmp"]:
        assert not re.search(r'[\x00-\x1f"*/:<>?\\|\x7f-\U0010ffff+,;=\[\]]', name), name
        assert name == name.lower()
        assert len(name) <= 255
        assert not name.endswith((".", " "))
        assert not name.startswith(" ")
        assert name.partition(".")[0] not in devices
    longest = max(len(str(each.relative_to(tmp_path))) for each in tmp_path.rglob("*"))
    assert longest <= 100  # Windows takes 260 characters in all


def test_no_partial_file_is_ever_listed(mailbox, tmp_path, monkeypatch):
    mailbox.append(MESH, STREAM, 1, b"whole")
    real = os.fsync

    def full(descriptor):
        assert [each.position for each in mailbox.list_after(MESH, STREAM, 0)] == [1]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MailboxError, match="No space left on device; check that it is mounted"):
        mailbox.append(MESH, STREAM, 2, b"part")
    monkeypatch.setattr(os, "fsync", real)
    assert [each.name for each in folder(tmp_path).iterdir()] == ["0000000000000001.box"]


def test_what_is_no_envelope_does_not_count(mailbox, tmp_path):
    mailbox.append(MESH, STREAM, 1, b"whole")
    here = folder(tmp_path)
    for name in ("1.box", "8000000000000000.box", "000000000000000A.box", "0000000000000002.box.sync-conflict", "x"):
        (here / name).write_bytes(b"junk")
    (here / "0000000000000003.box").mkdir()
    (here / "0000000000000004.box").symlink_to("/dev/zero")
    os.mkfifo(here / "0000000000000005.box")
    (here.parent / "Thumbs.db").write_bytes(b"junk")
    assert mailbox.list_after(MESH, STREAM, 0) == [Listed(STREAM, 1, 5)]
    assert mailbox.streams(MESH) == [STREAM]
    assert mailbox.get(MESH, Listed(STREAM, 5, 0)) is None
    assert mailbox.get(MESH, Listed(STREAM, 4, 0)) is None


def test_a_file_larger_than_an_envelope_is_not_read(mailbox, tmp_path):
    mailbox.append(MESH, STREAM, 1, b"")
    path = folder(tmp_path) / "0000000000000001.box"
    os.truncate(path, ENVELOPE_BYTES_MAX)
    assert len(mailbox.get(MESH, Listed(STREAM, 1, 0))) == ENVELOPE_BYTES_MAX
    os.truncate(path, ENVELOPE_BYTES_MAX + 1)
    assert mailbox.get(MESH, Listed(STREAM, 1, 0)) is None


def test_listed_names_and_streams_are_bounded(mailbox, monkeypatch):
    assert (LISTED_MAX, STREAMS_MAX) == (65_536, 2_048)
    monkeypatch.setattr(directory, "LISTED_MAX", 2)
    monkeypatch.setattr(directory, "STREAMS_MAX", 2)
    for number in range(1, 5):
        mailbox.append(MESH, STREAM, number, b"")
        mailbox.append(MESH, bytes([number]) * 8, 1, b"")
    assert [each.position for each in mailbox.list_after(MESH, STREAM, 0)] == [1, 2]
    assert len(mailbox.streams(MESH)) == 2


def test_a_folder_of_very_many_files_takes_little_memory(mailbox, tmp_path):
    mailbox.append(MESH, STREAM, 1, b"")
    files, whole = 20_000, 0
    for position in range(2, files + 1):
        os.mknod(folder(tmp_path) / f"{position:016x}.box")
    for kept, least in ((10, files - 10), (0, files)):
        tracemalloc.start()
        assert len(mailbox.list_after(MESH, STREAM, least)) == kept
        whole = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert whole < 200_000, f"{whole / files:.0f} bytes a file that was passed long ago"


def test_a_file_closed_to_us_is_no_failure(mailbox, monkeypatch):
    mailbox.append(MESH, STREAM, 1, b"data")

    def closed(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", closed)
    assert mailbox.get(MESH, Listed(STREAM, 1, 4)) is None


def test_an_absent_directory_is_not_made(tmp_path):
    away = DirectoryMailbox(tmp_path / "stick")
    for use in (
        lambda: away.append(MESH, STREAM, 1, b""),
        lambda: away.streams(MESH),
        lambda: away.list_after(MESH, STREAM, 0),
    ):
        with pytest.raises(MailboxError, match="check that it is mounted"):
            use()
    assert not (tmp_path / "stick").exists()


def test_a_watch_reports_each_new_envelope_and_ends(mailbox):
    changed = threading.Event()
    stop = mailbox.watch(MESH, changed.set)
    for number, stream in enumerate((STREAM, STREAM, b"another ")):
        mailbox.append(MESH, stream, number + 1, b"data")
        assert changed.wait(10), f"envelope {number} was not reported"
        changed.clear()
    stop()
    watching = [each for each in threading.enumerate() if each.name == "mycomesh-mailbox-watch"]
    for each in watching:
        each.join(10)
        assert not each.is_alive()


def test_an_absent_folder_is_not_watched(tmp_path):
    DirectoryMailbox(tmp_path / "away").watch(MESH, pytest.fail)()


def cannot_mount(kind):
    """Return why this machine cannot mount a file of that file system, "" if it can."""
    tool = shutil.which(f"mkfs.{kind}", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if os.geteuid() != 0 or tool is None:
        return f"needs root and mkfs.{kind} (apt-get install dosfstools)"
    if not re.search(rf"\b{kind}$", Path("/proc/filesystems").read_text(), re.MULTILINE):
        subprocess.run(["modprobe", kind], capture_output=True, check=False)
    known = re.search(rf"\b{kind}$", Path("/proc/filesystems").read_text(), re.MULTILINE)
    return "" if known else f"this kernel has no {kind}"


@pytest.mark.parametrize("kind", ["vfat"])
def test_a_mounted_fat_holds_a_mailbox(tmp_path, kind):
    if reason := cannot_mount(kind):
        pytest.skip(reason)
    image, stick = tmp_path / "image", tmp_path / "stick"
    stick.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run([f"mkfs.{kind}", str(image)], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", "-t", kind, str(image), str(stick)], check=True)
    try:
        mailbox = DirectoryMailbox(stick)
        for position in (1, 300, POSITION_MAX):
            assert mailbox.append(MESH, STREAM, position, b"data %d" % position)
            assert not mailbox.append(MESH, STREAM, position, b"other")
        with pytest.raises(MailboxError, match="No space left on device"):
            mailbox.append(MESH, STREAM, 2, bytes(20 << 20))
        assert [each.position for each in mailbox.list_after(MESH, STREAM, 0)] == [1, 300, POSITION_MAX]
        assert mailbox.get(MESH, Listed(STREAM, 300, 0)) == b"data 300"
        assert mailbox.streams(MESH) == [STREAM]
    finally:
        subprocess.run(["umount", str(stick)], check=True)
