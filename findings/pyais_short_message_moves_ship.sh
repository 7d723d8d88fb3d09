#!/usr/bin/env bash
# pyais 3.3.1 (PyPI): an AIS message that ends within a number is decoded without an error, and the number is what its first bits say.
#
# Expected: an error, or None for each field that is not whole, as for the fields of which no bit is there. The sentence is valid NMEA: its
# checksum is right; receivers and networks forward such messages.
# Seen: a position report whose payload has 19 of 28 characters has the latitude 9.45 instead of 37.8, and None only for what follows.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check pyais==3.3.1
"$work/env/bin/python" - <<'PY'
import pyais

report = {"type": 1, "mmsi": 366053209, "lat": 37.8, "lon": -122.3, "speed": 10.0, "course": 51.3}
[sentence] = pyais.encode_dict(report, talker_id="AI", sentence_type="VDM")
fields = sentence.split(",")
seen = {}
for length in (28, 19, 14):
    body = ",".join([*fields[:5], fields[5][:length], "0"])
    checksum = 0
    for char in body[1:]:
        checksum ^= ord(char)
    message = pyais.decode(f"{body}*{checksum:02X}".encode())
    seen[length] = (message.lon, message.lat, message.course)
    print(f"{length} characters: longitude {message.lon}, latitude {message.lat}, course {message.course}")
assert seen == {28: (-122.3, 37.8, 51.3), 19: (-122.3, 9.45, None), 14: (-3.821875, None, None)}, f"this has changed: {seen}"
PY
