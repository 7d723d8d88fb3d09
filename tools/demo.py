"""The demo: three real node processes, a real flight log, a split, writes on both sides, and the proof of equality.

Owns the play and what it prints. What always holds: everything is done as a user would do it, by the `mycomesh` command and
the stock `sqlite3` module, and success is claimed only after the three files have been compared row by row. It must not
know how a node works inside.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import importlib.resources
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from mesh.node.ask import ask
from mesh.node.errors import NodeError
from mesh.node.home import Home
from tools import exits

__all__ = ["play"]

NAMES = ("ground", "humvee", "drone")
# Each wait ends long before this on any machine that is not broken.
WAIT_S_MAX = 30.0
LOOK_S = 0.02
REPLAY_S = 10.0
SCHEMA = (
    "CREATE TABLE drones(drone_id, latitude, longitude, altitude, timestamp)",
    "CREATE TABLE humvees(humvee_id, latitude, longitude, timestamp)",
    "CREATE TABLE missions(mission_id INTEGER PRIMARY KEY, name TEXT, status TEXT)",
)
INSERT = "INSERT INTO drones (drone_id, latitude, longitude, altitude, timestamp) VALUES (?, ?, ?, ?, ?)"
TABLES = ("drones", "humvees", "missions")


class _DemoError(Exception):
    """The demo cannot go on; one line says why."""


@dataclass(slots=True)
class _Node:
    """One node: its home, its database, its process."""

    name: str
    home: Path
    file: Path
    process: subprocess.Popen[bytes] | None = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.home.with_suffix(".log")

    def run(self, *words: str) -> str:
        """Runs one `mycomesh` command and returns what it printed."""
        done = subprocess.run(  # noqa: S603 -- our own command, no shell
            [*_COMMAND, "--home", str(self.home), *words], capture_output=True, text=True, check=False
        )
        if done.returncode != exits.DONE:
            raise _DemoError(done.stderr.strip() or f"mycomesh {words[0]} ended with {done.returncode}")
        return done.stdout.strip()

    def up(self) -> None:
        """Starts `mycomesh up`, its log beside its home."""
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 -- our own command, no shell
                [*_COMMAND, "--home", str(self.home), "up", str(self.file), "--loopback"], stdout=log, stderr=log
            )

    def status(self) -> dict[str, Any]:
        """Returns `mycomesh status --json`, asked on the control socket; empty while the node starts."""
        try:
            return ask(Home.locate(self.home, {}), "status")
        except NodeError:
            if self.process is not None and self.process.poll() is not None:
                last = self.log.read_text().strip().splitlines()[-1:] or ["no message"]
                raise _DemoError(f"node {self.name} ended: {last[0]}") from None
            return {}

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Reads with the stock client."""
        with contextlib.closing(_connect(self.file)) as db:
            return db.execute(sql).fetchall()


_COMMAND = (sys.executable, "-m", "tools")


def play(*, keep: Path | None, quick: bool) -> int:
    """Plays the demo and returns the exit code: 0 only if all three databases ended equal, row by row."""
    console = Console(highlight=False, soft_wrap=True)
    place = Path(tempfile.mkdtemp(prefix="mycomesh-demo-")) if keep is None else keep
    nodes = tuple(_Node(name, place / name, place / f"{name}.db") for name in NAMES)
    try:
        _check_free(place, nodes)
        with _ended(nodes):
            equal = _Play(console, nodes, REPLAY_S if not quick else 0.0).run()
    except _DemoError as error:
        console.print(f"demo: {error}", style="bold red")
        return exits.FAILED
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    finally:
        if keep is None:
            shutil.rmtree(place, ignore_errors=True)
    if keep is not None:
        console.print(f"\nkept: sqlite3 {nodes[0].file} 'SELECT * FROM drones ORDER BY timestamp DESC LIMIT 3'")
    return exits.DONE if equal else exits.NOT_CONVERGED


def _check_free(place: Path, nodes: tuple[_Node, ...]) -> None:
    place.mkdir(parents=True, exist_ok=True)
    if any(node.file.exists() or node.home.exists() for node in nodes):
        raise _DemoError(f"{place} holds an earlier demo; give another directory, or empty it")


