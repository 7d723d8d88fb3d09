"""Cursor on Target: the XML events of TAK clients, read under limits and written with what viewers need.

Reading refuses every document type declaration, which entity attacks need, and documents that are too long or too deep. Writing
always gives times that end in Z and a stale time: a viewer takes an event without one for one of 1970, and drops it.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from typing import Final

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from mycomesh.tools.vehicles.rows import Value

__all__ = [
    "DEPTH_MAX",
    "EVENT_BYTES_MAX",
    "MARKS",
    "UID_CHARS_MAX",
    "CotError",
    "Event",
    "EventSplitter",
    "detail_text",
    "format_time",
    "parse_detail",
    "parse_event",
    "write_event",
]

EVENT_BYTES_MAX = 128 * 1024  # a drawing with hundreds of points has some 30 KiB
DEPTH_MAX = 32  # elements within elements
UID_CHARS_MAX = 256
SKIPPED_BYTES_MAX = 4_096  # between two events: white space and XML declarations

MARKS: Final = ("access", "caveat", "releasableTo", "qos", "opex")
MARK_CHARS_MAX = 128

UNKNOWN: Final = 9_999_999.0  # of a height or an error
_TYPE = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_END = b"</event>"
_START = re.compile(rb"<event[\s>/]")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_LATEST_MS = 253_402_300_799_000  # the year 9999, the last that a time can say


class CotError(ValueError):
    """Bytes that are no event. One line without the bytes."""


@dataclass(slots=True)
class Event:
    """One event; times in unix ms, lengths in metres, None where the event says that it does not know."""

    uid: str
    type: str
    how: str
    time: int
    start: int
    stale: int
    lat: float | None = None
    lon: float | None = None
    hae: float | None = None
    ce: float | None = None
    le: float | None = None
    detail: ET.Element | None = None
    marks: dict[str, str] = field(default_factory=dict)  # attributes of MARKS: who may see it, how to send it

    def find(self, path: str) -> ET.Element | None:
        """Return an element of the detail."""
        return None if self.detail is None else self.detail.find(path)

    def attribute(self, path: str, name: str) -> str:
        """Return an attribute of an element of the detail, "" if it is missing."""
        element = self.find(path)
        return "" if element is None else element.get(name, "")


class _Builder(ET.TreeBuilder):
    """Refuses elements beyond DEPTH_MAX while they are read."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> ET.Element:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise CotError(f"elements are nested more than {DEPTH_MAX} deep")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> ET.Element:
        self._depth -= 1
        return super().end(tag)


def parse_event(data: bytes) -> Event:
    """Return the event in an XML document.

    Raises:
        CotError: it is too long or too deep, has a document type, or lacks what an event needs.
    """
    if len(data) > EVENT_BYTES_MAX:
        raise CotError(f"an event of {len(data):,} bytes; the most is {EVENT_BYTES_MAX:,}")
    root = _parse(data)
    if root.tag != "event":
        raise CotError("the document is no event")
    uid, kind = root.get("uid", ""), root.get("type", "")
    if not uid or len(uid) > UID_CHARS_MAX:
        raise CotError(f"an event needs a uid of at most {UID_CHARS_MAX} characters")
    if not _TYPE.fullmatch(kind):
        raise CotError("an event needs a type such as a-f-G-U-C")
    time = _time(root.get("time"), "time")
    point = root.find("point")
    place = {} if point is None else {name: _length(point.get(name)) for name in ("lat", "lon", "hae", "ce", "le")}
    if place and not _on_earth(place["lat"], place["lon"]):
        place["lat"] = place["lon"] = None
    return Event(
        uid=uid,
        type=kind,
        how=root.get("how", "")[:32],
        time=time,
        start=_time(root.get("start"), "start") if root.get("start") else time,
        stale=_time(root.get("stale"), "stale") if root.get("stale") else time,
        detail=root.find("detail"),
        marks={name: root.get(name, "")[:MARK_CHARS_MAX] for name in MARKS if root.get(name)},
        **place,
    )


def parse_detail(text: str) -> ET.Element | None:
    """Return the detail that was stored as text, None if it is not XML any more."""
    if len(text) > EVENT_BYTES_MAX:
        return None
    try:
        root = _parse(text.encode())
    except (CotError, UnicodeEncodeError):
        return None
    return root if root.tag == "detail" else None


