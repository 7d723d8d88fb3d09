"""Readers of flight logs: MAVLink telemetry (.tlog) and ArduPilot's DataFlash (.bin), both with pymavlink's decoders."""

from __future__ import annotations

import importlib
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mycomesh.mesh.node.errors import NodeError
from mycomesh.tools.imports.record import TRACK, BadFileError, FlightLog, Record
from mycomesh.tools.vehicles.mavlink import Fleet
from mycomesh.tools.vehicles.mavlink_frames import FrameReader, frame_size
from mycomesh.tools.vehicles.rows import Value, sql_value, within

__all__ = ["DataFlashLog", "TelemetryLog"]

_STAMP = struct.Struct(">Q")
_EARLIEST_US, _LATEST_US = 946_684_800_000_000, 7_258_118_400_000_000  # 2000 to 2200
_REAL = ("float", "double")


class TelemetryLog(FlightLog):
    """A .tlog: MAVLink frames, each after the microsecond at which a ground station received it."""

    def records(self) -> Iterator[Record]:
        """Yield positions after a 3D fix, or the chosen messages."""
        fleet = Fleet(self.notes.lines.append)
        choice, positions = self._selection, self._selection.positions
        for n, (at_us, message, offset) in enumerate(self._messages()):
            kind = message.get_type()
            if positions:
                for row in fleet.take("log", message, at_us // 1000):
                    if row.kind == "track":
                        yield Record("", n, _track(row.values, message, at_us // 1000), offset)
            elif choice.takes(kind):
                if kind not in self._columns:
                    self._columns[kind] = _mavlink_columns(message)
                values: dict[str, Value] = {
                    "received_us": at_us,
                    "sysid": message.get_srcSystem(),
                    "compid": message.get_srcComponent(),
                }
                values |= {name: sql_value(getattr(message, name)) for name in message.get_fieldnames()}
                yield Record(kind, n, values, offset)

    def _messages(self) -> Iterator[tuple[int, Any, int]]:
        """Yield (microsecond, message, offset of its end); pass over damaged bytes."""
        reader = FrameReader()
        with self._path.open("rb") as file, _mapped(file, self._path) as data:
            at, size, good = 0, len(data), 0
            while at + 9 < size:
                found = self._message(data, at, reader)
                if found is None:
                    if good == 0 and at >= 4096:
                        break
                    self.notes.skipped.add(f"byte {at:,}")
                    at += 1
                    continue
                good += 1
                stamp, message, at = found
                yield stamp, message, at
            if not good:
                raise BadFileError(f"{self._path}: no MAVLink telemetry in its first bytes; is it a .tlog?")
            if at < size:
                self.notes.skipped.add(f"byte {at:,}", size - at)

    @staticmethod
    def _message(data: mmap.mmap, at: int, reader: FrameReader) -> tuple[int, Any, int] | None:
        (stamp,) = _STAMP.unpack_from(data, at)
        if not _EARLIEST_US < stamp < _LATEST_US:
            return None
        size = frame_size(data[at + 8 : at + 11], 0)
        if not size or at + 8 + size > len(data):
            return None
        end = at + 8 + size
        message = reader.decode(data[at + 8 : end])
        return None if message is None else (stamp, message, end)


class DataFlashLog(FlightLog):
    """A .bin that ArduPilot writes to its own memory card; its messages describe themselves."""

    def records(self) -> Iterator[Record]:
        """Yield GPS positions with a 3D fix, or the chosen messages."""
        choice, positions = self._selection, self._selection.positions
        battery: dict[str, Value] = {}
        for n, (message, offset) in enumerate(self._messages()):
            kind = message.get_type()
            if positions:
                _note_battery(battery, kind, message)
                record = _fix(message, battery) if kind in _GPS else None
                if record is not None:
                    yield Record("", n, record, offset)
            elif choice.takes(kind):
                if kind not in self._columns:
                    self._columns[kind] = _dataflash_columns(message)
                values: dict[str, Value] = {"at": _unix_ms(message)}
                values |= {_column(name): sql_value(getattr(message, name)) for name in message.get_fieldnames()}
                yield Record(kind, n, values, offset)

    def _messages(self) -> Iterator[tuple[Any, int]]:
        log = self._open()
        try:
            while True:
                try:
                    message = log.recv_msg()
                except Exception as error:  # pymavlink raises whatever a damaged record makes of its decoders
                    raise BadFileError(
                        f"{self._path}: byte {log.offset:,}: {error or type(error).__name__}; the log is damaged there"
                    ) from error
                if message is None:
                    break
                yield message, log.offset
            left = log.data_len - log.offset
            if left > 3:
                self.notes.skipped.add(f"byte {log.offset:,}", left)
        finally:
            log.close()

    def _open(self) -> Any:
        try:
            reader = importlib.import_module("pymavlink.DFReader")
        except ImportError as error:
            raise NodeError(
                f".bin needs pymavlink ({error}); install it with: python -m pip install 'mycomesh[mavlink]'"
            ) from error
        with self._path.open("rb") as file:
            head = file.read(3)
        if head[:2] != b"\xa3\x95":
            raise BadFileError(f"{self._path}: byte 0: no DataFlash log begins so; is it a .bin of ArduPilot?")
        try:
            return reader.DFReader_binary(str(self._path))
        except Exception as error:  # see above
            raise BadFileError(f"{self._path}: {error or type(error).__name__}; the log is damaged") from error


_GPS: Final = ("GPS", "GPS2")


def _mapped(file: Any, path: Path) -> mmap.mmap:
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:
        raise BadFileError(f"{path}: the file is empty") from error


def _track(values: dict[str, Value], message: Any, at: int) -> dict[str, Value]:
    row = {name: values.get(name) for name in TRACK}
    row.update(vehicle=f"{message.get_srcSystem()}/{message.get_srcComponent()}", at=at)
    return row


def _mavlink_columns(message: Any) -> dict[str, str]:
    columns = {"received_us": "INTEGER", "sysid": "INTEGER", "compid": "INTEGER"}
    arrays = message.array_lengths
    for place, name in enumerate(message.get_fieldnames()):
        kind = message.fieldtypes[place]
        single = not arrays[message.ordered_fieldnames.index(name)]
        columns[name] = "TEXT" if kind == "char" or not single else "REAL" if kind in _REAL else "INTEGER"
    return columns


def _dataflash_columns(message: Any) -> dict[str, str]:
    columns = {"at": "INTEGER"}
    for name, code in zip(message.get_fieldnames(), message.fmt.format, strict=False):
        columns[_column(name)] = "TEXT" if code in "nNZa" else "INTEGER" if code in "bBhHiIqQM" else "REAL"
    return columns


def _column(name: str) -> str:
    return f"{name}_" if name.lower() in ("log", "n", "at") else name


def _unix_ms(message: Any) -> int | None:
    stamp = getattr(message, "_timestamp", None)
    return round(stamp * 1000) if stamp and stamp > 946_684_800 else None  # before a fix it is the time since the start


def _note_battery(battery: dict[str, Value], kind: str, message: Any) -> None:
    if kind == "CURR":  # until 2016, in hundredths of a volt
        battery["battery_v"] = message.Volt / 100
    elif kind == "BAT" and getattr(message, "Inst", 0) == 0:
        battery["battery_v"] = sql_value(message.Volt)
        battery["battery_pct"] = getattr(message, "RemPct", None)


def _fix(message: Any, battery: dict[str, Value]) -> dict[str, Value] | None:
    """Return a position of a GPS message, None before a 3D fix."""
    if message.Status < 3 or not within(message.Lat, message.Lng):
        return None
    instance = getattr(message, "I", 0) if message.get_type() == "GPS" else 1
    row: dict[str, Value] = dict.fromkeys(TRACK)
    row |= {
        "vehicle": f"gps{instance}",
        "at": _unix_ms(message),
        "lat": message.Lat,
        "lon": message.Lng,
        "alt_m": sql_value(message.Alt),
        "height_m": sql_value(getattr(message, "RelAlt", None)),
        "speed_mps": sql_value(message.Spd),
        "climb_mps": sql_value(-message.VZ) if hasattr(message, "VZ") else None,
        "course_deg": sql_value(message.GCrs),
        "fix": message.Status,
        "satellites": message.NSats,
    }
    return row | battery
