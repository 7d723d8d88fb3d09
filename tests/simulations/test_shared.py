"""Results that simulated nodes compute once for all of them: runs are the same without, and results end with the run."""

from __future__ import annotations

import contextlib

import pytest
from nacl import bindings
from nacl.exceptions import BadSignatureError

from mycomesh.simulations import runner
from mycomesh.simulations.runner import run
from mycomesh.simulations.scenarios import build
from mycomesh.simulations.shared import SHARED, computed_once
from tests.sync.scale import sweep


@pytest.mark.slow
@pytest.mark.parametrize("name", sweep(["captured-drone", "rolling-restart", "bases"], 1))
def test_shared_computation_does_not_change_a_run(name, monkeypatch):
    scenario = build(name, seed=5, duration_s=20)
    shared = run(scenario, 5)
    monkeypatch.setattr(runner, "computed_once", contextlib.nullcontext)
    alone = run(scenario, 5)
    assert shared.ok
    assert (shared.trace, shared.events) == (alone.trace, alone.events)


def test_good_signatures_are_checked_once_bad_ones_each_time(monkeypatch):
    public, secret = bindings.crypto_sign_seed_keypair(bytes(32))
    signed = bindings.crypto_sign(b"words", secret)
    asked = []
    check = bindings.crypto_sign_open
    monkeypatch.setattr(bindings, "crypto_sign_open", lambda *words: asked.append(words) or check(*words))
    with computed_once():
        for _ in range(3):
            assert bindings.crypto_sign_open(signed, public) == b"words"
        assert len(asked) == 1
        for _ in range(3):
            with pytest.raises(BadSignatureError):
                bindings.crypto_sign_open(signed[:-1] + b"x", public)
        assert len(asked) == 4


def test_the_functions_are_put_back():
    before = [getattr(owner, name) for owner, name in SHARED]
    with contextlib.suppress(KeyError), computed_once():
        assert bindings.crypto_sign_open is not before[0]
        raise KeyError
    assert [getattr(owner, name) for owner, name in SHARED] == before
