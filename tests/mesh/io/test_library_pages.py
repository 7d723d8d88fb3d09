"""Pages of a library's code leave the process, and come back when it runs."""

from pathlib import Path

import apsw

from mycomesh.mesh.io.library_pages import LibraryCode

LIBRARY = Path(apsw.__file__).name


def resident_kb(start):
    """Return the resident memory of the mapping that begins there (proc(5), smaps)."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    next(line for line in lines if line.startswith(f"{start:x}-"))
    return int(next(line for line in lines if line.startswith("Rss:")).split()[1])


def test_released_code_leaves_memory_and_runs_on():
    db = apsw.Connection(":memory:")
    db.execute("SELECT count(*) FROM sqlite_master").fetchall()
    code = LibraryCode(LIBRARY)
    assert code.parts
    before = [resident_kb(start) for start, _ in code.parts]
    code.release()
    assert sum(resident_kb(start) for start, _ in code.parts) < sum(before)
    assert db.execute("SELECT 6 * 7").fetchall() == [(42,)]


def test_a_library_that_is_not_loaded_has_no_code():
    code = LibraryCode("no-such-library")
    assert not code.parts
    code.release()
