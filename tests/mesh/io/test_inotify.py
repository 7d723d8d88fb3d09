"""Directory watches: what appears in a watched directory is reported, and what cannot be watched is no error."""

import os
import select

from mycomesh.mesh.io.inotify import add_watch, open_inotify

CREATED = 0x100


def test_files_in_each_watched_directory_are_reported(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    fd = open_inotify(one, CREATED)
    try:
        assert add_watch(fd, other, CREATED)
        assert select.select([fd], [], [], 0)[0] == []
        for folder in (one, other):
            (folder / "file").touch()
            assert select.select([fd], [], [], 10)[0] == [fd]
            assert b"file" in os.read(fd, 4_096)
    finally:
        os.close(fd)


def test_an_absent_directory_is_not_watched(tmp_path):
    assert open_inotify(tmp_path / "away", CREATED) == -1
