"""`python -m tests.long [--share S]`: sweeps, fuzzing, crashes and kill rounds at full scale; writes docs/bench/long.md.

Full scale takes some hours on two cores. `--share 0.01` runs a hundredth of everything. Each row of the page
has its date and its share, so that nobody takes a short run for a whole one. A failure prints the output of its command and
the run goes on; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "bench" / "long.md"
PYTEST = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "--timeout", "36000"]
FUZZ_S = 600  # for each target
SEEDS = 500  # of each scenario
SCENARIOS = (
    "split-brain",
    "flapping",
    "storm",
    "mixed-load",
    "own-ids",
    "readers",
    "rolling-restart",
    "clock-chaos",
    "late-returner",
    "copies",
    "traitor",
    "retention",
    "areas",
    "late-areas",
    "area-moves",
    "area-rights",
    "area-chain",
    "metered",
    "bases",
)


WHOLE = {"MYCOMESH_TEST_SCALE": "1.01"}  # at 1 the tests run their samples


def sampled_tests() -> list[str]:
    """Return the test files of which `make test` runs a sample."""
    marks = re.compile(r"\b(sweep|each_pair)\(|\bsample=|\bmark\.each_value\b|SCALE [!=<]= 1\b")
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in paths if marks.search(path.read_text())]


@dataclass(frozen=True)
class Sweep:
    """One command; `make test` runs the sample."""

    name: str
    command: list[str]
    scale: str
    sample: str
    environ: dict[str, str] = field(default_factory=dict)


def sweeps(share: float) -> list[Sweep]:
    """Return what a run of this share consists of."""

    def scaled(factor: float) -> dict[str, str]:
        return {
            "MYCOMESH_TEST_SCALE": str(round(max(1.01, factor * share), 2))
        }  # at 1 the examples are always the same

    seeds, seconds = max(1, round(SEEDS * share)), max(1, round(FUZZ_S * share))
    jobs = str(os.cpu_count() or 1)
    found = [
        Sweep(
            "crash points",
            [*PYTEST, "tests/stories/test_crash.py"],
            "the node goes on from every point",
            "2,643 points; the node goes on once from each recovered file, some 100",
            WHOLE,
        ),
        Sweep(
            "property tests",
            [*PYTEST, "tests/sync", "tests/stories", "tests/mesh", "tests/simulations/test_collection.py"],
            f"{scaled(20)['MYCOMESH_TEST_SCALE']} times the tests' examples",
            "the same examples each time; tombstones on the real mesh alone",
            scaled(20),
        ),
        Sweep(
            "sampled tests",
            [*PYTEST, "--dist", "worksteal", *sampled_tests()],
            "every value",
            "the samples of docs/CONTRIBUTING.md",
            WHOLE,
        ),
        Sweep(
            "kill rounds of real machines",
            [*PYTEST, "tests/integration/test_soak.py"],
            f"{scaled(200)['MYCOMESH_TEST_SCALE']} times the tests' duration",
            "some seconds",
            scaled(200),
        ),
        Sweep(
            "drivers and applications",
            [sys.executable, "-m", "tests.compatibility", "--install"],
            "all of docs/compatibility.md",
            "that the page has a row for each",
        ),
        Sweep(
            "kills of a reader of the change feed",
            [*PYTEST, "tests/integration/test_tail.py", "-k", "killed"],
            f"{round(5 * float(scaled(20)['MYCOMESH_TEST_SCALE']))} kills",
            "5 kills",
            scaled(20),
        ),
        Sweep(
            "kills of node, bridge and broker",
            [*PYTEST, "tests/integration/test_bridge_brokers.py", "tests/integration/test_vehicles.py"],
            f"{round(2 * float(scaled(5)['MYCOMESH_TEST_SCALE']))} rounds for each broker and a vehicle, and a broker away",
            "2 rounds, without RabbitMQ",
            scaled(5),
        ),
        Sweep(
            "cost of attacks",
            [sys.executable, "-m", "tests.sync.attack_costs"],
            "each attack once: write lock and memory",
            "three attacks, how they are divided",
        ),
        Sweep("all tests on the disk", [*PYTEST, "--dist", "worksteal"], "once", "in memory", {"TMPDIR": "/var/tmp"}),
    ]
    for mesh in ("real", "plain"):
        for name in SCENARIOS:
            if (mesh, name) in (("plain", "clock-chaos"), ("plain", "bases"), ("plain", "metered")):
                continue  # the plain mesh has no clock of the mesh, so it corrects no node's, no keys for mailboxes, no budgets
            command = [sys.executable, "-m", "tools", "simulate", name, "--mesh", mesh, "--jobs", jobs]
            command += ["--seeds", f"1..{seeds}"] if seeds > 1 else ["--seed", "1"]
            found.append(
                Sweep(f"{name}, {mesh} mesh", command, f"{seeds} seeds", "one seed, and seeds that failed once")
            )
    fleet = [sys.executable, "-m", "tools", "simulate", "area-fleet", "--nodes", str(max(20, round(1_000 * share)))]
    found += [
        Sweep(
            f"fleet, {'in areas of 20 nodes' if areas is None else 'kept whole'}",
            [*fleet, "--json", *([] if areas is None else ["--areas", areas])],
            "1,000 nodes at a share of 1",
            "9 nodes",
        )
        for areas in (None, "0")
    ]
    found += [
        Sweep(
            f"fuzzing {target}",
            [sys.executable, "-m", "tests.fuzz", target, "--seconds", str(seconds)],
            f"{seconds} s",
            "12 or 150 examples",
        )
        for target in sorted(TARGETS)
    ]
    return found


def run(sweep: Sweep) -> tuple[bool, float, str]:
    """Return (passed, seconds, last line of the output); print the output of a failure."""
    started = time.monotonic()
    done = subprocess.run(
        sweep.command,
        cwd=ROOT,
        env=os.environ | sweep.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode:
        print(done.stdout)
    return done.returncode == 0, time.monotonic() - started, lines[-1] if lines else ""


def rows_kept() -> dict[str, str]:
    """Return the rows of the page by the name of the run: a run keeps the last results of the others."""
    lines = PAGE.read_text().splitlines() if PAGE.exists() else []
    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| Run |")]
    return {row.split(" | ")[0].removeprefix("| "): row for row in rows}


def page(rows: dict[str, str]) -> str:
    """Return the text of docs/bench/long.md."""
    head = [
        "# Long runs",
        "",
        "`make long` writes this page: the last results of the runs that take too long for `make test`. `make long SHARE=0.01`",
        "runs a hundredth; the share of each run is in its row. `make test` runs the sample.",
        "",
        "| Run | Date | Share | Scale | Sample | Result | Seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *rows.values()]) + "\n"


def main() -> int:
    """Run all sweeps, and write the page after each."""
    parser = argparse.ArgumentParser(prog="python -m tests.long", description="Run sweeps that take hours.")
    parser.add_argument("--share", type=float, default=1.0, help="of full scale (default 1)")
    parser.add_argument("--only", default="", help="runs whose name contains this")
    args = parser.parse_args()
    rows, failed = rows_kept(), 0
    for sweep in sweeps(args.share):
        if args.only not in sweep.name:
            continue
        passed, seconds, last = run(sweep)
        failed += not passed
        print(f"{'passed' if passed else 'FAILED'}: {sweep.name} ({seconds:.0f} s): {last}", flush=True)
        result = "passed" if passed else f"failed: {last.replace('|', ' ')[:100]}"
        day = time.strftime("%Y-%m-%d")
        rows[sweep.name] = (
            f"| {sweep.name} | {day} | {args.share:g} | {sweep.scale} | {sweep.sample} | {result} | {seconds:.0f} |"
        )
        PAGE.write_text(page(rows))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
