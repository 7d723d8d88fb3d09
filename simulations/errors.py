"""The error tree of simulations. Each message is one line that says what is wrong, where, and what to do."""

from __future__ import annotations

__all__ = ["ScenarioError", "SimulationError", "SweepError"]


class SimulationError(Exception):
    """The request is wrong; nothing was run."""

    code = "scenario.wrong"


class ScenarioError(SimulationError):
    """The scenario is impossible; the message names the value and what is allowed."""


class SweepError(SimulationError):
    """A sweep cannot continue; its results file has all runs so far."""

    code = "sweep.stopped"
