"""Rows from MAVLink: by vehicle, after a fix, over a wrap and a restart; two vehicles of one id."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mycomesh.tools.vehicles import mavlink
from mycomesh.tools.vehicles.mavlink import JUMPS, SHARED_MS, SILENT_MS, TEXT_CHARS_MAX, VEHICLES_MAX, Fleet
from mycomesh.tools.vehicles.mavlink_frames import FRAME_BYTES_MAX, FrameReader, dialect
from mycomesh.tools.vehicles.rows import TYPES
from tests.tools.vehicles.recorded import Vehicle, frames

pytest.importorskip("pymavlink")
AT = 1_700_000_000_000


def rows(fleet, vehicle, *messages, source="10.0.0.1:14550", at=AT):
    return [row for message in messages for row in fleet.take(source, vehicle.message(message), at)]


def of_kind(found, kind):
    return [row.values for row in found if row.kind == kind]


def test_recorded_flight_gives_rows_after_its_fix():
    fleet, reader, found = Fleet(), FrameReader(), []
    for stamp, frame in frames():
        for message in reader.feed(frame, whole=True):
            found += fleet.take("10.0.0.1:14550", message, stamp // 1000)
    track = of_kind(found, "track")
    assert (len(fleet), reader.damaged, len(track)) == (1, 0, 115)
    assert all(set(row.values) <= set(TYPES[row.kind]) for row in found)
    last = of_kind(found, "vehicles")[-1]
    assert (last["sysid"], last["compid"], last["fix"], last["armed"], last["type"]) == (1, 1, 3, 1, 2)
    assert -35.3 < last["lat"] < -35.1
    assert 149.0 < last["lon"] < 149.1
    assert 9 < last["battery_v"] < 13
    assert len({(row["boot"], row["boot_ms"]) for row in track}) == len(track)
    assert len({row["boot"] for row in track}) == 1


@pytest.mark.parametrize("fix_type", [0, 1, 2])
def test_nothing_has_place_before_3d_fix(fix_type):
    fleet, vehicle = Fleet(), Vehicle()
    assert not of_kind(rows(fleet, vehicle, vehicle.position(1_000)), "track")
    found = rows(fleet, vehicle, vehicle.fix(fix_type), vehicle.position(2_000))
    assert not of_kind(found, "track")
    assert "lat" not in of_kind(found, "vehicles")[-1]
    assert not of_kind(rows(fleet, vehicle, vehicle.fix(3), vehicle.position(3_000, 0, 0)), "track")
    assert of_kind(rows(fleet, vehicle, vehicle.position(4_000)), "track")


def test_unknown_values_are_null():
    fleet, vehicle = Fleet(), Vehicle()
    found = rows(fleet, vehicle, vehicle.fix(satellites=255), vehicle.position(1, hdg=65535))
    battery = vehicle.dialect.MAVLink_sys_status_message(0, 0, 0, 0, 65535, -1, -1, 0, 0, 0, 0, 0, 0)
    found += rows(fleet, vehicle, battery)
    last = of_kind(found, "vehicles")[-1]
    assert [last[name] for name in ("satellites", "heading_deg", "battery_v", "battery_pct")] == [None] * 4
    assert last["speed_mps"] == 5.0


def test_ground_station_is_no_vehicle():
    fleet, station = Fleet(), Vehicle(255, 190)
    assert rows(fleet, station, station.heartbeat(kind=6)) == []
    assert len(fleet) == 0


def test_boot_time_goes_on_over_a_wrap():
    fleet, vehicle = Fleet(), Vehicle()
    boots = [2**32 - 2_000, 2**32 - 1, 5, 2**32 - 1_000, 1_000]
    found = rows(fleet, vehicle, vehicle.fix(), *map(vehicle.position, boots))
    track = of_kind(found, "track")
    assert [row["boot_ms"] for row in track] == [2**32 - 2_000, 2**32 - 1, 2**32 + 5, 2**32 - 1_000, 2**32 + 1_000]
    assert len({row["boot"] for row in track}) == 1


def test_restart_of_vehicle_begins_a_boot():
    fleet, vehicle = Fleet(), Vehicle()
    found = rows(fleet, vehicle, vehicle.fix(), vehicle.position(500_000), vehicle.position(499_900))
    found += rows(fleet, vehicle, vehicle.position(3_000), at=AT + 60_000)
    track = of_kind(found, "track")
    assert [row["boot_ms"] for row in track] == [500_000, 499_900, 3_000]
    assert [row["boot"] for row in track] == [AT - 500_000, AT - 500_000, AT + 57_000]


def test_clock_of_vehicle_gives_utc():
    fleet, vehicle = Fleet(), Vehicle()
    clock = vehicle.dialect.MAVLink_system_time_message
    found = rows(fleet, vehicle, vehicle.fix(), clock(0, 900), vehicle.position(1_000))
    assert of_kind(found, "track")[-1]["at"] == AT
    found = rows(fleet, vehicle, clock((AT - 700) * 1_000, 1_000), vehicle.position(3_500))
    assert of_kind(found, "track")[-1]["at"] == AT - 700 + 2_500
    found = rows(fleet, vehicle, clock(1_600_000_000_000_000, 4_000), vehicle.position(4_500))
    assert of_kind(found, "track")[-1]["at"] == AT  # nobody has set that clock


def test_two_addresses_of_one_system_are_told_apart():
    notices = []
    fleet, first, second = Fleet(notices.append), Vehicle(), Vehicle()
    for at in range(AT, AT + 5_000, 1_000):
        rows(fleet, first, first.fix(), first.position(at - AT), source="10.0.0.1:1", at=at)
        rows(fleet, second, second.fix(), second.position(at - AT, lat=10), source="10.0.0.2:1", at=at)
    assert len(fleet) == 2
    assert 1 <= len(notices) <= 2
    assert "system 1, component 1" in notices[0]
    assert "10.0.0.2:1" in notices[0]
    silent = []
    fleet = Fleet(silent.append)
    rows(fleet, first, first.fix(), source="10.0.0.1:1")
    rows(fleet, first, first.fix(), source="10.0.0.9:1", at=AT + SHARED_MS)
    assert silent == []  # it came back with another address


def test_two_ports_of_one_host_are_told_apart():
    notices = []
    fleet, vehicle = Fleet(notices.append), Vehicle()
    message = vehicle.message(vehicle.heartbeat())

    def source(port, at):
        return fleet.take("10.0.0.1", message, AT + at, port)[0].values["source"]

    assert [source(5_000, 0), source(5_000, 1_000), source(6_000, 2_000), source(6_000, 3_000)] == ["10.0.0.1"] * 4
    assert notices == []  # it was started again
    assert [source(5_000, 3_500), source(6_000, 4_000)] == ["10.0.0.1:5000", "10.0.0.1:6000"]
    assert ["several ports of 10.0.0.1" in notice for notice in notices] == [True]


def test_two_vehicles_behind_one_address_are_noticed():
    notices = []
    fleet, first, second = Fleet(notices.append), Vehicle(), Vehicle()
    second.mav.seq = 130
    for _ in range(JUMPS):
        rows(fleet, first, first.heartbeat())
        rows(fleet, second, second.heartbeat())
    assert len(notices) == 1
    assert "leaps" in notices[0]
    lossy, alone = Fleet(notices.append), Vehicle()
    for _ in range(JUMPS * 3):
        rows(lossy, alone, alone.heartbeat())
        alone.mav.seq = (alone.mav.seq + random.Random(1).randint(0, 5)) % 256
    assert len(notices) == 1


def test_vehicles_beyond_the_limit_are_counted():
    assert VEHICLES_MAX >= 250
    fleet, message = Fleet(), Vehicle().message(Vehicle().heartbeat())
    for number in range(VEHICLES_MAX):
        assert fleet.take(f"10.0.0.1:{number}", message, AT + number * SHARED_MS)
    assert fleet.take("10.0.0.2:1", message, AT) == []
    assert (fleet.dropped, len(fleet)) == (1, VEHICLES_MAX)
    assert fleet.take("10.0.0.1:0", message, AT)


def test_invented_vehicles_give_way_when_they_are_silent():
    fleet, message = Fleet(), Vehicle().message(Vehicle().heartbeat())
    for number in range(VEHICLES_MAX):
        assert fleet.take(f"10.0.{number}", message, AT, port=5)
    for after, taken in ((SILENT_MS - 1, 0), (SILENT_MS, 1)):
        assert len(fleet.take("10.1.0.1", message, AT + after, port=5)) == taken
    assert (fleet.dropped, len(fleet)) == (1, VEHICLES_MAX)
    assert len(fleet._ports) == VEHICLES_MAX


def test_text_is_read_up_to_its_limit():
    fleet, vehicle = Fleet(), Vehicle()
    text = vehicle.dialect.MAVLink_statustext_message(3, b"PreArm: \xc3\xa9 low")
    found = rows(fleet, vehicle, text, text)
    assert [row["text"] for row in of_kind(found, "texts")] == ["PreArm: \ufffd\ufffd low"] * 2
    assert [row["n"] for row in of_kind(found, "texts")] == [1, 2]
    assert len(mavlink._printable("x" * (TEXT_CHARS_MAX + 1))) == TEXT_CHARS_MAX


def test_reader_joins_cut_frames_and_counts_damage():
    stream = b"".join(frame for _, frame in frames())[:8_000]
    whole, cut = FrameReader(), FrameReader()
    expected = [message.to_dict() for message in whole.feed(stream)]
    found = [message.to_dict() for at in range(0, len(stream), 7) for message in cut.feed(stream[at : at + 7])]
    assert found == expected
    assert len(expected) > 200
    assert cut.damaged == 0
    noisy = FrameReader()
    damaged = b"\x00\x01noise" + stream[:40] + b"\xff" + stream[40:]
    assert len(noisy.feed(damaged)) >= len(expected) - 2
    assert noisy.damaged > 0


@pytest.mark.parametrize("noise", [b"\xfd", b"\xfe", b"\xfd\x20\x00", b"\xfe\xff"])
def test_noise_hides_no_frames_behind_it(noise):
    vehicle, reader = Vehicle(), FrameReader()
    stream = b"".join(vehicle.pack(vehicle.position(boot)) for boot in range(30))
    found = reader.feed(noise + stream)
    assert [message.time_boot_ms for message in found if message.get_type() == "GLOBAL_POSITION_INT"] == list(range(30))
    assert reader.damaged == len(noise)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=600), st.booleans())
def test_any_bytes_are_read_without_an_error(data, whole):
    reader = FrameReader()
    reader.feed(data, whole=whole)
    for _ in range(3):
        reader.feed(b"\xfd" + data, whole=whole)
    assert len(reader._rest) <= FRAME_BYTES_MAX


def test_frames_of_both_versions_and_longest_are_read():
    vehicle = Vehicle()
    longest = dialect().MAVLink_file_transfer_protocol_message(0, 1, 1, [7] * 251)
    packed = vehicle.pack(longest)
    assert len(packed) + 13 <= FRAME_BYTES_MAX
    assert [message.get_type() for message in FrameReader().feed(packed)] == ["FILE_TRANSFER_PROTOCOL"]
    first = bytes(vehicle.heartbeat().pack(vehicle.mav, force_mavlink1=True))
    assert [message.get_type() for message in FrameReader().feed(first)] == ["HEARTBEAT"]
