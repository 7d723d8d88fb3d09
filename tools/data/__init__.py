"""Real flights that ship with the project, as rows in the order of their time; NOTICE.md names their sources."""

from __future__ import annotations

import csv
import gzip
import importlib.resources
import json
import time
from dataclasses import dataclass

__all__ = ["Position", "Report", "quadcopter", "wildfire"]


@dataclass(frozen=True, slots=True)
class Position:
    """One position of a quadcopter: degrees, metres above its start, UTC as `YYYY-MM-DD HH:MM:SS`."""

    sortie: int
    latitude: float
    longitude: float
    height_m: float
    at: str


@dataclass(frozen=True, slots=True)
class Report:
    """One position report of an aircraft: its 24-bit address in hexadecimal, degrees, feet, UTC."""

    icao24: str
    callsign: str
    latitude: float
    longitude: float
    altitude_ft: float
    at: str


def quadcopter() -> list[Position]:
    """Return 1,790 positions of 11 sorties of one quadcopter, 18 July 2015."""
    return [
        Position(
            sortie=int(row["sortie"].rpartition("-")[2]),
            latitude=float(row["lat"]),
            longitude=float(row["lon"]),
            height_m=float(row["height_m"]),
            at=_utc(int(row["unix_ms"])),
        )
        for row in csv.DictReader(_unpacked("quadcopter-sorties.csv.gz").splitlines())
    ]


def wildfire() -> list[Report]:
    """Return 9,955 reports of 45 fire-fighting aircraft, September 2020."""
    found = json.loads(_unpacked("calfire-2020-09.json.gz"))
    found.sort(key=lambda each: (each["timestamp"], each["icao24"]))
    return [
        Report(
            icao24=each["icao24"],
            callsign=each["callsign"],
            latitude=each["latitude"],
            longitude=each["longitude"],
            altitude_ft=each["altitude"],
            at=_utc(each["timestamp"]),
        )
        for each in found
    ]


def _unpacked(name: str) -> str:
    return gzip.decompress((importlib.resources.files(__name__) / name).read_bytes()).decode()


def _utc(unix_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(unix_ms / 1000))
