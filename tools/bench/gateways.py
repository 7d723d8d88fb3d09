"""Benchmark of gateways between two bases: how soon a write is visible in the other base, and what an idle gateway costs a node.

By each storage: a directory, leaves of JetStream on the loopback, and moto's bucket. The two nodes of a pair know each other by
tickets alone, so that no link can bring a row.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mycomesh.tools.bench.client import CREATE, INSERT, rows
from mycomesh.tools.bench.files import BenchError
from mycomesh.tools.bench.nodes import connect, cpu_s, equal, memory_mb
from mycomesh.tools.bench.servers import bucket, hub_and_leaves
from mycomesh.tools.bench.storages import KEYS
from mycomesh.tools.processes import NodeProcess, ending

__all__ = ["gateways"]

WAIT_S_MAX = 60.0
LOOK_S = 0.001
WRITES = 40
PAUSE_S = 1.2  # lone writes: longer than the spacing of a directory's envelopes
BUSY_S = 0.05  # between two writes of steady work
SETTLE_S = 20.0  # a look, and the pause after which a node has trimmed its memory
IDLE_S = 60.0  # four looks
APART = ("--no-multicast", "--loopback", "--port", "0")


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two gateways of one mailbox, or two nodes without one, and the processes that run them."""

    here: NodeProcess
    there: NodeProcess
    pids: tuple[int, int]


def gateways(quick: bool, *, servers: bool) -> dict[str, float]:
    """Return the delays in milliseconds, and the MB and the percent of a core that an idle gateway adds to a node."""
    scale = 10 if quick else 1
    with tempfile.TemporaryDirectory(prefix="mycomesh-bench-") as directory, contextlib.ExitStack() as stack:
        folder = Path(directory)
        keys = folder / "keys.toml"
        keys.touch(0o600)
        keys.write_text(KEYS)
        share = folder / "share"
        share.mkdir()
        places: dict[str, tuple[str, ...]] = {"": (), "dir": (str(share),) * 2}
        if servers:
            leaves = stack.enter_context(hub_and_leaves(folder, ("a", "b")))
            places |= {"nats": tuple(leaves), "s3": (stack.enter_context(bucket()),) * 2}
        pairs = {name: _start(folder, name, urls, keys, stack) for name, urls in places.items()}
        time.sleep(SETTLE_S)
        found = _idle(pairs, IDLE_S / scale)
        return found | _delays(pairs, WRITES // scale)


def _start(folder: Path, name: str, urls: Sequence[str], keys: Path, stack: contextlib.ExitStack) -> _Pair:
    """Start a pair, with a table and a row, which a mailbox brings to the other file."""
    here, there = (NodeProcess.within(folder, f"{end}-{name}") for end in ("here", "there"))
    stack.enter_context(ending((here, there)))
    ticket = folder / f"{name}.ticket"
    here.run("init", "--name", f"bench{name}", "--node-name", here.name)
    here.run("ticket", there.name, "-o", str(ticket))
    there.run("join", str(ticket))
    pids = []
    for one, url in zip((here, there), urls or ("", ""), strict=True):
        config = one.home / "config.toml"
        if url:
            lines = ("[base]", f'name = "{one.name}"', f'mailbox = "{url}"', f'credentials = "{keys}"')
            config.write_text("\n".join(lines) + "\n")
        pids.append(one.up(*APART))
    with contextlib.closing(connect(here.file)) as db:
        db.execute(CREATE)
        db.execute(INSERT, next(iter(rows(1))))
    if urls:
        _until(lambda: here.serving and equal(here, there), f"the first row by {name}")
    return _Pair(here, there, (pids[0], pids[1]))


def _delays(pairs: dict[str, _Pair], count: int) -> dict[str, float]:
    """Return how long a write takes to the other file: lone ones in the middle, and the slowest of steady ones."""
    found = {}
    for name in [name for name in ("dir", "nats") if name in pairs]:
        found[f"gateway_{name}_ms"] = statistics.median(_delays_ms(pairs[name], count, PAUSE_S))
        found[f"gateway_{name}_busy_ms"] = max(_delays_ms(pairs[name], 10 * count, BUSY_S))
    return found


def _delays_ms(pair: _Pair, count: int, pause_s: float) -> list[float]:
    """Write every `pause_s`; return milliseconds from each commit until a stock client sees the row in the other base."""
    found: list[float] = []
    with contextlib.closing(connect(pair.here.file)) as db, contextlib.closing(connect(pair.there.file)) as reader:
        _until(lambda: _count(reader) == _count(db), "the rows of before")
        here, seen = _count(db), _count(reader)
        written: dict[int, float] = {}
        lines, due, end = iter(rows(count)), time.perf_counter(), time.monotonic() + WAIT_S_MAX + count * pause_s
        while len(found) < count:
            if len(written) < count and time.perf_counter() >= due:
                db.execute(INSERT, next(lines))
                here += 1
                written[here] = time.perf_counter()
                due = time.perf_counter() + pause_s
            there = _count(reader)
            found += [(time.perf_counter() - written[number]) * 1_000 for number in range(seen + 1, there + 1)]
            seen = there
            if time.monotonic() > end:
                raise BenchError("a write did not come to the other base")
            time.sleep(LOOK_S)
    return found


def _count(db: object) -> int:
    return int(db.execute("SELECT count(*) FROM drones").fetchone()[0])  # type: ignore[attr-defined]


def _idle(pairs: dict[str, _Pair], seconds: float) -> dict[str, float]:
    """Return what an idle gateway has beyond an idle node: MB of resident memory, and percent of a core."""
    before = {name: [cpu_s(pid) for pid in pair.pids] for name, pair in pairs.items()}
    begun = time.monotonic()
    time.sleep(seconds)
    elapsed_s = time.monotonic() - begun
    cpu = {
        name: statistics.mean(cpu_s(pid) - then for pid, then in zip(pair.pids, before[name], strict=True))
        for name, pair in pairs.items()
    }
    memory = {name: statistics.mean(memory_mb(pid, "VmRSS") for pid in pair.pids) for name, pair in pairs.items()}
    found = {}
    for name in [name for name in pairs if name]:
        found[f"gateway_{name}_mb"] = memory[name] - memory[""]
        found[f"gateway_{name}_cpu_percent"] = (cpu[name] - cpu[""]) / elapsed_s * 100
    return found


def _until(check: object, what: str) -> None:
    end = time.monotonic() + WAIT_S_MAX
    while not check():  # type: ignore[operator]
        if time.monotonic() > end:
            raise BenchError(f"no {what} within {WAIT_S_MAX:.0f} s")
        time.sleep(LOOK_S)
