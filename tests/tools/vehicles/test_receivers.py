"""Aircraft, ships and the machine's own position: lines of receivers become rows of their states."""

from __future__ import annotations

import json

import pyais
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mycomesh.tools.vehicles import ais, gpsd, sbs
from mycomesh.tools.vehicles.ais import AisReader
from mycomesh.tools.vehicles.gpsd import GpsdReader
from mycomesh.tools.vehicles.rows import TYPES
from mycomesh.tools.vehicles.sbs import SbsReader

AT = 1_700_000_000_000


def message(kind, icao, **fields):
    names = [
        "callsign",
        "alt",
        "speed",
        "track",
        "lat",
        "lon",
        "climb",
        "squawk",
        "alert",
        "emergency",
        "ident",
        "ground",
    ]
    rest = ",".join(str(fields.get(name, "")) for name in names)
    return f"MSG,{kind},1,1,{icao},1,2020/09/08,12:00:00.000,2020/09/08,12:00:00.000,{rest}\r\n".encode()


def test_lines_of_an_aircraft_make_one_state():
    reader = SbsReader()
    reader.feed(message(1, "A3C6BD", callsign="N342WN  "), AT)
    reader.feed(message(4, "A3C6BD", speed=113, track=224.3, climb=-64), AT + 1)
    row = reader.feed(message(3, "a3c6bd", alt=1050, lat=47.01, lon=-122.4, alert=0, emergency=-1, ground=0), AT + 2)
    assert row.kind == "aircraft"
    assert row.values == {
        "icao24": "a3c6bd", "at": AT + 2, "callsign": "N342WN", "speed_mps": 58.13, "track_deg": 224.3, "climb_mps": -0.33,
        "alt_m": 320.04, "lat": 47.01, "lon": -122.4, "alert": 0, "emergency": 1, "on_ground": 0,
    }  # fmt: skip
    assert set(row.values) <= set(TYPES["aircraft"])
    assert reader.feed(b"STA,,5,179,400AE7,10103,2008/11/28,14:58:51.153,2008/11/28,14:58:51.153,RM\r\n", AT) is None
    assert reader.damaged == 0
    assert reader.feed(b"hello\r\n", AT) is None
    assert reader.feed(message(3, "XYZ"), AT) is None
    assert reader.damaged == 2


def test_aircraft_beyond_the_limit_forget_the_oldest(monkeypatch):
    monkeypatch.setattr(sbs, "AIRCRAFT_MAX", 3)
    reader = SbsReader()
    for number in range(4):
        reader.feed(message(1, f"00000{number}", callsign="ABC"), AT)
    assert "callsign" in reader.feed(message(3, "000001", alt=5), AT).values
    assert "callsign" not in reader.feed(message(3, "000000", alt=5), AT).values
    line = message(3, "000001", alt=5).rstrip()
    assert reader.feed(line.ljust(sbs.LINE_BYTES_MAX), AT)
    assert reader.feed(line.ljust(sbs.LINE_BYTES_MAX + 1), AT) is None


def sentences(**fields):
    return [line.encode() for line in pyais.encode_dict(fields, talker_id="AI", sentence_type="VDM")]


POSITION = {
    "type": 1,
    "mmsi": 366053209,
    "lat": 37.8,
    "lon": -122.3,
    "speed": 10.0,
    "course": 51.3,
    "heading": 181,
    "status": 0,
}
STATIC = {
    "type": 5,
    "mmsi": 366053209,
    "shipname": "BALTIC",
    "callsign": "WDA1",
    "ship_type": 70,
    "destination": "OAKLAND",
    "imo": 9,
}


def test_sentences_of_a_ship_make_one_state():
    reader = AisReader()
    [line] = sentences(**POSITION)
    reader.feed(line, AT)
    first, second = sentences(**STATIC)
    assert reader.feed(first, AT + 1) is None
    assert reader.feed(line, AT + 2)  # another sentence between the two
    row = reader.feed(b"\\s:rORBCOMM00,c:1600*00\\" + second + b"\r\n", AT + 3)
    assert (row.kind, reader.damaged) == ("ships", 0)
    assert row.values == {
        "mmsi": 366053209, "at": AT + 3, "lat": pytest.approx(37.8), "lon": pytest.approx(-122.3), "speed_mps": 5.14,
        "course_deg": 51.3, "heading_deg": 181.0, "status": 0, "name": "BALTIC", "callsign": "WDA1", "type": 70,
        "destination": "OAKLAND", "imo": 9,
    }  # fmt: skip
    assert set(row.values) == set(TYPES["ships"])


def test_unknown_values_of_ship_are_null():
    [line] = sentences(
        **POSITION | {"lat": 91, "lon": 181, "speed": 102.3, "course": 360, "heading": 511, "status": 15}
    )
    values = AisReader().feed(line, AT).values
    assert "lat" not in values
    assert [values[name] for name in ("speed_mps", "course_deg", "heading_deg", "status")] == [None] * 4


