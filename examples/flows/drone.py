"""A drone judges its own telemetry, and its alerts overtake everything else on a slow link.

    pip install 'mycomesh[onnx]'
    python examples/flows/drone.py

The recorded flight of a quadcopter becomes rows on the drone, each with a picture. A model finds voltages that are
too low for the charge, height and speed (`onnx:`), a second flow makes alerts of the worst ones (`sql:`), and their table is
urgent. The link to the ground takes 160 kB/s. The program prints how much of the flight the ground has when it has the alerts.
"""

from __future__ import annotations

import csv
import gzip
import os
import tempfile
import time
from pathlib import Path

from nodes import Node, SlowLink, until

import mycomesh.tools.data as recorded

RATE = 160_000  # bytes a second
PICTURE_BYTES = 500
ALERT_SCORE = 3.5
CONFIG = f"""
urgent = ["alerts"]

[flow.judge]
on = "telemetry"
run = "onnx: battery"
into = "detections"
keep = ["sortie", "unix_ms", "battery_v"]

[flow.alert]
on = "SELECT * FROM detections WHERE score > {ALERT_SCORE}"
run = '''sql: SELECT sortie, unix_ms,
  printf('%.1f V, and %.1f V expected', battery_v, expected_v) AS what FROM new'''
into = "alerts"
"""
SCHEMA = """
CREATE TABLE telemetry(
  id INTEGER PRIMARY KEY, sortie TEXT, unix_ms INTEGER, lat REAL, lon REAL, height_m REAL, speed_mps REAL, heading_deg REAL,
  battery_v REAL, battery_pct REAL, picture BLOB);
CREATE TABLE detections(key TEXT PRIMARY KEY, sortie TEXT, unix_ms INTEGER, battery_v REAL, expected_v REAL, score REAL);
CREATE TABLE alerts(key TEXT PRIMARY KEY, sortie TEXT, unix_ms INTEGER, what TEXT);
"""


def flight() -> list[tuple[object, ...]]:
    """Return the rows of the recording, each with bytes in place of a picture."""
    path = Path(recorded.__file__).with_name("quadcopter-sorties.csv.gz")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [(number, *row.values(), os.urandom(PICTURE_BYTES)) for number, row in enumerate(rows, 1)]


def main(place: Path) -> None:
    ground, drone = Node(place, "ground"), Node(place, "drone-1", CONFIG)
    try:
        ground.run("init", "--node-name", "ground")
        ground.db.executescript(SCHEMA)
        ground.up("--urgent", "alerts")
        link = SlowLink(ground.port(), RATE)
        drone.join(ground, link.port)
        drone.up("--peer", f"127.0.0.1:{link.port}")
        until(lambda: drone.one("SELECT count(*) = 0 FROM alerts"), "the drone has the tables")
        drone.run("model", "add", "battery", "--nodes", "drone-*")
        until(lambda: drone.run("flow", "status").count(" running ") == 2, "both flows run")

        rows = flight()
        began = time.monotonic()
        drone.db.execute("BEGIN")
        drone.db.executemany(f"INSERT INTO telemetry VALUES({', '.join('?' * len(rows[0]))})", rows)
        drone.db.execute("COMMIT")
        until(lambda: drone.one("SELECT count(*) FROM detections") == len(rows), "each row is judged")
        until(lambda: not any(each["behind"] for each in drone.status()["readers"]), "each detection is looked at")
        alerts = int(str(drone.one("SELECT count(*) FROM alerts")))
        print(
            f"drone-1: {len(rows)} rows of telemetry, {alerts} alerts, {time.monotonic() - began:.1f} s after the flight"
        )
        until(lambda: ground.one("SELECT count(*) FROM alerts") == alerts, "the ground has the alerts")
        there = ground.one("SELECT count(*) FROM telemetry")
        print(
            f"ground:  {alerts} alerts after {time.monotonic() - began:.1f} s, with {there} of {len(rows)} rows of telemetry"
        )
        until(lambda: ground.one("SELECT count(*) FROM telemetry") == len(rows), "the ground has everything")
        print(f"ground:  {len(rows)} of {len(rows)} rows of telemetry after {time.monotonic() - began:.1f} s")
        key, text = ground.db.execute(
            "SELECT key, sortie || ': ' || what FROM alerts ORDER BY unix_ms LIMIT 1"
        ).fetchone()
        print(f"the first alert is {text}; mycomesh why alerts {key}:")
        made = [line for line in drone.run("why", "alerts", key).splitlines() if line.startswith("made by")]
        print("\n".join(line.partition(", picture=")[0] for line in made))
    finally:
        for node in (ground, drone):
            node.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="mycomesh-example-") as folder:
        main(Path(folder))
