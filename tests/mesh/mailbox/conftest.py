"""Tests of mailboxes at servers that die: the libraries leave sockets to the garbage collector."""

from pathlib import Path

import pytest

from tests.mesh.mailbox.servers import UNCLOSED


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings(UNCLOSED))
