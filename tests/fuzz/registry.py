"""The fuzz targets by name, and how one runs."""

from __future__ import annotations

from functools import wraps

from hypothesis import given

__all__ = ["TARGETS", "fuzz_test", "target"]

TARGETS = {}


def target(*strategies):
    """Register the decorated function as a target under its own name."""

    def register(check):
        TARGETS[check.__name__.replace("_", "-")] = (check, strategies)
        return check

    return register


def fuzz_test(name, how, *, on_call=lambda: None):
    """Return the target as a callable: `how` decorates it (settings, a seed), and each execution calls `on_call`."""
    check, strategies = TARGETS[name]

    @wraps(check)
    def counted(**drawn):
        on_call()
        check(**drawn)

    return how(given(*strategies)(counted))
