"""Real tracks as positions in metres: where the flying nodes of a scenario are, second by second.

Owns the reading of the shipped flights (tools/data: data alone, no code) as local coordinates. What always holds: the
same sortie is the same track; a track that is over begins again. Must not know nodes or scenarios.
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
    """Metres east and north of the first take-off, `second` seconds into a sortie (0 to 10) that is flown again and again."""
    track = _tracks()[sortie % SORTIES]
    return track[second % len(track)]


@cache
def _tracks() -> tuple[tuple[tuple[float, float], ...], ...]:
    """Every sortie, one position a second."""
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
