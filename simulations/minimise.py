"""Minimises failures: searches for a smaller run that fails in the same way.

Fewer nodes or a shorter run have another schedule of faults, so each such step is only an attempt. Leaving faults out keeps the
schedule.

Invariants: the search is deterministic and bounded; every request that it returns was run and failed.

A simple form of delta debugging: Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mycomesh.simulations.errors import ScenarioError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mycomesh.simulations.request import Request
    from mycomesh.simulations.runner import Result

__all__ = ["TRIES_MAX", "kind_of", "minimised"]

TRIES_MAX = 60  # runs of one search
SHARES = (
    0.25,
    0.5,
    0.75,
    0.9,
)  # of the nodes, time or rows: the search takes the smallest that still fails, and repeats
DURATION_S_MIN = 2.0  # shorter runs write almost nothing
KINDS = (  # the texts of violations, without names and numbers
    "not converged",
    "visible although",
    "lost (",
    "is there",
    "differs from",
    "is down",
    "a local write failed",
    "repair(s)",
    "the run ended",
)


def kind_of(result: Result) -> str:
    """Return the kind of a failure, in words that stay the same in a smaller run; empty if the run held."""
    if result.ok:
        return ""
    first = result.violations[0] if result.violations else "not converged"
    return next((kind for kind in KINDS if kind in first), first)


def minimised(
    request: Request, failed: Result, *, tries: int = TRIES_MAX, on_try: Callable[[int], None] | None = None
) -> tuple[Request, Result]:
    """Return the smallest run found that fails in the same way: with fewer nodes, less time, fewer rows, fewer faults.

    Args:
        request: the request that failed.
        failed: its result.
        tries: the number of runs that the search may take.
        on_try: called with the number of runs so far.
    """
    search = _Search(replace(request, nodes=failed.nodes), failed, tries, on_try)
    search.shrink(lambda best: best.nodes or 1, lambda best, value: replace(best, nodes=int(value)), 1)
    search.shrink(search.duration, lambda best, value: replace(best, duration_s=round(value, 1)), DURATION_S_MIN)
    search.shrink(search.rows, lambda best, value: replace(best, changes=replace(best.changes, rows=int(value))), 1)
    search.leave_out()
    return search.best, search.result


class _Search:
    """The smallest failing run so far, and the number of runs left."""

    def __init__(self, best: Request, result: Result, tries: int, on_try: Callable[[int], None] | None) -> None:
        self.best = best
        self.result = result
        self._kind = kind_of(result)
        self._seed = result.seed
        self._tries = self._left = tries
        self._on_try = on_try

    def duration(self, best: Request) -> float:
        """Return the virtual seconds of writes and faults."""
        return best.expand(self._seed).duration_s

    def rows(self, best: Request) -> float:
        """Return the size of the shared key space."""
        return best.expand(self._seed).rates.rows

    def shrink(
        self, size: Callable[[Request], float], smaller: Callable[[Request, float], Request], least: float
    ) -> None:
        """Reduce one size as far as the run still fails."""
        while self._left:
            current = size(self.best)
            wanted = dict.fromkeys(max(least, current * share) for share in SHARES)
            if not any(self._try(smaller(self.best, value)) for value in wanted if value < current):
                return
            if size(self.best) >= current:
                return  # rounding has undone the step

    def leave_out(self) -> None:
        """Leave out halves of the faults, then quarters, down to single ones."""
        count = len(replace(self.best, skip=()).expand(self._seed).faults)
        chunk = (count + 1) // 2
        while chunk and self._left:
            left = [at for at in range(count) if at not in self.best.skip]
            for at in range(0, len(left), chunk):
                self._try(replace(self.best, skip=tuple(sorted({*self.best.skip, *left[at : at + chunk]}))))
            chunk //= 2

    def _try(self, request: Request) -> bool:
        if not self._left or request == self.best:
            return False
        self._left -= 1
        if self._on_try is not None:
            self._on_try(self._tries - self._left)
        try:
            result = request.attempt(self._seed)
        except ScenarioError:
            return False  # the scenario cannot be that small
        if kind_of(result) != self._kind:
            return False
        self.best, self.result = request, result
        return True
