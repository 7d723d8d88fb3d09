"""Settings of all tests: Hypothesis profile, temporary files in memory, garbage collection, order and number of workers.

Property tests try the same examples everywhere, and judge none by the time that it took, as Hypothesis's own profile for CI
has it; `MYCOMESH_TEST_SCALE` and `python -m tests.fuzz` explore. Tests that need network namespaces are skipped, with the
reason, where there are none.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import signal
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

from tests.integration.netns import why_not
from tests.sync.scale import ROWS, SCALE, each_value, sweep

ROOT = Path(__file__).parents[1]
MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 2 << 30  # a whole run has held a few hundred MB at once

# Folders and files whose tests wait for other processes or take seconds each. They start first, spread over the workers,
# so that no worker is left alone with one of them at the end.
SLOW = (
    "tests/integration/",
    "tests/mesh/mailbox/test_nats",
    "tests/stories/test_feed_readers.py",
    "tests/stories/test_equal_numbers.py",
    "tests/stories/test_crash.py",
    "tests/stories/test_random_writes.py",
    "tests/stories/test_concurrent_",
    "tests/test_packaging.py",
    "tests/simulations/test_clusters.py",
    "tests/simulations/test_seeds.py",
    "tests/tools/test_bench.py",
)
# Tests whose rows are messages and vectors for cbor2 and PyNaCl: a version of those may fail at any of them.
BYTES = (
    "tests/sync/test_codec.py",
    "tests/sync/wire/",
    "tests/mesh/test_wire.py",
    "tests/mesh/test_messages.py",
    "tests/mesh/session/",
)
QUICK_PARAMETERS_MAX = 1  # of one test, where MYCOMESH_TEST_QUICK is set (`make quick`)
ID_CHARS_MAX = 120  # of a parameter in a test's id; one test had ids of 100 MB
REWRITTEN_LATER_MAX = 50  # test files whose assertions each worker may rewrite by itself
WORKERS_PER_CPU = 2.5  # half of the time, tests of real processes wait for one; a worker's own cost is 3 s to collect

settings.load_profile("ci")
if "TMPDIR" not in os.environ and MEMORY.is_dir() and os.access(MEMORY, os.W_OK):
    free = os.statvfs(MEMORY)
    if free.f_bavail * free.f_frsize >= MEMORY_BYTES_MIN:  # a container may have 64 MB
        os.environ["TMPDIR"] = str(MEMORY)  # also for the processes that tests start; TMPDIR=/var/tmp runs on the disk
        tempfile.tempdir = None
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of nodes and commands would compile all modules each
sys.dont_write_bytecode = False  # to rewrite the assertions of all tests takes three times as long as to collect them
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background: a node that inherits it ignores it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """Have mDNS on the loopback of this machine to oneself: otherwise the tests of all workers hear each other."""

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


def pytest_configure(config):
    """On a clean clone, rewrite and compile all tests once, instead of in each worker at the same time."""
    if hasattr(config, "workerinput") or not getattr(config.option, "numprocesses", None):
        return
    folders = [Path(word) for word in config.args if Path(word).is_dir()]
    ending = f".{sys.implementation.cache_tag}-pytest-{pytest.__version__}.pyc"
    found = [path for folder in folders for path in folder.rglob("test_*.py")]
    if sum(not (path.parent / "__pycache__" / f"{path.stem}{ending}").exists() for path in found) > REWRITTEN_LATER_MAX:
        command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-n0", *map(str, folders)]
        subprocess.run(command, cwd=ROOT, capture_output=True, check=False)  # the workers say what is wrong


def pytest_xdist_auto_num_workers():
    """Return the workers of `-n auto`: more than processors, because many tests wait."""
    per_cpu = 1 if os.environ.get("MYCOMESH_TEST_QUICK") else WORKERS_PER_CPU  # few of those tests wait
    return max(1, round(len(os.sched_getaffinity(0)) * per_cpu))


def _slow_first(items):
    """Order the items so that each worker's share begins with slow tests: xdist gives a worker one run of the list.

    The items of one file stay together as far as possible, for the sake of fixtures that they share.
    """
    shares = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = [item for item in items if item.nodeid.startswith(SLOW)]
    rest = [item for item in items if not item.nodeid.startswith(SLOW)]

    def share(part, number):
        return part[len(part) * number // shares : len(part) * (number + 1) // shares]

    items[:] = [item for number in range(shares) for part in (slow, rest) for item in share(part, number)]


@pytest.hookimpl(trylast=True)
def pytest_collection_finish():
    """Keep modules and collected tests out of the garbage collector's sight; collect more rarely.

    Looking through them again and again was a seventh of the time of a run. A test of memory collects for itself.
    """
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def _quick(items):
    """Return the tests of `make quick`: no slow ones, and of each other test the first parameters only."""
    chosen, seen = [], Counter()
    for item in items:
        name = item.nodeid.partition("[")[0]
        if item.get_closest_marker("slow") is None and not name.startswith(SLOW):
            seen[name] += 1
            if seen[name] <= QUICK_PARAMETERS_MAX:
                chosen.append(item)
    return chosen


def _few_rows(config, items):
    """Return at most `ROWS` rows of each test, but of those whose rows are other bytes for a library."""
    if not ROWS or any("[" in word for word in config.args):
        return items
    rows = {}
    for item in items:
        rows.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept = {item for name, those in rows.items() for item in (those if name.startswith(BYTES) else sweep(those, ROWS))}
    return [item for item in items if item in kept]


def _sampled(config, items):
    """Return the tests without those rows of a test marked `each_value` that add no value of a parameter."""
    if SCALE != 1 or any("[" in word for word in config.args):  # `make long`, or a row that somebody names
        return items
    tests = {}
    for item in items:
        if item.get_closest_marker("each_value") is not None:
            row = tuple((name, repr(value)) for name, value in item.callspec.params.items())
            tests.setdefault(item.nodeid.partition("[")[0], {})[item] = row
    left_out = {item for rows in tests.values() for item in rows.keys() - each_value(rows)}
    return [item for item in items if item not in left_out]


def pytest_make_parametrize_id(val):
    """Name a long value by its length and a checksum: each worker sends the ids of all tests, and each report has one."""
    if isinstance(val, bytes | str) and len(val) > ID_CHARS_MAX:
        return f"{type(val).__name__}{len(val)}-{zlib.crc32(val if isinstance(val, bytes) else val.encode(errors='replace')):08x}"
    return None


def pytest_collection_modifyitems(config, items):
    """Choose and order the tests; skip those marked `netns` where no namespace can be made."""
    chosen = _few_rows(config, _sampled(config, items))
    if os.environ.get("MYCOMESH_TEST_QUICK"):
        chosen = _quick(chosen)
    if len(chosen) < len(items):
        kept = set(chosen)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = chosen
    _slow_first(items)
    needy = [item for item in items if item.get_closest_marker("netns")]
    if needy and why_not():
        for item in needy:
            item.add_marker(pytest.mark.skip(reason=why_not()))
