"""TAK screens on two nodes: a recorded flight, markers, chat, alerts and deletes; and taky, another TAK server."""

from __future__ import annotations

import socket
import subprocess
import threading
import time

import pytest

from mycomesh.tools.vehicles.cot import EventSplitter, parse_event
from mycomesh.tools.vehicles.tak_rows import deleted_uid, topic_of
from tests.free_ports import free_port
from tests.integration.machines import ROOT, SQLITE, Machine, eventually
from tests.integration.test_vehicles import running, section
from tests.tools.bridges.test_tak import said
from tests.tools.vehicles.recorded import frames
from tests.tools.vehicles.test_tak_rows import CHAT

pytest.importorskip("pymavlink")
pytestmark = [
    pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)"),
    pytest.mark.slow,
]
TAKY = ROOT / ".venv-taky" / "bin" / "taky"


class Phone:
    """A TAK client with plain sockets."""

    def __init__(self, port, callsign=""):
        self.socket = eventually(lambda: self.dial(port), "a server listens")
        self.events = []
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()
        if callsign:
            detail = f'<contact callsign="{callsign}" endpoint="*:-1:stcp"/><__group name="Cyan" role="HQ"/>'
            self.say(
                said(f"ANDROID-{callsign}", detail=detail + '<takv device="test" platform="ATAK" os="1" version="5"/>')
            )

    @staticmethod
    def dial(port):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=60)
        except OSError:
            return None

    def read(self):
        splitter = EventSplitter()
        try:
            while data := self.socket.recv(65_536):
                self.events += [parse_event(piece) for piece in splitter.feed(data)]
        except OSError:
            return

    def say(self, *events):
        self.socket.sendall(b"".join(events))

    def sees(self, check, what):
        return eventually(lambda: [event for event in list(self.events) if check(event)], what)

    def close(self):
        self.socket.close()


def tak(port, more=""):
    return (
        f'\n[bridge.tak]\nurl = "tak://127.0.0.1:{port}"\ncreate = true\nevery_ms = 20\n{more}'
        'out = { drones = "a-f-A-M-H-Q", markers = "{type}", chat = "b-t-f", alerts = "{type}" }\n'
        'in = { positions = "contacts", markers = "markers", chat = "chat", alerts = "alerts" }\n'
    )


@pytest.fixture
def pair(tmp_path):
    """Two linked nodes, each with a TAK server; the first one hears the vehicle."""
    first, second = (Machine(tmp_path, name) for name in ("alpha", "beta"))
    for machine in (first, second):
        machine.radio, machine.tak = free_port(), free_port()
    first.done("init", "--node-name", "alpha")
    first.home.config_file.write_text(section(first.radio) + tak(first.tak))
    first.home.config_file.chmod(0o600)
    first.up("--port", "0")
    code = first.done("invite").strip()
    second.done("join", code, "--no-multicast", "--peer", first.address)
    second.home.config_file.write_text(tak(second.tak))
    second.home.config_file.chmod(0o600)
    second.up("--port", "0", "--peer", first.address)
    phones = []

    def phone(port, callsign=""):
        phones.append(Phone(port, callsign))
        return phones[-1]

    yield first, second, phone
    for each in phones:
        each.close()
    for machine in (first, second):
        if machine.process is not None and machine.process.poll() is None:
            machine.terminate()


