"""Rows of vehicles from MAVLink messages: the latest state of each vehicle, its track, and what it says.

A vehicle is known by (source address, system, component), because several vehicles often keep the default system 1. Positions
count only after that vehicle has reported a 3D fix: before it, zeros arrive as valid numbers.

`time_boot_ms` has 32 bits and wraps after 49.7 days. `boot_ms` goes on counting, and `boot` is when the vehicle started by the
receiver's clock; a smaller `time_boot_ms` that is no wrap and no late datagram is a restart.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from mycomesh.tools.vehicles.rows import Row, Value, within

__all__ = ["SHARED_MS", "VEHICLES_MAX", "Fleet"]

VEHICLES_MAX = 1_000  # of one bridge; a sender that invents systems and components cannot take more memory
SILENT_MS = 60_000  # a vehicle that says nothing for so long gives way to another one
TEXT_CHARS_MAX = 254  # a STATUSTEXT in chunks, of which the field in the state of a vehicle is not more
SHARED_MS = 10_000  # two sources of one system within this time are two vehicles, not one that moved
JUMPS = 20  # messages of one source and system over which jumps of the sequence are counted

_WRAP = 2**32
_LATE_MS = 60_000  # datagrams overtake each other, but not by more
_SEVERAL = -1  # in place of a port
_GCS = 6  # MAV_TYPE_GCS: a ground station says heartbeats too
_ARMED = 128
_FIX_3D = 3
_CLOCK_MS = 3_600_000  # a vehicle's UTC further off than this is a clock that nobody has set, or a replay

Key = tuple[str, int, int]


class _Vehicle:
    """One vehicle: the values of its row, and its clock."""

    __slots__ = (
        "fix",
        "heard_ms",
        "jumps",
        "last_boot_ms",
        "offset_ms",
        "sequence",
        "spoke",
        "values",
        "warned",
        "wraps",
    )

    def __init__(self, key: Key) -> None:
        self.values: dict[str, Value] = {"source": key[0], "sysid": key[1], "compid": key[2]}
        self.last_boot_ms: int | None = None
        self.wraps = 0
        self.offset_ms: int | None = None  # from the clock of the boot to UTC, as the vehicle says
        self.fix = 0
        self.sequence = -1
        self.jumps = 0
        self.spoke = 0
        self.heard_ms = 0
        self.warned = False


class Fleet:
    """The vehicles that one bridge or one log hears."""

    def __init__(self, notify: Callable[[str], None] = lambda _text: None) -> None:
        self._vehicles: OrderedDict[Key, _Vehicle] = OrderedDict()
        self._notify = notify
        self._shared: dict[tuple[int, int], tuple[str, int]] = {}  # the host that spoke last for each system
        self._texts = 0
        # by host and vehicle: its port, the one before, when it was heard
        self._ports: OrderedDict[Key, tuple[int, int, int]] = OrderedDict()
        self.dropped = 0  # messages of vehicles beyond VEHICLES_MAX

    def __len__(self) -> int:
        return len(self._vehicles)

    def take(self, host: str, message: Any, at: int, port: int = 0) -> list[Row]:
        """Return the rows that a message changes; `at` is the receiver's clock in unix ms.

        A vehicle is known by its host, since the port of a sender changes with each start of it; only where several ports of a
        host say they are the same vehicle, the port belongs to the name.
        """
        kind = message.get_type()
        handler = _HANDLERS.get(kind)
        if handler is None or message.get_srcSystem() == 0:
            return []
        if kind == "HEARTBEAT" and message.type == _GCS:
            return []
        ids = (message.get_srcSystem(), message.get_srcComponent())
        source = self._source(host, port, ids, at) if port else host
        vehicle = self._vehicle((source, *ids), host, at)
        if vehicle is None:
            self.dropped += 1
            return []
        self._watch_sequence(source, vehicle, message)
        return handler(self, vehicle, message, at)

    def _source(self, host: str, port: int, ids: tuple[int, int], at: int) -> str:
        key = (host, *ids)
        known, before, heard = self._ports.get(key, (port, port, at))
        if known == _SEVERAL:
            return f"{host}:{port}"
        if port not in (known, before) or at - heard > SHARED_MS:  # it has started again
            known, before = port, known
        elif port != known:  # the earlier one goes on too
            known = _SEVERAL
            self._notify(_shared_text(ids, f"several ports of {host}"))
        self._ports[key] = (known, before, at)
        self._ports.move_to_end(key)
        if len(self._ports) > VEHICLES_MAX:
            self._ports.popitem(last=False)
        return f"{host}:{port}" if known == _SEVERAL else host

    def _vehicle(self, key: Key, host: str, at: int) -> _Vehicle | None:
        vehicle = self._vehicles.get(key)
        if vehicle is None:
            if len(self._vehicles) >= VEHICLES_MAX and not self._forget_silent(at):
                return None
            vehicle = self._vehicles[key] = _Vehicle(key)
        self._vehicles.move_to_end(key)
        self._watch_hosts(vehicle, key[1:], host, at)
        vehicle.heard_ms = at
        return vehicle

    def _forget_silent(self, at: int) -> bool:
        """Forget the vehicle that was heard longest ago; return False if that is not SILENT_MS ago: none of them is stale."""
        key, vehicle = next(iter(self._vehicles.items()))
        if at - vehicle.heard_ms < SILENT_MS:
            return False
        del self._vehicles[key]
        return True

    def _watch_hosts(self, vehicle: _Vehicle, ids: tuple[int, int], host: str, at: int) -> None:
        other, heard = self._shared.get(ids, (host, at))
        if other != host and at - heard < SHARED_MS and not vehicle.warned:
            vehicle.warned = True
            self._notify(_shared_text(ids, f"{other} and from {host}"))
        self._shared[ids] = (host, at)

    def _watch_sequence(self, source: str, vehicle: _Vehicle, message: Any) -> None:
        sequence = message.get_seq()
        if vehicle.sequence >= 0 and (sequence - vehicle.sequence) % 256 > 64:
            vehicle.jumps += 1
        vehicle.sequence = sequence
        vehicle.spoke += 1
        if vehicle.spoke < JUMPS:
            return
        if vehicle.jumps * 2 > vehicle.spoke and not vehicle.warned:
            vehicle.warned = True
            self._notify(
                f"system {message.get_srcSystem()}, component {message.get_srcComponent()} at {source} counts its "
                "messages in leaps: "
                "probably two vehicles behind one address share an id; give one another SYSID_THISMAV (PX4: MAV_SYS_ID)"
            )
        vehicle.spoke = vehicle.jumps = 0

    def _on_heartbeat(self, vehicle: _Vehicle, message: Any, at: int) -> list[Row]:
        return self._state(
            vehicle,
            at,
            type=message.type,
            armed=int(bool(message.base_mode & _ARMED)),
            mode=message.custom_mode,
            status=message.system_status,
        )

    def _on_gps(self, vehicle: _Vehicle, message: Any, at: int) -> list[Row]:
        vehicle.fix = message.fix_type
        satellites = None if message.satellites_visible == 255 else message.satellites_visible
        return self._state(vehicle, at, fix=message.fix_type, satellites=satellites)

    def _on_battery(self, vehicle: _Vehicle, message: Any, at: int) -> list[Row]:
        return self._state(
            vehicle,
            at,
            battery_v=None if message.voltage_battery == 65535 else message.voltage_battery / 1000,
            battery_pct=None if message.battery_remaining < 0 else message.battery_remaining,
        )

    def _on_hud(self, vehicle: _Vehicle, message: Any, at: int) -> list[Row]:
        return self._state(vehicle, at, speed_mps=_real(message.groundspeed, 2), climb_mps=_real(message.climb, 2))

    def _on_mission(self, vehicle: _Vehicle, message: Any, at: int) -> list[Row]:
        return self._state(vehicle, at, mission=message.seq)

    def _on_clock(self, vehicle: _Vehicle, message: Any, at: int) -> list[Row]:
        boot_ms = self._boot_ms(vehicle, message.time_boot_ms, at)
        utc = message.time_unix_usec // 1000
        vehicle.offset_ms = utc - boot_ms if abs(utc - at) < _CLOCK_MS else None
        return []

    def _on_text(self, vehicle: _Vehicle, message: Any, at: int) -> list[Row]:
        text = _printable(message.text)
        self._texts += 1
        values: dict[str, Value] = {name: vehicle.values[name] for name in ("source", "sysid", "compid")}
        values.update(at=at, n=self._texts, severity=message.severity, text=text)
        return [Row("texts", values), *self._state(vehicle, at, text=text)]

    def _on_position(self, vehicle: _Vehicle, message: Any, at: int) -> list[Row]:
        boot_ms = self._boot_ms(vehicle, message.time_boot_ms, at)
        lat, lon = message.lat / 1e7, message.lon / 1e7
        if vehicle.fix < _FIX_3D or not within(lat, lon):
            return []
        at = at if vehicle.offset_ms is None else boot_ms + vehicle.offset_ms
        rows = self._state(
            vehicle,
            at,
            boot_ms=boot_ms,
            lat=lat,
            lon=lon,
            alt_m=message.alt / 1000,
            height_m=message.relative_alt / 1000,
            heading_deg=None if message.hdg == 65535 else message.hdg / 100,
        )
        if "speed_mps" not in vehicle.values:  # no VFR_HUD so far
            vehicle.values["speed_mps"] = round(math.hypot(message.vx, message.vy) / 100, 2)
        track = {name: vehicle.values.get(name) for name in _TRACK}
        return [*rows, Row("track", track)]

    def _boot_ms(self, vehicle: _Vehicle, raw: int, at: int) -> int:
        """Return the milliseconds since the start of the vehicle, beyond 32 bits."""
        if vehicle.last_boot_ms is None:
            vehicle.values["boot"] = at - raw
        elif raw < vehicle.last_boot_ms - _LATE_MS:
            if vehicle.last_boot_ms - raw > _WRAP // 2:
                vehicle.wraps += 1
            else:
                vehicle.wraps, vehicle.offset_ms = 0, None
                vehicle.values["boot"] = at - raw
        elif raw > vehicle.last_boot_ms + _WRAP // 2 and vehicle.wraps:
            return raw + (vehicle.wraps - 1) * _WRAP  # from before the wrap, late
        elif raw < vehicle.last_boot_ms:
            return raw + vehicle.wraps * _WRAP
        vehicle.last_boot_ms = raw
        return raw + vehicle.wraps * _WRAP

    @staticmethod
    def _state(vehicle: _Vehicle, at: int, **values: Value) -> list[Row]:
        vehicle.values.update(values, at=at)
        return [Row("vehicles", dict(vehicle.values))]


_TRACK: Final = (
    "source", "sysid", "compid", "boot", "boot_ms", "at", "lat", "lon", "alt_m", "height_m", "speed_mps", "climb_mps",
    "heading_deg", "fix", "satellites", "battery_v", "battery_pct",
)  # fmt: skip
_HANDLERS: Final[dict[str, Callable[[Fleet, _Vehicle, Any, int], list[Row]]]] = {
    "HEARTBEAT": Fleet._on_heartbeat,  # noqa: SLF001 -- the class's own table
    "GPS_RAW_INT": Fleet._on_gps,  # noqa: SLF001
    "SYS_STATUS": Fleet._on_battery,  # noqa: SLF001
    "VFR_HUD": Fleet._on_hud,  # noqa: SLF001
    "MISSION_CURRENT": Fleet._on_mission,  # noqa: SLF001
    "SYSTEM_TIME": Fleet._on_clock,  # noqa: SLF001
    "STATUSTEXT": Fleet._on_text,  # noqa: SLF001
    "GLOBAL_POSITION_INT": Fleet._on_position,  # noqa: SLF001
}


def _shared_text(ids: tuple[int, int], sources: str) -> str:
    return (
        f"system {ids[0]}, component {ids[1]} speaks from {sources}: two vehicles share an id; give one another"
        " SYSID_THISMAV (PX4: MAV_SYS_ID); their rows are kept apart by address"
    )


def _real(value: float, digits: int) -> float | None:
    return round(value, digits) if math.isfinite(value) else None


def _printable(text: str | bytes) -> str:
    plain = text.decode("ascii", "replace") if isinstance(text, bytes) else text
    return plain.rstrip("\0")[:TEXT_CHARS_MAX]
