"""Recorded flights of quadcopters, as local coordinates in metres for each second (from tools/data).

A track repeats after its end.
"""

from __future__ import annotations

import csv
import gzip
import importlib.resources
from functools import cache
from math import cos, radians

__all__ = ["SORTIES", "position"]

SORTIES = 11
METRES_A_DEGREE = 111_195.0  # of a great circle of the mean earth radius


def position(sortie: int, second: int) -> tuple[float, float]:
    """Return metres east and north of the first take-off, `second` seconds into a sortie (0 to 10) that repeats."""
    track = _tracks()[sortie % SORTIES]
    return track[second % len(track)]


@cache
def _tracks() -> tuple[tuple[tuple[float, float], ...], ...]:
    """Return all sorties, one position for each second."""
    packed = (importlib.resources.files("mycomesh.tools.data") / "quadcopter-sorties.csv.gz").read_bytes()
    sorties: dict[str, dict[int, tuple[float, float]]] = {}
    origin: tuple[float, float] | None = None
    for row in csv.DictReader(gzip.decompress(packed).decode().splitlines()):
        latitude, longitude = float(row["lat"]), float(row["lon"])
        origin = origin or (latitude, longitude)
        east = (longitude - origin[1]) * METRES_A_DEGREE * cos(radians(origin[0]))
        north = (latitude - origin[0]) * METRES_A_DEGREE
        sorties.setdefault(row["sortie"], {}).setdefault(
            int(row["unix_ms"]) // 1_000, (round(east, 1), round(north, 1))
        )
    return tuple(tuple(track.values()) for _, track in sorted(sorties.items()))
