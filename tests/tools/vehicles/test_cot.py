"""Cursor on Target: what is refused, what is read, what is written, and the cutting of a stream."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mycomesh.tools.vehicles.cot import (
    DEPTH_MAX,
    EVENT_BYTES_MAX,
    SKIPPED_BYTES_MAX,
    UID_CHARS_MAX,
    CotError,
    Event,
    EventSplitter,
    detail_text,
    format_time,
    parse_detail,
    parse_event,
    write_event,
)

HEAD = 'version="2.0" uid="u1" type="a-f-G-U-C" how="m-g"'
TIMES = 'time="2026-01-31T12:00:00.000Z" start="2026-01-31T12:00:00Z" stale="2026-01-31T12:05:00.5Z"'
POINT = '<point lat="-35.2" lon="149.0" hae="600.5" ce="9999999.0" le="9999999"/>'
AT = 1769860800000


def event(detail="", head=HEAD, times=TIMES, point=POINT):
    return f"<event {head} {times}>{point}<detail>{detail}</detail></event>".encode()


def test_event_is_read_with_times_and_unknowns():
    found = parse_event(event('<contact callsign="ALPHA"/><odd:thing xmlns:odd="x">é</odd:thing>'))
    assert (found.uid, found.type, found.how) == ("u1", "a-f-G-U-C", "m-g")
    assert (found.time, found.start, found.stale) == (AT, AT, AT + 300_500)
    assert (found.lat, found.lon, found.hae, found.ce, found.le) == (-35.2, 149.0, 600.5, None, None)
    assert found.attribute("contact", "callsign") == "ALPHA"
    assert "é" in detail_text(found.detail)


@pytest.mark.parametrize("text", ["12:00:00.000Z", "12:00:00+00:00", "14:00:00+02:00", "12:00:00"])
def test_times_of_other_writers_are_read(text):
    assert parse_event(event(times=f'time="2026-01-31T{text}"')).time == AT


BOMB = "<!DOCTYPE b [" + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(9)) + "]>"
BAD = {
    "entities that grow": BOMB.encode() + event("&a8;"),
    "a file as an entity": b'<!DOCTYPE e [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + event("&x;"),
    "a document type": b'<!DOCTYPE event SYSTEM "http://192.0.2.1/x.dtd">' + event(),
    "an unknown entity": event("&nbsp;"),
    "no XML": b"<event",
    "two roots": event() + event(),
    "another root": b"<other/>",
    "no uid": event(head='type="a-f-G"'),
    "no type": event(head='uid="u"'),
    "a type with spaces": event(head='uid="u" type="a b"'),
    "no time": event(times=""),
    "a wrong time": event(times='time="yesterday"'),
    "a NUL": event("\0"),
    "other bytes": b"\xff\xfe" * 40,
    "an unknown encoding": b'<?xml version="1.0" encoding="klingon"?>' + event(),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_documents_are_refused_in_one_line(name):
    with pytest.raises(CotError) as refused:
        parse_event(BAD[name])
    assert len(str(refused.value).splitlines()) == 1
    assert len(str(refused.value)) < 200


def test_depth_beyond_the_limit_is_refused():
    inner = DEPTH_MAX - 2  # within event and detail
    assert parse_event(event("<a>" * inner + "</a>" * inner))
    with pytest.raises(CotError, match="nested"):
        parse_event(event("<a>" * (inner + 1) + "</a>" * (inner + 1)))
    with pytest.raises(CotError, match="nested"):
        parse_event(event("<a>" * 10_000 + "</a>" * 10_000))


def test_bytes_and_uid_beyond_the_limit_are_refused():
    room = EVENT_BYTES_MAX - len(event())
    assert parse_event(event("x" * room))
    with pytest.raises(CotError, match="the most is"):
        parse_event(event("x" * (room + 1)))
    assert parse_event(event(head=f'uid="{"u" * UID_CHARS_MAX}" type="a-f"'))
    with pytest.raises(CotError, match="uid"):
        parse_event(event(head=f'uid="{"u" * (UID_CHARS_MAX + 1)}" type="a-f"'))
    assert parse_detail("<detail>" + "x" * EVENT_BYTES_MAX + "</detail>") is None
    assert parse_detail("<other/>") is None


texts = st.text(max_size=40)
numbers = st.one_of(st.none(), st.floats(-90, 90))


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1, max_size=40), texts, texts, numbers, numbers, st.integers(0, 2**42))
def test_written_event_is_read_as_it_was(uid, callsign, remarks, lat, hae, at):
    detail = ET.Element("detail")
    ET.SubElement(detail, "contact", {"callsign": callsign})
    ET.SubElement(detail, "remarks").text = remarks
    data = write_event(Event(uid, "a-f-G", "m-g", at, at, at + 1_000, lat, 7.25, hae, detail=detail))
    assert b"Z" in data
    found = parse_event(data)
    assert (found.time, found.start, found.stale) == (at, at, at + 1_000)
    assert (found.hae, found.lon) == (hae, 7.25)
    assert found.lat == (lat if lat is not None else 0.0)
    plain = lambda text: text.isprintable() and text == text.strip()  # noqa: E731 -- XML keeps neither CR nor controls
    for given_text, read in ((uid, found.uid), (callsign, found.attribute("contact", "callsign"))):
        if plain(given_text):
            assert read == given_text


def test_times_have_milliseconds_and_z():
    assert format_time(AT + 7) == "2026-01-31T12:00:00.007Z"
    assert format_time(-5) == "1970-01-01T00:00:00.000Z"
    assert format_time(2**62).startswith("9999-12-31")
    assert b'le="9999999.0"' in write_event(Event("u", "a-f", "", AT, AT, AT))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([event(), event("<remarks>é</remarks>"), b"\n" + event()]), max_size=6),
    st.integers(1, 900),
)
def test_stream_is_cut_into_its_events(events, step):
    stream = b'<?xml version="1.0"?>' + b"".join(events)
    splitter = EventSplitter()
    found = [piece for at in range(0, len(stream), step) for piece in splitter.feed(stream[at : at + step])]
    assert found == [each.strip() for each in events]
    for piece in found:
        parse_event(piece)


def test_stream_without_events_ends_at_its_limit():
    splitter = EventSplitter()
    assert splitter.feed(b"<event " + b"x" * (EVENT_BYTES_MAX - 7)) == []
    with pytest.raises(CotError, match="no event ends within"):
        splitter.feed(b"x")
    assert EventSplitter().feed(b" " * SKIPPED_BYTES_MAX + event()) == [event()]
    with pytest.raises(CotError, match="not one of events"):
        EventSplitter().feed(b" " * (SKIPPED_BYTES_MAX + 1) + event())
    with pytest.raises(CotError, match="document type"):
        EventSplitter().feed(BOMB.encode() + event("&a8;"))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_read(data):
    for piece in (data, event() + data, event(data.decode("latin-1"))):
        try:
            parse_event(piece)
        except CotError:
            continue
