"""Aircraft from lines in the BaseStation format (SBS-1), which dump1090 and readsb serve on port 30003.

A line has 22 fields and says a part of an aircraft's state. Its dates are those of the receiver's local clock without a zone, so
rows have the time at which the line came.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Final

from mycomesh.tools.vehicles.rows import Row, Value, within

__all__ = ["AIRCRAFT_MAX", "LINE_BYTES_MAX", "SbsReader"]

AIRCRAFT_MAX = 10_000  # the least recently heard is forgotten first; a busy receiver hears some hundred
LINE_BYTES_MAX = 512

_FOOT, _KNOT, _FOOT_A_MINUTE = 0.3048, 0.514444, 0.00508
_HEX = re.compile(r"[0-9A-Fa-f]{6}")
_FIELDS = 22
_FLAGS: Final = {"alert": 18, "emergency": 19, "ident": 20, "on_ground": 21}


class SbsReader:
    """Keeps the state of each aircraft; `damaged` counts lines of another form."""

    def __init__(self) -> None:
        self._aircraft: OrderedDict[str, dict[str, Value]] = OrderedDict()
        self.damaged = 0

    def feed(self, line: bytes, at: int) -> Row | None:
        """Take one line; return the row of its aircraft, None if the line says nothing of one."""
        fields = line.decode("ascii", "replace").strip().split(",") if len(line) <= LINE_BYTES_MAX else []
        if fields == [""]:
            return None
        if len(fields) < _FIELDS or not _HEX.fullmatch(fields[4]):
            self.damaged += fields[0] not in ("STA", "AIR", "ID", "SEL", "CLK") if fields else 1
            return None
        if fields[0] != "MSG":
            return None
        key = fields[4].lower()
        state = self._aircraft.pop(key, None) or {"icao24": key}
        self._aircraft[key] = state
        if len(self._aircraft) > AIRCRAFT_MAX:
            self._aircraft.popitem(last=False)
        state["at"] = at
        self._update(state, fields)
        return Row("aircraft", dict(state))

    @staticmethod
    def _update(state: dict[str, Value], fields: list[str]) -> None:
        callsign, squawk = fields[10].strip(), fields[17].strip()
        if callsign.isalnum() and len(callsign) <= 8:
            state["callsign"] = callsign
        for name, place, unit in (("alt_m", 11, _FOOT), ("speed_mps", 12, _KNOT), ("climb_mps", 16, _FOOT_A_MINUTE)):
            value = _number(fields[place])
            if value is not None:
                state[name] = round(value * unit, 2)
        track = _number(fields[13])
        if track is not None and 0 <= track <= 360:
            state["track_deg"] = track
        lat, lon = _number(fields[14]), _number(fields[15])
        if within(lat, lon):
            state["lat"], state["lon"] = lat, lon
        if squawk.isdigit() and len(squawk) <= 4:
            state["squawk"] = squawk.zfill(4)
        for name, place in _FLAGS.items():
            if fields[place].strip():
                state[name] = int(fields[place].strip() not in ("0", ""))


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\s*-?[0-9]{1,9}(\.[0-9]{1,12})?\s*", text) else None
