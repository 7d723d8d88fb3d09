"""Free space of the disk that holds the database, and the floor below which the node takes in no rows of other nodes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FLOOR_MB", "FLOOR_SHARE", "floor_bytes", "free_bytes"]

# Between two looks at the disk a node writes up to 16 MiB to the WAL and as much to the file at a checkpoint; the application
# gets the same.
FLOOR_MB = 64
# ... but on a small disk the default is this share of it: otherwise a 64 MB partition would never take in a row.
FLOOR_SHARE = 20
MB = 1_000_000


def free_bytes(file: Path) -> int | None:
    """Return how much this process can still write beside the file; None if the system does not say."""
    try:
        found = os.statvfs(file.parent)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def floor_bytes(file: Path, mb: int | None) -> int:
    """Return the floor that the configuration sets (0 for none), or the default for the disk of the file."""
    if mb is not None:
        return mb * MB
    try:
        found = os.statvfs(file.parent)
    except OSError:
        return 0
    return min(FLOOR_MB * MB, found.f_blocks * found.f_frsize // FLOOR_SHARE)
