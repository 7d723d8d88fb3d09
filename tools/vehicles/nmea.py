"""Positions from NMEA 0183 sentences, joined by their time of day, with pynmea2.

A receiver says one position in several sentences (GGA: height and fix; RMC: date, speed, course). They share hhmmss.ss; a
sentence with another time ends the position.
"""

from __future__ import annotations

import datetime as dt
import importlib
from typing import Any

from mycomesh.mesh.node.errors import NodeError
from mycomesh.tools.vehicles.rows import Value, within

__all__ = ["LINE_CHARS_MAX", "NmeaReader"]

LINE_CHARS_MAX = 1_024  # the standard says 82; receivers write up to a few hundred
_KNOT = 0.514444
_QUALITY_ESTIMATED = 6


class NmeaReader:
    """Joins sentences into positions; `damaged` counts lines with a wrong checksum or form."""

    def __init__(self) -> None:
        try:
            self._pynmea2 = importlib.import_module("pynmea2")
        except ImportError as error:
            raise NodeError(
                f"NMEA needs pynmea2 ({error}); install it with: python -m pip install 'mycomesh[nmea]'"
            ) from error
        self._row: dict[str, Value] = {}
        self._time: dt.time | None = None
        self._date: dt.date | None = None
        self.damaged = 0

    def feed(self, line: str) -> dict[str, Value] | None:
        """Take one line; return the position that it ends, or None."""
        if len(line) > LINE_CHARS_MAX:
            self.damaged += 1
            return None
        start = line.find("$")  # logs put a time of their own before it
        if start < 0 or "*" not in line:
            if line.strip() and not line.startswith(("#", "!")):
                self.damaged += 1
            return None
        try:
            sentence = self._pynmea2.parse(line[start:].strip(), check=True)
            kind = getattr(sentence, "sentence_type", "")
            return self._take(kind, sentence) if kind in ("GGA", "RMC", "ZDA") else None
        except (self._pynmea2.ParseError, ValueError, TypeError, AttributeError, IndexError):
            self.damaged += 1
            return None

    def flush(self) -> dict[str, Value] | None:
        """Return the position that the last lines say, if they say one."""
        row, self._row = self._row, {}
        if not row.pop("_fix", False):
            return None
        lat, lon = row["lat"], row["lon"]
        if not isinstance(lat, float) or not isinstance(lon, float) or not within(lat, lon):
            return None
        return row

    def _take(self, kind: str, sentence: Any) -> dict[str, Value] | None:
        time = sentence.timestamp
        if not isinstance(time, dt.time):
            return None
        ended = self.flush() if self._time is not None and time != self._time else None
        if self._time is not None and time < self._time and self._date is not None and kind == "GGA":
            self._date += dt.timedelta(days=1)  # midnight; the next RMC says the date again
        self._time = time
        if kind == "ZDA":
            self._date = dt.date(int(sentence.year), int(sentence.month), int(sentence.day))
        elif kind == "RMC":
            self._on_rmc(sentence)
        else:
            self._on_gga(sentence)
        if self._date is not None:
            moment = dt.datetime.combine(self._date, time.replace(tzinfo=dt.UTC))
            self._row["at"] = round(moment.timestamp() * 1000)
        return ended

    def _on_rmc(self, sentence: Any) -> None:
        if isinstance(sentence.datestamp, dt.date):
            self._date = sentence.datestamp
        if sentence.status != "A" or not sentence.lat or not sentence.lon:
            return
        self._place(sentence)
        self._row["speed_mps"] = round(float(sentence.spd_over_grnd) * _KNOT, 3) if sentence.spd_over_grnd else None
        self._row["course_deg"] = float(sentence.true_course) if sentence.true_course else None

    def _on_gga(self, sentence: Any) -> None:
        quality = int(sentence.gps_qual or 0)
        self._row["satellites"] = int(sentence.num_sats) if sentence.num_sats else None
        if not quality or quality >= _QUALITY_ESTIMATED or not sentence.lat or not sentence.lon:
            return
        self._place(sentence)
        self._row["alt_m"] = float(sentence.altitude) if sentence.altitude is not None else None
        self._row["fix"] = 3 if sentence.altitude is not None else 2

    def _place(self, sentence: Any) -> None:
        self._row.update(lat=round(sentence.latitude, 7), lon=round(sentence.longitude, 7), _fix=True)
