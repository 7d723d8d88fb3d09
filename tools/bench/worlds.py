"""Benchmarks of simulated meshes: the CPU time of a run, and whether an event costs more in a larger mesh.

Each run is the scenario `split-brain` in a process of its own, whose CPU time the kernel reports. A run that fails its checks
gives no figure.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

from mycomesh.tools.bench.figure import Figure, measured
from mycomesh.tools.bench.files import BenchError

__all__ = ["worlds"]

SEED = 7


@dataclass(frozen=True, slots=True)
class Run:
    """One simulated mesh: nodes and virtual seconds until writes and faults end."""

    name: str
    nodes: int
    duration_s: int


RUNS = (Run("50", 50, 600), Run("200", 200, 60))


def worlds(quick: bool) -> dict[str, Figure]:
    """Return the CPU seconds of each run and the milliseconds per event; `quick` runs a tenth of the time, mostly the start."""
    found: dict[str, float] = {}
    for run in RUNS:
        spent_s, events = _cost(run, max(run.duration_s // 10, 1) if quick else run.duration_s)
        found[f"world_{run.name}_cpu_s"] = spent_s
        found[f"world_{run.name}_event_ms"] = spent_s / events * 1_000
    return measured(**found)


def _cost(run: Run, duration_s: int) -> tuple[float, int]:
    """Return the CPU seconds of a run and its number of events."""
    words = ["--nodes", str(run.nodes), "--duration", str(duration_s), "--seed", str(SEED), "--json"]
    before = os.times()
    done = subprocess.run(  # noqa: S603 -- our own module
        [sys.executable, "-m", "simulations", "split-brain", *words], check=False, capture_output=True, text=True
    )
    after = os.times()
    if done.returncode:
        raise BenchError(f"a simulated mesh of {run.nodes} nodes failed: {done.stderr.strip()[-200:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    spent_s = after.children_user + after.children_system - before.children_user - before.children_system
    return spent_s, int(result["events"])
