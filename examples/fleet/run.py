"""Runs the fleet both ways on this machine, with messages that come late, twice or not at all, and compares the copies.

    python examples/fleet/run.py

It needs mosquitto, paho-mqtt and mycomesh. It exits with 1 if two copies differ in the end.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import with_mqtt
import with_mycomesh
from lines import lines_of_code

HERE = Path(__file__).parent
NAMES = ("ground", "d1", "d2")
TABLES = {"drones": "id", "readings": "drone, n", "threats": "id", "missions": "id"}
AWAY = 1_500  # events while a machine is away: more than the 1,000 that mosquitto keeps for it
WAIT_S = 60
MYCOMESH = [sys.executable, "-m", "mycomesh.tools"]
BROKER = shutil.which("mosquitto") or "/usr/sbin/mosquitto"


class Fleet(Protocol):
    """One way to run the fleet."""

    def say(self, name: str, event: str, **fields: Any) -> None:
        """Record an event on a machine."""

    def cut(self, name: str) -> None:
        """Take a machine's network away."""

    def heal(self, name: str) -> None:
        """Give it back."""

    def rest(self, name: str) -> None:
        """Wait until a machine has dealt with what was said: the broker has it, or the node has stamped it."""

    def repeat(self, name: str) -> None:
        """Make the last event of a machine come twice."""

    def file(self, name: str) -> Path:
        """Return a machine's database."""


class MqttFleet:
    """A broker, and three programs that speak MQTT."""

    def __init__(self, place: Path, *, resend: bool = True) -> None:
        self.place = place
        self.port = free_port()
        (place / "mosquitto.conf").write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\nlog_type none\n")
        self.broker = subprocess.Popen([BROKER, "-c", str(place / "mosquitto.conf")])
        until(lambda: listens(self.port), "the broker listens")
        self.nodes = {name: with_mqtt.FleetNode(name, self.file(name), self.port, resend=resend) for name in NAMES}
        for node in self.nodes.values():
            node.connect()
        until(lambda: all(node.client.is_connected() for node in self.nodes.values()), "all are connected")

    def say(self, name: str, event: str, **fields: Any) -> None:
        self.nodes[name].say(event, **fields)

    def cut(self, name: str) -> None:
        self.nodes[name].disconnect()

    def heal(self, name: str) -> None:
        self.nodes[name].connect()

    def rest(self, name: str) -> None:
        node = self.nodes[name]

        def done() -> bool:
            with node.lock:
                node.note_acknowledged()
                return node.db.execute("SELECT 1 FROM outbox WHERE NOT acknowledged").fetchone() is None

        if node.client.is_connected():
            until(done, f"the broker has all of {name}")

    def repeat(self, name: str) -> None:
        node = self.nodes[name]
        node.publish(*node.db.execute("SELECT seq, event, body FROM outbox ORDER BY seq DESC LIMIT 1").fetchone())

    def file(self, name: str) -> Path:
        return self.place / f"{name}.db"

    def close(self) -> None:
        """End everything."""
        for node in self.nodes.values():
            node.disconnect()
            node.db.close()
        self.broker.terminate()
        self.broker.wait()