def _parse(data: bytes) -> ET.Element:
    parser = DefusedXMLParser(target=_Builder(), forbid_dtd=True)
    try:
        parser.feed(data)
        root = parser.close()
    except DefusedXmlException as error:
        raise CotError("a document type or an entity declaration, which no event needs") from error
    except ET.ParseError as error:
        raise CotError(f"not XML: {error}") from error
    except (ValueError, LookupError) as error:  # of Python's codecs for an unknown encoding
        raise error if isinstance(error, CotError) else CotError(f"not XML: {error}") from error
    assert isinstance(root, ET.Element)
    return root


def detail_text(detail: ET.Element | None) -> str | None:
    """Return a detail as text."""
    return (
        None
        if detail is None or not (len(detail) or detail.attrib)
        else ET.tostring(detail, encoding="unicode").strip()
    )


def write_event(event: Event) -> bytes:
    """Return the XML of an event, without a declaration and on one line if its texts have none."""
    root = ET.Element(
        "event",
        {
            "version": "2.0",
            "uid": _clean(event.uid),
            "type": event.type,
            "how": event.how or "m-g",
            "time": format_time(event.time),
            "start": format_time(event.start),
            "stale": format_time(event.stale),
            **{name: _clean(text) for name, text in event.marks.items()},
        },
    )
    ET.SubElement(
        root,
        "point",
        {
            "lat": _number(event.lat, 0.0),
            "lon": _number(event.lon, 0.0),
            "hae": _number(event.hae, UNKNOWN),
            "ce": _number(event.ce, UNKNOWN),
            "le": _number(event.le, UNKNOWN),
        },
    )
    detail = event.detail if event.detail is not None else ET.Element("detail")
    _clean_tree(detail)
    root.append(detail)
    data: bytes = ET.tostring(root, encoding="utf-8")
    return data


def format_time(unix_ms: int) -> str:
    """Return a time as all TAK software reads it: milliseconds and a Z; `+00:00` is refused by some."""
    moment = _EPOCH + dt.timedelta(milliseconds=min(max(unix_ms, 0), _LATEST_MS))
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


class EventSplitter:
    """Cuts a TCP stream into events; TAK puts nothing between them."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the events that the bytes complete.

        Raises:
            CotError: no event ends within EVENT_BYTES_MAX; the connection is of no use any more.
        """
        buffer = self._buffer
        buffer += data
        events: list[bytes] = []
        while True:
            end = buffer.find(_END, self._searched)
            if end < 0:
                self._searched = max(0, len(buffer) - len(_END) + 1)
                break
            end += len(_END)
            piece = bytes(buffer[:end])
            del buffer[:end]
            self._searched = 0
            start = _START.search(piece)
            if start is None or start.start() > SKIPPED_BYTES_MAX:
                raise CotError("the stream is not one of events")
            if b"<!" in piece[: start.start()]:
                raise CotError("a document type or an entity declaration, which no event needs")
            events.append(piece[start.start() :])
        if len(buffer) > EVENT_BYTES_MAX:
            raise CotError(f"no event ends within {EVENT_BYTES_MAX:,} bytes")
        return events


def text_of(element: ET.Element | None, most: int) -> str | None:
    """Return the text of an element, shortened; None if it has none."""
    return None if element is None or not element.text else element.text[:most]


def number_of(text: str) -> Value:
    """Return the number in an attribute, None if it has none."""
    return _length(text)


def _time(text: str | None, name: str) -> int:
    try:
        moment = dt.datetime.fromisoformat(text or "")
    except ValueError:
        raise CotError(f"'{name}' is no time such as 2026-01-31T12:00:00.000Z") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return round((moment - _EPOCH).total_seconds() * 1000)


def _length(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and abs(value) < UNKNOWN else None


def _on_earth(lat: float | None, lon: float | None) -> bool:
    return lat is not None and lon is not None and -90 <= lat <= 90 and -180 <= lon <= 180


def _number(value: float | None, unknown: float) -> str:
    return repr(float(unknown if value is None or not math.isfinite(value) else value))


def _clean(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)


def _clean_tree(root: ET.Element) -> None:
    """Replace characters that XML cannot carry, which a row of SQL may have."""
    for element in root.iter():
        for name, value in element.attrib.items():
            element.set(name, _clean(value))
        if element.text:
            element.text = _clean(element.text)
        if element.tail:
            element.tail = _clean(element.tail)
