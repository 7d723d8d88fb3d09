"""Files that SQLite calls no database are named for what they are, and stay as they were."""

from __future__ import annotations

import hashlib
import random
import sqlite3

import pytest

from mycomesh.sync.admin.preflight import look
from mycomesh.sync.admin.verify import compare_files
from mycomesh.sync.errors import DatabaseError
from mycomesh.sync.sqlite.file_format import format_of
from mycomesh.sync.storage.store import Store

NOISE = random.Random(1).randbytes(8_192)  # as pages of SQLCipher's are


def database(path):
    db = sqlite3.connect(path)
    db.executescript("CREATE TABLE t(a); INSERT INTO t VALUES(1)")
    db.close()
    return path.read_bytes()


FORMATS = {
    "Turso's MVCC": (lambda plain: plain[:18] + b"\xff\xff" + plain[20:], "journal_mode = 'wal' in Turso"),
    "Turso, encrypted": (lambda plain: b"Turso\0\3" + b"\0" * 9 + plain[16:100] + NOISE, "encrypted by Turso"),
    "SQLCipher": (lambda _: NOISE, "an encrypted one"),
    "SQLCipher with a plain header": (
        lambda plain: plain[:20] + b"\x50" + plain[21:32] + NOISE,
        "encrypted, or damaged",
    ),
    "text": (lambda _: b"id,name\n1,one\n" * 600, "not an SQLite database; give"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_sqlite_cannot_read_is_named(tmp_path, name):
    path, other = tmp_path / "a.db", tmp_path / "b.db"
    make, told = FORMATS[name]
    database(other)
    content = make(database(path))
    path.write_bytes(content)
    before = hashlib.sha256(content).digest()
    assert told in format_of(str(path))
    for act in (
        lambda: Store(str(path)),
        lambda: Store(str(path), read_only=True),
        lambda: look(path),
        lambda: list(compare_files(path, other, shown_max=0)),
    ):
        with pytest.raises(DatabaseError) as caught:
            act()
        assert told in str(caught.value)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert hashlib.sha256(path.read_bytes()).digest() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.db", "b.db"]
