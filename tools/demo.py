"""The demo: three real node processes replicate real flights through a network split, then prove that their files are equal.

It uses only what a user has: the `mycomesh` command and the stock `sqlite3` module. It claims success only after it has compared
the three files row by row.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from mycomesh.tools import exits
from mycomesh.tools.data import Position, Report, quadcopter, wildfire
from mycomesh.tools.processes import NodeProcess, ProcessError, ending
from mycomesh.tools.render import short_hash

__all__ = ["TABLES", "Proof", "play", "prove"]

NAMES = ("ground", "humvee", "drone")
# On a machine that works, each wait ends long before this.
WAIT_S_MAX = 30.0
LOOK_S = 0.02
REPLAY_S = 10.0  # long enough to see rows arrive, short enough to watch to the end
SHOW_EVERY = 50  # rows between two counts on the other nodes; a count is two queries
SAY_EVERY = 400  # rows between two lines of output without a terminal
SCHEMA = (
    "CREATE TABLE drones(drone_id, latitude, longitude, altitude, timestamp)",
    "CREATE TABLE humvees(humvee_id, latitude, longitude, timestamp)",
    "CREATE TABLE missions(mission_id INTEGER PRIMARY KEY, name TEXT, status TEXT)",
    "CREATE TABLE aircraft(icao24 TEXT PRIMARY KEY, callsign TEXT, latitude REAL, longitude REAL, altitude REAL, at TEXT)",
)
INSERT_DRONE = "INSERT INTO drones (drone_id, latitude, longitude, altitude, timestamp) VALUES (?, ?, ?, ?, ?)"
INSERT_HUMVEE = "INSERT INTO humvees (humvee_id, latitude, longitude, timestamp) VALUES (?, ?, ?, ?)"
UPSERT_AIRCRAFT = (
    "INSERT INTO aircraft (icao24, callsign, latitude, longitude, altitude, at) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT(icao24) DO UPDATE SET callsign = excluded.callsign, latitude = excluded.latitude, "
    "longitude = excluded.longitude, altitude = excluded.altitude, at = excluded.at"
)
TABLES = ("drones", "humvees", "missions", "aircraft")


@dataclass(frozen=True, slots=True)
class Proof:
    """The result of comparing one table in several files: the rows of the first file, and whether all are equal."""

    table: str
    rows: int
    equal: bool


def play(*, directory: Path | None, keep: bool, quick: bool) -> int:
    """Run the demo in `directory` (None: a new temporary one) and return the exit code.

    It is `DONE` only if all three databases ended equal, row by row. `quick` replays the flight as fast as possible.
    """
    console = Console(highlight=False, soft_wrap=True)
    root = Path(tempfile.mkdtemp(prefix="mycomesh-demo-")) if directory is None else directory
    nodes = tuple(NodeProcess.within(root, name) for name in NAMES)
    try:
        _check_free(root, nodes)
        with ending(nodes):
            equal = _Play(console, nodes, 0.0 if quick else REPLAY_S).run()
    except (_DemoError, ProcessError) as error:
        print(f"mycomesh demo: {error} [{error.code}]", file=sys.stderr)
        return exits.FAILED
    finally:
        if not keep:
            shutil.rmtree(root, ignore_errors=True)
    if keep:
        _say_how_to_open(console, nodes)
    return exits.DONE if equal else exits.NOT_CONVERGED


def prove(files: Sequence[Path], tables: Sequence[str] = TABLES) -> list[Proof]:
    """Compare tables of several databases with the stock client: every value of every row, with its type."""
    found = []
    for table in tables:
        contents = [sorted(map(repr, _query(file, f"SELECT * FROM {table}"))) for file in files]
        found.append(Proof(table, len(contents[0]), all(content == contents[0] for content in contents)))
    return found


class _DemoError(Exception):
    """The demo cannot go on. The text is one line."""

    code = "demo.failed"


def _check_free(root: Path, nodes: tuple[NodeProcess, ...]) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _DemoError(f"cannot create {root}: {error.strerror}; give another directory") from error
    if any(node.file.exists() or node.home.exists() for node in nodes):
        raise _DemoError(f"{root} contains an earlier demo; give another directory, or empty it")


class _Play:
    """The demo's acts, in order."""

    def __init__(self, console: Console, nodes: tuple[NodeProcess, ...], replay_s: float) -> None:
        self._console = console
        self._nodes = nodes
        self._replay_s = replay_s

    def run(self) -> bool:
        """Run every act; return whether the three databases are equal."""
        flight = quadcopter()
        before = len(flight) * 2 // 3
        self._meet()
        self._replay(flight[:before])
        self._split(flight[before:], wildfire())
        self._heal()
        return self._prove()

    # ---- acts

    def _meet(self) -> None:
        ground, humvee, drone = self._nodes
        self._title("Three nodes, three SQLite files, no server, no addresses")
        ground.run("init", "--name", "demo", "--node-name", ground.name)
        ground.up("--loopback")
        self._until(lambda: ground.serving, "the first node serving")
        code = ground.run("invite", "--uses", "2")
        for node in (humvee, drone):
            node.run("join", code, "--loopback", "--node-name", node.name)
            node.up("--loopback")
            self._say(f"{node.name} joined by code and serves {node.file.name}")
        self._until(
            lambda: all(node.linked == len(self._nodes) - 1 for node in self._nodes),
            "links between all three by mDNS on this machine's loopback",
        )
        self._say("the nodes found each other by mDNS; every link is encrypted (Noise_XXpsk0)")

    def _replay(self, rows: Sequence[Position]) -> None:
        ground = self._nodes[0]
        self._title("A real flight: the stock sqlite3 module writes it to ground.db, one transaction for each position")
        started = time.monotonic()
        with contextlib.closing(_connect(ground.file)) as db, self._row_counts(len(rows)) as show:
            for statement in SCHEMA:
                db.execute(statement)
            db.execute("INSERT INTO missions VALUES (1, 'survey', 'planned'), (2, 'relay', 'flying')")
            for number, row in enumerate(rows, 1):
                db.execute(INSERT_DRONE, _drone(row))
                time.sleep(max(0.0, started + number / len(rows) * self._replay_s - time.monotonic()))
                if number % SHOW_EVERY == 0:
                    show(number)
            committed = time.monotonic()
            self._until(
                lambda: all(_count(node, "drones") == len(rows) for node in self._nodes), "the flight everywhere"
            )
            arrived = time.monotonic()
            show(len(rows))
        self._until(self._equal, "equal hashes after the flight")
        self._say(
            f"{len(rows):,} positions on all three nodes {(arrived - committed) * 1000:.0f} ms after the last commit"
        )

    def _split(self, rows: Sequence[Position], reports: Sequence[Report]) -> None:
        ground, humvee, drone = self._nodes
        self._title("A split: the drone is cut off, and programs keep writing on every node")
        drone.run("isolate")
        self._until(lambda: drone.linked == 0 and ground.linked == 1, "the drone cut off")
        with _writing(ground) as db:
            db.executemany(INSERT_DRONE, [_drone(row) for row in rows])
            db.execute("UPDATE missions SET status = 'aborted' WHERE mission_id = 1")
        with _writing(humvee) as db:
            db.executemany(INSERT_HUMVEE, [(7, row.latitude, row.longitude, row.at) for row in rows[:100]])
            db.executemany(
                UPSERT_AIRCRAFT,
                [
                    (each.icao24, each.callsign, each.latitude, each.longitude, each.altitude_ft, each.at)
                    for each in reports
                ],
            )
        with _writing(drone) as db:
            db.executemany(INSERT_DRONE, [_drone(row, drone_id=99) for row in rows[:200]])
            db.execute("UPDATE missions SET status = 'flying' WHERE mission_id = 1")
        for node in self._nodes:
            counts = ", ".join(f"{_count(node, table):,} {table}" for table in TABLES)
            self._say(f"{node.name:<7} {counts}")
        aircraft = _count(humvee, "aircraft")
        self._say(
            f"the humvee wrote {len(reports):,} position reports of {aircraft} aircraft, which are {aircraft} rows to replicate"
        )
        self._say("mission 1 is 'aborted' on the ground and 'flying' on the drone: a real conflict")

    def _heal(self) -> None:
        ground, _, drone = self._nodes
        self._title("Healing: the drone finds the others again")
        started = time.monotonic()
        drone.run("rejoin")
        self._until(self._equal, "equal databases")
        took_s = time.monotonic() - started
        # The counters began with the drone's new links: they include handshakes, comparison and rows, both ways.
        traffic = sum(peer["sent_bytes"] + peer["received_bytes"] for peer in drone.status().get("peers", []))
        self._say(f"all three equal after [bold]{took_s:.2f} s[/] and [bold]{traffic:,} bytes[/] on the drone's links")
        status = _query(ground.file, "SELECT status FROM missions WHERE mission_id = 1")[0][0]
        listing = "SELECT table_name, row_key, lost, reason FROM mycomesh_conflicts ORDER BY seq"
        lost = next((rows for node in self._nodes if (rows := _query(node.file, listing))), [])
        if not lost:
            raise _DemoError("mycomesh_conflicts does not contain the conflict on mission 1; run mycomesh doctor")
        for table, key, values, reason in lost:
            self._say(
                escape(f"conflict kept: {table} {key} is {status!r} now; mycomesh_conflicts has {values} ({reason})")
            )

    def _prove(self) -> bool:
        self._title("Proof: every row of every table, read by the stock sqlite3 module")
        hashes = self._nodes[0].hashes
        proofs = prove([node.file for node in self._nodes])
        for proof in proofs:
            verdict = "[green]equal on all three[/]" if proof.equal else "[bold red]DIFFERENT[/]"
            self._say(f"{proof.table:<9} {proof.rows:>6,} rows  hash {short_hash(hashes[proof.table])}  {verdict}")
        return all(proof.equal for proof in proofs)

    # ---- waiting and printing

    def _equal(self) -> bool:
        """Return whether the three nodes report the same hashes and nothing waits to be stamped."""
        hashes = [node.hashes for node in self._nodes]
        return len(hashes[0]) == len(TABLES) and all(each == hashes[0] for each in hashes)

    def _until(self, check: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + WAIT_S_MAX
        while not check():
            if time.monotonic() > end:
                raise _DemoError(f"waited {WAIT_S_MAX:.0f} s for {what}; run with --keep and read the .log files there")
            time.sleep(LOOK_S)

    @contextlib.contextmanager
    def _row_counts(self, total: int) -> Iterator[Callable[[int], None]]:
        """Yield a function that shows how many rows each node has: as bars on a terminal, else as a line now and then."""
        others = self._nodes[1:]
        if not self._console.is_terminal:

            def say(written: int) -> None:
                if written % SAY_EVERY == 0:
                    there = ", ".join(f"{_count(node, 'drones'):,} in {node.file.name}" for node in others)
                    self._say(f"{written:,} positions in {self._nodes[0].file.name}, {there}")

            yield say
            return
        columns = (TextColumn("  {task.description:<10}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=self._console) as progress:
            bars = [progress.add_task(node.file.name, total=total) for node in self._nodes]

            def draw(written: int) -> None:
                for bar, rows in zip(bars, (written, *(_count(node, "drones") for node in others)), strict=True):
                    progress.update(bar, completed=rows)

            yield draw

    def _title(self, text: str) -> None:
        self._console.print(f"\n[bold]{text}[/]", soft_wrap=not self._console.is_terminal)

    def _say(self, text: str) -> None:
        if self._console.is_terminal:  # in a pipe, lines are not wrapped
            self._console.print(Padding(text, (0, 0, 0, 2), expand=False), soft_wrap=False)
        else:
            self._console.print(f"  {text}")


def _say_how_to_open(console: Console, nodes: tuple[NodeProcess, ...]) -> None:
    root = nodes[0].file.parent
    console.print(f"\nKept in {root}: three ordinary SQLite files with their homes and logs. To open them:")
    console.print(f"  sqlite3 {nodes[0].file} 'SELECT * FROM drones ORDER BY timestamp DESC LIMIT 3'", markup=False)
    console.print(f"  sqlite3 {nodes[2].file} 'SELECT * FROM mycomesh_conflicts'", markup=False)
    console.print(f"  mycomesh --home {nodes[1].home} up {nodes[1].file} --loopback", markup=False)


def _drone(row: Position, drone_id: int | None = None) -> tuple[Any, ...]:
    return (row.sortie if drone_id is None else drone_id, row.latitude, row.longitude, row.height_m, row.at)


def _connect(file: Path) -> sqlite3.Connection:
    """Open a database as any program would: with the stock module, no extension, in autocommit mode."""
    db = sqlite3.connect(file, timeout=WAIT_S_MAX, isolation_level=None)
    db.execute("PRAGMA synchronous = NORMAL")
    return db


@contextlib.contextmanager
def _writing(node: NodeProcess) -> Iterator[sqlite3.Connection]:
    """Run the block in one transaction of a user of that node's file."""
    with contextlib.closing(_connect(node.file)) as db:
        db.execute("BEGIN")
        yield db
        db.execute("COMMIT")


def _count(node: NodeProcess, table: str) -> int:
    """Return the number of rows of a table that the stock client sees; 0 before the table has arrived."""
    if not _query(node.file, f"SELECT 1 FROM sqlite_master WHERE name = '{table}'"):
        return 0
    return int(_query(node.file, f"SELECT count(*) FROM {table}")[0][0])


def _query(file: Path, sql: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(_connect(file)) as db:
        return db.execute(sql).fetchall()
