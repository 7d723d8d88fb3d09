#!/usr/bin/env bash
# taky 0.10 (PyPI), a TAK server: a marker that a client has deleted is sent to every client that connects later, until it is stale.
# It also passes events on without their attributes access, qos, opex and caveat, and with places rounded to six decimals.
#
# Expected: a client that connects after the delete (t-x-d-d with the uid in its link) does not get the marker; `access`, which says
# who may see an event, arrives as it was sent.
# Seen: the late client gets the marker and not its delete, so that it shows an item that the others have removed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check taky==0.10 'setuptools<81'
cd "$work"
"$work/env/bin/python" - <<'PY'
import datetime
import re
import socket
import subprocess
import time

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    PORT = probe.getsockname()[1]
open("taky.conf", "w").write(f"[taky]\nbind_ip = 127.0.0.1\nroot_dir = .\n[cot_server]\nport = {PORT}\n[ssl]\nenabled = false\n")
server = subprocess.Popen(["env/bin/taky", "-l", "error", "-c", "taky.conf"])


def event(uid, kind, how, detail, more=""):
    now = datetime.datetime.now(datetime.timezone.utc)
    later = now + datetime.timedelta(hours=1)
    start, stale = (f"{each:%Y-%m-%dT%H:%M:%S}.000Z" for each in (now, later))
    return (
        f'<event version="2.0" uid="{uid}" type="{kind}" how="{how}" time="{start}" start="{start}" stale="{stale}"{more}>'
        f'<point lat="47.123456789" lon="8.5" hae="1.0" ce="1.0" le="1.0"/><detail>{detail}</detail></event>'
    ).encode()


class Client:
    def __init__(self, callsign):
        for _ in range(100):
            try:
                self.socket = socket.create_connection(("127.0.0.1", PORT))
                break
            except OSError:
                time.sleep(0.1)
        self.socket.settimeout(2)
        device = '<takv device="d" platform="ATAK" os="1" version="5"/><__group name="Cyan" role="HQ"/>'
        self.socket.sendall(event(callsign, "a-f-G-U-C", "m-g", f'<contact callsign="{callsign}" endpoint="*:-1:stcp"/>{device}'))

    def got(self):
        data = b""
        try:
            while piece := self.socket.recv(65536):
                data += piece
        except TimeoutError:
            pass
        return re.findall(r"<event.*?</event>", data.decode(), re.S)


one, two = Client("ONE"), Client("TWO")
two.got()
more = ' access="Secret" qos="1-r-c" opex="e-drill"'
one.socket.sendall(event("marker-1", "b-m-p-s-m", "h-g-i-g-o", '<contact callsign="camp"/>', more))
[marker] = two.got()
one.socket.sendall(event("delete-1", "t-x-d-d", "m-g", '<link uid="marker-1" relation="none" type="none"/>'))
[delete] = two.got()
late = [re.search('uid="([^"]+)"', each)[1] for each in Client("LATE").got()]
server.terminate()
print("passed on:", marker[: marker.index("<point")], re.search('lat="[^"]+"', marker)[0])
print("a client that comes after the delete gets:", late)
assert 'type="t-x-d-d"' in delete
assert "marker-1" in late and "delete-1" not in late, f"this has changed: {late}"
assert not re.search("access=|qos=|opex=", marker) and 'lat="47.123457"' in marker, f"this has changed: {marker}"
PY