def test_damaged_sentences_are_counted(monkeypatch):
    reader = AisReader()
    [line] = sentences(**POSITION)
    wrong = line[:20] + bytes([line[20] ^ 1]) + line[21:]
    for bad in (wrong, b"hello", line[:-4], b"x" * (ais.LINE_BYTES_MAX + 1)):
        assert reader.feed(bad, AT) is None
    assert reader.damaged == 4
    assert reader.feed(line.ljust(ais.LINE_BYTES_MAX), AT)


def test_message_that_ends_early_is_damage():
    [line] = sentences(**POSITION)
    head, payload, _ = line.rsplit(b",", 2)
    for length in range(len(payload)):
        body = b"%s,%s,0*" % (head, payload[:length])
        reader = AisReader()
        assert reader.feed(b"%s%02X" % (body, ais._checksum(body)), AT) is None
        assert reader.damaged == 1


def test_ships_and_fragments_have_limits(monkeypatch):
    monkeypatch.setattr(ais, "SHIPS_MAX", 2)
    reader = AisReader()
    for mmsi in (1, 2, 3):
        for line in sentences(**STATIC | {"mmsi": mmsi}):
            reader.feed(line, AT)
    assert len(reader._ships) == 2
    waiting = [b"!AIVDM,%d,1,%d,%s,55P5TL,0*" % (total, serial, channel)
               for total in range(2, 10) for serial in range(10) for channel in (b"A", b"B")]  # fmt: skip
    for number, body in enumerate(waiting, 1):
        reader.feed(b"%s%02X" % (body, ais._checksum(body)), AT)
        assert len(reader._waiting) == min(number, ais.FRAGMENTS_MAX)
    assert reader.damaged == len(waiting) - ais.FRAGMENTS_MAX


def tpv(**more):
    report = {
        "class": "TPV",
        "device": "/dev/ttyUSB0",
        "mode": 3,
        "time": "2026-01-31T12:00:00.500Z",
        "lat": 47.0,
        "lon": 8.0,
    }
    return json.dumps(report | more).encode() + b"\n"


def test_reports_of_gpsd_make_rows_after_3d_fix():
    reader = GpsdReader("pi7")
    assert reader.feed(b'{"class":"VERSION","release":"3.25"}\n', AT) is None
    assert reader.version == "3.25"
    reader.feed(b'{"class":"SKY","device":"/dev/ttyUSB0","satellites":[{"used":true},{"used":false}]}', AT)
    row = reader.feed(tpv(altMSL=400.5, alt=450, speed=1.5, track=90.0, climb=0.1, eph=3.5), AT)
    assert row.values == {
        "node": "pi7", "device": "/dev/ttyUSB0", "at": 1769860800500, "lat": 47.0, "lon": 8.0, "alt_m": 400.5, "speed_mps": 1.5,
        "course_deg": 90.0, "climb_mps": 0.1, "fix": 3, "error_m": 3.5, "satellites": 1,
    }  # fmt: skip
    assert set(row.values) == set(TYPES["position"])
    for line in (tpv(mode=2), tpv(mode=1), tpv(lat=0, lon=0), tpv(lat=None), b'{"class":"TPV"}'):
        assert reader.feed(line, AT) is None
    assert (
        reader.feed(tpv(time="1999-08-22T00:00:00Z"), AT).values["at"] == AT
    )  # a receiver whose week number rolled over
    assert reader.damaged == 0


def test_reports_beyond_the_limits_are_damage():
    reader = GpsdReader("pi7")
    assert reader.feed(tpv().rstrip().ljust(gpsd.LINE_BYTES_MAX), AT)
    for line in (tpv().rstrip().ljust(gpsd.LINE_BYTES_MAX + 1), b"[1]", b"{", b"[" * 20_000):
        assert reader.feed(line, AT) is None
    assert reader.damaged == 4
    long = b"9" * 400
    assert reader.feed(tpv(lat=1.5).replace(b"1.5", long), AT) is None
    assert reader.feed(tpv(alt=1.5).replace(b"1.5", long), AT).values["alt_m"] is None
    assert reader.feed(tpv(mode=12).replace(b"12", long), AT) is None
    assert reader.feed(tpv(device="\ud800"), AT).values["device"] == "?"
    assert reader.damaged == 4
    for number in range(gpsd.DEVICES_MAX + 3):
        reader.feed(json.dumps({"class": "SKY", "device": str(number), "uSat": 5}).encode(), AT)
    assert len(reader._satellites) == gpsd.DEVICES_MAX


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_line_is_read_without_an_error(data):
    for reader in (SbsReader(), AisReader(), GpsdReader("n")):
        for line in (
            data,
            b"MSG,3,1,1,A3C6BD," + data.replace(b"\n", b",") + b"," * 22,
            b"!AIVDM,1,1,,A," + data,
            b'{"class":"TPV",' + data,
        ):
            reader.feed(line, AT)


@settings(max_examples=100, deadline=None)
@given(st.text("0123456789ABCDEFGHIJKLMNOPQRSTUVW`abcdefghijklmnopqrstuvw", min_size=1, max_size=60), st.integers(0, 5))
def test_any_payload_of_ais_is_read_or_damage(payload, fill):
    body = f"!AIVDM,1,1,,A,{payload},{fill}*".encode()
    reader = AisReader()
    reader.feed(b"%s%02X" % (body, ais._checksum(body)), AT)
    assert reader.damaged <= 1
