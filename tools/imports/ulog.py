"""Reader of PX4's logs (.ulg) with pyulog.

Timestamps of a ULog count from the start of the vehicle, are not sorted and may repeat. A row's key is therefore the topic, its
instance and a running number. UTC comes from the first GPS fix that knows it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from mycomesh.mesh.node.errors import NodeError
from mycomesh.tools.imports.record import TRACK, BadFileError, FlightLog, Record
from mycomesh.tools.vehicles.rows import Value, sql_value, within

__all__ = ["ULog"]

_REAL = ("float", "double")
_GPS = ("vehicle_gps_position", "sensor_gps")
_FIX_3D = 3


class ULog(FlightLog):
    """A .ulg. pyulog holds the whole log in memory."""

    def records(self) -> Iterator[Record]:
        """Yield GPS positions with a 3D fix, or the chosen topics: instance after instance."""
        log, size = self._open(), self._path.stat().st_size
        topics = sorted(log.data_list, key=lambda topic: (topic.name, topic.multi_id))
        total = max(1, sum(len(topic.data["timestamp"]) for topic in topics))
        start_us = _start_us(topics)
        if start_us is None:
            self.notes.lines.append("no GPS fix with UTC: 'at' is NULL")
        choice, positions = self._selection, self._selection.positions
        gps = next((name for name in _GPS if any(topic.name == name for topic in topics)), "")
        done, numbers = 0, dict.fromkeys(("", *(topic.name for topic in topics)), 0)
        for topic in topics:
            kind = "" if positions else topic.name
            chosen = topic.name == gps if positions else choice.takes(topic.name)
            for index in range(len(topic.data["timestamp"])):
                done += 1
                if not chosen:
                    continue
                n = numbers[kind]
                numbers[kind] += 1
                values = _position(topic, index, start_us) if positions else self._message(topic, index, start_us)
                if values is not None:
                    yield Record(kind, n, values, done * size // total)

    def _open(self) -> Any:
        try:
            pyulog = importlib.import_module("pyulog")
        except ImportError as error:
            raise NodeError(
                f".ulg needs pyulog ({error}); install it with: python -m pip install 'mycomesh[ulog]'"
            ) from error
        try:
            with self._path.open("rb") as file:  # by its name, pyulog leaves the file open if it is damaged
                log = pyulog.ULog(file)
        except Exception as error:  # pyulog raises whatever a damaged record makes of struct and numpy
            raise BadFileError(f"{self._path}: {error or type(error).__name__}; is it a whole .ulg of PX4?") from error
        if log.file_corruption:
            self.notes.lines.append("pyulog met damaged records and passed over them")
        return log

    def _message(self, topic: Any, index: int, start_us: int | None) -> dict[str, Value]:
        if topic.name not in self._columns:
            columns = {"instance": "INTEGER", "at": "INTEGER"}
            kinds = {field.field_name: field.type_str for field in topic.field_data}
            columns |= {_column(name): "REAL" if kinds.get(name) in _REAL else "INTEGER" for name in topic.data}
            self._columns[topic.name] = columns
        values: dict[str, Value] = {"instance": topic.multi_id, "at": _utc_ms(topic, index, start_us)}
        return values | {_column(name): sql_value(array[index].item()) for name, array in topic.data.items()}


def _column(name: str) -> str:
    return f"{name}_" if name in ("log", "n", "at", "instance") else name


def _start_us(topics: list[Any]) -> int | None:
    """Return UTC at the start of the vehicle in microseconds, from the first fix that knows it."""
    for topic in topics:
        if topic.name in _GPS and "time_utc_usec" in topic.data:
            for stamp, utc in zip(topic.data["timestamp"], topic.data["time_utc_usec"], strict=True):
                if utc > 0:
                    return int(utc) - int(stamp)
    return None


def _utc_ms(topic: Any, index: int, start_us: int | None) -> int | None:
    return None if start_us is None else (int(topic.data["timestamp"][index]) + start_us) // 1000


def _position(topic: Any, index: int, start_us: int | None) -> dict[str, Value] | None:
    def at(*names: str, scale: float = 1) -> Value:
        for name in names:
            if name in topic.data:
                return sql_value(topic.data[name][index].item() / scale)
        return None

    degrees = "latitude_deg" in topic.data  # PX4 1.14 and later; integers of 1e-7 degrees before
    lat = at("latitude_deg") if degrees else at("lat", scale=1e7)
    lon = at("longitude_deg") if degrees else at("lon", scale=1e7)
    fix = at("fix_type")
    if not isinstance(lat, float) or not isinstance(lon, float) or not isinstance(fix, float):
        return None
    if fix < _FIX_3D or not within(lat, lon):
        return None
    course, down, satellites = at("cog_rad"), at("vel_d_m_s"), at("satellites_used")
    row: dict[str, Value] = dict.fromkeys(TRACK)
    return row | {
        "vehicle": f"gps{topic.multi_id}",
        "at": _utc_ms(topic, index, start_us),
        "lat": lat,
        "lon": lon,
        "alt_m": at("altitude_msl_m") if degrees else at("alt", scale=1000),
        "speed_mps": at("vel_m_s"),
        "climb_mps": -down if isinstance(down, float) else None,
        "course_deg": round(course * 57.29577951308232 % 360, 2) if isinstance(course, float) else None,
        "fix": int(fix),
        "satellites": None if satellites is None else int(satellites),
    }
