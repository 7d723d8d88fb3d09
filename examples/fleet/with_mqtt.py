"""The six events of a fleet over MQTT: handlers, an outbox, numbers, an inbox, and requests to send again.

Every machine has the whole picture in a local file, as with mycomesh. A PUBACK only says that the broker has a message: a
subscriber that is away loses what is beyond its queue (mosquitto: 1,000). So senders keep what they sent, and say how far
they are.
"""

from __future__ import annotations

import json
import queue
import sqlite3
import threading
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt

SCHEMA = (Path(__file__).parent / "schema.sql").read_text()
BUFFERS = """
CREATE TABLE IF NOT EXISTS outbox(seq INTEGER PRIMARY KEY, event TEXT, body TEXT, acknowledged INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS inbox(sender TEXT PRIMARY KEY, next INTEGER);
CREATE TABLE IF NOT EXISTS held(sender TEXT, seq INTEGER, event TEXT, body TEXT, PRIMARY KEY(sender, seq));
"""
# A late event must not overwrite a later one, so that each column that changes needs its own time.
HANDLERS = {
    "deploy": "INSERT INTO drones(id, model, deployed_at) VALUES(:drone, :model, :at)"
    " ON CONFLICT DO UPDATE SET model = :model, deployed_at = :at",
    "position": "INSERT INTO drones(id, lat, lon, position_at) VALUES(:drone, :lat, :lon, :at)"
    " ON CONFLICT DO UPDATE SET lat = :lat, lon = :lon, position_at = :at WHERE position_at IS NULL OR position_at <= :at",
    "data": "INSERT INTO readings VALUES(:drone, :n, :kind, :value, :at) ON CONFLICT DO NOTHING",
    "threat": "INSERT INTO threats VALUES(:id, :kind, :lat, :lon, :level, :at)"
    " ON CONFLICT DO UPDATE SET level = :level, at = :at WHERE at <= :at",
    "battery": "INSERT INTO drones(id, battery, battery_at) VALUES(:drone, :battery, :at)"
    " ON CONFLICT DO UPDATE SET battery = :battery, battery_at = :at WHERE battery_at IS NULL OR battery_at <= :at",
    "mission": "INSERT INTO missions VALUES(:id, :drone, :what, :status, :at)"
    " ON CONFLICT DO UPDATE SET status = :status, at = :at WHERE at <= :at",
}
AGAIN = 200  # events of one request; more would overflow the broker's queue once more


