"""Datagrams of the TAK mesh: written and read by takproto, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mycomesh.tools.vehicles.cot import CotError, parse_event, write_event
from mycomesh.tools.vehicles.tak_mesh import DATAGRAM_BYTES_MAX, pack, unpack
from mycomesh.tools.vehicles.tak_rows import row_of_event
from tests.tools.vehicles.test_cot import event
from tests.tools.vehicles.test_tak_rows import CHAT, kind

pytest.importorskip("takproto")
POSITION = (
    '<contact callsign="ALPHA" endpoint="*:-1:stcp"/><track course="90.0" speed="1.5"/><status battery="80"/>'
    '<__group name="Cyan" role="HQ"/><remarks>ok</remarks><usericon iconsetpath="x"/>'
)


EVENTS = [
    (POSITION, kind("a-f-G-U-C") + ' access="Secret" qos="1-r-c"'),
    (CHAT, kind("b-t-f", uid="GeoChat.ANDROID-1.All Chat Rooms.m-1")),
]


@pytest.mark.parametrize(("detail", "head"), EVENTS)
def test_datagram_has_the_row_of_its_event(detail, head):
    came = parse_event(event(detail, head=head))
    expected = row_of_event(parse_event(event(detail, head=head))).values
    data = pack(write_event(came))
    assert data[:3] == b"\xbf\x01\xbf"
    found = row_of_event(unpack(data)).values
    assert {name: value for name, value in found.items() if name != "detail"} == {
        name: value for name, value in expected.items() if name != "detail"
    }


def test_message_of_several_lines_keeps_them():
    head = kind("b-t-f", uid="GeoChat.ANDROID-1.All Chat Rooms.m-1")
    found = unpack(pack(event(CHAT.replace("at the bridge", "at the\nbridge"), head=head)))
    assert row_of_event(found).values["text"] == "at the\nbridge"


def test_xml_in_a_datagram_is_read():
    assert unpack(b"\n" + event()).uid == "u1"


LONG = b"<" * (DATAGRAM_BYTES_MAX + 1)
MAGIC = b"\xbf\x01\xbf"


@pytest.mark.parametrize(
    "data", [b"", b"hello", MAGIC, MAGIC + b"\xff\xff", b"<event", LONG, b"\xbf\x02\xbf" + event()]
)
def test_wrong_datagrams_are_refused(data):
    with pytest.raises(CotError):
        unpack(data)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_datagram_is_refused_or_read(data, cut):
    good = pack(event(POSITION))
    for piece in (data, b"\xbf\x01\xbf" + data, good[:cut], good[: cut % len(good)] + data):
        try:
            unpack(piece)
        except CotError:
            continue