def test_flight_marker_chat_and_delete_reach_other_node(pair):
    alpha, beta, phone = pair
    running(alpha)
    running(alpha, "tak")
    running(beta, "tak")
    here, there = phone(alpha.tak, "HERE"), phone(beta.tak, "THERE")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as radio:
        for _, frame in frames():
            radio.sendto(frame, ("127.0.0.1", alpha.radio))
            time.sleep(0.004)
    alpha.shows("SELECT count(*) FROM track", "115\n")
    place = alpha.sql("SELECT lat, lon FROM drones").strip()
    drone = there.sees(
        lambda event: event.type == "a-f-A-M-H-Q" and f"{event.lat}|{event.lon}" == place, "the last place"
    )[-1]
    moved = [event for event in there.events if event.uid == drone.uid]
    assert len({(event.lat, event.lon) for event in moved}) > 3
    assert [event.time for event in moved] == sorted(event.time for event in moved)
    assert drone.stale > drone.time
    assert drone.attribute("status", "battery") != ""

    here.say(
        said("marker-1", "a-h-G", "h-g-i-g-o", '<contact callsign="tank"/><usericon iconsetpath="x/y"/>', stale_s=3_600)
    )
    marker = there.sees(lambda event: event.uid == "marker-1", "the marker")[0]
    assert (marker.attribute("contact", "callsign"), marker.attribute("usericon", "iconsetpath")) == ("tank", "x/y")
    beta.shows("SELECT callsign, type, how FROM markers", "tank|a-h-G|h-g-i-g-o\n")
    beta.sql("UPDATE markers SET callsign = 'burnt out'")
    here.sees(lambda event: event.attribute("contact", "callsign") == "burnt out", "an UPDATE on the other node")

    here.say(said("GeoChat.ANDROID-HERE.All Chat Rooms.m-1", "b-t-f", "h-g-i-g-o", CHAT))
    message = there.sees(lambda event: topic_of(event) == "chat", "the message")[0]
    assert message.find("remarks").text == "at the bridge"
    beta.sql("INSERT INTO chat(message_id, at, sender, text) VALUES('sql', unixepoch() * 1000, 'HQ', 'come home')")
    here.sees(lambda event: topic_of(event) == "chat" and event.find("remarks").text == "come home", "a message of SQL")

    there.say(said("ANDROID-THERE-9-1-1", "b-a-o-tbl", detail='<emergency type="911 Alert">THERE</emergency>'))
    here.sees(lambda event: event.type == "b-a-o-tbl", "the alert")
    alpha.shows("SELECT uid, cancelled FROM alerts", "ANDROID-THERE-9-1-1|0\n")
    alpha.shows("SELECT callsign FROM contacts ORDER BY 1", "HERE\nTHERE\n")

    here.say(said("d-1", "t-x-d-d", detail='<link uid="marker-1" relation="none" type="none"/>'))
    there.sees(lambda event: topic_of(event) == "deletes" and deleted_uid(event) == "marker-1", "the delete")
    beta.shows("SELECT count(*) FROM markers", "0\n")
    beta.sql("DELETE FROM drones")
    for screen in (here, there):
        screen.sees(lambda event: topic_of(event) == "deletes" and deleted_uid(event) == drone.uid, "a DELETE of SQL")


def test_screen_that_comes_after_restart_sees_the_picture(pair):
    alpha, beta, phone = pair
    running(beta, "tak")
    first = phone(beta.tak)
    first.say(said("marker-1", "a-h-G", "h-g-i-g-o", stale_s=3_600))
    alpha.shows("SELECT uid FROM markers", "marker-1\n")
    beta.kill()
    beta.up("--port", "0", "--peer", alpha.address)
    phone(beta.tak).sees(lambda event: event.uid == "marker-1", "the marker of before")
    phone(alpha.tak).sees(lambda event: event.uid == "marker-1", "and on the other node")
    beta.shows("SELECT count(*) FROM markers", "1\n")


@pytest.fixture
def taky(tmp_path):
    """A TAK server of others."""
    port = free_port()
    folder = tmp_path / "taky"
    folder.mkdir()
    (folder / "taky.conf").write_text(
        f"[taky]\nbind_ip = 127.0.0.1\nroot_dir = .\n[cot_server]\nport = {port}\n[ssl]\nenabled = false\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([TAKY, "-c", "taky.conf"], cwd=folder, stdout=log, stderr=log)
    yield port
    process.terminate()
    process.wait()


@pytest.mark.skipif(not TAKY.exists(), reason="needs taky (make .venv-taky/done)")
def test_rows_reach_screens_of_taky_and_back(tmp_path, taky):
    alpha = Machine(tmp_path, "alpha")
    alpha.done("init", "--node-name", "alpha")
    alpha.home.config_file.write_text(tak(taky, "connect = true\n"))
    alpha.home.config_file.chmod(0o600)
    screen = Phone(taky, "WINTAK")
    try:
        alpha.sql("CREATE TABLE drones(id TEXT PRIMARY KEY, lat REAL, lon REAL, battery INTEGER)")
        alpha.up("--port", "0")
        running(alpha, "tak")
        alpha.sql("INSERT INTO drones VALUES('d1', 47.5, 8.5, 81)")
        (drone,) = screen.sees(lambda event: event.uid == "mycomesh.drones.d1", "the row")[:1]
        assert (drone.lat, drone.attribute("status", "battery")) == (47.5, "81")
        screen.say(said("m-7", "b-m-p-s-m", "h-g-i-g-o", '<contact callsign="camp"/>', stale_s=3_600))
        alpha.shows("SELECT uid, callsign FROM markers", "m-7|camp\n")
        alpha.shows("SELECT callsign FROM contacts", "WINTAK\n")
        alpha.sql("DELETE FROM drones")
        screen.sees(lambda event: deleted_uid(event) == "mycomesh.drones.d1", "the delete")
    finally:
        screen.close()
        if alpha.process is not None and alpha.process.poll() is None:
            alpha.terminate()