class FleetNode:
    """One machine of the fleet."""

    def __init__(self, name: str, file: Path, port: int, *, resend: bool = True) -> None:
        self.name = name
        self.db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.executescript(SCHEMA + BUFFERS)
        self.lock = threading.RLock()  # paho calls back from a thread of its own
        self.resend = resend
        self.duplicates = 0
        self.seen: dict[str, int] = {}  # the last number that a sender has said
        self.asked: dict[str, int] = {}  # the number up to which it was asked to send again
        self.waiting: dict[int, int] = {}  # message id of MQTT -> number in the outbox
        # paho calls `on_publish` while it holds a lock that `publish` needs: taking ours there would block both for ever.
        self.acknowledged: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, name, clean_session=False, manual_ack=True)
        self.client.on_connect = self.on_connect
        self.client.on_message = self.on_message
        self.client.on_publish = self.on_publish
        self.client.max_queued_messages_set(0)
        self.client.reconnect_delay_set(1, 2)
        self.port = port

    def connect(self) -> None:
        """Connect to the broker, now and whenever the connection is lost."""
        self.client.connect("127.0.0.1", self.port)
        self.client.loop_start()

    def disconnect(self) -> None:
        """Stop; events that are said meanwhile stay in the outbox."""
        self.client.disconnect()
        self.client.loop_stop()

    def say(self, event: str, **fields: Any) -> None:
        """Record an event here, keep it for the others, and send it if the broker is there."""
        body = json.dumps(fields)
        with self.lock:
            self.note_acknowledged()
            self.db.execute("BEGIN IMMEDIATE")
            self.db.execute(HANDLERS[event], fields)
            seq = self.db.execute("INSERT INTO outbox(event, body) VALUES(?, ?)", (event, body)).lastrowid
            self.db.execute("COMMIT")
            if self.client.is_connected() and seq is not None:
                self.publish(seq, event, body)
                self.say_last()

    def publish(self, seq: int, event: str, body: str) -> None:
        """Send one event of the outbox."""
        message = json.dumps({"seq": seq, "body": body})
        self.waiting[self.client.publish(f"fleet/{self.name}/{event}", message, qos=1).mid] = seq

    def say_last(self) -> None:
        """Say the last number, so that others notice that the end is missing; without QoS, as a queue would fill with these."""
        (last,) = self.db.execute("SELECT coalesce(max(seq), 0) FROM outbox").fetchone()
        self.client.publish(f"fleet/{self.name}/last", json.dumps({"seq": last}), retain=True)

    def on_connect(self, *_: Any) -> None:
        """Subscribe, and send what nobody has acknowledged."""
        with self.lock:
            self.client.subscribe("fleet/#", qos=1)
            self.note_acknowledged()
            self.waiting.clear()
            self.asked.clear()
            for row in self.db.execute(
                "SELECT seq, event, body FROM outbox WHERE NOT acknowledged ORDER BY seq"
            ).fetchall():
                self.publish(*row)
            self.say_last()

    def on_publish(self, _client: Any, _data: Any, mid: int, *_: Any) -> None:
        """Remember that the broker has an event."""
        self.acknowledged.put(mid)

    def note_acknowledged(self) -> None:
        """Strike out what the broker has."""
        while not self.acknowledged.empty():
            seq = self.waiting.pop(self.acknowledged.get(), None)
            if seq is not None:
                self.db.execute("UPDATE outbox SET acknowledged = 1 WHERE seq = ?", (seq,))

    def on_message(self, client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        """Take a message of another machine; acknowledge it once it is in the file."""
        _, sender, event = message.topic.split("/")
        value = json.loads(message.payload)
        with self.lock:
            if event == "again":
                self.on_again(value)
            elif sender != self.name and event == "last":
                self.ask_for_gap(sender, value["seq"])
            elif sender != self.name:
                self.on_event(sender, value["seq"], event, value["body"])
        client.ack(message.mid, message.qos)

    def on_event(self, sender: str, seq: int, event: str, body: str) -> None:
        """Apply events in the order of their sender: drop what is known, hold what is early."""
        expected = self.expected(sender)
        if seq < expected:
            self.duplicates += 1
            return
        self.db.execute("INSERT OR IGNORE INTO held VALUES(?, ?, ?, ?)", (sender, seq, event, body))
        self.db.execute("BEGIN IMMEDIATE")
        while True:
            found = self.db.execute(
                "SELECT event, body FROM held WHERE sender = ? AND seq = ?", (sender, expected)
            ).fetchone()
            if found is None:
                break
            self.db.execute(HANDLERS[found[0]], json.loads(found[1]))
            self.db.execute("DELETE FROM held WHERE sender = ? AND seq = ?", (sender, expected))
            expected += 1
        self.db.execute(
            "INSERT INTO inbox VALUES(?, ?) ON CONFLICT DO UPDATE SET next = excluded.next", (sender, expected)
        )
        self.db.execute("COMMIT")
        self.ask_for_gap(sender, seq)

    def expected(self, sender: str) -> int:
        """Return the number of a sender's next event."""
        found = self.db.execute("SELECT next FROM inbox WHERE sender = ?", (sender,)).fetchone()
        return found[0] if found else 1

    def ask_for_gap(self, sender: str, seen: int) -> None:
        """Ask a sender for the events between what is known and what was seen."""
        first = self.expected(sender)
        self.seen[sender] = max(seen, self.seen.get(sender, 0))
        if not self.resend or first > self.seen[sender] or first <= self.asked.get(sender, 0):
            return
        last = self.asked[sender] = min(self.seen[sender], first + AGAIN - 1)
        self.client.publish(f"fleet/{self.name}/again", json.dumps({"to": sender, "first": first, "last": last}), qos=1)

    def on_again(self, value: dict[str, Any]) -> None:
        """Send events again that another machine has missed."""
        if value["to"] != self.name:
            return
        between = (value["first"], value["last"])
        for row in self.db.execute(
            "SELECT seq, event, body FROM outbox WHERE seq BETWEEN ? AND ? ORDER BY seq", between
        ).fetchall():
            self.publish(*row)
        self.say_last()
