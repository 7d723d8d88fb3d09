"""History of benchmark runs: one JSON line a run, and a page that compares the latest run with the one before.

A run is compared with the last run on the same machine, if there is one. Invariant: a written line never changes.
"""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw

from mycomesh.tools import exits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mycomesh.tools.bench.figure import Figure

__all__ = ["HISTORY_BYTES_MAX", "Run", "earlier", "keep", "machine", "this_run"]

HISTORY_BYTES_MAX = 16 << 20  # a run has 4 KiB
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Run:
    """One run: ISO 8601 time in UTC, commit ("" unknown), machine, load average of the minute before, figures by name."""

    at: str
    commit: str
    machine: str
    load: float
    figures: Mapping[str, dict[str, Any]]

    def values(self) -> dict[str, float]:
        """Return each figure's value."""
        return {name: float(figure["value"]) for name, figure in self.figures.items()}

    def line(self) -> str:
        """Return the run as one line of the history."""
        head = {"at": self.at, "commit": self.commit, "machine": self.machine, "load": self.load}
        return json.dumps(head | {"figures": dict(self.figures)}, ensure_ascii=False)


def this_run(figures: Mapping[str, Figure], load: float) -> Run:
    """Return a run that ends at this moment."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return Run(at, _commit(), machine(), round(load, 2), {name: figure.plain() for name, figure in figures.items()})


def earlier(file: Path) -> Run:
    """Return the run to compare with: the last run of this machine in a history, else its last run; or the output of `--json`.

    Raises:
        UsageError: the file cannot be read, or is neither a history nor such output.
    """
    try:
        with file.open("rb") as lines:
            found = [json.loads(line) for line in lines.read(HISTORY_BYTES_MAX).splitlines() if line.strip()]
        if "figures" not in found[-1]:
            found = [{"at": "", "commit": "", "machine": "", "load": 0, "figures": found[-1]}]
        runs = [Run(**run) for run in found]
        run = ([each for each in runs if each.machine == machine()] or runs)[-1]
        run.values()
    except OSError as error:
        raise exits.UsageError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise exits.UsageError(f"{file} is not what 'python -m tools.bench --json' printed, nor a history") from error
    return run


def keep(file: Path, run: Run, table: list[list[str]]) -> None:
    """Append the run to a history, and write the page beside it; the first row of `table` is its headers.

    Raises:
        UsageError: the files cannot be written.
    """
    page = [
        "# Benchmark results",
        "",
        f"{run.at}, commit {run.commit or 'unknown'}; load average {run.load:g} before the run.",
    ]
    page += [
        f"{run.machine}.",
        "",
        "`make bench` measures again and compares. [history.jsonl](history.jsonl) has the earlier runs.",
        "",
    ]
    rows = [[cell.replace("|", "\\|") for cell in row] for row in table]
    page += [
        f"| {' | '.join(rows[0])} |",
        f"|{' --- |' * len(rows[0])}",
        *(f"| {' | '.join(row)} |" for row in rows[1:]),
    ]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(run.line() + "\n")
        (file.parent / "README.md").write_text("\n".join(page) + "\n", encoding="utf-8")
    except OSError as error:
        raise exits.UsageError(f"cannot write {file}: {error.strerror}") from error


def machine() -> str:
    """Return a description of the machine: processor, cores, system, and the versions of Python and SQLite."""
    client, own = sqlite3.sqlite_version, apsw.sqlite_lib_version()
    return (
        f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, SQLite {client} (client) and {own} (node)"
    )


def _processor() -> str:
    """Return the processor's name (proc(5)), or its architecture if it reports no name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{named} ({platform.machine()})" if named else platform.machine()


def _commit() -> str:
    try:
        done = subprocess.run(  # noqa: S603 -- our own words, no shell
            ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"],  # noqa: S607 -- whichever git there is
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.strip()
