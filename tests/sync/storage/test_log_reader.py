"""A range of the change log is read for one chunk: so many bytes of values and keys, and so many edits."""

from __future__ import annotations

import pytest

from mycomesh.sync.storage.log_reader import EDITS_A_CHUNK, read_range
from tests.sync.lock_holds import COUNT, PLAIN, File

KIB = 1 << 10
KEYED = "CREATE TABLE d(id TEXT PRIMARY KEY, u, v) WITHOUT ROWID"


@pytest.fixture
def changed():
    files = []

    def make(*script):
        file = File(*script[:-1])
        files.append(file)
        table = file.replica.tables["d"]
        site, store = file.replica.site, table.store
        after = store.clock.last
        file.sql(script[-1])
        return lambda size: read_range(
            table, site, after, store.clock.last, rows_max=1_000, bytes_max=size, chunk_bytes=size
        )

    yield make
    for file in files:
        file.close()


@pytest.mark.parametrize("size", [32 * KIB, 256 * KIB])
def test_small_edits_fill_chunks_by_their_number(changed, size):
    read = changed(PLAIN, f"{COUNT.format(500)} INSERT INTO d SELECT i, 'u', i FROM n", "UPDATE d SET v = v + 1")
    groups, _, rows, weight = read(size)
    assert [len(group.rows) for group in groups] == [rows]
    assert EDITS_A_CHUNK * 0.9 < rows <= EDITS_A_CHUNK
    assert weight >= size


def test_keys_of_edits_count_as_bytes(changed):
    """Else a chunk would have `EDITS_A_CHUNK` keys of any length."""
    key = f"printf('%03d%.*c', i, {20 * KIB}, 'k')"
    read = changed(KEYED, f"{COUNT.format(100)} INSERT INTO d SELECT {key}, 'u', i FROM n", "UPDATE d SET v = v + 1")
    groups, _, rows, _ = read(256 * KIB)
    assert rows == 12
    assert sum(len(key) for group in groups for key in group.keys) < 276 * KIB
