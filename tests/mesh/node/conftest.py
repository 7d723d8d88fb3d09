"""A home with a mesh in it, for tests that serve a file from their own process."""

from __future__ import annotations

import os

import pytest

from mycomesh.mesh.membership.identity import create_mesh
from mycomesh.mesh.node.home import Home
from mycomesh.mesh.node.keystore import Keystore
from mycomesh.mesh.node.shell import clock


@pytest.fixture
def home(tmp_path):
    home = Home.locate(tmp_path / "home", {})
    home.prepare()
    Keystore(home).store_mesh(*create_mesh("fleet", "alpha", entropy=os.urandom, wall_ms=clock()[1]))
    return tmp_path / "home"
