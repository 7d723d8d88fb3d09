"""Rows of TAK events and back: positions, markers, chat, alerts and deletes."""

from __future__ import annotations

from mycomesh.tools.vehicles.cot import MARK_CHARS_MAX, UID_CHARS_MAX, parse_event, write_event
from mycomesh.tools.vehicles.rows import TYPES
from mycomesh.tools.vehicles.tak_rows import (
    DETAIL_CHARS_MAX,
    TEXT_CHARS_MAX,
    delete_event,
    deleted_uid,
    event_of_row,
    row_of_event,
    topic_of,
    uid_of_row,
)
from tests.tools.vehicles.test_cot import AT, event

CHAT = (
    '<__chat parent="RootContactGroup" groupOwner="false" chatroom="All Chat Rooms" id="All Chat Rooms"'
    ' senderCallsign="ALPHA" messageId="m-1"><chatgrp uid0="ANDROID-1" uid1="All Chat Rooms" id="All Chat Rooms"/></__chat>'
    '<link uid="ANDROID-1" type="a-f-G-U-C" relation="p-p"/>'
    '<remarks source="BAO.F.ATAK.ANDROID-1" to="All Chat Rooms">at the bridge</remarks>'
)


def kind(text, how="m-g", uid="u1"):
    return f'version="2.0" uid="{uid}" type="{text}" how="{how}"'


def read(detail="", head=None):
    return parse_event(event(detail, **({} if head is None else {"head": head})))


def test_kinds_of_events_have_their_topics():
    assert topic_of(read()) == "positions"
    assert topic_of(read(head=kind("a-h-G", "h-g-i-g-o"))) == "markers"
    assert topic_of(read(head=kind("b-m-p-s-m", "h-g-i-g-o"))) == "markers"
    assert topic_of(read(head=kind("u-d-f"))) == "markers"
    assert topic_of(read(CHAT, kind("b-t-f"))) == "chat"
    assert topic_of(read("<__chatreceipt/>", kind("b-t-f-d"))) == ""
    assert topic_of(read(head=kind("b-a-o-tbl"))) == "alerts"
    assert topic_of(read(head=kind("t-x-c-t"))) == ""
    assert topic_of(read(head=kind("t-x-d-d"))) == "deletes"


def test_position_becomes_row_with_all_it_says():
    row = row_of_event(
        read(
            '<contact callsign="ALPHA"/><track course="90" speed="1.5"/><status battery="80"/><__group name="Cyan" role="HQ"/>'
            "<remarks>ok</remarks>"
        )
    )
    assert set(row.values) == set(TYPES["items"])
    expected = {"uid": "u1", "callsign": "ALPHA", "course_deg": 90.0, "speed_mps": 1.5, "battery_pct": 80, "team": "Cyan",
                "role": "HQ", "remarks": "ok", "at": AT, "stale": AT + 300_500, "lat": -35.2, "alt_m": 600.5}  # fmt: skip
    assert {name: row.values[name] for name in expected} == expected


def test_marker_of_one_node_is_same_event_elsewhere():
    detail = (
        '<contact callsign="bridge"/><color argb="-1"/><usericon iconsetpath="COT_MAPPING_2525C/a-h/a-h-G"/>'
        '<link uid="ANDROID-1" relation="p-p"/>'
    )
    marks = ' access="Secret" caveat="NOFORN" qos="1-r-c"'
    came = read(detail, kind("a-h-G", "h-g-i-g-o", "marker-1") + marks)
    values = row_of_event(came).values
    went = event_of_row("markers", "marker-1", values, values["type"], AT + 9_999, 60_000)
    again = parse_event(write_event(went))
    assert (again.uid, again.type, again.how, again.time, again.stale) == (
        came.uid,
        came.type,
        came.how,
        came.time,
        came.stale,
    )
    assert (again.lat, again.lon, again.hae, again.ce) == (came.lat, came.lon, came.hae, came.ce)
    assert again.marks == {"access": "Secret", "caveat": "NOFORN", "qos": "1-r-c"}
    assert again.attribute("usericon", "iconsetpath") == "COT_MAPPING_2525C/a-h/a-h-G"
    values["callsign"] = "old bridge"  # an UPDATE in SQL wins over the detail that came in
    assert event_of_row("markers", "k", values, values["type"], AT, 1).attribute("contact", "callsign") == "old bridge"


