"""A served file as a bridge sees it, and the settings of a bridge."""

from __future__ import annotations

import apsw
import pytest

from mycomesh.tools.bridges.figures import Figures
from mycomesh.tools.bridges.settings import parse
from mycomesh.tools.bridges.writer import Writer


@pytest.fixture
def settings(tmp_path):
    """Return a function that parses a section of the scheme `file`."""

    def make(**section):
        section.setdefault("url", f"file://{tmp_path}")
        return parse("ground", {name.rstrip("_"): value for name, value in section.items()}, tmp_path)

    return make


@pytest.fixture
def writer(tmp_path, settings):
    """Return a function that opens a writer on a file with the given tables."""
    opened = []

    def make(sql="", **section):
        file = str(tmp_path / "f.db")
        with apsw.Connection(file) as db:
            db.execute(sql)
        figures = Figures()
        section.setdefault("in_", {"in": "t"})
        opened.append(Writer(file, settings(**section), figures, lambda message_id: "/own/" in message_id))
        opened[-1].figures = figures
        return opened[-1]

    yield make
    for each in opened:
        each.close()
