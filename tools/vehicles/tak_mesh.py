"""TAK protocol version 1 of the multicast mesh: protobuf datagrams, by takproto; and events that come there as XML."""

from __future__ import annotations

import importlib
import xml.etree.ElementTree as ET
from typing import Any

from mycomesh.tools.vehicles.cot import (
    MARK_CHARS_MAX,
    UID_CHARS_MAX,
    UNKNOWN,
    CotError,
    Event,
    parse_detail,
    parse_event,
)

__all__ = ["DATAGRAM_BYTES_MAX", "pack", "unpack"]

DATAGRAM_BYTES_MAX = 65_507
_MAGIC = b"\xbf\x01\xbf"


def pack(xml: bytes) -> bytes:
    """Return the datagram of an event that was written here."""
    functions = importlib.import_module("takproto.functions")
    message = functions.xml2message(xml)
    found = message.cotEvent
    if "GeoChat." in found.uid and not found.detail.xmlDetail:  # takproto loses a message of several lines
        detail = parse_event(xml).detail
        found.detail.xmlDetail = "".join(ET.tostring(each, encoding="unicode") for each in detail or ())
    return _MAGIC + bytes(message.SerializeToString())


def unpack(data: bytes) -> Event:
    """Return the event of a datagram.

    Raises:
        CotError: it has no event.
    """
    if len(data) > DATAGRAM_BYTES_MAX:
        raise CotError("a datagram that is too long")
    if data[:3] != _MAGIC:
        if data.lstrip()[:1] == b"<":
            return parse_event(data)
        raise CotError("neither TAK protocol version 1 nor XML")
    takproto = importlib.import_module("takproto")
    errors = importlib.import_module("google.protobuf.message")
    try:
        message = takproto.parse_proto(bytearray(data))
    except (errors.DecodeError, ValueError, RecursionError) as error:
        raise CotError(f"not protobuf: {error}") from error
    if message is None or not message.HasField("cotEvent"):
        raise CotError("a message without an event")
    return _event(message.cotEvent)


def _event(found: Any) -> Event:
    if not found.uid or len(found.uid) > UID_CHARS_MAX or not found.type or not found.sendTime:
        raise CotError("an event needs a uid, a type and a time")
    place = found.lat, found.lon
    on_earth = -90 <= place[0] <= 90 and -180 <= place[1] <= 180
    return Event(
        uid=found.uid,
        type=found.type[:128],
        how=found.how[:32],
        time=int(found.sendTime),
        start=int(found.startTime) or int(found.sendTime),
        stale=int(found.staleTime) or int(found.sendTime),
        lat=place[0] if on_earth else None,
        lon=place[1] if on_earth else None,
        hae=_known(found.hae),
        ce=_known(found.ce),
        le=_known(found.le),
        detail=_detail(found.detail),
        marks={name: text[:MARK_CHARS_MAX] for name in ("access", "qos", "opex") if (text := getattr(found, name))},
    )


def _detail(found: Any) -> ET.Element:
    """Return the XML of a detail: what takproto has as fields, beside what it has as text."""
    detail = parse_detail(f"<detail>{found.xmlDetail}</detail>")
    if detail is None:
        detail = ET.Element("detail")
    if found.HasField("contact"):
        _child(detail, "contact", callsign=found.contact.callsign, endpoint=found.contact.endpoint)
    if found.HasField("group"):
        _child(detail, "__group", name=found.group.name, role=found.group.role)
    if found.HasField("status"):
        _child(detail, "status", battery=str(found.status.battery))
    if found.HasField("track"):
        _child(detail, "track", course=str(found.track.course), speed=str(found.track.speed))
    return detail


def _child(detail: ET.Element, tag: str, **attributes: str) -> None:
    known = detail.find(tag)
    element = ET.SubElement(detail, tag) if known is None else known
    for name, value in attributes.items():
        if value:
            element.set(name, value)


def _known(value: float) -> float | None:
    return value if abs(value) < UNKNOWN else None
