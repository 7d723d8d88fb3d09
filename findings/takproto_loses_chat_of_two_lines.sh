#!/usr/bin/env bash
# takproto 3.0.1 (PyPI): a GeoChat message whose text has a line break is converted to TAK protocol version 1 without its text.
#
# Expected: the chat of the XML event, as for a message of one line: room, sender and text are in xmlDetail.
# Seen: xmlDetail is empty, and nothing is raised. Of an event with another uid the same detail is kept.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check takproto==3.0.1
"$work/env/bin/python" - <<'PY'
import takproto

EVENT = """<event version="2.0" uid="{uid}" type="b-t-f" how="h-g-i-g-o" time="2026-01-31T12:00:00.000Z"
 start="2026-01-31T12:00:00.000Z" stale="2026-01-31T12:05:00.000Z"><point lat="47.0" lon="8.0" hae="0" ce="9999999.0" le="9999999.0"/>
<detail><__chat chatroom="All Chat Rooms" id="All Chat Rooms" senderCallsign="ALPHA" messageId="m-1"/><remarks>{text}</remarks></detail>
</event>"""
kept = {}
for uid in ("GeoChat.ANDROID-1.All Chat Rooms.m-1", "message-1"):
    for text in ("at the bridge", "at the\nbridge"):
        data = takproto.xml2proto(EVENT.format(uid=uid, text=text), takproto.TAKProtoVer.MESH)
        detail = takproto.parse_proto(bytearray(data)).cotEvent.detail.xmlDetail
        kept[uid[:7], text] = text in detail
        print(f"{uid!r}, {text!r}: xmlDetail has {len(detail)} characters")
assert kept == {
    ("GeoChat", "at the bridge"): True,
    ("GeoChat", "at the\nbridge"): False,
    ("message", "at the bridge"): True,
    ("message", "at the\nbridge"): True,
}, f"this has changed: {kept}"
PY
