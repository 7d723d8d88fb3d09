"""Small logs that are written here: DataFlash and ULog, byte by byte after their formats."""

from __future__ import annotations

import struct

_FMT = 128


def dataflash(messages, formats):
    """Return a .bin; `formats` is {name: (type, format, columns)}, `messages` are (name, values)."""
    out = b""
    every = {"FMT": (_FMT, "BBnNZ", "Type,Length,Name,Format,Columns"), **formats}
    codes = {"Q": "Q", "B": "B", "H": "H", "I": "I", "L": "i", "f": "f", "n": "4s", "N": "16s", "Z": "64s", "c": "h"}
    packers = {name: struct.Struct("<" + "".join(codes[code] for code in text)) for name, (_, text, _) in every.items()}

    def record(name, values):
        encoded = [value.encode() if isinstance(value, str) else value for value in values]
        return b"\xa3\x95" + bytes([every[name][0]]) + packers[name].pack(*encoded)

    for name, (kind, text, columns) in every.items():
        out += record("FMT", (kind, packers[name].size + 3, name, text, columns))
    return out + b"".join(record(name, values) for name, values in messages)


GPS = {"GPS": (130, "QBIHBcLLffff", "TimeUS,Status,GMS,GWk,NSats,HDop,Lat,Lng,Alt,Spd,GCrs,VZ")}


def flown(count, fix=3):
    """Return a .bin with positions, the first two of which have no fix."""

    def values(at):
        place = (-350_000_000 + at, 1_490_000_000, 600.0)
        return (at * 200_000, fix if at > 1 else 1, 1_000 * at, 2200, 9, 90, *place, 5.0, 90.0, -0.5)

    return dataflash([("GPS", values(at)) for at in range(count)], GPS)


def ulog(topics):
    """Return a .ulg; a topic is (name, instance, [(type, field)], [values])."""

    def message(kind, body):
        return struct.pack("<HB", len(body), ord(kind)) + body

    codes = {"uint64_t": "Q", "int32_t": "i", "uint8_t": "B", "float": "f", "double": "d"}
    out = b"ULog\x01\x12\x35\x01" + struct.pack("<Q", 1_000)
    out += message("B", bytes(40))
    for name in dict.fromkeys(topic[0] for topic in topics):
        fields = next(topic[2] for topic in topics if topic[0] == name)
        out += message("F", (f"{name}:" + "".join(f"{kind} {field};" for kind, field in fields)).encode())
    for number, (name, instance, _, _) in enumerate(topics):
        out += message("A", struct.pack("<BH", instance, number) + name.encode())
    for number, (_, _, fields, rows) in enumerate(topics):
        for row in rows:
            packed = struct.pack("<" + "".join(codes[kind] for kind, _ in fields), *row)
            out += message("D", struct.pack("<H", number) + packed)
    return out


GPS_FIELDS = [
    ("uint64_t", "timestamp"), ("uint64_t", "time_utc_usec"), ("int32_t", "lat"), ("int32_t", "lon"), ("int32_t", "alt"),
    ("float", "vel_m_s"), ("uint8_t", "fix_type"), ("uint8_t", "satellites_used"),
]  # fmt: skip
