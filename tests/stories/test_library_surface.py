"""The library surface of sync loads on first use."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mycomesh import sync


def test_names_of_the_surface_are_there():
    for name in ("Applied", "Exchange", "ExchangeConfig", "Replica", "ReplicaConfig", "ReplicaStatus"):
        assert getattr(sync, name).__name__ == name
    with pytest.raises(AttributeError):
        _ = sync.nothing


def test_import_alone_loads_no_part():
    program = (
        "import sys, mycomesh.sync; print(sorted(name for name in sys.modules if name.startswith('mycomesh.sync.')))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"
