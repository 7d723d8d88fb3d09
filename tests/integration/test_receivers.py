"""Real receivers as bridges of real nodes: dump1090 and gpsd, and sentences of ships, whose rows another node has too."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time

import pytest

from tests.free_ports import free_port
from tests.integration.machines import SQLITE, eventually
from tests.tools.bridges.brokers import program, wait_for_port

pytestmark = [
    pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)"),
    pytest.mark.slow,
]
# Frames of Mode S as an antenna gives them: two callsigns, a position in two parts, a velocity.
FRAMES = (
    "8D4840D6202CC371C32CE0576098",
    "8D40621D58C382D690C8AC2863A7",
    "8D40621D58C386435CC412692AD6",
    "8D485020994409940838175B284F",
)
SENTENCES = (
    b"!AIVDM,1,1,,B,15M67FC000G?ufbE`FepT@3n00Sa,0*5C",
    b"!AIVDM,1,1,,A,15NJQiPOl=G?m:bE`Gpt<aun00S8,0*56",
    b"!AIVDM,2,1,1,A,55?MbV02;H;s<HtKR20EHE:0@T4@Dn2222222216L961O5Gf0NSQEp6ClRp8,0*1C",
    b"!AIVDM,1,1,,A,13HOI:0P0000VOHLCnHQKwvL05Ip,0*23",
    b"!AIVDM,2,2,1,A,88888888880,2*25",
    b"!AIVDM,1,1,,B,H5NLCa0JuJ0U8tr0l4T@Dp00000,2*1C",
)
HOSTILE = (
    b"\xff\xfe\x00" * 40,
    b"!AIVDM,9,9,9,A,,0*00",
    b"A" * 70_000,
    b"MSG,3" + b"," * 60_000,
    b'{"class":' + b"[" * 30_000,
)


@contextlib.contextmanager
def running(*words):
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def sentence(text):
    """Return a sentence of NMEA with its checksum."""
    total = 0
    for byte in text.encode():
        total ^= byte
    return f"${text}*{total:02X}\r\n".encode()


def configure(pair, sections):
    """Start both members again, the first one with bridges that make their tables."""
    machine, other = pair
    other.terminate()
    machine.terminate()
    lines = [f'[bridge.{name}]\nurl = "{url}"\ncreate = true\nevery_ms = 20\n{more}\n' for name, url, more in sections]
    machine.home.config_file.write_text("\n".join(lines))
    machine.home.config_file.chmod(0o600)
    machine.up()
    other.up("--port", "0", "--peer", machine.address)


def figures(machine, name):
    return next(each for each in machine.status()["children"] if each["name"] == name).get("figures", {})


def test_aircraft_of_a_real_receiver_reach_another_node(pair):
    alpha, bravo = pair
    raw, lines = free_port(), free_port()
    words = ["--net-only", "--quiet", "--net-bind-address", "127.0.0.1", "--net-ri-port", raw, "--net-sbs-port", lines]
    words += [each for name in ("ro", "bi", "bo", "http") for each in (f"--net-{name}-port", 0)]
    with running(program("dump1090-mutability"), *map(str, words)) as process:
        wait_for_port(lines, process)
        configure(pair, [("air", f"sbs://127.0.0.1:{lines}", 'in = { aircraft = "aircraft" }')])
        eventually(lambda: alpha.status()["children"][0]["state"] == "running", "it listens")
        with socket.create_connection(("127.0.0.1", raw)) as antenna:
            for frame in FRAMES:
                for _ in range(2):  # dump1090 shows an aircraft from its second frame on
                    antenna.sendall(f"*{frame};\n".encode())
                    time.sleep(0.05)
        wanted = "40621d|11582.4|52.2658|3.9389\n4840d6|||\n485020|||\n"
        bravo.shows("SELECT icao24, alt_m, round(lat, 4), round(lon, 4) FROM aircraft ORDER BY icao24", wanted)
        bravo.shows("SELECT callsign FROM aircraft WHERE icao24 = '4840d6'", "KLM1023\n")
        bravo.shows(
            "SELECT speed_mps, track_deg, climb_mps FROM aircraft WHERE icao24 = '485020'", "81.8|184.0|-4.23\n"
        )


def test_a_real_gpsd_says_where_a_node_is(pair):
    alpha, bravo = pair
    port, radio = free_port(), free_port()
    with (
        running(program("gpsd", "/usr/sbin/gpsd"), "-N", "-n", "-S", str(port), f"udp://127.0.0.1:{radio}") as process,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        wait_for_port(port, process)
        configure(pair, [("here", f"gpsd://127.0.0.1:{port}", 'in = { position = "places" }')])

        def say(number):
            at, lon = f"1200{number % 60:02d}.00", f"00800.{number % 60:03d}"
            for text in (
                f"GPGGA,{at},4700.000,N,{lon},E,1,08,0.9,400.5,M,48.0,M,,",
                "GPGSA,A,3,01,02,03,04,05,06,07,08,,,,,1.5,0.9,1.2",
                f"GPRMC,{at},A,4700.000,N,{lon},E,010.0,090.0,011226,,,A",
            ):
                receiver.sendto(sentence(text), ("127.0.0.1", radio))

        numbers = iter(range(1, 10_000))
        eventually(
            lambda: say(next(numbers)) or bravo.sql("SELECT 1 FROM sqlite_schema WHERE name = 'places'"), "it is there"
        )
        select = "SELECT node, fix, round(lat, 2), round(lon, 2), alt_m, speed_mps FROM places WHERE speed_mps NOTNULL"
        eventually(
            lambda: say(next(numbers)) or bravo.sql(select) == "alpha|3|47.0|8.0|400.5|5.144\n", "bravo has the place"
        )
        assert figures(alpha, "here").get("damaged", 0) == 0


def test_ships_arrive_between_hostile_lines(pair):
    alpha, bravo = pair
    ports = {name: free_port() for name in ("sea", "tcp")}
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as radio:
        stream = server.getsockname()[1]
        sections = [
            ("sea", f"ais://udpin:127.0.0.1:{ports['sea']}", 'in = { ships = "ships" }'),
            ("tcp", f"ais://127.0.0.1:{stream}", 'in = { ships = "vessels" }'),
        ]
        configure(pair, sections)
        connection, _ = server.accept()
        eventually(lambda: all(each["state"] == "running" for each in alpha.status()["children"]), "both run")
        with connection:
            for line in SENTENCES:
                for bad in HOSTILE:
                    radio.sendto(bad[:60_000], ("127.0.0.1", ports["sea"]))
                    connection.sendall(bad + b"\n")
                radio.sendto(line + b"\r\n", ("127.0.0.1", ports["sea"]))
                connection.sendall(line + b"\r\n")
            wanted = "227006760||49.4756\n351759000|EVER DIADEM|\n366053209||37.8021\n"
            wanted += "367436230||37.8026\n367465380|F/V IRON MAIDEN|\n"
            for table in ("ships", "vessels"):
                bravo.shows(f"SELECT mmsi, name, round(lat, 4) FROM {table} ORDER BY mmsi", wanted)
            for name in ports:
                eventually(lambda: figures(alpha, name).get("damaged", 0) >= 3 * len(SENTENCES), "damage is counted")  # noqa: B023
