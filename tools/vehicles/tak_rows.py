"""Rows of Cursor on Target events, and events of rows.

`topic_of` says what an event is: `positions` of people and vehicles, `markers` set by a person, `chat`, `alerts`, `deletes`,
or "" for pings and the like. A row of any table with a place makes an event: columns are known by their names. The uid of such an
event is made of the table and the row's key, so that all nodes say the same one and a client of two nodes sees one item.
"""

from __future__ import annotations

import hashlib
import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any, Final

from mycomesh.tools.vehicles.cot import MARKS, UID_CHARS_MAX, Event, detail_text, number_of, parse_detail, text_of
from mycomesh.tools.vehicles.rows import Row, Value

__all__ = ["TEXT_CHARS_MAX", "delete_event", "deleted_uid", "event_of_row", "row_of_event", "topic_of", "uid_of_row"]

TEXT_CHARS_MAX = 16_384  # remarks or a message of chat
DETAIL_CHARS_MAX = 65_536

CHAT, DELETE, ALERT, CANCEL = "b-t-f", "t-x-d-d", "b-a-", "b-a-o-can"

_NAMES: Final = {  # what a row calls it, the first that it has
    "lat": ("lat", "latitude"),
    "lon": ("lon", "lng", "longitude"),
    "alt": ("alt_m", "hae", "alt", "altitude", "height_m"),
    "callsign": ("callsign", "name", "label", "title"),
    "course": ("course_deg", "heading_deg", "track_deg", "course", "heading", "track"),
    "speed": ("speed_mps", "speed"),
    "battery": ("battery_pct", "battery"),
    "remarks": ("remarks", "text", "what", "description", "note"),
    "at": ("at", "unix_ms", "at_ms", "ts_ms"),
    "stale": ("stale",),
    "how": ("how",),
    "ce": ("ce_m", "error_m"),
    "le": ("le_m",),
    "team": ("team",),
    "role": ("role",),
    "detail": ("detail",),
    "parent": ("parent",),
    "marks": ("marks",),
    "room": ("room",),
    "sender": ("sender",),
    "sender_uid": ("sender_uid",),
    "message_id": ("message_id",),
    "uid": ("uid",),
}


def topic_of(event: Event) -> str:
    """Return what an event is; "" for pings, versions and other traffic that is no data."""
    kind = event.type
    if kind == DELETE:
        return "deletes"
    if kind.startswith("t-"):
        return ""
    if kind.startswith(CHAT):
        return "chat" if event.find("__chat") is not None else ""  # receipts (b-t-f-d, b-t-f-r) have __chatreceipt
    if kind.startswith(ALERT):
        return "alerts"
    return "positions" if kind.startswith("a-") and not event.how.startswith("h-") else "markers"


def row_of_event(event: Event) -> Row:
    """Return the row of an event of a topic other than `deletes`."""
    topic = topic_of(event)
    if topic == "chat":
        return Row("chat", _chat(event))
    place: dict[str, Value] = {"lat": event.lat, "lon": event.lon}
    head: dict[str, Value] = {"uid": event.uid, "type": event.type, "at": event.time, "stale": event.stale}
    callsign = event.attribute("contact", "callsign")[:UID_CHARS_MAX] or None
    remarks = text_of(event.find("remarks"), TEXT_CHARS_MAX)
    detail = detail_text(event.detail)
    if detail is not None and len(detail) > DETAIL_CHARS_MAX:
        detail = None
    marks = json.dumps(event.marks, ensure_ascii=False) if event.marks else None
    if topic == "alerts":
        emergency = event.find("emergency")
        cancelled = event.type == CANCEL or (emergency is not None and emergency.get("cancel") == "true")
        rest: dict[str, Value] = {"cancelled": int(cancelled), "remarks": remarks, "marks": marks, "detail": detail}
        return Row("alerts", head | place | {"callsign": callsign} | rest)
    battery = number_of(event.attribute("status", "battery"))
    values: dict[str, Value] = {
        "how": event.how,
        "start": event.start,
        "alt_m": event.hae,
        "ce_m": event.ce,
        "le_m": event.le,
        "callsign": callsign,
        "team": event.attribute("__group", "name")[:64] or None,
        "role": event.attribute("__group", "role")[:64] or None,
        "course_deg": number_of(event.attribute("track", "course")),
        "speed_mps": number_of(event.attribute("track", "speed")),
        "battery_pct": int(battery) if isinstance(battery, float) else None,
        "remarks": remarks,
        "parent": _parent(event),
        "marks": marks,
        "detail": detail,
    }
    return Row("items", head | place | values)


def _parent(event: Event) -> str | None:
    if event.detail is None:
        return None
    for link in event.detail.findall("link"):
        if link.get("relation") == "p-p":
            return link.get("uid", "")[:UID_CHARS_MAX] or None
    return None


def _chat(event: Event) -> dict[str, Value]:
    chat = event.find("__chat")
    assert chat is not None
    remarks = event.find("remarks")
    sender = chat.get("senderCallsign", "")
    return {
        # the message's own id; older clients have it in the uid alone
        "message_id": (chat.get("messageId") or event.uid)[:UID_CHARS_MAX],
        "at": event.time,
        "room": chat.get("chatroom", "")[:UID_CHARS_MAX] or None,
        "sender_uid": event.attribute("link", "uid")[:UID_CHARS_MAX] or None,
        "sender": sender[:UID_CHARS_MAX] or None,
        "text": text_of(remarks, TEXT_CHARS_MAX),
        "lat": event.lat,
        "lon": event.lon,
    }


def deleted_uid(event: Event) -> str:
    """Return the uid that a delete event names, "" if it names none."""
    return event.attribute("link", "uid")[:UID_CHARS_MAX]