class MeshFleet:
    """Three nodes of mycomesh, and three programs that speak SQL."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.port = free_port()
        self.command("ground", "init", "--name", "fleet", "--node-name", "ground")
        with contextlib.closing(sqlite3.connect(self.file("ground"))) as db:
            db.executescript((HERE / "schema.sql").read_text())
        self.up("ground")
        code = self.command("ground", "invite", "--uses", "2").strip()
        for name in NAMES[1:]:
            self.command(name, "join", code, "--node-name", name, "--no-multicast", "--peer", f"127.0.0.1:{self.port}")
            self.up(name)
        until(lambda: all(has_tables(self.file(name)) for name in NAMES), "all have the tables")
        self.nodes = {name: with_mycomesh.FleetNode(self.file(name)) for name in NAMES}

    def up(self, name: str) -> None:
        port = ["--port", str(self.port)] if name == "ground" else ["--port", "0", "--peer", f"127.0.0.1:{self.port}"]
        with (self.place / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*MYCOMESH, "--home", str(self.place / name), "up", str(self.file(name)), "--no-multicast", *port],
                stdout=log,
                stderr=log,
            )
        until(lambda: self.serves(name), f"{name} serves")

    def serves(self, name: str) -> bool:
        done = subprocess.run([*MYCOMESH, "--home", str(self.place / name), "status"], capture_output=True, check=False)
        return done.returncode == 0

    def command(self, name: str, *words: str) -> str:
        done = subprocess.run(
            [*MYCOMESH, "--home", str(self.place / name), *words], capture_output=True, text=True, check=True
        )
        return done.stdout

    def say(self, name: str, event: str, **fields: Any) -> None:
        self.nodes[name].say(event, **fields)

    def cut(self, name: str) -> None:
        self.command(name, "isolate")

    def heal(self, name: str) -> None:
        self.command(name, "rejoin")

    def rest(self, name: str) -> None:
        until(lambda: json.loads(self.command(name, "status", "--json"))["pending"] == 0, f"{name} has stamped all")

    def repeat(self, name: str) -> None:
        self.processes[name].kill()  # what it had not yet heard to be received is sent again
        self.processes[name].wait()
        self.up(name)

    def file(self, name: str) -> Path:
        return self.place / f"{name}.db"

    def close(self) -> None:
        """End everything."""
        for node in self.nodes.values():
            node.db.close()
        for process in self.processes.values():
            process.terminate()
            process.wait()


def play(fleet: Fleet) -> Iterator[str]:
    """Let the six events happen, and some of them late, twice and not at all; yield what is about to be compared."""
    clock = int(time.time() * 1000)

    def say(name: str, event: str, **fields: Any) -> None:
        nonlocal clock
        clock = max(clock + 1, int(time.time() * 1000))
        fleet.say(name, event, at=clock, **fields)

    for name in ("d1", "d2"):
        say(name, "deploy", drone=name, model="quad")
        say("ground", "mission", id=f"m-{name}", drone=name, what="look at the bridge", status="assigned")
        for step in range(10):
            say(name, "position", drone=name, lat=47 + step / 100, lon=8.5)
            say(name, "battery", drone=name, battery=100 - step)
            say(name, "data", drone=name, n=step, kind="temperature", value=20.5 + step)
    say("d1", "threat", id="t1", kind="vehicle", lat=47.1, lon=8.6, level=1)
    yield "nothing special"
    fleet.cut("d2")
    for step in range(20):
        say("d2", "position", drone="d2", lat=48 + step / 100, lon=8.5)
    say("d2", "threat", id="t1", kind="vehicle", lat=47.1, lon=8.6, level=3)
    say("d2", "mission", id="m-d2", drone="d2", what="look at the bridge", status="done")
    fleet.rest("d2")  # writes of two machines within some milliseconds have no order
    say("ground", "mission", id="m-d2", drone="d2", what="look at the bridge", status="recalled")
    say("d1", "threat", id="t1", kind="vehicle", lat=47.1, lon=8.6, level=2)
    fleet.rest("d1")
    fleet.heal("d2")
    yield "late: d2 was cut off"
    say("d1", "data", drone="d1", n=100, kind="wind", value=7.5)
    fleet.repeat("d1")
    yield "twice: an event of d1"
    fleet.cut("ground")
    for number in range(AWAY):
        say("d1", "data", drone="d1", n=1_000 + number, kind="temperature", value=20.0)
    fleet.rest("d1")
    fleet.heal("ground")
    yield f"not at all: ground was away for {AWAY:,} events"


def picture(file: Path) -> dict[str, list[Any]]:
    """Return what a machine knows, without the clocks of the two runs."""
    found = {}
    with contextlib.closing(sqlite3.connect(file, timeout=30)) as db:
        for table, key in TABLES.items():
            names = [name for (name,) in db.execute("SELECT name FROM pragma_table_info(?)", (table,))]
            shown = ", ".join(name for name in names if not name.endswith("at") or name == "lat")
            found[table] = db.execute(f"SELECT {shown} FROM {table} ORDER BY {key}").fetchall()
    return found


def has_tables(file: Path) -> bool:
    if not file.exists():
        return False
    with contextlib.closing(sqlite3.connect(file)) as db, contextlib.suppress(sqlite3.Error):
        return len(db.execute("SELECT 1 FROM sqlite_master WHERE name IN ('missions', 'readings')").fetchall()) == 2
    return False


def settle(fleet: Fleet, expected: dict[str, list[Any]] | None, patience_s: float) -> tuple[bool, int]:
    """Wait until all copies are equal (and as expected); return whether they are, and how many rows some copy lacks."""
    end = time.monotonic() + patience_s
    while True:
        found = [picture(fleet.file(name)) for name in NAMES]
        equal = all(each == (expected or found[0]) for each in found)
        if equal or time.monotonic() > end:
            rows = [sum(map(len, each.values())) for each in found]
            return equal, max(rows) - min(rows)
        time.sleep(0.1)


def until(check: Any, what: str) -> None:
    """Wait until `check` returns something true."""
    end = time.monotonic() + WAIT_S
    while not check():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {WAIT_S} s: {what}")
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main() -> int:
    """Run all three, print what happened, and compare."""
    good = True
    pictures: list[list[dict[str, list[Any]]]] = []
    ways = {
        "MQTT": MqttFleet,
        "mycomesh": MeshFleet,
        "MQTT without requests to send again": lambda place: MqttFleet(place, resend=False),
    }
    for way, begin in ways.items():
        required = "without" not in way
        with tempfile.TemporaryDirectory() as place, contextlib.closing(begin(Path(place))) as fleet:
            seen: list[dict[str, list[Any]]] = []
            for number, what in enumerate(play(fleet)):
                equal, missing = settle(fleet, pictures[0][number] if pictures else None, WAIT_S if required else 15)
                seen.append(picture(fleet.file("d1")))
                print(
                    f"{way}: {what}: {'all copies equal' if equal else f'copies differ, {missing:,} rows are missing'}",
                    flush=True,
                )
                good = good and (equal or not required)
            pictures.append(seen)
            if isinstance(fleet, MqttFleet):
                print(
                    f"{way}: {sum(node.duplicates for node in fleet.nodes.values()):,} events came again and were dropped"
                )
    for name in ("with_mqtt.py", "with_mycomesh.py"):
        print(f"{lines_of_code(HERE / name)} lines of code in {name}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
