"""A stock client that writes single rows and measures how long it waits for the write lock.

Run as `python -m tools.bench.probe FILE ROW`; prints "ready", writes until its stdin closes, then prints its longest wait in
milliseconds. It retries every half millisecond: the pauses of SQLite's busy handler, of up to 100 ms, would count as waiting. It
imports nothing of a node.
"""

from __future__ import annotations

import select
import sqlite3
import sys
import time

__all__ = ["CREATE", "main"]

CREATE = "CREATE TABLE IF NOT EXISTS probes(id INTEGER PRIMARY KEY, v INTEGER)"
PAUSE_S = 0.005  # between writes: 200 transactions a second
RETRY_S = 0.0005  # the resolution of the figure


def main() -> None:
    """Write until stdin closes."""
    path, row = sys.argv[1], int(sys.argv[2])
    db = sqlite3.connect(path, isolation_level=None, timeout=30)
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(CREATE)
    db.execute("INSERT INTO probes VALUES(?, 0) ON CONFLICT DO NOTHING", (row,))
    db.execute("PRAGMA busy_timeout = 0")
    print("ready", flush=True)
    longest_s = 0.0
    while not select.select([sys.stdin], [], [], PAUSE_S)[0]:
        started = tried = time.perf_counter()
        while not _written(db, row):
            time.sleep(RETRY_S)
            tried = time.perf_counter()
        # The wait ends when the successful write begins. The duration of that write, which may include a checkpoint, is the
        # client's own.
        longest_s = max(longest_s, tried - started)
    print(longest_s * 1000)
    db.close()


def _written(db: sqlite3.Connection, row: int) -> bool:
    try:
        db.execute("UPDATE probes SET v = v + 1 WHERE id = ?", (row,))
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise
        return False
    return True


if __name__ == "__main__":
    main()
