"""One trial: a driver writes to the file of a running node, while another program writes on the other node.

A trial passes if every write that the driver reported as done is on both nodes, and both files are equal.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.compatibility.rows import MODULES, Driver
from tests.integration.machines import Machine, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Outcome", "TrialError", "drive", "pair", "ran"]

SINGLE, LOCK_S = 200, 20.0
NOT_AT_ALL = "not at all"
TABLE = "CREATE TABLE {}(id TEXT PRIMARY KEY, v INTEGER NOT NULL)"


class TrialError(Exception):
    """A write is missing, or the files differ."""


@dataclass(frozen=True)
class Outcome:
    """The version of what was tried, how long it waits for a lock, and what came of it."""

    version: str
    waits: str
    result: str


def ran(*words: object, text: str | None = None, **environ: str) -> str:
    """Run a program and return its output; raise `TrialError` if it fails."""
    done = subprocess.run(
        [str(word) for word in words],
        input=text,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise TrialError(f"{words[0]} ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout.strip()


@contextlib.contextmanager
def pair(folder: Path) -> Iterator[tuple[Machine, Machine]]:
    """Yield two members that serve files of their own on this machine."""
    first, second = Machine(folder, "first"), Machine(folder, "second")
    first.done("init", "--name", "trial")
    first.done("ticket", "second", "-o", str(folder / "second.ticket"))
    second.done("join", str(folder / "second.ticket"))
    try:
        first.up()
        second.up("--port", "0", "--peer", first.address)
        yield first, second
    finally:
        for each in (first, second):
            if each.process is not None:
                each.terminate()


def drive(driver: Driver, first: Machine, second: Machine, number: int) -> Outcome:
    """Let a driver write on the first node while a stock client writes on the second; raise `TrialError` if a write is lost."""
    table = f"trial_{number}"
    first.sql(TABLE.format(table))
    second.shows(f"SELECT count(*) FROM {table}", "0\n")
    other = threading.Thread(target=_write_beside, args=(second.file, table))
    other.start()
    done = _run(driver, first.file, [f"INSERT INTO {table}(id, v) VALUES('a{n}', {n})" for n in range(SINGLE)])
    other.join()
    if driver.writes_back:
        return _written_back(first, second, table, done)
    there = int(first.sql(f"SELECT count(*) FROM {table} WHERE id GLOB 'a*'"))
    if there != done["ok"] and not (driver.loses and done["refused"]):
        raise TrialError(f"{done['ok']} inserts were reported as done, and {there} are in the file")
    _equal(first, second, table)
    changes = [
        "BEGIN IMMEDIATE",
        f"UPDATE {table} SET v = v + 1000 WHERE id GLOB 'a*'",
        f"DELETE FROM {table} WHERE id = 'b0'",
        "COMMIT",
    ]
    if not any(_run(driver, first.file, changes)["refused"] == 0 for _ in range(5)):
        raise TrialError("a transaction was refused five times")
    _equal(first, second, table)
    if first.sql(f"SELECT count(*) FROM {table} WHERE id GLOB 'a*' AND v < 1000 OR id = 'b0'") != "0\n":
        raise TrialError("a transaction that was reported as done is not in the file")
    refused = f"{done['refused']} refused ({done['error']})" if done["refused"] else "none refused"
    if there != done["ok"]:
        refused += f" and {int(str(done['ok'])) - there} lost"
    waits = _waits(driver)
    if waits == NOT_AT_ALL and driver.takes_pragma:
        refused += f", with a timeout {_refused_with_timeout(driver, first, second, table)}"
    return Outcome(str(done["version"]), waits, f"{SINGLE} writes, {refused}; both files equal")


def _written_back(first: Machine, second: Machine, table: str, done: dict[str, object]) -> Outcome:
    there = first.sql(f"SELECT count(*) FROM {table} WHERE id GLOB 'a*'").strip()
    _equal(first, second, table)
    refused = f", {done['refused']} refused ({done['error']})" if done["refused"] else ""
    result = f"{done['ok']} writes reported as done, {there} of them in the file{refused}; both files equal"
    return Outcome(str(done["version"]), "-", result)


def _refused_with_timeout(driver: Driver, first: Machine, second: Machine, table: str) -> str:
    """Let the driver set the timeout first, while the other node writes again; raise `TrialError` if a write is refused."""
    other = threading.Thread(target=_write_beside, args=(second.file, table, "c"))
    other.start()
    lines = [f"INSERT INTO {table}(id, v) VALUES('d{n}', {n})" for n in range(SINGLE)]
    done = _run(driver, first.file, ["PRAGMA busy_timeout = 5000", *lines])
    other.join()
    if done["refused"]:
        raise TrialError(f"with a busy timeout {done['refused']} writes were refused: {done['error']}")
    there = first.sql(f"SELECT count(*) FROM {table} WHERE id GLOB 'd*'")
    if there != f"{SINGLE}\n":
        raise TrialError(f"with a busy timeout {there.strip()} of {SINGLE} writes are in the file")
    _equal(first, second, table)
    return "none"


def _run(driver: Driver, file: Path, lines: list[str]) -> dict[str, object]:
    ran = subprocess.run(
        driver.line(file),
        input="\n".join(lines) + "\n",
        env=os.environ | {"NODE_PATH": str(MODULES)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if ran.returncode:
        raise TrialError(f"{driver.name} ended with {ran.returncode}: {ran.stderr.strip()[-300:]}")
    found: dict[str, object] = json.loads(ran.stdout.splitlines()[-1])
    return found


def _write_beside(file: Path, table: str, prefix: str = "b") -> None:
    with contextlib.closing(sqlite3.connect(file, isolation_level=None, timeout=60)) as db:
        for number in range(SINGLE):
            db.execute(f"INSERT INTO {table} VALUES(?, ?)", (f"{prefix}{number}", number))
            time.sleep(0.002)


def _equal(first: Machine, second: Machine, table: str) -> None:
    listing = f"SELECT count(*), sum(v), group_concat(id || v) FROM (SELECT * FROM {table} ORDER BY id)"
    try:
        eventually(
            lambda: first.sql(listing) == second.sql(listing) and first.run("verify").returncode == 0, "both are equal"
        )
    except AssertionError as error:
        raise TrialError(f"the files differ: {first.sql(listing)[:80]} and {second.sql(listing)[:80]}") from error


def _waits(driver: Driver) -> str:
    """Return how long a new connection waits for a lock that another program holds."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plain.db"
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as holder:
            holder.execute(TABLE.format("t"))
            holder.execute("BEGIN IMMEDIATE")
            ended = threading.Timer(LOCK_S, lambda: None)
            found: list[dict[str, object]] = []
            work = threading.Thread(
                target=lambda: found.append(_run(driver, file, ["INSERT INTO t(id, v) VALUES('x', 1)"]))
            )
            ended.start()
            work.start()
            while ended.is_alive() and work.is_alive():
                time.sleep(0.02)
            held = not work.is_alive()
            holder.execute("COMMIT")
            ended.cancel()
            work.join()
    if not held:
        return f"over {LOCK_S:.0f} s"
    seconds = float(str(found[0]["s"]))
    return NOT_AT_ALL if seconds < 0.5 else f"{seconds:.0f} s"
