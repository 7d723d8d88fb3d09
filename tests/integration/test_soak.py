"""Soak test: machines are killed and disconnected while stock clients write; at the end all files are equal and complete.

Real processes run in one network namespace each, and clients write plain SQL with Python's own SQLite. This covers the shell
around the cores, which the simulations do not run. The default run takes some seconds with a fixed seed.
`MYCOMESH_TEST_SCALE` multiplies its length and makes each run draw another seed.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import threading
import time

import pytest

from tests.integration.machines import SQLITE, Machine, eventually
from tests.integration.netns import Lab, needs_namespaces

pytestmark = [
    needs_namespaces,
    pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)"),
    pytest.mark.timeout(1_800),
]

SCALE = float(os.environ.get("MYCOMESH_TEST_SCALE", "1"))
SEED = 7 if SCALE == 1 else random.SystemRandom().randrange(1 << 32)
MACHINES = 4
FAULTS = round(8 * SCALE)
PAUSE_S = 0.02  # between the statements of one client

SCHEMA = """
CREATE TABLE drones(drone_id, latitude, longitude, altitude, timestamp);
CREATE TABLE missions(id INTEGER PRIMARY KEY, status TEXT, note, owner TEXT);
CREATE TABLE units(call TEXT COLLATE NOCASE PRIMARY KEY, grid TEXT UNIQUE, done INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE tickets(id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT UNIQUE);
CREATE TABLE pairs(a, b, v REAL, PRIMARY KEY(a, b));
CREATE TABLE plans(id TEXT PRIMARY KEY, n INT, b BLOB, twice INT GENERATED ALWAYS AS (n * 2) STORED) STRICT;
CREATE TRIGGER done AFTER UPDATE OF status ON missions WHEN NEW.status = 'done'
BEGIN UPDATE units SET done = done + 1 WHERE call = NEW.owner; END;
"""
TABLES = ("drones", "missions", "units", "tickets", "pairs", "plans")
# Each statement with the greatest value of its parameters. Rows of `drones` are inserted separately and never deleted.
STATEMENTS = (
    ("UPDATE drones SET altitude = altitude + 1 WHERE rowid = ?", 500),
    ("INSERT INTO missions VALUES(?, 'planned', ?, 'U' || ?) ON CONFLICT(id) DO UPDATE SET note = excluded.note", 9),
    ("UPDATE missions SET status = 'done', note = ? WHERE id = ?", 9),
    ("DELETE FROM missions WHERE id = ?", 9),
    ("INSERT OR REPLACE INTO units VALUES('u' || ?, 'grid ' || ?, ?)", 9),
    ("UPDATE OR REPLACE units SET grid = 'grid ' || ? WHERE call = 'u' || ?", 9),
    ("INSERT OR IGNORE INTO tickets(text) VALUES('ticket ' || ?)", 200),
    ("DELETE FROM tickets WHERE id = (SELECT min(id) + ? FROM tickets)", 3),
    ("REPLACE INTO pairs VALUES(?, iif(? > 2, NULL, 2.5), ?)", 5),
    ("UPDATE pairs SET a = ? WHERE a = ?", 5),
    ("INSERT INTO plans(id, n, b) VALUES('p' || ?, ?, x'00') ON CONFLICT DO UPDATE SET n = n + 1, b = NULL", 30),
)


class Client(threading.Thread):
    """A program that writes to one machine's file; `committed` names the rows of `drones` that must not be lost."""

    def __init__(self, machine, seed, stop):
        super().__init__(name=f"{machine.name}-{seed}")
        self.committed = []
        self._file = machine.file
        self._rng = random.Random(seed)
        self._stopping = stop

    def run(self):
        with contextlib.closing(sqlite3.connect(self._file, timeout=60, isolation_level=None)) as db:
            while not self._stopping.wait(self._rng.expovariate(1 / PAUSE_S)):
                if self._rng.random() < 0.3:
                    self._transaction(db, self._rng.randint(2, 8))
                else:
                    self._transaction(db, 1)

    def _transaction(self, db, statements):
        written = []
        db.execute("BEGIN IMMEDIATE")
        for _ in range(statements):
            with contextlib.suppress(sqlite3.IntegrityError):  # the key exists: the statement did nothing
                written += self._statement(db)
        if self._rng.random() < 0.1:
            db.execute("ROLLBACK")
        else:
            db.execute("COMMIT")
            self.committed += written

    def _statement(self, db):
        if self._rng.random() < 0.4:
            name = f"{self.name}-{self._rng.getrandbits(64):x}"
            db.execute("INSERT INTO drones VALUES(?, ?, -74.006, 500, 0)", (name, self._rng.random()))
            return [name]
        text, most = self._rng.choice(STATEMENTS)
        db.execute(text, [self._rng.randint(1, most) for _ in range(text.count("?"))])
        return []


class Weather:
    """Applies random faults to the machines and their network, one at a time."""

    def __init__(self, lab, machines, rng):
        self._lab = lab
        self._machines = machines
        self._rng = rng
        self._unplugged = {}
        self._parted = False

    def strike(self):
        one = self._rng.choice(self._machines)
        match self._rng.choice(("kill", "kill", "up", "up", "cable", "switch", "scrub", "vacuum")):
            case "kill" if one.process is not None:
                one.kill()
            case "up" if one.process is None:
                one.up("--port", "0")
            case "cable" if one.name in self._unplugged:
                self._lab.plug(self._unplugged.pop(one.name))
            case "cable":
                self._lab.cut(self._unplugged.setdefault(one.name, one.name))
            case "switch":
                (self._lab.join if self._parted else self._lab.part)()
                self._parted = not self._parted
            case "scrub" if one.process is not None:
                one.done("scrub")
            case "vacuum":
                with contextlib.closing(sqlite3.connect(one.file, timeout=60)) as db:
                    db.execute("VACUUM")
            case _:
                pass

    def calm(self):
        for name in self._unplugged:
            self._lab.plug(name)
        self._lab.join()
        for one in self._machines:
            if one.process is None:
                one.up("--port", "0")


def content(machine):
    with contextlib.closing(sqlite3.connect(machine.file, timeout=60)) as db:
        return {table: sorted(map(repr, db.execute(f"SELECT * FROM {table}"))) for table in TABLES}


def fleet(lab, folder):
    """Return serving machines of one mesh, on two joined switches, with the tables."""
    machines = [Machine(folder, f"m{n}", lab.host(f"m{n}", switch=n % 2), net=()) for n in range(MACHINES)]
    lab.join()
    first, *others = machines
    first.done("init", "--name", "soak", "--node-name", first.name)
    for one in others:
        ticket = one.dir / "ticket"
        first.done("ticket", one.name, "-o", str(ticket))
        one.done("join", str(ticket))
    for one in machines:
        one.up("--port", "0")
    first.sql(SCHEMA)
    for one in machines:
        one.shows(f"SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN {TABLES};", f"{len(TABLES)}\n")
    return machines


def test_machines_in_bad_weather_end_equal_with_every_row(tmp_path):
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    with Lab() as lab:
        machines = fleet(lab, tmp_path)
        weather, stop = Weather(lab, machines, rng), threading.Event()
        clients = [Client(one, rng.getrandbits(32), stop) for one in machines for _ in range(2)]
        for client in clients:
            client.start()
        for _ in range(FAULTS):
            stop.wait(rng.uniform(0.1, 1.0))
            weather.strike()
        stop.set()
        for client in clients:
            client.join()
        weather.calm()
        began = time.monotonic()
        eventually(lambda: len({repr(content(one)) for one in machines}) == 1, "all files are equal")
        shown = content(machines[0])["drones"]
        print(f"equal after {time.monotonic() - began:.1f} s, {len(shown)} rows by {len(clients)} clients")
        assert {row.split("'")[1] for row in shown} == {name for client in clients for name in client.committed}
        assert len(shown) == sum(len(client.committed) for client in clients)
        eventually(lambda: machines[0].run("verify").returncode == 0, lambda: machines[0].run("verify").stderr)
        for one in machines:
            assert "Traceback" not in one.output()
            one.kill()
