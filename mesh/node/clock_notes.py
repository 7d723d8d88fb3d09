"""What earlier runs stamped, noted outside the database file: how a file that was put back from a backup is known.

Owns the file `clocks` in the state directory: for each site the clock that it had reached. What always holds: a note is
never ahead of what the database held when it was taken, so only a file that went back in time is behind it. It must not
know what sites and clocks mean. A missing or damaged note costs nothing but this knowledge: peers know it too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from mycomesh.mesh.node.home import read_private, write_private

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NOTE_S", "ClockNotes"]

# A busy node notes its clock this often, an idle one not at all. What is lost in between, its peers tell it.
NOTE_S = 10.0
SITES_MAX = 64


class ClockNotes:
    """The notes of one home; used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._clocks = _read(path)

    def clocks(self) -> Mapping[bytes, int]:
        """Return the clock that each site had reached when it was last noted."""
        return dict(self._clocks)

    def note(self, site: bytes, clock: int) -> None:
        """Keep a site's clock; the sites noted longest ago are forgotten beyond `SITES_MAX`."""
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
