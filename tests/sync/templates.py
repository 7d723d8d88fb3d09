"""Equal replicas that tests begin with: made once on each worker, and copied for each test and for each example of a property."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path

from tests.sync.peers import WALL_MS, Peer, converge

KEPT_MAX = 64  # of each worker, in memory


def equal_peers(folder, count, *scripts, wall_ms=WALL_MS):
    """Return so many replicas in the folder, equal after each of the scripts of SQL, which ran on the first."""
    template, drawn = _template(count, scripts, wall_ms)
    for path in sorted(Path(template.name).iterdir()):
        shutil.copy(path, folder)
    peers = [Peer(Path(folder) / f"{number}.db", number, wall_ms=wall_ms) for number in range(count)]
    for peer, number in zip(peers, drawn, strict=True):
        peer.drawn = number  # else it would draw the random bytes of its site again, for another site
        peer.sql("SELECT count(*) FROM sqlite_schema")  # the application has used its connection
    return peers


@functools.lru_cache(maxsize=KEPT_MAX)
def _template(count, scripts, wall_ms):
    """Return the folder of the files, and how often each replica has drawn entropy."""
    folder = tempfile.TemporaryDirectory(prefix="mycomesh-template-")
    peers = [Peer(Path(folder.name) / f"{number}.db", number, wall_ms=wall_ms) for number in range(count)]
    for script in scripts:
        peers[0].sql(script)
        converge(peers)
    for peer in peers:
        peer.close()
    return folder, [peer.drawn for peer in peers]
