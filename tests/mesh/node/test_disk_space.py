"""Free space, and the floor for a disk of any size."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from mycomesh.mesh.node.disk_space import MB, floor_bytes, free_bytes


def disk(monkeypatch, *, size, free=0):
    found = SimpleNamespace(f_frsize=4_096, f_blocks=size // 4_096, f_bavail=free // 4_096)
    monkeypatch.setattr(os, "statvfs", lambda _path: found)


@pytest.mark.parametrize(
    ("size", "floor"), [(2 << 40, 64 * MB), (4_096_000, 204_800), (64 * MB, 3_200_000)], ids=["2 TiB", "4 MB", "64 MB"]
)
def test_default_floor_leaves_room_on_small_disk_too(monkeypatch, tmp_path, size, floor):
    disk(monkeypatch, size=size)
    assert floor_bytes(tmp_path / "a.db", None) == floor


def test_a_configured_floor_is_exact(monkeypatch, tmp_path):
    disk(monkeypatch, size=4_096_000)
    assert floor_bytes(tmp_path / "a.db", 500) == 500 * MB
    assert floor_bytes(tmp_path / "a.db", 0) == 0


def test_free_space_is_what_this_process_may_use(monkeypatch, tmp_path):
    disk(monkeypatch, size=1 << 30, free=8_192)
    assert free_bytes(tmp_path / "a.db") == 8_192


def test_a_directory_that_is_gone_has_no_known_space(tmp_path):
    assert free_bytes(tmp_path / "gone" / "a.db") is None
    assert floor_bytes(tmp_path / "gone" / "a.db", None) == 0
