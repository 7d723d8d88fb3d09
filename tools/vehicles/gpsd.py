"""The position of this machine from gpsd's JSON reports, one object a line.

TPV reports carry the position, SKY reports the satellites. Only 3D fixes make rows.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from typing import Any

from mycomesh.tools.vehicles.rows import Row, Value, within

__all__ = ["DEVICES_MAX", "LINE_BYTES_MAX", "WATCH", "GpsdReader"]

LINE_BYTES_MAX = 32_768  # gpsd's own limit is 10,240 (GPS_JSON_RESPONSE_MAX)
DEVICES_MAX = 16
WATCH = b'?WATCH={"enable":true,"json":true};\n'

_MODES_3D = range(3, 256)  # known ones are 0 to 3
_SATELLITES = range(1_000)


class GpsdReader:
    """Reads reports; `damaged` counts lines that are none, `version` is what gpsd says of itself."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._satellites: dict[str, int] = {}
        self.damaged = 0
        self.version = ""

    def feed(self, line: bytes, at: int) -> Row | None:
        """Take one line; return the row of a position with a 3D fix."""
        if not line.strip():
            return None
        try:
            report = json.loads(line) if len(line) <= LINE_BYTES_MAX else None
        except (ValueError, RecursionError):
            report = None
        if not isinstance(report, dict):
            self.damaged += 1
            return None
        device = str(report.get("device", ""))[:256].encode(errors="replace").decode()
        match report.get("class"):
            case "VERSION":
                self.version = str(report.get("release", ""))[:64]
            case "SKY":
                self._on_sky(device, report)
            case "TPV":
                return self._on_position(device, report, at)
            case _:
                pass
        return None

    def _on_sky(self, device: str, report: dict[str, Any]) -> None:
        used = report.get("uSat")
        if used is None and isinstance(report.get("satellites"), list):
            used = sum(isinstance(each, dict) and each.get("used") is True for each in report["satellites"])
        if (
            isinstance(used, int)
            and used in _SATELLITES
            and (device in self._satellites or len(self._satellites) < DEVICES_MAX)
        ):
            self._satellites[device] = used

    def _on_position(self, device: str, report: dict[str, Any], at: int) -> Row | None:
        mode, lat, lon = report.get("mode"), _real(report, "lat"), _real(report, "lon")
        if not isinstance(mode, int) or mode not in _MODES_3D or not within(lat, lon):
            return None
        values: dict[str, Value] = {
            "node": self._node,
            "device": device,
            "at": _unix_ms(report.get("time"), at),
            "lat": lat,
            "lon": lon,
            "alt_m": next((height for name in ("altMSL", "alt") if (height := _real(report, name)) is not None), None),
            "speed_mps": _real(report, "speed"),
            "course_deg": _real(report, "track"),
            "climb_mps": _real(report, "climb"),
            "fix": mode,
            "error_m": next((error for name in ("eph", "epx") if (error := _real(report, name)) is not None), None),
            "satellites": self._satellites.get(device),
        }
        return Row("position", values)


def _real(report: dict[str, Any], name: str) -> float | None:
    value = report.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # JSON has integers of any length
        return None
    return number if math.isfinite(number) else None


def _unix_ms(text: object, at: int) -> int:
    """Return the time of a report; the receiver's clock where it says none or one from before gpsd knew the date."""
    try:
        moment = dt.datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return at
    if moment is None or moment.tzinfo is None or moment.year < 2000:
        return at
    return round(moment.timestamp() * 1000)
