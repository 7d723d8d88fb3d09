"""A request of `mycomesh simulate`, as a value that any process can run.

Invariant: the replay line contains everything that decides the run, except the code.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mycomesh.simulations.errors import SimulationError
from mycomesh.simulations.numbers import numbers_text
from mycomesh.simulations.runner import Result, run
from mycomesh.simulations.scenarios import Changes, Scenario, build

if TYPE_CHECKING:
    from collections.abc import Callable

    from mycomesh.simulations.recorder import Recorder

__all__ = ["Request"]


@dataclass(frozen=True, slots=True)
class Request:
    """Everything that a process needs to run a seed. `skip` lists the scenario's faults to leave out, by number."""

    scenario: str
    nodes: int | None = None
    duration_s: float | None = None
    mesh: str = "real"
    changes: Changes = field(default_factory=Changes)
    skip: tuple[int, ...] = ()

    def run(self, seed: int, progress: Callable[[float], None] | None = None, record: Recorder | None = None) -> Result:
        """Expand the scenario for this seed and run it."""
        return run(self.expand(seed), seed, mesh=self.mesh, progress=progress, record=record)

    def attempt(
        self, seed: int, progress: Callable[[float], None] | None = None, record: Recorder | None = None
    ) -> Result:
        """Do the same as `run`, but return an exception as a failed result: the product's assertions are checkers too."""
        try:
            return self.run(seed, progress, record)
        except SimulationError:
            raise
        except Exception as error:  # noqa: BLE001  (a bug may raise anything; the sweep continues)
            return self._failed_result(seed, error)

    def expand(self, seed: int) -> Scenario:
        """Return the scenario for this seed.

        Raises:
            ScenarioError: the scenario is impossible.
        """
        scenario = build(self.scenario, seed=seed, nodes=self.nodes, duration_s=self.duration_s, changes=self.changes)
        if not self.skip:
            return scenario
        skipped = frozenset(self.skip)
        return replace(scenario, faults=tuple(it for at, it in enumerate(scenario.faults) if at not in skipped))

    def replay(self, result: Result) -> str:
        """Return the command line that replays a result."""
        duration = f" --duration {self.duration_s:g}" if self.duration_s is not None else ""
        changes = {
            "rate": self.changes.rate,
            "rows": self.changes.rows,
            "loss": self.changes.loss,
            "areas": self.changes.areas,
        }
        options = "".join(f" --{name} {value:g}" for name, value in changes.items() if value is not None)
        mesh = f" --mesh {self.mesh}" if self.mesh != "real" else ""
        skip = f" --skip-faults {numbers_text(self.skip)}" if self.skip else ""
        line = f"mycomesh simulate {self.scenario} --nodes {result.nodes} --seed {result.seed}"
        return f"{line}{duration}{options}{mesh}{skip}"

    def _failed_result(self, seed: int, error: Exception) -> Result:
        scenario = self.expand(seed)
        frame = traceback.extract_tb(error.__traceback__)[-1]
        source = "/".join(frame.filename.split("/")[-2:])
        text = f"the run ended at {source}:{frame.lineno} with {type(error).__name__}: {error}"
        return Result(
            scenario=scenario.name,
            seed=seed,
            nodes=scenario.nodes,
            converged=False,
            trace="",
            violations=(text,),
            virtual_s=0.0,
            events=0,
            bytes=0,
            healed_s=None,
            commits=0,
            content="",
        )
