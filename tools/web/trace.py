"""Reads the trace of a simulation as the pictures of its mesh, for the slider of the page and of the simulation's report."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

from mycomesh.tools.top.sources import TraceSource
from mycomesh.tools.web import STATIC
from mycomesh.tools.web.feeds import picture_json

__all__ = ["MOMENTS_BYTES_MAX", "MOMENTS_MAX", "moments_of", "replay_of"]

MOMENTS_MAX = 2_000  # of one trace: a slider has not more positions; a longer trace is thinned
MOMENTS_BYTES_MAX = 16 << 20  # of all moments, as a browser holds them; a trace of many nodes is thinned more


def moments_of(path: Path) -> bytes:
    """Return the mesh at each recorded moment as JSON: t in virtual seconds, and its picture.

    Raises:
        UsageError: the file is not a trace.
    """
    source = TraceSource(path, 1.0)
    found: list[str] = []
    shown = None
    while not source.ended:
        picture = source.picture(paused=True, steps=1)
        if (picture.nodes, picture.edges) != shown or source.ended:
            shown = (picture.nodes, picture.edges)
            found.append(json.dumps({"t": source.t, "mesh": picture_json(picture)}, separators=(",", ":")))
    step = max(1, -(-len(found) // MOMENTS_MAX), -(-sum(map(len, found)) // MOMENTS_BYTES_MAX))
    kept = [*found[:-1:step], *found[-1:]]
    return f'{{"name":{json.dumps(path.name)},"moments":[{",".join(kept)}]}}'.encode()


def replay_of(path: Path) -> str:
    """Return a trace as a part of an HTML page that plays it without a server; "" where the page is not bundled.

    Raises:
        UsageError: the file is not a trace.
    """
    try:
        script, style = ((STATIC / f"replay.{kind}").read_text(encoding="utf-8") for kind in ("js", "css"))
    except OSError:
        return ""
    trace = base64.b64encode(gzip.compress(moments_of(path), mtime=0)).decode("ascii")
    return (
        f'<div id="replay"></div><template id="replay-style"><style>{style}</style></template>'
        f'<script id="replay-trace" type="text/plain">{trace}</script><script>{script}</script>'
    )
