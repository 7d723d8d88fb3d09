"""The application side of a measurement: the stock sqlite3 module, in a process of its own.

Run as `python -m tools.bench.client FILE JOB ROWS`; prints the CPU seconds of the job. Never in the process of a replica:
two SQLite libraries on one file in one process lose each other's locks.
"""

from __future__ import annotations

import sqlite3
import sys
import time

CREATE = "CREATE TABLE IF NOT EXISTS drones(drone_id, latitude, longitude, altitude, timestamp)"
INSERT = "INSERT INTO drones (drone_id, latitude, longitude, altitude, timestamp) VALUES (?, ?, ?, ?, ?)"


def rows(count: int) -> list[tuple[object, ...]]:
    """Returns rows like those of the seed's example."""
    return [
        (number % 50, 40.7128 + number * 1e-6, -74.0060 + number * 1e-6, 500 + number % 100, "2023-09-11 12:34:56")
        for number in range(count)
    ]


def main() -> None:
    """Does one job and prints its CPU seconds."""
    path, job, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    db = sqlite3.connect(path, isolation_level=None, timeout=30)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(CREATE)
    data = rows(count)
    started = time.process_time()
    match job:
        case "create":
            pass
        case "bulk":
            db.execute("BEGIN")
            db.executemany(INSERT, data)
            db.execute("COMMIT")
        case "single":
            for row in data:
                db.execute(INSERT, row)
        case "update":
            db.execute("UPDATE drones SET altitude = altitude + 1")
        case _:
            raise SystemExit(f"no job {job!r}")
    print(time.process_time() - started)
    db.close()


if __name__ == "__main__":
    main()
