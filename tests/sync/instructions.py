"""`python -m tests.sync.instructions REVISION [REVISION ...]`: how many instructions a row costs in each revision.

For each job, the processor's instructions of capture, drain and merge, or of rounds, and by how much they differ from the first
revision. Valgrind counts them, so the figures hold on a busy machine too; they say nothing of caches and of the disk. Each
revision runs its own code, from a worktree of its own, with the packages of this environment. Exits 1 if one of the others takes
3 % more than the first: for a change that shall cost nothing where it is not used.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from mycomesh.tools.release.build_hook import compile_rows

JOB = Path(__file__).with_name("instruction_job.py")
MORE_PERCENT = 3.0
# The parts of a job in their order; each is measured as what the program takes beyond the parts before it.
PARTS = {
    "inserts": ("capture", "drain", "merge"),
    "updates": ("capture", "drain", "merge"),
    "deletes": ("capture", "drain", "merge"),
    "counters": ("capture", "drain", "merge"),
    "healing": ("rounds",),
    "equal": ("rounds",),
}


def instructions(tree: Path, job: str, parts: int, rows: int) -> int:
    """Count the instructions of a job's program that ends after so many of its parts."""
    valgrind = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    said = subprocess.run(
        [*valgrind, sys.executable, "-c", JOB.read_text(), job, str(parts), str(rows)],
        cwd=tree,  # the first place where Python looks for modules
        env={**environment, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"I +refs: +([\d,]+)", said.stderr)
    if said.returncode or not found:
        sys.exit(f"{job} failed in {tree.name}:\n{said.stderr[-2000:]}")
    return int(found[1].replace(",", ""))


def measured(tree: Path, job: str, rows: int) -> list[int]:
    """Return the instructions a row of each part of a job. The first run compiles the modules and is not counted."""
    instructions(tree, job, 0, 10)
    counts = [instructions(tree, job, parts, rows) for parts in range(len(PARTS[job]) + 1)]
    return [(after - before) // rows for before, after in itertools.pairwise(counts)]


def main() -> int:
    """Compare the revisions, and print a line for each part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("revisions", nargs="+", help="the first is what the others are compared with")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=list(PARTS))
    args = parser.parse_args()
    more = False
    with tempfile.TemporaryDirectory() as folder:
        trees = [Path(folder) / f"{number}-{revision}" for number, revision in enumerate(args.revisions)]
        try:
            for tree, revision in zip(trees, args.revisions, strict=True):
                subprocess.run(["git", "worktree", "add", "-q", "--detach", str(tree), revision], check=True)
                compile_rows(tree)
            for job in args.only:
                counts = [measured(tree, job, args.rows) for tree in trees]
                for number, part in enumerate(PARTS[job]):
                    first = counts[0][number]
                    percents = [100 * (each[number] / first - 1) for each in counts[1:]]
                    more |= any(percent > MORE_PERCENT for percent in percents)
                    figures = "".join(
                        f"  {each[number]:,} ({percent:+.1f} %)"
                        for each, percent in zip(counts[1:], percents, strict=True)
                    )
                    print(f"{job} {part}: {first:,} instructions a row{figures}", flush=True)
        finally:
            for tree in trees:
                subprocess.run(["git", "worktree", "remove", "--force", str(tree)], check=False, capture_output=True)
    return more


if __name__ == "__main__":
    sys.exit(main())
