"""Tombstones in the simulator: collected within seconds under every kind of trouble, by the very code that nodes run."""

from __future__ import annotations

import functools

import pytest

from mycomesh.mesh.node import core
from mycomesh.simulations import shell
from mycomesh.simulations.runner import run
from mycomesh.simulations.scenarios import build
from mycomesh.sync.exchange.config import ExchangeConfig
from tests.sync.scale import SCALE, sweep

# Everything that takes minutes and days in the field, in seconds: a node away for 20 s comes back after the retention.
HASTY = functools.partial(ExchangeConfig, beat_ms=2_000, collect_ms=4_000, retention_ms=20_000, claim_ms=10_000)
DURATION_S = 40 if SCALE == 1 else 60


# The real mesh does all that the plain one does; `make long` runs each scenario on both.
@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["real"] if SCALE == 1 else ["plain", "real"])
@pytest.mark.parametrize("name", sweep(["split-brain", "flapping", "late-returner", "rolling-restart", "copies"], 2))
def test_every_row_stays_dead_and_none_is_lost(monkeypatch, name, mesh):
    monkeypatch.setattr(shell, "ExchangeConfig", HASTY)
    monkeypatch.setattr(core, "MEMBERS_MS", 2_000)
    collected = 0
    for seed in range(max(1, round(SCALE))):
        result = run(build(name, seed=seed, duration_s=DURATION_S), seed, mesh=mesh)
        assert result.ok, (name, mesh, seed, result.violations)
        collected += result.notices.get("debug: tombstones.collected", 0)
    assert collected > 0