def delete_event(uid: str, now: int) -> Event:
    """Return the event that makes clients remove an item."""
    detail = ET.Element("detail")
    ET.SubElement(detail, "link", {"uid": uid, "relation": "none", "type": "none"})
    ET.SubElement(detail, "__forcedelete")
    marker = hashlib.blake2b(uid.encode(errors="replace"), digest_size=8).hexdigest()
    return Event(f"mycomesh.delete.{marker}", DELETE, "m-g", now, now, now + 60_000, detail=detail)


def uid_of_row(table: str, key: str, values: Mapping[str, Any]) -> str:
    """Return the uid of a row: its column `uid`, or the table and the key."""
    own = _pick(values, "uid")
    uid = own if isinstance(own, str) and own else f"mycomesh.{table}.{key}"
    if len(uid) <= UID_CHARS_MAX:
        return uid
    return f"{uid[:200]}.{hashlib.blake2b(uid.encode(errors='replace'), digest_size=8).hexdigest()}"


def event_of_row(table: str, key: str, values: Mapping[str, Any], kind: str, now: int, stale_ms: int) -> Event | None:
    """Return the event of a row, None if it has no place and is no chat."""
    at = _whole(_pick(values, "at"))
    time = now if at is None else at
    if kind.startswith(CHAT):
        return _chat_event(key, values, time, stale_ms)
    lat, lon = _real(_pick(values, "lat")), _real(_pick(values, "lon"))
    if lat is None or lon is None or not (-90 <= lat <= 90 and -180 <= lon <= 180):
        return None
    stale = _whole(_pick(values, "stale"))
    how = _pick(values, "how")
    return Event(
        marks=_marks(_pick(values, "marks")),
        uid=uid_of_row(table, key, values),
        type=kind,
        how=how if isinstance(how, str) and how else "m-g",
        time=time,
        start=time,
        stale=max(time + 1, stale if stale is not None else time + stale_ms),
        lat=lat,
        lon=lon,
        hae=_real(_pick(values, "alt")),
        ce=_real(_pick(values, "ce")),
        le=_real(_pick(values, "le")),
        detail=_detail(table, key, values),
    )


def _marks(text: Any) -> dict[str, str]:
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: found[name] for name in MARKS if isinstance(found.get(name), str)}


def _detail(table: str, key: str, values: Mapping[str, Any]) -> ET.Element:
    """Return the detail of a row: what came in with it, and over that what its columns say."""
    stored = _pick(values, "detail")
    detail = parse_detail(stored) if isinstance(stored, str) else None
    if detail is None:
        detail = ET.Element("detail")
    callsign = _pick(values, "callsign")
    contact = _child(detail, "contact")
    if callsign is not None or not contact.get("callsign"):
        contact.set("callsign", str(callsign if callsign is not None else f"{table} {key}"))
    course, speed = _real(_pick(values, "course")), _real(_pick(values, "speed"))
    if course is not None or speed is not None:
        track = _child(detail, "track")
        track.set("course", str(course if course is not None else 0.0))
        track.set("speed", str(speed if speed is not None else 0.0))
    battery = _real(_pick(values, "battery"))
    if battery is not None:
        _child(detail, "status").set("battery", str(round(battery)))
    remarks = _pick(values, "remarks")
    if remarks is not None:
        _child(detail, "remarks").text = str(remarks)[:TEXT_CHARS_MAX]
    team, role = _pick(values, "team"), _pick(values, "role")
    if team is not None:
        group = _child(detail, "__group")
        group.set("name", str(team))
        group.set("role", str(role if role is not None else "Team Member"))
    return detail


def _chat_event(key: str, values: Mapping[str, Any], time: int, stale_ms: int) -> Event | None:
    text = _pick(values, "remarks")
    if text is None:
        return None
    message = str(_pick(values, "message_id") or key)
    room = str(_pick(values, "room") or "All Chat Rooms")
    sender = str(_pick(values, "sender") or "mycomesh")
    source = str(_pick(values, "sender_uid") or f"mycomesh.{sender}")
    detail = ET.Element("detail")
    chat = ET.SubElement(
        detail,
        "__chat",
        {
            "parent": "RootContactGroup",
            "groupOwner": "false",
            "chatroom": room,
            "id": room,
            "senderCallsign": sender,
            "messageId": message,
        },
    )
    ET.SubElement(chat, "chatgrp", {"uid0": source, "uid1": room, "id": room})
    ET.SubElement(detail, "link", {"uid": source, "type": "a-f-G-U-C", "relation": "p-p"})
    remarks = ET.SubElement(detail, "remarks", {"source": f"BAO.F.ATAK.{source}", "to": room})
    remarks.text = str(text)[:TEXT_CHARS_MAX]
    uid = f"GeoChat.{source}.{room}.{message}"[:UID_CHARS_MAX]
    lat, lon = _real(_pick(values, "lat")), _real(_pick(values, "lon"))
    return Event(uid, CHAT, "h-g-i-g-o", time, time, time + stale_ms, lat, lon, detail=detail)


def _child(detail: ET.Element, tag: str) -> ET.Element:
    found = detail.find(tag)
    return ET.SubElement(detail, tag) if found is None else found


def _pick(values: Mapping[str, Any], what: str) -> Any:
    for name in _NAMES[what]:
        value = values.get(name)
        if value is not None:
            return value
    return None


def _real(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def _whole(value: Any) -> int | None:
    """Return a time in unix ms; a small number means seconds."""
    number = _real(value)
    if number is None or number <= 0:
        return None
    return round(number if number > 100_000_000_000 else number * 1000)
