"""Sweeps: many seeds over the cores of one machine or a cluster, that go on where they stopped.

Owns the file of results and who runs what. What always holds: a result is in the file, one JSON line each, before the next
is counted; a torn last line is no result; what is in the file for the same request and the same code is not run again. Must
not know how a run works.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import importlib
import json
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mycomesh.simulations.errors import ScenarioError, SweepError
from mycomesh.simulations.runner import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mycomesh.simulations.request import Request

__all__ = ["LOCAL", "Results", "spread"]

LOCAL = "LOCAL"  # instead of an address: a cluster of this machine's own
AHEAD = (
    4  # seeds a process that are handed out before their turn: none idles, and a million seeds are no million futures
)
ANSWER = "10s"  # a scheduler that is there answers at once
PACKAGES = ("mesh", "simulations", "sync")


class Results:
    """The results of one request, in memory and, if a path is given, in a file that outlives the sweep."""

    def __init__(self, path: str | None, request: Request) -> None:
        """Read what is there.

        Raises:
            ScenarioError: the file cannot be read or written, or holds something else.
        """
        self.damaged = 0  # bytes of a torn last line that were cut off
        self.others = 0  # results of other requests or of other code
        self._path = None if path is None else Path(path)
        self._key = {"request": asdict(request), "code": code_of(request)}
        self._results: dict[int, Result] = {}
        self._minimised: dict[int, str] = {}
        if self._path is not None:
            self._read(self._path)

    def missing(self, seeds: Sequence[int]) -> list[int]:
        """The seeds that were not run yet."""
        return [seed for seed in seeds if seed not in self._results]

    def of(self, seeds: Sequence[int]) -> list[Result]:
        """The results of these seeds that are there, in the order of the seeds."""
        return [self._results[seed] for seed in seeds if seed in self._results]

    def minimised(self, seed: int) -> str | None:
        """The shortest line that replays this seed's failure, if it was looked for."""
        return self._minimised.get(seed)

    def add(self, result: Result) -> None:
        """Write one result down."""
        self._results[result.seed] = result
        self._append({"result": result.as_json()})

    def add_minimised(self, seed: int, line: str) -> None:
        """Write the line of a minimised failure down."""
        self._minimised[seed] = line
        self._append({"seed": seed, "minimised": line})

    def _read(self, path: Path) -> None:
        try:
            path.touch()
            data = path.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):  # the machine stopped in the middle of a line
                self.damaged = len(data) - whole
                with path.open("r+b") as file:
                    file.truncate(whole)
        except OSError as error:
            raise ScenarioError(f"--results {path}: {error.strerror}; give a file that can be written") from error
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ScenarioError(
                    f"--results {path}: line {number} is no result of a sweep; give another file"
                ) from error

    def _take(self, entry: dict[str, Any]) -> None:
        # What was asked for compares as JSON: a tuple that was written comes back as a list.
        if json.loads(json.dumps(self._key)) != {"request": entry["request"], "code": entry["code"]}:
            self.others += 1
        elif "result" in entry:
            values = entry["result"]
            result = Result(**{**values, "violations": tuple(values["violations"])})
            self._results[int(result.seed)] = result
        else:
            self._minimised[int(entry["seed"])] = str(entry["minimised"])

    def _append(self, entry: dict[str, object]) -> None:
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self._key | entry) + "\n")
        except OSError as error:
            raise SweepError(f"--results {self._path}: {error.strerror}; the sweep stops here") from error


def code_of(request: Request) -> str:
    """A hash of all that decides a result besides the request: the sources, and the scenario's file if it has one."""
    digest = hashlib.blake2b(digest_size=8)
    root = Path(__file__).parent.parent
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.read_bytes())
    if request.scenario.endswith(".toml"):
        digest.update(Path(request.scenario).read_bytes())
    return digest.hexdigest()


@contextmanager
def spread(jobs: int, cluster: str | None) -> Iterator[Callable[[Request, Sequence[int]], Iterator[Result]]]:
    """How to run many seeds: here, on processes of this machine, or on a Dask cluster; results come as they are done.

    Args:
        jobs: processes on this machine; with `cluster`, seeds that are under way at once, a worker each if it is `LOCAL`.
        cluster: address of a Dask scheduler, `LOCAL` for one on this machine's loopback, None for none.

    Raises:
        ScenarioError: Dask is not installed, or no scheduler answers at that address.
        SweepError: (while running) a process that ran seeds has ended.
    """
    if cluster is not None:
        with _dask(jobs, cluster) as run_all:
            yield run_all
    elif jobs == 1:
        yield lambda request, seeds: map(request.attempt, seeds)
    else:
        with ProcessPoolExecutor(jobs) as pool:

            def run_all(request: Request, seeds: Sequence[int]) -> Iterator[Result]:
                try:
                    yield from _handed_out(
                        lambda seed: pool.submit(request.attempt, seed), _first_done, seeds, jobs * AHEAD
                    )
                except BrokenProcessPool as error:
                    raise SweepError("a process that ran seeds has ended (killed, or out of memory)") from error
                finally:
                    pool.shutdown(wait=False, cancel_futures=True)

            yield run_all


def _first_done(futures: list[Any]) -> Any:
    return concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_COMPLETED).done


def _handed_out(
    submit: Callable[[int], Any], first_done: Callable[[list[Any]], Any], seeds: Sequence[int], ahead: int
) -> Iterator[Result]:
    """The results as they come; never more than `ahead` seeds are handed out and not back."""
    waiting = iter(seeds)
    running = [submit(seed) for seed in islice(waiting, ahead)]
    while running:
        done = first_done(running)
        finished = [future for future in running if future in done]
        running = [future for future in running if future not in done]
        running += [submit(seed) for seed in islice(waiting, len(finished))]
        for future in finished:
            yield future.result()


@contextmanager
def _dask(jobs: int, cluster: str) -> Iterator[Callable[[Request, Sequence[int]], Iterator[Result]]]:
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError as error:
        raise ScenarioError("--cluster: Dask is not installed; pip install 'mycomesh[cluster]'") from error
    own = None
    try:
        if cluster == LOCAL:
            # Loopback alone, and no dashboard: nothing of a sweep is for the network's ears.
            own = distributed.LocalCluster(
                n_workers=jobs, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, silence_logs=50
            )
        client = distributed.Client(cluster if own is None else own, timeout=ANSWER)
    except (OSError, ValueError, TimeoutError) as error:
        if own is not None:
            own.close()
        raise ScenarioError(
            f"--cluster {cluster}: no scheduler answers there; start one with `dask scheduler`, or give {LOCAL}"
        ) from error

    def first_done(futures: list[Any]) -> Any:
        return distributed.wait(futures, return_when="FIRST_COMPLETED").done

    def run_all(request: Request, seeds: Sequence[int]) -> Iterator[Result]:
        workers = sum(client.nthreads().values()) if own is None else jobs
        try:
            # Never twice, and never from a cache: what comes back is what was run.
            yield from _handed_out(
                lambda seed: client.submit(request.attempt, seed, pure=False),
                first_done,
                seeds,
                max(1, workers) * AHEAD,
            )
        except (distributed.scheduler.KilledWorker, concurrent.futures.CancelledError, OSError) as error:
            raise SweepError(f"--cluster {cluster}: its workers ended ({type(error).__name__})") from error

    try:
        yield run_all
    finally:
        client.close()
        if own is not None:
            own.close()
