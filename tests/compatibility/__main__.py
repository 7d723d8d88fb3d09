"""`python -m tests.compatibility [NAME ...]`: try drivers and applications beside two real nodes; write docs/compatibility.md.

`--install` makes the environment of the Python, npm and Go clients in .venv/compatibility; the others are Debian's (php8.2-cli
php8.2-sqlite3 ruby-sqlite3 libdbd-sqlite3-perl libsqlite3-tcl libxerial-sqlite-jdbc-java golang-go
golang-github-mattn-go-sqlite3-dev libnode-dev npm gdal-bin ruby-activerecord sqlitebrowser). A row whose
program is missing is left as it was, and named at the end. The exit code is 1 if a trial fails.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.compatibility.applications import TRIALS
from tests.compatibility.rows import APPLICATIONS, CLIENTS, DRIVERS, FOLDER, GO, NPM, PIP, PYTHON
from tests.compatibility.trial import Outcome, drive, pair

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
HEAD = """\
# Compatibility

`python -m tests.compatibility` writes this page. Each row was run on the day that it names, on Debian 12 beside two
linked nodes, with the defaults of the client. `make long` runs all of them. To run one: `python -m tests.compatibility
"NAME"`; with `--install` it makes the environment first.

A driver inserts 200 rows back to back, a transaction each, while a stock client inserts as many on the other node; then
it updates and deletes in one transaction. The trial passes if every write that the driver reported as done is on both
nodes and the files are equal. "Waits for a lock" is how long a new connection of that driver waits, by default, for a
lock that another program holds; the node holds it for milliseconds. A driver that does not wait needs a busy timeout,
or some of its writes are refused with "database is locked".

[geopackage](geopackage.md) is about maps, [LIMITS](LIMITS.md) about what no setting changes.
"""
COLUMNS = ("Client", "Version", "Waits for a lock", "Beside a node", "Settings and advice", "Date")


def install() -> None:
    """Make the environment of the clients that are not Debian's, unless it is there."""
    if (FOLDER / "done").exists():
        return
    run = subprocess.check_call
    FOLDER.mkdir(parents=True, exist_ok=True)
    run([sys.executable, "-m", "venv", str(FOLDER / "python")])
    run([str(PYTHON), "-m", "pip", "install", "-q", "--disable-pip-version-check", *PIP])
    npm = FOLDER / "npm"
    npm.mkdir(exist_ok=True)
    (npm / "package.json").write_text('{"private": true}\n')
    run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *NPM], cwd=npm)
    # Its prebuilt engine is a download from elsewhere: build it with the headers of Debian's Node.
    run(["npm", "rebuild", "better-sqlite3", "--build-from-source", "--nodedir=/usr"], cwd=npm)
    paths = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": str(FOLDER / "go-cache")}
    run(["go", "build", "-tags", "libsqlite3", "-o", str(GO), str(CLIENTS / "client.go")], env=os.environ | paths)
    (FOLDER / "done").touch()


def rows_kept() -> dict[str, str]:
    """Return the rows of the page by name, with the advice of today: a run keeps those that it does not try."""
    advice = {each.name: each.advice for each in DRIVERS} | {name: words for name, (_, words) in APPLICATIONS.items()}
    found = {}
    for line in PAGE.read_text().splitlines() if PAGE.exists() else []:
        cells = line.strip("| ").split(" | ")
        if line.startswith("| ") and cells[0] in advice:
            found[cells[0]] = _line((*cells[:4], advice[cells[0]], cells[5]))
    return found


def page(rows: dict[str, str]) -> str:
    """Return the text of docs/compatibility.md."""
    text = HEAD
    for title, names in (("Drivers", [driver.name for driver in DRIVERS]), ("Applications", list(APPLICATIONS))):
        listed = [rows[name] for name in names if name in rows]
        text += "\n".join(
            ["", f"## {title}", "", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", *listed, ""]
        )
    return text


def row(name: str, outcome: Outcome, advice: str) -> str:
    """Return one line of the page."""
    result = outcome.result.replace("|", " ")
    return _line((name, outcome.version, outcome.waits, result, advice, time.strftime("%Y-%m-%d")))


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Run the trials, and write the page after each."""
    parser = argparse.ArgumentParser(prog="python -m tests.compatibility", description="Try drivers and applications.")
    parser.add_argument("name", nargs="*", help="some of them (default all)")
    parser.add_argument("--install", action="store_true", help="make the environment of the clients first")
    args = parser.parse_args()
    if args.install:
        install()
    names = [driver.name for driver in DRIVERS] + list(APPLICATIONS)
    unknown = [name for name in args.name if name not in names]
    if unknown:
        parser.error(f"no trial {unknown[0]!r}; there are {', '.join(names)}")
    failed, missing = [], []
    with tempfile.TemporaryDirectory(prefix="mycomesh-compatibility-") as folder, pair(Path(folder)) as (first, second):
        for number, name in enumerate(names):
            if args.name and name not in args.name:
                continue
            driver = next((each for each in DRIVERS if each.name == name), None)
            needs = driver.needs if driver is not None else tuple(map(Path, APPLICATIONS[name][0]))
            if not all(path.exists() for path in needs):
                missing.append(name)
                continue
            try:
                if driver is not None:
                    line = row(name, drive(driver, first, second, number), driver.advice)
                else:
                    line = row(name, TRIALS[name](first, second), APPLICATIONS[name][1])
            except Exception as error:  # noqa: BLE001 -- one trial must not end the others
                failed.append(name)
                print(f"FAILED: {name}: {error}", flush=True)
                continue
            print(line, flush=True)
            PAGE.write_text(page(rows_kept() | {name: line}))
    if missing:
        print(f"not tried, because a program is missing: {', '.join(missing)}")
    print(f"{len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
