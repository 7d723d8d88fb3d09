"""NMEA sentences that are damaged, too long, or at midnight."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mycomesh.tools.vehicles.nmea import LINE_CHARS_MAX, NmeaReader

pytest.importorskip("pynmea2")


def sentence(body):
    total = 0
    for char in body.encode():
        total ^= char
    return f"${body}*{total:02X}\r\n"


def rmc(time, date="311226", status="A"):
    return sentence(f"GPRMC,{time},{status},4807.038,N,01131.000,E,1.0,84.4,{date},,")


def gga(time, quality=1):
    return sentence(f"GPGGA,{time},4807.038,N,01131.000,E,{quality},08,0.9,545.4,M,46.9,M,,")


def test_line_beyond_the_limit_is_damage():
    reader = NmeaReader()
    line = rmc("120000.00")
    padded = line.rstrip().ljust(LINE_CHARS_MAX)
    reader.feed(padded)
    assert (len(padded), reader.damaged) == (LINE_CHARS_MAX, 0)
    reader.feed(padded + " ")
    assert reader.damaged == 1


def test_midnight_begins_the_next_day():
    reader = NmeaReader()
    found = [reader.feed(line) for line in (rmc("235959.00"), gga("000000.00"), rmc("000000.00", "010127"))]
    found.append(reader.flush())
    stamps = [row["at"] for row in found if row]
    assert stamps[1] - stamps[0] == 1_000


def test_estimated_and_void_positions_do_not_count():
    reader = NmeaReader()
    for line in (gga("120000.00", 6), gga("120001.00", 0), rmc("120002.00", status="V"), gga("120003.00", 8)):
        assert reader.feed(line) is None
    assert reader.flush() is None
    assert reader.damaged == 0


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=100), st.sampled_from(["GPGGA", "GPRMC", "GPZDA", "XX", "PUBX"]))
def test_any_line_is_read_without_an_error(text, head):
    reader = NmeaReader()
    for line in (text, f"${head},{text}*00", sentence(f"{head},{text}")):
        reader.feed(line)
    reader.flush()
