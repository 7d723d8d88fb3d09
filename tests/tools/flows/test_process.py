"""The process of a flow: whom it lets go first."""

from __future__ import annotations

import pytest

from mycomesh.mesh.node.home import Home
from mycomesh.tools.flows import process
from mycomesh.tools.flows.settings import parse


@pytest.mark.parametrize(
    ("config", "nice"),
    [("", []), ('urgent = ["other"]', [process.NICE]), ('urgent = ["Drones"]', []), ('urgent = ["alerts", "x"]', [])],
)
def test_urgent_tables_have_the_processor_first(tmp_path, monkeypatch, config, nice):
    home = Home.locate(tmp_path, {})
    home.config_file.write_text(config)
    home.config_file.chmod(0o600)
    given = []
    monkeypatch.setattr(process.os, "nice", given.append)
    flow = parse("low", {"on": "drones", "run": "sql: INSERT INTO alerts SELECT * FROM new"})
    process.yield_to_urgent(home, flow)
    assert given == nice