def test_chat_goes_through_a_row():
    row = row_of_event(read(CHAT, kind("b-t-f", uid="GeoChat.ANDROID-1.All Chat Rooms.m-1")))
    assert (row.kind, set(row.values)) == ("chat", set(TYPES["chat"]))
    assert [row.values[name] for name in ("message_id", "room", "sender", "sender_uid", "text")] == [
        "m-1", "All Chat Rooms", "ALPHA", "ANDROID-1", "at the bridge"]  # fmt: skip
    again = parse_event(write_event(event_of_row("chat", "m-1", row.values, "b-t-f", AT, 60_000)))
    assert row_of_event(again).values == {**row.values, "lat": -35.2, "lon": 149.0}
    plain = event_of_row("notes", "7", {"id": 7, "text": "from SQL"}, "b-t-f", AT, 60_000)
    assert row_of_event(parse_event(write_event(plain))).values["sender"] == "mycomesh"
    assert event_of_row("notes", "7", {"id": 7}, "b-t-f", AT, 60_000) is None


def test_alert_and_its_end_are_one_row():
    begun = row_of_event(
        read('<emergency type="911 Alert">ALPHA</emergency>', kind("b-a-o-tbl", uid="ANDROID-1-9-1-1"))
    )
    ended = row_of_event(read('<emergency cancel="true">ALPHA</emergency>', kind("b-a-o-can", uid="ANDROID-1-9-1-1")))
    assert (begun.kind, set(begun.values)) == ("alerts", set(TYPES["alerts"]))
    assert [(row.values["uid"], row.values["cancelled"]) for row in (begun, ended)] == [
        ("ANDROID-1-9-1-1", 0),
        ("ANDROID-1-9-1-1", 1),
    ]


def test_delete_names_the_uid_of_its_row():
    uid = uid_of_row("drones", "d 1", {"drone_id": "d 1"})
    made = parse_event(write_event(delete_event(uid, AT)))
    assert (topic_of(made), deleted_uid(made)) == ("deletes", "mycomesh.drones.d 1")
    assert made.stale > made.time
    assert deleted_uid(read(head=kind("t-x-d-d"))) == ""
    assert uid_of_row("t", "k", {"uid": "own"}) == "own"
    long = {uid_of_row("t", "k" * 300 + end, {}) for end in "ab"}
    assert len(long) == 2
    assert all(len(each) <= UID_CHARS_MAX for each in long)


def test_rows_of_any_table_make_events():
    values = {
        "id": 5,
        "name": "D5",
        "latitude": 1.0,
        "longitude": 2.0,
        "altitude": 30,
        "battery": 81.6,
        "heading": 5,
        "at": 1_700_000_000,
    }
    made = event_of_row("drones", "5", values, "a-f-A-M-H-Q", AT, 60_000)
    assert (made.uid, made.time, made.stale, made.hae) == (
        "mycomesh.drones.5",
        1_700_000_000_000,
        1_700_000_060_000,
        30.0,
    )
    assert made.attribute("contact", "callsign") == "D5"
    assert (made.attribute("status", "battery"), made.attribute("track", "course")) == ("82", "5.0")
    assert event_of_row("drones", "5", {"id": 5, "lat": None, "lon": 2}, "a-f", AT, 1) is None
    assert event_of_row("drones", "5", {"lat": 91, "lon": 2}, "a-f", AT, 1) is None
    bare = event_of_row("drones", "5", {"lat": 1, "lon": 2}, "a-f", AT, 60_000)
    assert (bare.time, bare.stale, bare.attribute("contact", "callsign")) == (AT, AT + 60_000, "drones 5")


def test_wrong_marks_in_a_row_are_left_out():
    for marks in ("no JSON", "[1]", '{"access": 5}', 7, "[" * 50_000):
        assert event_of_row("t", "k", {"lat": 1, "lon": 1, "marks": marks}, "a-f", AT, 1).marks == {}


def test_texts_beyond_limits_are_cut():
    head = kind("a-f-G") + f' access="{"x" * (MARK_CHARS_MAX + 1)}"'
    assert read(head=head).marks == {"access": "x" * MARK_CHARS_MAX}
    values = row_of_event(read(f"<remarks>{'x' * (TEXT_CHARS_MAX + 1)}</remarks>")).values
    assert len(values["remarks"]) == TEXT_CHARS_MAX
    assert values["detail"] is not None
    values = row_of_event(read(f"<x>{'x' * DETAIL_CHARS_MAX}</x>")).values
    assert values["detail"] is None
    room = DETAIL_CHARS_MAX - len("<detail><x></x></detail>")
    assert len(row_of_event(read(f"<x>{'x' * room}</x>")).values["detail"]) == DETAIL_CHARS_MAX
