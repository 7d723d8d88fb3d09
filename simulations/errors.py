"""The errors of simulations: one tree, each with one line that says what, where and what to do."""

from __future__ import annotations

__all__ = ["ScenarioError", "SimulationError", "SweepError"]


class SimulationError(Exception):
    """Something is wrong with what was asked for; nothing was run."""

    code = "scenario.wrong"


class ScenarioError(SimulationError):
    """An impossible scenario: the line names the value and what is allowed."""


class SweepError(SimulationError):
    """A sweep cannot go on; what was run until then is in its file of results."""

    code = "sweep.stopped"
