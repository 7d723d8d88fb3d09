"""What holds for all tests: those that need network namespaces are skipped, with the reason, where there are none."""

from __future__ import annotations

import pytest

from tests.integration.netns import why_not


def pytest_collection_modifyitems(items):
    """Skip tests marked `netns` where a namespace cannot be made; nothing is tried if no test asks for one."""
    needy = [item for item in items if item.get_closest_marker("netns")]
    if needy and why_not():
        for item in needy:
            item.add_marker(pytest.mark.skip(reason=why_not()))
