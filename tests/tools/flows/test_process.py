"""The process of a flow: whom it lets go first."""

from __future__ import annotations

import pytest

from mycomesh.tools.flows import process
from mycomesh.tools.flows.settings import parse


@pytest.mark.parametrize(
    ("urgent", "nice"), [([], []), (["other"], [process.NICE]), (["Drones"], []), (["alerts", "x"], [])]
)
def test_urgent_tables_have_the_processor_first(monkeypatch, urgent, nice):
    given = []
    monkeypatch.setattr(process.os, "nice", given.append)
    flow = parse("low", {"on": "drones", "run": "sql: INSERT INTO alerts SELECT * FROM new"})
    process.yield_to_urgent(urgent, flow)
    assert given == nice
