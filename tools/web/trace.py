"""Reads the trace of a simulation as the pictures of its mesh, for the slider of the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mycomesh.tools.top.sources import TraceSource
from mycomesh.tools.web.feeds import picture_json

__all__ = ["MOMENTS_MAX", "moments_of"]

MOMENTS_MAX = 2_000  # of one trace: a slider has not more positions; a longer trace is thinned


def moments_of(path: Path) -> dict[str, Any]:
    """Return the mesh at each recorded moment: t in virtual seconds, and its picture.

    Raises:
        UsageError: the file is not a trace.
    """
    source = TraceSource(path, 1.0)
    found: list[tuple[float, dict[str, Any]]] = []
    shown: tuple[Any, Any] | None = None
    while not source.ended:
        picture = source.picture(paused=True, steps=1)
        if (picture.nodes, picture.edges) != shown or source.ended:
            shown = (picture.nodes, picture.edges)
            found.append((source.t, picture_json(picture)))
    step = -(-len(found) // MOMENTS_MAX) or 1
    kept = [*found[:-1:step], *found[-1:]]
    return {"name": path.name, "moments": [{"t": t, "mesh": mesh} for t, mesh in kept]}
