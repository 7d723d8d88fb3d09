"""The recorded flight, and vehicles that pymavlink plays."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

from mycomesh.tools.vehicles.mavlink_frames import dialect

FLIGHT = Path(__file__).parent / "quadcopter-40s.tlog.gz"


def flight():
    """Return the bytes of the recorded .tlog."""
    return gzip.decompress(FLIGHT.read_bytes())


def frames():
    """Yield (unix microseconds, frame) of the recorded flight."""
    data, at = flight(), 0
    while at < len(data):
        (stamp,) = struct.unpack_from(">Q", data, at)
        size = data[at + 9] + 8
        yield stamp, data[at + 8 : at + 8 + size]
        at += 8 + size


class Vehicle:
    """A vehicle whose messages pymavlink packs."""

    def __init__(self, sysid=1, compid=1):
        self.dialect = dialect()
        self.mav = self.dialect.MAVLink(None, srcSystem=sysid, srcComponent=compid)
        self.mav.robust_parsing = True

    def pack(self, message):
        packed = message.pack(self.mav)
        self.mav.seq = (self.mav.seq + 1) % 256
        return bytes(packed)

    def message(self, message):
        """Return the message as a receiver decodes it."""
        return self.dialect.MAVLink(None).decode(bytearray(self.pack(message)))

    def fix(self, fix_type=3, satellites=9):
        return self.dialect.MAVLink_gps_raw_int_message(0, fix_type, 0, 0, 0, 65535, 65535, 0, 0, satellites)

    def position(self, boot_ms, lat=-35.0, lon=149.0, hdg=9000):
        return self.dialect.MAVLink_global_position_int_message(
            boot_ms, int(lat * 1e7), int(lon * 1e7), 600_000, 10_000, 300, 400, 0, hdg
        )

    def heartbeat(self, kind=2, base_mode=128):
        return self.dialect.MAVLink_heartbeat_message(kind, 3, base_mode, 4, 4, 3)
