"""Clock notes: how far each site's clock had come, kept outside the database file.

A database that is behind its note was restored from a backup, so the node continues as a new site and never reuses a stamp
(`sync.replication.site`). The notes are the file `clocks` in the state directory. Without them, or with a damaged file, the
node learns of the restore from its peers.

Invariant: a note is never ahead of the clock in the database at the time of the note.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from mycomesh.mesh.node.home import read_private, write_private

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NOTE_EVERY_S", "ClockNotes"]

# A busy node notes its clock this often, an idle node not at all. Peers know the stamps made since the last note.
NOTE_EVERY_S = 10.0
SITES_MAX = 64


class ClockNotes:
    """The clock notes of one home; one thread at a time may use them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._clocks = _read(path)

    def clocks(self) -> Mapping[bytes, int]:
        """Return the last noted clock (hlc) of each site."""
        return dict(self._clocks)

    def record(self, site: bytes, clock: int) -> None:
        """Note a site's clock. Beyond `SITES_MAX` sites, forget the ones noted longest ago."""
        if self._clocks.pop(site, None) != clock:
            self._clocks[site] = clock
            kept = list(self._clocks.items())[-SITES_MAX:]
            write_private(self._path, json.dumps({each.hex(): reached for each, reached in kept}).encode())
        self._clocks[site] = clock


def _read(path: Path) -> dict[bytes, int]:
    data = read_private(path)
    try:
        value = json.loads(data or b"{}")
        return {bytes.fromhex(site): reached for site, reached in value.items() if type(reached) is int}
    except (ValueError, AttributeError):
        return {}
