"""Failures made small: the shortest run that still fails in the same way, and the one line that replays it.

Owns the search. What always holds: it is deterministic and bounded; whatever it returns was run and failed. Fewer nodes or a
shorter run draw another schedule, so that each step is a try; leaving faults out keeps the schedule (a simple form of Zeller
and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002). Must not know what a run does.
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

TRIES_MAX = 60  # runs that one search may take
SHARES = (0.25, 0.5, 0.75, 0.9)  # of the nodes, the time, the rows: the boldest that still fails is taken, then again
DURATION_S_MIN = 2.0  # shorter runs write next to nothing
KINDS = (  # what a violation says, without its names and numbers
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
    """What was wrong, in a few words that stay the same in a smaller run; empty: nothing."""
    if result.ok:
        return ""
    first = result.violations[0] if result.violations else "not converged"
    return next((kind for kind in KINDS if kind in first), first)


def minimised(
    request: Request, failed: Result, *, tries: int = TRIES_MAX, told: Callable[[int], None] | None = None
) -> tuple[Request, Result]:
    """The smallest run found that fails in the same way: fewer nodes, then a shorter time, fewer rows, fewer faults.

    Args:
        request: what failed.
        failed: how.
        tries: runs that the search may take.
        told: hears how many runs it has taken.
    """
    search = _Search(replace(request, nodes=failed.nodes), failed, tries, told)
    search.shrink(lambda best: best.nodes or 1, lambda best, value: replace(best, nodes=int(value)), 1)
    search.shrink(search.duration, lambda best, value: replace(best, duration_s=round(value, 1)), DURATION_S_MIN)
    search.shrink(search.rows, lambda best, value: replace(best, changes=replace(best.changes, rows=int(value))), 1)
    search.leave_out()
    return search.best, search.result


class _Search:
    """The smallest failing run so far, and what is left of the tries."""

    def __init__(self, best: Request, result: Result, tries: int, told: Callable[[int], None] | None) -> None:
        self.best = best
        self.result = result
        self._kind = kind_of(result)
        self._seed = result.seed
        self._tries = self._left = tries
        self._told = told

    def duration(self, best: Request) -> float:
        """Virtual seconds of writes and faults."""
        return best.expand(self._seed).duration_s

    def rows(self, best: Request) -> float:
        """Size of the key space that all edit."""
        return best.expand(self._seed).rates.rows

    def shrink(
        self, size: Callable[[Request], float], smaller: Callable[[Request, float], Request], least: float
    ) -> None:
        """Make one size as small as still fails."""
        while self._left:
            now = size(self.best)
            wanted = dict.fromkeys(max(least, now * share) for share in SHARES)
            if not any(self._try(smaller(self.best, value)) for value in wanted if value < now):
                return
            if size(self.best) >= now:
                return  # rounding took the step back

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
        if self._told is not None:
            self._told(self._tries - self._left)
        try:
            result = request.attempt(self._seed)
        except ScenarioError:
            return False  # the scenario cannot be that small
        if kind_of(result) != self._kind:
            return False
        self.best, self.result = request, result
        return True