@contextlib.contextmanager
def _ended(nodes: tuple[_Node, ...]) -> Iterator[None]:
    """Ends every node process at the end, whatever happened."""
    try:
        yield
    finally:
        for node in nodes:
            if node.process is not None and node.process.poll() is None:
                node.process.send_signal(signal.SIGTERM)
        for node in nodes:
            if node.process is not None:
                try:
                    node.process.wait(WAIT_S_MAX)
                except subprocess.TimeoutExpired:
                    node.process.kill()
                    node.process.wait()


class _Play:
    """The acts, in order."""

    def __init__(self, console: Console, nodes: tuple[_Node, ...], replay_s: float) -> None:
        self._console = console
        self._nodes = nodes
        self._replay_s = replay_s
        self._flight = _flight()

    def run(self) -> bool:
        """Plays every act; returns whether the three databases are equal."""
        ground, _, drone = self._nodes
        self._meet()
        half = len(self._flight) * 2 // 3
        self._replay(self._flight[:half])
        self._split(self._flight[half:])
        self._title("Healing: the drone hears the others again")
        started = time.monotonic()
        drone.run("rejoin")
        self._until(self._equal, "equal databases")
        took_s = time.monotonic() - started
        # The drone's links are new, and so are their counters: handshakes, comparison and rows, both ways.
        bytes_moved = self._traffic(drone)
        self._say(f"all three equal after [bold]{took_s:.2f} s[/] and {bytes_moved:,} bytes on the drone's links")
        lost = drone.query("SELECT table_name, row_key, lost, reason FROM mycomesh_conflicts ORDER BY seq")
        won = ground.query("SELECT status FROM missions WHERE mission_id = 1")[0][0]
        for table, key, values, reason in lost:
            self._say(
                f"conflict kept: {table} {key} is now {won!r}; what lost is in mycomesh_conflicts: {values} ({reason})"
            )
        return self._proof()

    # ---- acts

    def _meet(self) -> None:
        ground, humvee, drone = self._nodes
        self._title("Three nodes, three SQLite files, no server, no addresses")
        ground.run("init", "--name", "demo", "--node-name", ground.name)
        ground.up()
        self._until(lambda: ground.status().get("phase") == "serving", "the first node")
        code = ground.run("invite", "--uses", "2")
        for node in (humvee, drone):
            node.run("join", code, "--loopback", "--node-name", node.name)
            node.up()
            self._say(f"{node.name} joined by code and serves {node.file.name}")
        self._until(lambda: all(self._linked(node) == 2 for node in self._nodes), "links between all three")
        self._say("found each other by mDNS; every link is encrypted (Noise_XXpsk0)")

    def _replay(self, rows: list[tuple[Any, ...]]) -> None:
        ground, _, drone = self._nodes
        self._title("A real flight, written to ground.db by the stock sqlite3 module, one transaction a position")
        with contextlib.closing(_connect(ground.file)) as db:
            for statement in SCHEMA:
                db.execute(statement)
            db.execute("INSERT INTO missions VALUES (1, 'survey', 'planned'), (2, 'relay', 'flying')")
            pause_s = self._replay_s / len(rows)
            with self._console.status("replaying") as status:
                for number, row in enumerate(rows, 1):
                    db.execute(INSERT, row)
                    if pause_s:
                        time.sleep(pause_s)
                    if number % 100 == 0:
                        there = drone.query("SELECT count(*) FROM drones")[0][0] if self._has(drone) else 0
                        status.update(f"{number:,} positions written to ground.db, {there:,} already in drone.db")
                        if not self._console.is_terminal and number % 400 == 0:
                            self._say(f"{number:,} positions written to ground.db, {there:,} already in drone.db")
        started = time.monotonic()
        self._until(lambda: self._has(drone) and self._equal(), "the flight on all three nodes")
        self._say(
            f"{len(rows):,} positions on all three nodes {time.monotonic() - started:.2f} s after the last commit"
        )

    def _split(self, rows: list[tuple[Any, ...]]) -> None:
        ground, humvee, drone = self._nodes
        self._title("A split: the drone is cut off, and both sides go on writing")
        drone.run("isolate")
        self._until(lambda: self._linked(drone) == 0, "the drone cut off")
        with contextlib.closing(_connect(ground.file)) as db, db:
            db.executemany(INSERT, rows)
            db.execute("UPDATE missions SET status = 'aborted' WHERE mission_id = 1")
        with contextlib.closing(_connect(drone.file)) as db, db:
            db.executemany(INSERT, [(99, row[1], row[2], row[3] + 50, row[4]) for row in rows[:200]])
            db.execute("UPDATE missions SET status = 'flying' WHERE mission_id = 1")
        with contextlib.closing(_connect(humvee.file)) as db, db:
            db.executemany(
                "INSERT INTO humvees VALUES (?, ?, ?, ?)", [(7, row[1], row[2], row[4]) for row in rows[:100]]
            )
        for node in self._nodes:
            counts = ", ".join(f"{count:,} {table}" for table, count in self._counts(node).items())
            self._say(f"{node.name:<7} {counts}")
        self._say("mission 1 was set to 'aborted' on the ground and to 'flying' on the drone: a real conflict")

    def _proof(self) -> bool:
        """Compares the files with the stock client, every row of every table."""
        self._title("Proof: every row of every table, read by the stock sqlite3 module")
        equal = True
        for table in TABLES:
            contents = [sorted(map(repr, node.query(f"SELECT * FROM {table}"))) for node in self._nodes]
            same = contents[0] == contents[1] == contents[2]
            equal = equal and same
            digest = next(each["digest"] for each in self._nodes[0].status()["tables"] if each["name"] == table)
            mark = "[green]equal[/]" if same else "[bold red]DIFFERENT[/]"
            self._say(f"{table:<9} {len(contents[0]):>6,} rows  hash {digest[-16:]}  {mark}")
        return equal

    # ---- looking

    def _linked(self, node: _Node) -> int:
        return sum(peer["state"] == "linked" for peer in node.status().get("peers", []))

    def _has(self, node: _Node) -> bool:
        return bool(node.query("SELECT 1 FROM sqlite_master WHERE name = 'drones'"))

    def _counts(self, node: _Node) -> dict[str, int]:
        return {table: node.query(f"SELECT count(*) FROM {table}")[0][0] for table in TABLES}

    def _equal(self) -> bool:
        """True if the three nodes report the same hashes and nothing is waiting to be stamped."""
        views = [node.status() for node in self._nodes]
        hashes = [{table["name"]: table["digest"] for table in view.get("tables", [])} for view in views]
        waiting = any(view.get("pending", 1) for view in views)
        return not waiting and len(hashes[0]) == len(TABLES) and hashes[0] == hashes[1] == hashes[2]

    def _traffic(self, node: _Node) -> int:
        """Returns the bytes that went over a node's present links, both ways."""
        return sum(peer["sent_bytes"] + peer["received_bytes"] for peer in node.status().get("peers", []))

    def _until(self, check: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + WAIT_S_MAX
        while not check():
            if time.monotonic() > end:
                raise _DemoError(f"no {what} within {WAIT_S_MAX:.0f} s; run with --keep DIR and look at the logs there")
            time.sleep(LOOK_S)

    def _title(self, text: str) -> None:
        self._console.print(f"\n[bold]{text}[/]")

    def _say(self, text: str) -> None:
        self._console.print(f"  {text}")


def _connect(file: Path) -> sqlite3.Connection:
    """Opens a database as any program would: the stock module, no extension, autocommit."""
    db = sqlite3.connect(file, timeout=WAIT_S_MAX, isolation_level=None)
    db.execute("PRAGMA synchronous = NORMAL")
    return db


def _flight() -> list[tuple[Any, ...]]:
    """Returns the real flight: (drone_id, latitude, longitude, altitude in m, timestamp in UTC)."""
    source = importlib.resources.files("tools") / "data" / "quadcopter-sorties.csv.gz"
    with source.open("rb") as packed, gzip.open(packed, "rt", newline="") as text:
        return [
            (
                int(row["sortie"].rpartition("-")[2]),
                float(row["lat"]),
                float(row["lon"]),
                float(row["height_m"]),
                time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(int(row["unix_ms"]) / 1000)),
            )
            for row in csv.DictReader(text)
        ]
