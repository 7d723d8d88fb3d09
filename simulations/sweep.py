"""Sweeps: run many seeds on the cores of one machine or of a Dask cluster, and resume after an interruption.

Invariants: each result is in the file, as one JSON line, before the next is counted; an incomplete last line counts as no
result; a seed with a result of the same request and the same code does not run again.
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

LOCAL = "LOCAL"  # in place of an address: a cluster on this machine
AHEAD = 4  # seeds submitted for each process: enough that none idles, and few even of a million seeds
ANSWER = "10s"  # a running scheduler answers at once
PACKAGES = ("mesh", "simulations", "sync")


class Results:
    """The results of one request, in memory and, with a path, in a file that outlives the sweep."""

    def __init__(self, path: str | None, request: Request) -> None:
        """Read the results in the file.

        Raises:
            ScenarioError: the file cannot be read or written, or is not a file of results.
        """
        self.damaged = 0  # bytes of an incomplete last line, which is removed
        self.others = 0  # results of other requests or of other code
        self._path = None if path is None else Path(path)
        self._key = {"request": asdict(request), "code": code_of(request)}
        self._results: dict[int, Result] = {}
        self._minimised: dict[int, str] = {}
        if self._path is not None:
            self._read(self._path)

    def missing(self, seeds: Sequence[int]) -> list[int]:
        """Return the seeds that have not run yet."""
        return [seed for seed in seeds if seed not in self._results]

    def of(self, seeds: Sequence[int]) -> list[Result]:
        """Return the available results of these seeds, in the order of the seeds."""
        return [self._results[seed] for seed in seeds if seed in self._results]

    def minimised(self, seed: int) -> str | None:
        """Return the minimised line that replays this seed's failure, None before the search."""
        return self._minimised.get(seed)

    def add(self, result: Result) -> None:
        """Store one result."""
        self._results[result.seed] = result
        self._append({"result": result.as_json()})

    def add_minimised(self, seed: int, line: str) -> None:
        """Store the line of a minimised failure."""
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
            raise ScenarioError(f"--results {path}: {error.strerror}; give a writable file") from error
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                self._add_entry(json.loads(line))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ScenarioError(
                    f"--results {path}: line {number} is not a result of a sweep; give another file"
                ) from error

    def _add_entry(self, entry: dict[str, Any]) -> None:
        # The keys compare as JSON, in which a tuple becomes a list.
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
            raise SweepError(f"--results {self._path}: {error.strerror}; the sweep stops") from error


def code_of(request: Request) -> str:
    """Return a hash of everything besides the request that decides a result: the sources, and the scenario's file if any."""
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
    """Yield a function that runs many seeds in this process, in several, or on a Dask cluster. Results come as runs end.

    Args:
        jobs: processes on this machine; with a `LOCAL` cluster, its workers.
        cluster: the address of a Dask scheduler, `LOCAL` for one on this machine's loopback, None for no cluster.

    Raises:
        ScenarioError: Dask is not installed, or no scheduler answers at the address.
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
                    yield from _run_ahead(
                        lambda seed: pool.submit(request.attempt, seed), _first_done, seeds, jobs * AHEAD
                    )
                except BrokenProcessPool as error:
                    text = "a process that ran seeds has ended (killed, or out of memory); run again, perhaps with fewer --jobs"
                    raise SweepError(text) from error
                finally:
                    pool.shutdown(wait=False, cancel_futures=True)

            yield run_all


def _first_done(futures: list[Any]) -> Any:
    return concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_COMPLETED).done


def _run_ahead(
    submit: Callable[[int], Any], first_done: Callable[[list[Any]], Any], seeds: Sequence[int], ahead: int
) -> Iterator[Result]:
    """Yield results as runs end; submit at most `ahead` seeds at a time."""
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
            # On the loopback and without a dashboard, so that the network cannot reach it.
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
            # Not pure: Dask must run each seed once, and never return a cached result.
            yield from _run_ahead(
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
