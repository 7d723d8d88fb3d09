"""What holds for all tests: those that need network namespaces are skipped, with the reason, where there are none.

Property tests try the same examples everywhere, and judge none by the time that it took, as Hypothesis's own profile for CI
has it; `MYCOMESH_TEST_SCALE` and `python -m tests.fuzz` explore. What the shell that runs the tests happens to have set
reaches no process that they start.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal

import pytest
from hypothesis import settings

from tests.integration.netns import why_not

settings.load_profile("ci")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of nodes and commands would compile all modules each
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background: a node that inherits it ignores it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """Have mDNS on this machine's loopback to oneself: whoever speaks there is heard by the tests of all workers."""

    @contextlib.contextmanager
    def held():
        with (tmp_path_factory.getbasetemp().parent / "loopback.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    return held


@pytest.fixture
def multicast(alone):
    """A test that speaks mDNS on the loopback."""
    with alone():
        yield


def pytest_collection_modifyitems(items):
    """Skip tests marked `netns` where a namespace cannot be made; nothing is tried if no test asks for one."""
    needy = [item for item in items if item.get_closest_marker("netns")]
    if needy and why_not():
        for item in needy:
            item.add_marker(pytest.mark.skip(reason=why_not()))
