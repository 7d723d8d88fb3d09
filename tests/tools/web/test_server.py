"""The process of the console, and the node's, by what they load."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOADED = "import sys; from mycomesh.tools import lean; lean.load(); import {}; print(*sorted(sys.modules))"


def loaded(module):
    done = subprocess.run([sys.executable, "-c", LOADED.format(module)], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.slow
def test_node_without_a_console_loads_none_of_it():
    names = loaded("mycomesh.tools.commands.up")
    assert "mycomesh.mesh.node.daemon" in names
    assert not [name for name in names if name.startswith(("mycomesh.tools.web", "h11"))]


@pytest.mark.slow
def test_console_loads_neither_keys_nor_network():
    names = loaded("mycomesh.tools.web.server")
    assert {"h11", "apsw"} <= names
    assert not names & {
        "nacl",
        "zeroconf",
        "rich",
        "ssl",
        "sqlite3",
        "mycomesh.mesh.core",
        "mycomesh.mesh.node.keystore",
    }
